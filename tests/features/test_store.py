"""The feature store: written whole or not at all, opened without reading, and every damage found."""

from __future__ import annotations

import mmap
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ctvr_bench.features import schema
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.leakage import shared_frames
from ctvr_bench.features.store import FeatureStore, create_store, describe_store, open_store
from ctvr_bench.features.verification import verify_store

NUMBERS = np.random.default_rng(0)
CONTENT: dict[str, Any] = {
    "videos/id": ["v0", "v1", "v2", "v3"],
    "videos/category": np.array([0, 0, 1, 1], np.int32),
    "videos/frames": NUMBERS.normal(size=(4, 2, 8)).astype(np.float16),
    "videos/frame_count": np.array([2, 1, 2, 2], np.int32),
    "captions/video": np.array([0, 1, 2, 3, 0], np.int64),
    "captions/text": ["a cat", "a dog runs", "ein Käse 🧀", "rain", "the same cat"],
    "captions/pooled": NUMBERS.normal(size=(5, 8)).astype(np.float16),
    "captions/words": NUMBERS.normal(size=(11, 8)).astype(np.float16),
    "captions/word_offsets": np.array([0, 2, 5, 8, 9, 11], np.int64),
    "categories/name": ["pets", "weather"],
    "streams/two/task_of_category": np.array([0, 1], np.int32),
    "streams/two/role_of_video": np.array([1, 2, 1, 2], np.int8),
    "streams/two/query_of_video": np.array([-1, 1, -1, 3], np.int64),
}
FEATURES = ("videos/frames", "videos/frame_count", "captions/pooled", "captions/words", "captions/word_offsets")


def write(path: Path, changes: dict[str, Any] | None = None, **arguments: Any) -> Path:
    """A small valid store, with datasets replaced (or left out where the change is None)."""
    with create_store(path, **{"name": "small", **arguments}) as writer:
        for dataset, values in {**CONTENT, **(changes or {})}.items():
            if values is not None:
                writer[dataset] = values
    return path


def changed(dataset: str, index: Any, value: Any) -> dict[str, Any]:
    values = CONTENT[dataset].copy()
    values[index] = value
    return {dataset: values}


