"""Import of published streams: the released files give the published counts, every broken rule is refused."""

from __future__ import annotations

import copy
import csv
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctvr_bench.features.ctvr import ImportSummary, import_ctvr
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.schema import TEST, TRAIN
from ctvr_bench.features.store import FeatureStore, open_store
from ctvr_bench.features.verification import verify_store
from tests import release
from tests.golden import shared

MSRVTT_CAPTIONS = ("MSRVTT_CL_validation.csv",)
ACTNET_CAPTIONS = ("ACTNET_train_queries.json", "ACTNET_val_queries.json")
TEST_VIDEOS = {
    "MSRVTT-10": [305, 465, 211, 378, 366, 248, 309, 218, 295, 195],
    "MSRVTT-20": release.MSRVTT_TEST,
    "ACTNET-10": [522, 558, 512, 500, 511, 529, 449, 458, 445, 426],
    "ACTNET-20": release.ACTNET_TASKS,
}

Split = dict[str, dict[int, dict[Any, list[str]]]]
SPLIT: Split = {
    "train": {1: {0: ["a", "b"], 1: ["c"]}, 2: {2: ["d"]}},
    "val": {1: {0: ["e"], 1: ["f", "g"]}, 2: {2: ["h"]}},
}


def save(folder: Path, content: Any, name: str = "TINY_2_dataset.pkl") -> Path:
    path = folder / name
    path.write_bytes(pickle.dumps(content))
    return path


def save_csv(folder: Path, captions: dict[str, str], name: str = "tiny.csv") -> Path:
    path = folder / name
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["key", "vid_key", "video_id", "sentence"])
        rows.writerows([f"ret{n}", f"msr{n}", video, text] for n, (video, text) in enumerate(captions.items()))
    return path


def save_json(folder: Path, content: Any, name: str) -> Path:
    path = folder / name
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def queries(tmp_path: Path) -> Path:
    return save_csv(tmp_path, {video: f"query of {video}" for video in "efgh"})


def imported(tmp_path: Path, pickles: list[Path], captions: list[Path]) -> tuple[FeatureStore, ImportSummary]:
    out = tmp_path / "out" / "tiny.h5"
    summary = import_ctvr(pickles, captions, out, name="tiny", command_line="import")
    return open_store(out), summary


def refusal(tmp_path: Path, pickles: list[Path], captions: list[Path]) -> str:
    """The one-line message of a refused import, which leaves nothing behind."""
    out = tmp_path / "out" / "tiny.h5"
    with pytest.raises(InputError) as caught:
        import_ctvr(pickles, captions, out, name="tiny")
    assert not out.parent.exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def captions_of(store: FeatureStore, video: str) -> list[str]:
    rows = np.flatnonzero(store.caption_video_M == store.video_ids.index(video))
    return [store.captions[row] for row in rows]


def query_of(store: FeatureStore, video: str) -> str:
    row = int(store.stream(store.stream_names[0]).query_of_video_N[store.video_ids.index(video)])
    return store.captions[row]


# The released files, and files of the same layout and counts


