"""A structure in memory: what it writes is what it reads, and what breaks a rule is named before that."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ctvr_bench.features.clips import without_videos
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.schema import TEST, TRAIN
from ctvr_bench.features.simulation.write import generated_structure
from ctvr_bench.features.store import create_store, open_store
from ctvr_bench.features.streams import make_stream
from ctvr_bench.features.structure import Structure, empty_stream
from tests.stores import ask_thrice

SMALL = generated_structure(
    categories=4, tasks=2, train_per_category=2, test_per_category=1, captions_per_train_video=3
)


def test_a_written_structure_is_read_back(tmp_path: Path) -> None:
    with create_store(tmp_path / "small.h5", name="small") as writer:
        SMALL.write(writer)
    read = Structure.from_store(open_store(tmp_path / "small.h5"))
    assert read.texts == SMALL.texts
    assert read.arrays.keys() == SMALL.arrays.keys()
    for dataset, values in SMALL.arrays.items():
        np.testing.assert_array_equal(read.arrays[dataset], values)
        assert read.arrays[dataset].dtype == values.dtype


def test_a_sound_structure_passes_its_check() -> None:
    SMALL.check("here")
    ask_thrice(SMALL).check("here")


def test_captions_asked_beside_the_first_are_read_back_and_asked(tmp_path: Path) -> None:
    asked = ask_thrice(SMALL)
    with create_store(tmp_path / "thrice.h5", name="thrice") as writer:
        asked.write(writer)
    store = open_store(tmp_path / "thrice.h5")
    np.testing.assert_array_equal(store.stream().further_queries_NK, asked.streams[0].further_queries_NK)
    for task in make_stream(store).tasks:
        for rows in task.further:
            assert np.array_equal(store.caption_video_M[rows], store.caption_video_M[task.test])
        assert len(set(np.concatenate([task.test, *task.further]).tolist())) == 3 * len(task.test)


@pytest.mark.parametrize(
    ("video", "value", "message"),
    [
        (0, 3, r"further_queries\[0\] asks of a video that is no test video"),
        (2, -1, r"further_queries\[2\] holds -1, no caption of that video; every test video needs 2 of its own"),
        (2, 0, r"further_queries\[2\] holds 0, no caption of that video"),
        (2, "first", r"further_queries\[2\] asks caption \d+ twice"),
    ],
)
def test_captions_that_are_asked_wrongly_are_refused(video: int, value: int | str, message: str) -> None:
    asked = ask_thrice(SMALL)
    (stream,) = asked.streams
    assert stream.further_queries_NK is not None
    assert stream.role_of_video_N[[0, 2]].tolist() == [TRAIN, TEST]
    stream.further_queries_NK[video, 1] = stream.query_of_video_N[video] if value == "first" else value
    with pytest.raises(InputError, match=message):
        asked.check("here")


def test_captions_stay_asked_where_videos_are_left_out() -> None:
    asked = ask_thrice(replace(generated_structure(categories=4, tasks=2, train_per_category=2, test_per_category=2)))
    tested = int(np.flatnonzero(asked.streams[0].role_of_video_N == TEST)[0])
    left = without_videos(asked, [asked.video_ids[tested]], "here")
    left.check("here")
    for row, video in enumerate(left.video_ids):
        before = asked.streams[0].asked_of(list(asked.video_ids).index(video))
        assert [left.captions[c] for c in left.streams[0].asked_of(row)] == [asked.captions[c] for c in before]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (replace(SMALL, video_ids=["twice"] * 12), "videos/id holds 'twice' 12 times; ids and names must be unique"),
        (replace(SMALL, category_names=["a", "b", "c", "a"]), "categories/name holds 'a' 2 times"),
        (
            replace(SMALL, captions=["x\0y", *SMALL.captions[1:]]),
            r"captions/text holds 'x\\x00y', which is no UTF-8 text",
        ),
        (
            replace(SMALL, captions=["x"] * 5000 + ["y\ud800", "z"]),
            r"captions/text holds 'y\\ud800', which is no UTF-8",
        ),
        (replace(SMALL, captions=["\ud800", *SMALL.captions[1:]]), r"captions/text holds '\\ud800', which is no UTF-8"),
        (replace(SMALL, captions=SMALL.captions[1:]), "captions/text has 27 along M but captions/video has 28"),
        (replace(SMALL, video_ids=[]), "has 12 along N but videos/id has 0"),
        (replace(SMALL, streams=[empty_stream("none", 4, 12)]), "stream 'none': task numbers must be 0, 1, 2"),
    ],
)
def test_a_broken_structure_is_refused_with_the_place_it_is_for(broken: Structure, message: str) -> None:
    with pytest.raises(InputError, match=f"here: .*{message}"):
        broken.check("here")
