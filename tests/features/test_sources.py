"""Captions and streams as people have them, and everything that can be wrong with them."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from ctvr_bench.features.clips import Clip, find_clips, without_videos
from ctvr_bench.features.ctvr import import_ctvr
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.schema import TEST, TRAIN, UNUSED, VALIDATION
from ctvr_bench.features.sources import read_sources
from ctvr_bench.features.store import open_store
from ctvr_bench.features.structure import Structure
from tests import release

STREAM = """video,category,task,role
a,sport,1,train
b,sport,1,test
c,home,2,train
d,home,2,test
e,home,2,validation
f,other,,unused
"""
CAPTIONS = """video,caption
b,"a ball, thrown"
a,a man runs
d,a pan
c,someone cooks
b,a second view
e,a stove
"""


def write(folder: Path, stream: str = STREAM, captions: str = CAPTIONS) -> tuple[list[Path], Path]:
    (folder / "stream.csv").write_text(stream)
    (folder / "captions.csv").write_text(captions)
    return [folder / "captions.csv"], folder / "stream.csv"


def refusal(captions: list[Path], stream: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_sources(captions, stream)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_csv_stream_and_csv_captions_become_a_structure(tmp_path: Path) -> None:
    found = read_sources(*write(tmp_path))
    structure, (stream,) = found.structure, found.structure.streams
    assert structure.video_ids == ["a", "b", "c", "d", "e", "f"]
    assert structure.category_names == ["sport", "home", "other"]
    assert structure.captions == ["a man runs", "a ball, thrown", "a second view", "someone cooks", "a pan", "a stove"]
    assert structure.caption_video_M.tolist() == [0, 1, 1, 2, 3, 4]
    assert found.entry_M.tolist() == [1, 0, 4, 3, 2, 5]
    assert stream.name == "stream"
    assert stream.task_of_category_C.tolist() == [0, 1, -1]
    assert stream.role_of_video_N.tolist() == [TRAIN, TEST, TRAIN, TEST, VALIDATION, UNUSED]
    assert stream.query_of_video_N.tolist() == [-1, 1, -1, 4, 5, -1]


def test_one_csv_may_hold_stream_and_captions(tmp_path: Path) -> None:
    one = tmp_path / "all.csv"
    one.write_text("video,category,task,role,caption\na,x,0,train,one\na,x,0,train,two\nb,x,0,test,three\n")
    found = read_sources([one], one).structure
    assert found.captions == ["one", "two", "three"]
    assert found.caption_video_M.tolist() == [0, 0, 1]


def test_json_captions_and_annotations_of_msrvtt_are_read(tmp_path: Path) -> None:
    plain = {"a": ["one", "two"], "b": "three", "c": "four", "d": ["five"], "e": "six"}
    _, stream = write(tmp_path)
    (tmp_path / "plain.json").write_text(json.dumps(plain))
    found = read_sources([tmp_path / "plain.json"], stream)
    assert found.structure.captions == ["one", "two", "three", "four", "five", "six"]
    pairs = [("b", "three"), ("z", "of no video"), ("a", "one"), ("d", ""), ("d", "five"), ("e", "six"), ("b", "more")]
    sentences = [{"video_id": video, "caption": text, "sen_id": 1} for video, text in pairs]
    (tmp_path / "msrvtt.json").write_text(json.dumps({"sentences": sentences, "info": {}}))
    found = read_sources([tmp_path / "msrvtt.json"], stream)
    assert found.structure.captions == ["one", "three", "more", "five", "six"]
    assert (found.unknown_captions, found.blank_captions, found.entries) == (1, 1, 7)
    assert found.entry_M.tolist() == [2, 0, 6, 4, 5]


def test_files_as_published_give_the_structure_of_import_ctvr(tmp_path: Path) -> None:
    *pickles, one, two = release.actnet(tmp_path, [3, 2, 4] * 10)
    captions = [one, two]
    found = read_sources(captions, *pickles)
    import_ctvr(pickles, captions, tmp_path / "a.h5", name="a")
    expected = Structure.from_store(open_store(tmp_path / "a.h5"))
    assert {key: list(texts) for key, texts in found.structure.texts.items()} == expected.texts
    for dataset, values in expected.arrays.items():
        np.testing.assert_array_equal(found.structure.arrays[dataset], values)
    assert [stream.num_tasks for stream in found.structure.streams] == [10, 20]
    assert found.segments["v_00000000003"] == (4.5, 60.25)


def test_streams_of_one_store_have_tasks_and_roles_of_their_own_over_the_same_videos(tmp_path: Path) -> None:
    captions, stream = write(tmp_path)
    other = tmp_path / "turned.csv"
    other.write_text(STREAM.replace("sport,1", "sport,2").replace("home,2", "home,1").replace("validation", "test"))
    first, second = read_sources(captions, stream, other).structure.streams
    assert (first.name, second.name) == ("stream", "turned")
    assert first.task_of_category_C.tolist() == [0, 1, -1]
    assert second.task_of_category_C.tolist() == [1, 0, -1]
    assert second.role_of_video_N.tolist() == [TRAIN, TEST, TRAIN, TEST, TEST, UNUSED]
    assert second.query_of_video_N.tolist() == first.query_of_video_N.tolist()
    other.write_text(STREAM.replace("b,sport,1", "b,home,2").replace("d,home,2", "d,sport,1"))
    with pytest.raises(
        InputError, match=r"turned.csv: video 'b' is in category 'home', but in stream 'stream' in 'sport'"
    ):
        read_sources(captions, stream, other)
    other.write_text(STREAM.replace("f,other,,unused\n", ""))
    with pytest.raises(InputError, match="video 'f' is in no category, but in stream 'stream' in 'other'"):
        read_sources(captions, stream, other)
    with pytest.raises(InputError, match="two streams are called 'stream'"):
        read_sources(captions, stream, stream)


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (STREAM.replace("task", "stage"), "its first line lacks task"),
        (STREAM + "a,home,2,train\n", "video 'a' is there already"),
        (STREAM.replace("2,validation", "3,train"), "category 'home' is in task 2 and 3"),
        (STREAM.replace("sport,1,test", "sport,1,train"), "category 'sport' has no test videos"),
        (STREAM.replace("sport,1,train", "sport,1,test"), "category 'sport' has no train videos"),
        (STREAM.replace("home,2", "home,4"), "has tasks [1, 4]; number them"),
        (STREAM.replace("home,2", "home,two"), "has task 'two'; a task is a whole number"),
        (STREAM.replace("1,train", "1,learn"), "unknown role 'learn'"),
        (STREAM.replace("b,sport", ",sport"), "line 3: has no video"),
        (STREAM + "g,home,2,test,too,many\n", "line 8: has more than 4 cells"),
        ("video,category,task,role\n", "has no lines after its first"),
        ("", "lacks video, category, task, role"),
        (STREAM + 'g,"home,2,test\n', "is no CSV file"),
    ],
)
def test_streams_that_break_a_rule_are_refused(tmp_path: Path, stream: str, message: str) -> None:
    assert message in refusal(*write(tmp_path, stream))


@pytest.mark.parametrize(
    ("captions", "message"),
    [
        (CAPTIONS + "aa,who is this\n", "video 'aa' is not in the stream; did you mean 'a'?"),
        (CAPTIONS + "a,  \n", "the caption of 'a' is empty"),
        (CAPTIONS.replace("d,a pan\n", ""), "1 test videos have no caption, 'd' for one"),
        (CAPTIONS + "a,one, two\n", "line 8: has more than 2 cells"),
        (CAPTIONS.replace("caption", "text"), "its first line lacks caption"),
    ],
)
def test_captions_that_break_a_rule_are_refused(tmp_path: Path, captions: str, message: str) -> None:
    assert message in refusal(*write(tmp_path, captions=captions))


def test_files_that_are_not_what_their_names_say_are_refused(tmp_path: Path) -> None:
    captions, stream = write(tmp_path)
    captions[0].write_bytes(CAPTIONS.replace("pan", "p\xe2n").encode("latin-1"))
    assert "is no UTF-8 text (byte 0xe2" in refusal(captions, stream)
    assert "cannot be read" in refusal([tmp_path / "none.csv"], stream)
    (tmp_path / "a.json").write_text("[1")
    assert "is no JSON file" in refusal([tmp_path / "a.json"], stream)
    for content in ([], {"a": []}, {"a": 3}, {"a": ["x", 3]}):
        (tmp_path / "a.json").write_text(json.dumps(content))
        assert "must be {video: caption" in refusal([tmp_path / "a.json"], stream)
    (tmp_path / "a.pkl").write_bytes(b"no pickle")
    assert "a.pkl" in refusal(captions, tmp_path / "a.pkl")


def test_a_byte_order_mark_and_windows_lines_do_no_harm(tmp_path: Path) -> None:
    captions, stream = write(tmp_path)
    captions[0].write_bytes(b"\xef\xbb\xbf" + CAPTIONS.replace("\n", "\r\n").encode())
    assert "a ball, thrown" in read_sources(captions, stream).structure.captions


def test_videos_are_found_by_name_with_or_without_suffix(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mkv", "sub/c.mp4", "d.txt", "e.f.mp4", "g_1.mp4", "g.mp4", "h.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    segments = {"g": (1.0, 2.0), "h": (3.0, 4.0)}
    clips, missing = find_clips(tmp_path, ["a.mp4", "b", "sub/c", "d", "e.f", "g", "h", "../a", "z"], segments)
    assert clips == {
        "a.mp4": Clip(tmp_path / "a.mp4"),
        "b": Clip(tmp_path / "b.mkv"),
        "sub/c": Clip(tmp_path / "sub/c.mp4"),
        "e.f": Clip(tmp_path / "e.f.mp4"),
        "g": Clip(tmp_path / "g_1.mp4"),
        "h": Clip(tmp_path / "h.mp4", (3.0, 4.0)),
    }
    assert list(missing) == ["d", "../a", "z"]
    (tmp_path / "b.mp4").touch()
    with pytest.raises(InputError, match=r"video 'b' may be b.mkv or b.mp4"):
        find_clips(tmp_path, ["b"], {})
    with pytest.raises(InputError, match="no such folder"):
        find_clips(tmp_path / "none", [], {})


def test_missing_videos_leave_a_structure_that_holds_together(tmp_path: Path) -> None:
    stream = STREAM + "g,hall,2,train\nh,hall,2,test\n"
    whole = read_sources(*write(tmp_path, stream, CAPTIONS + "g,a hall\nh,a door\n")).structure
    kept = without_videos(whole, ["e", "h"], "here")
    kept.check("here")
    (left,) = kept.streams
    assert kept.video_ids == ["a", "b", "c", "d", "f", "g"]
    assert left.task_of_category_C.tolist() == [0, 1, -1, -1]  # hall has no test video any more
    assert left.role_of_video_N.tolist() == [TRAIN, TEST, TRAIN, TEST, UNUSED, UNUSED]
    assert [kept.captions[row] for row in left.query_of_video_N if row >= 0] == ["a ball, thrown", "a pan"]
    with pytest.raises(InputError, match=r"here: without 1 missing videos task 1 of stream 'stream' has no category"):
        without_videos(whole, ["b"], "here")


def test_test_videos_may_be_asked_for_by_several_captions(tmp_path: Path) -> None:
    captions = CAPTIONS + "d,a pan on a stove\nd,a pan\nb,a third view\n"
    asked, once = (read_sources(*write(tmp_path, captions=captions), queries=count).structure for count in (2, 1))
    (stream,) = asked.streams
    told = {asked.video_ids[v]: [asked.captions[c] for c in stream.asked_of(v)] for v in range(len(asked.video_ids))}
    assert told["b"] == ["a ball, thrown", "a second view"]
    assert told["d"] == ["a pan", "a pan on a stove"]  # the same words again are no other caption
    assert told["e"] == ["a stove"], "a validation video is asked for once"
    assert told["a"] == told["c"] == []
    assert np.array_equal(stream.query_of_video_N, once.streams[0].query_of_video_N)
    assert once.streams[0].further_queries_NK is None


def test_a_test_video_with_too_few_captions_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"1 test videos have fewer than 2 different captions .*'d' for one; add some"):
        read_sources(*write(tmp_path), queries=2)


def test_a_video_of_very_many_captions_takes_no_square_of_their_number(tmp_path: Path) -> None:
    many = CAPTIONS + "".join(f"b,view {number}\n" for number in range(100_000))
    start = time.process_time()
    found = read_sources(*write(tmp_path, captions=many)).structure
    assert time.process_time() - start < 5  # a minute, were each caption looked for among all
    assert len(found.captions) == 100_006
    assert found.captions[found.streams[0].query_of_video_N[1]] == "a ball, thrown"