def has_the_published_counts(tmp_path: Path, paths: list[Path], prefix: str, train: int, test: int) -> FeatureStore:
    """Imports two task pickles and captions, and returns the store."""
    store, summary = imported(tmp_path, paths[:2], paths[2:])
    categories, without = train // 16, train if prefix == "MSRVTT" else 0
    assert verify_store(store.path) == []
    assert not store.has_features
    assert summary.tasks_of_stream == {f"{prefix}-10": 10, f"{prefix}-20": 20}
    assert (summary.videos, summary.categories) == (train + test, categories)
    assert summary.captions == train + test - without
    assert summary.train_videos_without_caption == without
    assert summary.captions_of_unknown_videos == summary.blank_captions == 0
    for name in store.stream_names:
        stream = store.stream(name)
        task_N = stream.task_of_category_C[store.category_N]
        assert np.bincount(stream.task_of_category_C).tolist() == [categories // stream.num_tasks] * stream.num_tasks
        assert np.bincount(task_N[stream.role_of_video_N == TEST]).tolist() == TEST_VIDEOS[name]
        per_category = np.bincount(store.category_N[stream.role_of_video_N == TRAIN])
        assert per_category.tolist() == [16] * categories
        np.testing.assert_array_equal(stream.query_of_video_N >= 0, stream.role_of_video_N == TEST)
    return store


def released(prefix: str, captions: tuple[str, ...]) -> list[Path]:
    return [shared("ctvr", name) for name in (*(f"{prefix}_{tasks}_dataset.pkl" for tasks in (10, 20)), *captions)]


def test_files_laid_out_as_msrvtts_give_the_published_counts(tmp_path: Path) -> None:
    store = has_the_published_counts(tmp_path, release.msrvtt(tmp_path, release.MSRVTT_TEST), "MSRVTT", 320, 2990)
    assert store.category_names == [str(number) for number in range(20)]
    assert query_of(store, "video320") == "what video320 shows"


def test_files_laid_out_as_actnets_give_the_published_counts(tmp_path: Path) -> None:
    files = release.actnet(tmp_path, release.ACTNET_TEST)
    store = has_the_published_counts(tmp_path, files, "ACTNET", 3200, 4910)
    assert store.category_names[0] == "Doing thing 0"
    assert captions_of(store, "v_00000000000") == ["What v_00000000000 shows."]


def test_the_released_files_give_the_published_counts(tmp_path: Path) -> None:
    store = has_the_published_counts(tmp_path, released("MSRVTT", MSRVTT_CAPTIONS), "MSRVTT", 320, 2990)
    assert store.category_names == [str(number) for number in range(20)]
    assert query_of(store, "video9770") == "a person is connecting something to system"
    assert np.bincount(categories_of_tests(store)).tolist() == release.MSRVTT_TEST
    store = has_the_published_counts(tmp_path, released("ACTNET", ACTNET_CAPTIONS), "ACTNET", 3200, 4910)
    assert store.category_names[0] == "Having an ice cream"
    (text,) = captions_of(store, "v_uqiMw7tQ1Cc")
    assert text == "The coach helps the guy in red with the proper body placement and lifting technique."
    per_category = np.bincount(categories_of_tests(store))
    assert per_category.reshape(20, 10).sum(axis=1).tolist() == release.ACTNET_TASKS


def categories_of_tests(store: FeatureStore) -> np.ndarray:
    return store.category_N[store.stream(store.stream_names[0]).role_of_video_N == TEST]


# What is made of small files


def test_videos_come_train_first_in_order_of_appearance(tmp_path: Path, queries: Path) -> None:
    store, summary = imported(tmp_path, [save(tmp_path, SPLIT)], [queries])
    assert "".join(store.video_ids) == "abcdefgh"
    assert store.category_N.tolist() == [0, 0, 1, 2, 0, 1, 1, 2]
    stream = store.stream("TINY-2")
    assert stream.task_of_category_C.tolist() == [0, 0, 1]
    assert stream.role_of_video_N.tolist() == [TRAIN] * 4 + [TEST] * 4
    assert [query_of(store, video) for video in "efgh"] == [f"query of {video}" for video in "efgh"]
    assert (summary.captions, summary.train_videos_without_caption) == (4, 4)
    assert store.provenance["command_line"] == "import"


def test_a_summary_reads_as_two_lines(tmp_path: Path, queries: Path) -> None:
    store, summary = imported(tmp_path, [save(tmp_path, SPLIT)], [queries])
    assert str(summary).splitlines() == [
        f"{store.path}: 8 videos in 3 categories, 4 captions, streams TINY-2 (2 tasks)",
        "without a caption: 4 train videos; left out: 0 captions of videos in no stream, 0 blank ones",
    ]


def test_pickles_that_divide_the_same_videos_become_streams(tmp_path: Path, queries: Path) -> None:
    one = {
        role: {1: {c: videos for cats in tasks.values() for c, videos in cats.items()}} for role, tasks in SPLIT.items()
    }
    pickles = [save(tmp_path, SPLIT), save(tmp_path, one, "TINY_1_dataset.pkl")]
    store, _ = imported(tmp_path, pickles, [queries])
    assert store.stream_names == ["TINY-1", "TINY-2"]
    assert [store.stream(name).num_tasks for name in store.stream_names] == [1, 2]


def test_query_json_gives_the_first_sentence(tmp_path: Path) -> None:
    content = {video: {"duration": 1.0, "sentences": [f" first of {video} ", "second"]} for video in "aefgh"}
    store, summary = imported(tmp_path, [save(tmp_path, SPLIT)], [save_json(tmp_path, content, "val.json")])
    assert captions_of(store, "a") == ["first of a"]
    assert query_of(store, "e") == "first of e"
    assert summary.train_videos_without_caption == 3


def annotation_file(tmp_path: Path, *captions: tuple[str, str]) -> Path:
    sentences = [{"video_id": video, "caption": text, "sen_id": n} for n, (video, text) in enumerate(captions)]
    return save_json(tmp_path, {"info": {}, "videos": [], "sentences": sentences}, "MSRVTT_data.json")


def test_the_annotation_file_gives_all_captions_and_the_csv_the_query(tmp_path: Path, queries: Path) -> None:
    train = [(video, f"{video} {n}") for video in "abcd" for n in range(3)]
    test = [("e", "other"), ("e", " query of e"), ("e", "third")]
    file = annotation_file(tmp_path, *train, *test, ("unknown", "x"), ("a", "  "))
    for order in ([queries, file], [file, queries]):
        store, summary = imported(tmp_path, [save(tmp_path, SPLIT)], order)
        assert captions_of(store, "b") == ["b 0", "b 1", "b 2"]
        assert sorted(captions_of(store, "e")) == ["other", "query of e", "third"]
        assert query_of(store, "e") == "query of e"
        assert query_of(store, "h") == "query of h"
        assert (summary.captions_of_unknown_videos, summary.blank_captions) == (1, 1)
        assert summary.train_videos_without_caption == 0


def test_without_a_csv_the_first_annotation_is_the_query(tmp_path: Path) -> None:
    file = annotation_file(tmp_path, *[(video, f"{video} {n}") for video in "efgh" for n in range(2)])
    store, _ = imported(tmp_path, [save(tmp_path, SPLIT)], [file])
    assert query_of(store, "g") == "g 0"


def test_a_caption_written_twice_in_one_file_stays_twice(tmp_path: Path, queries: Path) -> None:
    file = annotation_file(tmp_path, ("a", "same"), ("a", "same"))
    store, _ = imported(tmp_path, [save(tmp_path, SPLIT)], [queries, file])
    assert captions_of(store, "a") == ["same", "same"]


# Broken task pickles


def edit(change: Callable[[Any], object]) -> Any:
    split = copy.deepcopy(SPLIT)
    change(split)
    return split


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (["train", "val"], "must be a dict with the keys 'train' and 'val'; got 'list'"),
        (edit(lambda s: s.pop("val")), "must be a dict with the keys 'train' and 'val'; got ['train']"),
        (edit(lambda s: s.update(test={})), "must be a dict with the keys 'train' and 'val'"),
        (edit(lambda s: s.update(val=[])), "'val' must be a dict of tasks; got list"),
        (edit(lambda s: s.update(train={})), "'train' must number its tasks 1, 2, 3, ... without a gap; got []"),
        (edit(lambda s: s["train"].update({4: s["train"].pop(2)})), "without a gap; got [1, 4]"),
        (edit(lambda s: s["val"].update({0: s["val"].pop(2)})), "without a gap; got [1, 0]"),
        (edit(lambda s: s["train"][2].clear()), "'train' task 2 is empty"),
        (edit(lambda s: s["val"].update({2: ["h"]})), "'val' task 2 is empty; a task is a dict"),
        (edit(lambda s: s["train"][1].update({(1, 2): ["x"]})), "'train' task 1 has category (1, 2)"),
        (edit(lambda s: s["val"][1].update({0: "e"})), "'val' task 1 category '0' must be a list of video ids"),
        (edit(lambda s: s["val"][1].update({0: [7]})), "'val' task 1 category '0' must be a list of video ids"),
        (edit(lambda s: s["train"][1][1].clear()), "'train' task 1 category '1' has no videos"),
        (
            edit(lambda s: s["train"][2].update({1: ["x"]})),
            "'train' has category '1' in task 1 and in task 2; a category belongs to one task",
        ),
        (edit(lambda s: s["train"][1].update({"0": ["x"]})), "'train' has category '0' in task 1 and in task 1"),
        (edit(lambda s: s["val"][1].pop(1)), "category '1' of task 1 has no 'val' videos there"),
        (edit(lambda s: s["train"][1].pop(1)), "category '1' of task 1 has no 'train' videos there"),
        (edit(lambda s: s["val"][2].update({1: s["val"][1].pop(1)})), "category '1' of task 2 has no 'train' videos"),
        (edit(lambda s: s["val"].update({3: {9: ["x"]}})), "category '9' of task 3 has no 'train' videos there"),
        (
            edit(lambda s: s["train"][2][2].append("a")),
            "video 'a' is in 'train' category '0' and in 'train' category '2'; a video has one category",
        ),
        (
            edit(lambda s: s["train"][1][0].append("a")),
            "video 'a' is in 'train' category '0' and in 'train' category '0'",
        ),
        (edit(lambda s: s["val"][1][0].append("a")), "video 'a' is in 'train' category '0' and in 'val' category '0'"),
        (edit(lambda s: s["train"][1][0].append("nul\0")), "videos/id holds 'nul\\x00', which is no UTF-8 text"),
        (edit(lambda s: s["train"][1][0].append("\udc80")), "videos/id holds '\\udc80', which is no UTF-8 text"),
    ],
)
def test_a_pickle_that_breaks_a_rule_is_refused(tmp_path: Path, queries: Path, content: Any, message: str) -> None:
    path = save(tmp_path, content)
    refused = refusal(tmp_path, [path], [queries])
    assert message in refused
    assert refused.startswith(str(path))