def refusal(path: Path) -> str:
    """The one-line message with which opening `path` is refused."""
    with pytest.raises(InputError) as caught:
        open_store(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def errors(path: Path) -> list[str]:
    return [finding.message for finding in verify_store(path) if finding.severity == "error"]


def problems(path: Path) -> list[str]:
    """Errors that `verify_store` lists, or the one with which it cannot open the store."""
    try:
        return errors(path)
    except InputError as error:
        return [str(error)]


def warnings(path: Path) -> list[str]:
    return [finding.message for finding in verify_store(path) if finding.severity == "warning"]


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    encoder = {"family": "toy", "digest": "abc"}
    return open_store(write(tmp_path / "small.h5", name="Käse", encoder=encoder, licence="none", command_line="x -y"))


def test_what_was_written_is_read(store: FeatureStore) -> None:
    assert store.name == "Käse"
    assert not store.simulated
    assert store.video_ids == CONTENT["videos/id"]
    assert store.captions == CONTENT["captions/text"]
    assert store.category_names == CONTENT["categories/name"]
    assert store.provenance["encoder"] == {"family": "toy", "digest": "abc"}
    assert store.provenance["command_line"] == "x -y"
    for dataset in FEATURES:
        np.testing.assert_array_equal(store.feature(dataset), CONTENT[dataset])
        assert store.feature(dataset).dtype == CONTENT[dataset].dtype
    np.testing.assert_array_equal(store.category_N, CONTENT["videos/category"])
    np.testing.assert_array_equal(store.caption_video_M, CONTENT["captions/video"])
    stream = store.stream()
    assert (stream.name, stream.num_tasks) == ("two", 2)
    np.testing.assert_array_equal(stream.query_of_video_N, [-1, 1, -1, 3])


def test_a_sound_store_has_no_findings(store: FeatureStore) -> None:
    assert verify_store(store.path) == []


def test_description_counts_what_is_there(store: FeatureStore) -> None:
    description = describe_store(store)
    assert (description["videos"], description["captions"], description["dimension"]) == (4, 5, 8)
    assert description["words_per_caption"] == 2.2
    assert description["streams"] == {"two": {"tasks": 2, "train_videos": 2, "test_videos": 2, "validation_videos": 0}}


def test_features_are_views_of_the_file_and_not_copies(store: FeatureStore) -> None:
    frames = store.feature("videos/frames")
    base: Any = frames
    while getattr(base, "base", None) is not None:
        base = base.base
    assert isinstance(base, mmap.mmap)
    # What is changed on disk after opening is seen: nothing had been read.
    content = store.path.read_bytes()
    place = content.index(CONTENT["videos/frames"].tobytes())
    with store.path.open("rb+") as file:
        file.seek(place)
        file.write(np.float16(42).tobytes())
    assert frames[0, 0, 0] == 42


def test_views_are_aligned_to_their_numbers(store: FeatureStore) -> None:
    stream = store.stream()
    views = [store.feature(dataset) for dataset in FEATURES] + [store.category_N, store.caption_video_M]
    for values in (*views, stream.task_of_category_C, stream.query_of_video_N):
        assert values.flags.aligned


def test_views_cannot_be_written(store: FeatureStore) -> None:
    for values in (store.feature("videos/frames"), store.category_N, store.stream().role_of_video_N):
        with pytest.raises(ValueError, match="read-only"):
            values[0] = 0


def test_a_store_can_lack_features(tmp_path: Path) -> None:
    store = open_store(write(tmp_path / "bare.h5", dict.fromkeys(FEATURES)))
    assert not store.has_features
    assert describe_store(store)["dimension"] is None
    with pytest.raises(InputError, match="holds no videos/frames"):
        store.feature("videos/frames")


def test_the_only_stream_needs_no_name_and_others_are_named(tmp_path: Path) -> None:
    second = {key.replace("two", "2nd"): value for key, value in CONTENT.items() if key.startswith("streams/")}
    store = open_store(write(tmp_path / "both.h5", second))
    assert store.stream_names == ["2nd", "two"]
    assert store.stream("2nd").name == "2nd"
    with pytest.raises(InputError, match="choose one with --stream"):
        store.stream()
    with pytest.raises(InputError, match="unknown stream 'twoo'; did you mean 'two'"):
        store.stream("twoo")


def test_digest_is_of_the_content_and_what_it_is_called(tmp_path: Path) -> None:
    first = open_store(write(tmp_path / "a.h5", command_line="one"))
    again = open_store(write(tmp_path / "sub" / "b.h5", command_line="two"))
    named = open_store(write(tmp_path / "f.h5", name="another"))
    other = open_store(write(tmp_path / "c.h5", changed("captions/pooled", (4, 7), 0.5)))
    texts = open_store(write(tmp_path / "d.h5", {"captions/text": ["a cat", "a dog runs", "ein", "rain", "a cat."]}))
    moved = open_store(write(tmp_path / "e.h5", {"captions/text": ["a cata", " dog runs", "ein", "rain", "a cat."]}))
    assert first.digest == again.digest
    assert len({each.digest for each in (first, other, texts, moved, named)}) == 5


# Written whole or not at all


def test_an_exception_while_writing_leaves_nothing(tmp_path: Path) -> None:
    def fail_half_way() -> None:
        with create_store(tmp_path / "half.h5", name="half") as writer:
            writer["videos/id"] = ["v0"]
            raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError, match="disk on fire"):
        fail_half_way()
    assert list(tmp_path.iterdir()) == []


def test_a_failed_rewrite_keeps_the_old_store(tmp_path: Path) -> None:
    path = write(tmp_path / "small.h5")
    before = path.read_bytes()
    with pytest.raises(InputError):
        write(path, {"videos/id": ["v0"]})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_writer_leaves_no_store(tmp_path: Path) -> None:
    program = (
        "import os, sys\n"
        "from features.store import create_store\n"
        "with create_store(sys.argv[1], name='killed') as writer:\n"
        "    writer['videos/id'] = ['v0']\n"
        "    os._exit(9)\n"
    )
    path = tmp_path / "killed.h5"
    done = subprocess.run([sys.executable, "-c", program, str(path)], cwd=Path(__file__).resolve().parents[2])
    assert done.returncode == 9
    assert not path.exists()
    assert write(path).exists()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"cannot be written .* choose a writable folder"):
        write(tmp_path / "file" / "store.h5")


def test_a_folder_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store.h5").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        write(tmp_path / "store.h5")
    assert [path.name for path in tmp_path.iterdir()] == ["store.h5"]


# Files that are no store


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "none.h5")


def test_a_text_file_named_h5_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.h5"
    path.write_text("I am a spreadsheet\n" * 100)
    assert "not an HDF5 file" in refusal(path)


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.1, 0.5, 0.9, 0.9999])
def test_a_truncated_file_is_refused(tmp_path: Path, kept: float) -> None:
    path = write(tmp_path / "cut.h5")
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    assert "HDF5" in refusal(path)


