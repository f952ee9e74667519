"""What is not held whole gives the same ranks; what was freed is the system's again."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch

from ctvr_bench.bench.evaluation.queries import Queries, span
from ctvr_bench.bench.evaluation.ranking import Ranking
from ctvr_bench.bench.evaluation.scores import Scores
from ctvr_bench.bench.records.environment import give_back_memory
from ctvr_bench.methods.shared.similarity import fuse


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_ranks_of_rows_that_come_a_few_at_a_time_are_those_of_each_sheets_whole_matrix(chunk: int, own: bool) -> None:
    sizes = [4, 1, 5]
    queries, videos = Queries(sizes, 2), sum(sizes)
    sim_SVV = torch.randn(2, videos, videos, generator=torch.Generator().manual_seed(1)).round(decimals=1)  # with ties
    ranking = Ranking(queries, len(sizes))
    for task in range(len(sizes)):
        for rows in map(span, torch.arange(queries.of(task).start, queries.of(task).stop).split(chunk)):
            sim_NM = sim_SVV[queries.sheet_N[rows], queries.target_N[rows]]
            ranking.put(task, rows, sim_NM[:, queries.videos(task)] if own else sim_NM, own=own)
    for row, (sheet, video) in enumerate(zip(queries.sheet_N, queries.target_N, strict=True)):
        task = next(t for t in range(3) if video < queries.ends[t])
        among = queries.videos(task) if own else slice(0, videos)
        for direction, sim_VV in (("t2v", sim_SVV[sheet]), ("v2t", sim_SVV[sheet].T)):
            scores = sim_VV[video, among].tolist()
            expected = sum(score >= float(sim_VV[video, video]) for score in scores)
            assert ranking.ranked(direction).rank_N[row] == expected
            best = among.start + scores.index(max(scores))
            assert ranking.ranked(direction).best_N[row] == queries.item_V[best]


@pytest.mark.parametrize("width", [3, 700])
def test_scores_fused_some_rows_at_a_time_have_the_bits_of_all_at_once(width: int) -> None:
    generator = torch.Generator().manual_seed(width)
    parts = [torch.randn(257, width, generator=generator) for _ in range(2)]
    assert torch.equal(Scores(*parts).combined(0.4), fuse(parts[1], parts[0], 0.4))


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