def test_a_hostile_pickle_is_refused_by_name(tmp_path: Path, queries: Path) -> None:
    hostile = edit(lambda s: s["train"][1][0].append(print))
    assert "asks for builtins.print" in refusal(tmp_path, [save(tmp_path, hostile)], [queries])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["train"][1][0].pop(), "'b' is in no category but in"),
        (lambda s: s["train"][1][0].append("x"), "'x' is in 'train' category '0' but in"),
        (
            lambda s: s["train"][2].update({3: s["train"][2].pop(2)}) or s["val"][2].update({3: s["val"][2].pop(2)}),
            "'d'",
        ),
        (lambda s: s["train"][1].update({0: ["a", "e"]}) or s["val"][1].update({0: ["b"]}), "'b'"),
    ],
)
def test_pickles_that_divide_other_videos_are_refused(
    tmp_path: Path, queries: Path, change: Callable[[Any], object], message: str
) -> None:
    pickles = [save(tmp_path, SPLIT), save(tmp_path, edit(change), "OTHER.pkl")]
    refused = refusal(tmp_path, pickles, [queries])
    assert message in refused
    assert "must divide the same videos. Import them into two stores" in refused


def test_two_pickles_of_one_name_are_refused(tmp_path: Path, queries: Path) -> None:
    (tmp_path / "sub").mkdir()
    pickles = [save(tmp_path, SPLIT), save(tmp_path / "sub", SPLIT)]
    assert "each needs a file name of its own" in refusal(tmp_path, pickles, [queries])