def test_another_schema_version_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "new.h5")
    with h5py.File(path, "r+") as file:
        file.attrs["schema_version"] = 2
    assert "schema version 2, this suite reads 1" in refusal(path)


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("name", None),
        ("simulated", None),
        ("simulated", np.bytes_(b"0")),
        ("simulated", 7),
        ("encoder", np.bytes_(b"{not json")),
        ("encoder", np.bytes_(b"[" * 30_000)),
        ("sampling", np.bytes_(b"[1]")),
    ],
)
def test_a_description_that_is_missing_or_makes_no_sense_is_refused(tmp_path: Path, attribute: str, value: Any) -> None:
    path = write(tmp_path / "small.h5")
    with h5py.File(path, "r+") as file:
        del file.attrs[attribute]
        if value is not None:
            file.attrs[attribute] = value
    assert f"{attribute} must be" in refusal(path) or "simulated 0 or 1" in refusal(path)


def test_foreign_hdf5_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "foreign.h5"
    with h5py.File(path, "w") as file:
        file["table"] = np.zeros((3, 4), [("x", "f4"), ("name", "S5")])
        file["chunked"] = file.create_dataset("c", data=np.zeros((100, 100)), chunks=(10, 10), compression="gzip")[...]
    assert "no feature store" in refusal(path)


