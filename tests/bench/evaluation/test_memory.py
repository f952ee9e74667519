"""What is not held whole gives the same ranks; what was freed is the system's again."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ctvr_bench.bench.evaluation.scores import CHUNK, Scores, chunks
from ctvr_bench.bench.evaluation.sheet import _rank_blocks, _rank_rows
from ctvr_bench.bench.records.environment import give_back_memory


@pytest.mark.parametrize("size", [5, CHUNK, 2 * CHUNK + 7])
@pytest.mark.parametrize("parts", ["cosine", "fused"])
def test_ranks_made_a_few_rows_at_a_time_are_those_of_the_whole_matrix(size: int, parts: str) -> None:
    generator = torch.Generator().manual_seed(size)
    room_NM = torch.randn(2, size + 30, size + 30, generator=generator).round(decimals=2)  # with ties
    whole = Scores(room_NM[0], room_NM[1] if parts == "fused" else None).block(slice(0, size), slice(0, size))
    rows = [slice(int(index[0]), int(index[-1]) + 1) for index in chunks(slice(0, size))]
    rank_N, best_N = _rank_rows(whole.block(part, slice(None)).combined(0.4) for part in rows)
    expected = _rank_blocks([whole.combined(0.4).numpy()], "t2v")
    np.testing.assert_array_equal(rank_N, expected.rank_N)
    np.testing.assert_array_equal(best_N, expected.best_N)
    assert len(np.unique(rank_N)) > 1


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_freed_memory_is_given_back() -> None:
    held = [torch.ones(1 << 12) for _ in range(2_000)]  # 32 MB in small blocks, from the heap
    between = held[::2]  # holes, which nothing but a trim gives back
    before = _resident()
    del held
    give_back_memory()
    assert _resident() < before - 8 * 2**20
    assert len(between) == 1_000


def _resident() -> int:
    found = re.search(r"^RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"), re.M)
    assert found is not None
    return 1024 * int(found[1])