def test_no_pickle_is_refused(tmp_path: Path, queries: Path) -> None:
    assert "name at least one" in refusal(tmp_path, [], [queries])


# Broken captions


def test_test_videos_without_caption_are_counted_and_one_is_named(tmp_path: Path) -> None:
    captions = save_csv(tmp_path, {"a": "train", "e": "x", "f": "   "})
    message = refusal(tmp_path, [save(tmp_path, SPLIT)], [captions])
    assert "3 test videos have no caption, 'f' for one" in message
    assert "--captions" in message


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.csv", "id,text\n1,x\n", "needs the columns video_id, sentence; its first line lacks video_id, sentence"),
        ("c.csv", "", "needs the columns video_id, sentence"),
        ("c.csv", "video_id,sentence\n,x\n", "line 2: has no video_id"),
        ("c.csv", "video_id,sentence\ne,x,y\n", "line 2: has more than 2 cells"),
        ("c.csv", "video_id,sentence,sentence\ne,x,y\n", "names the column 'sentence' 2 times"),
        ("c.csv", 'video_id,sentence\ne,"x', "is no CSV file"),
        ("c.csv", b"\xff\xfe\x00", "is no UTF-8 text"),
        ("c.json", '{"e": {"sentences": ["x"]}, "e": {"sentences": ["y"]}}', "has the key 'e' twice"),
        ("c.json", "{", "is no JSON file"),
        ("c.json", "[" * 100_000, "is no JSON file"),
        ("c.json", "[1]", "must be a JSON object; got list"),
        ("c.json", '{"e": ["x"]}', "'e' needs a list of sentences; got ['x']"),
        ("c.json", '{"e": {"sentences": []}}', "'e' needs a list of sentences"),
        ("c.json", '{"e": {"sentences": [5]}}', "'e' needs a list of sentences"),
        ("c.json", '{"sentences": [{"video_id": "e"}]}', "sentences[0] needs a video_id and a caption"),
        ("c.json", '{"sentences": [{"video_id": 3, "caption": "x"}]}', "sentences[0] needs a video_id and a caption"),
        ("c.json", b"\xff", "is no UTF-8 text"),
    ],
)
def test_a_caption_file_that_breaks_a_rule_is_refused(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    refused = refusal(tmp_path, [save(tmp_path, SPLIT)], [path])
    assert message in refused
    assert refused.startswith(str(path))


def test_a_missing_caption_file_is_refused(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(tmp_path, [save(tmp_path, SPLIT)], [tmp_path / "none.csv"])


def test_an_unwritable_output_folder_is_refused(tmp_path: Path, queries: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot be written"):
        import_ctvr([save(tmp_path, SPLIT)], [queries], tmp_path / "file" / "out.h5", name="tiny")