@pytest.mark.parametrize(
    "value", ["a scalar text", np.array([np.arange(2), np.arange(3)], object), h5py.Empty("f4")], ids=type
)
def test_foreign_hdf5_of_shapes_we_cannot_map_is_refused(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "foreign.h5"
    with h5py.File(path, "w") as file:
        ragged = h5py.vlen_dtype(np.int64) if isinstance(value, np.ndarray) else None
        file.create_dataset("odd", data=value, dtype=ragged)
    refusal(path)


# Stores whose parts disagree


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"videos/category": None}, "dataset videos/category is missing"),
        ({"videos/category": CONTENT["videos/category"].astype(np.int64)}, "has dtype int64; it must be int32"),
        ({"videos/category": np.array([0, 0, 1], np.int32)}, "videos/category has 3 along N but videos/id has 4"),
        ({"captions/pooled": np.ones((5, 7), np.float16)}, "captions/pooled has 7 along D but videos/frames has 8"),
        ({"captions/pooled": np.ones((5, 8, 1), np.float16)}, "captions/pooled has 3 axes"),
        ({"captions/words": None}, "features are half there: captions/words missing"),
        (changed("captions/word_offsets", 2, 1), "word_offsets must rise"),
        (changed("captions/word_offsets", 5, 10), "word_offsets must rise from 0 to the number of words"),
        (changed("videos/frame_count", 1, 0), r"frame_count lies in 0..2; it must lie in 1..2"),
        (changed("videos/frame_count", 1, 3), r"frame_count lies in 2..3; it must lie in 1..2"),
        (changed("captions/video", 2, 4), r"captions/video\[2\] is 4, but there are 4 videos"),
        (changed("videos/category", 0, -1), r"videos/category\[0\] is -1, but there are 2 categories"),
        ({"streams/two/role_of_video": None}, "dataset streams/two/role_of_video is missing"),
        (changed("streams/two/task_of_category", 1, 2), r"without a gap; got \[0, 2\]"),
        (changed("streams/two/role_of_video", 1, 1), "task 0 has no test video"),
        (changed("streams/two/role_of_video", 2, 2), "task 1 has no train video"),
        (changed("streams/two/role_of_video", 2, 7), "role_of_video must be one of"),
        (changed("streams/two/query_of_video", 1, 0), r"query_of_video\[1\] is 0, no caption of that video"),
        (changed("streams/two/query_of_video", 1, -1), r"query_of_video\[1\] is -1"),
        (changed("streams/two/query_of_video", 1, 99), r"query_of_video\[1\] is 99"),
        ({"videos/id": ["v0", "v1", "v0", "v3"]}, "videos/id holds 'v0' twice"),
        ({"categories/name": ["pets", "pets"]}, "categories/name holds 'pets' twice"),
    ],
)
def test_parts_that_disagree_are_refused_before_anything_is_left(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = tmp_path / "bad.h5"
    with pytest.raises(InputError, match=message) as caught:
        write(path, changes)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_category_in_no_task_may_have_no_role(tmp_path: Path) -> None:
    changes = changed("streams/two/task_of_category", 1, -1)
    with pytest.raises(InputError, match="video row 2 has role train but its category is in no task"):
        write(tmp_path / "bad.h5", changes)
    unused = np.array([1, 2, 0, 0], np.int8)
    store = open_store(write(tmp_path / "good.h5", {**changes, "streams/two/role_of_video": unused}))
    assert store.stream().num_tasks == 1


def test_opening_checks_what_was_changed_after_writing(tmp_path: Path) -> None:
    path = write(tmp_path / "edited.h5")
    with h5py.File(path, "r+") as file:
        file["captions/video"][3] = 17
    assert "captions/video[3] is 17" in refusal(path)


# What only looking at every byte finds


def flip_lowest_bit(path: Path, place: int) -> None:
    with path.open("rb+") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("dataset", [key for key, values in CONTENT.items() if isinstance(values, np.ndarray)])
@pytest.mark.parametrize("end", ["first", "last"])
def test_one_flipped_bit_in_a_number_is_found(tmp_path: Path, dataset: str, end: str) -> None:
    path = write(tmp_path / "flipped.h5")
    with h5py.File(path) as file:
        place = file[dataset].id.get_offset()
        size = file[dataset].id.get_storage_size()
    flip_lowest_bit(path, place if end == "first" else place + size - 1)
    if dataset in ("videos/frames", "captions/pooled", "captions/words"):
        assert errors(path) == [f"{dataset}: content does not match its digest; copy or build it again"]
    else:
        assert problems(path) != []


@pytest.mark.parametrize("text", ["v2", "rain", "the same cat", "weather"])
def test_one_flipped_bit_in_a_text_is_found(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "flipped.h5")
    flip_lowest_bit(path, path.read_bytes().index(text.encode()))
    assert any("content does not match its digest" in message for message in errors(path))


def test_a_flipped_bit_in_the_description_is_found(tmp_path: Path) -> None:
    path = write(tmp_path / "flipped.h5", encoder={"model": "ViT-B/32"})
    flip_lowest_bit(path, path.read_bytes().index(b"ViT-B/32"))
    with pytest.raises(InputError, match="cannot be read as HDF5"):
        open_store(path)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("dataset", ["videos/frames", "captions/pooled", "captions/words"])
def test_numbers_that_are_not_finite_are_found(tmp_path: Path, dataset: str, bad: float) -> None:
    path = write(tmp_path / "nan.h5", changed(dataset, (2, ..., 3), bad))
    assert errors(path) == [f"{dataset}: 1 rows hold NaN or infinity, first row 2; extract them again"]


def test_zero_vectors_empty_captions_and_captions_without_words_are_pointed_out(tmp_path: Path) -> None:
    changes = {
        **changed("captions/pooled", 3, 0),
        **changed("captions/word_offsets", 1, 0),
        "captions/text": ["a cat", " ", "x", "y", "z"],
    }
    path = write(tmp_path / "odd.h5", changes)
    assert errors(path) == []
    assert warnings(path) == [
        "captions/pooled: 1 rows are all zero; such an item scores 0",
        "captions/text: 1 captions are empty, first row 1",
        "captions/words: 1 captions have no word, first row 0; they score 0",
    ]


def test_a_train_video_that_is_also_a_test_video_is_found(tmp_path: Path) -> None:
    path = write(tmp_path / "leak.h5", changed("videos/frames", 3, CONTENT["videos/frames"][0]))
    assert errors(path) == ["stream 'two': 1 test videos have the frames of a train video, first row 3"]


def test_frames_past_the_count_do_not_hide_a_leak(tmp_path: Path) -> None:
    frames, count = CONTENT["videos/frames"].copy(), np.array([1, 1, 2, 2], np.int32)
    frames[1, 0] = frames[0, 0]
    path = write(tmp_path / "leak.h5", {"videos/frames": frames, "videos/frame_count": count})
    assert errors(path) == ["stream 'two': 1 test videos have the frames of a train video, first row 1"]


def test_shared_frames_are_those_of_a_comparison_of_all_pairs() -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 2, (40, 3, 1)).astype(np.float16)
    count, role = rng.integers(1, 4, 40), rng.choice([schema.TRAIN, schema.TEST], 40)
    naive = [
        row
        for row in range(40)
        if role[row] == schema.TEST
        and any(
            role[other] == schema.TRAIN
            and count[other] == count[row]
            and np.array_equal(frames[row, : count[row]], frames[other, : count[row]])
            for other in range(40)
        )
    ]
    assert shared_frames(frames, count, role) == naive
    assert 0 < len(naive) < (role == schema.TEST).sum()
