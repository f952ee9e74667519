"""A structure in memory: what it writes is what it reads, and what breaks a rule is named before that."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ctvr_bench.features.errors import InputError
from ctvr_bench.features.simulation.write import generated_structure
from ctvr_bench.features.store import create_store, open_store
from ctvr_bench.features.structure import Structure, empty_stream

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


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (replace(SMALL, video_ids=["twice"] * 12), "videos/id holds 'twice' 12 times; ids and names must be unique"),
        (replace(SMALL, category_names=["a", "b", "c", "a"]), "categories/name holds 'a' 2 times"),
        (
            replace(SMALL, captions=["x\0y", *SMALL.captions[1:]]),
            r"captions/text holds 'x\\x00y', which is no UTF-8 text",
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
