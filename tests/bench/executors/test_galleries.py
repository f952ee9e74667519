"""Exact ranks in blocks and in shards are those of the whole matrix."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from ctvr_bench.bench.executors import galleries
from ctvr_bench.bench.executors.galleries import counted_ranks, shard_spans, sharded_ranks
from ctvr_bench.bench.metrics import ranks
from ctvr_bench.features.errors import InputError
from ctvr_bench.methods.shared.similarity import normalise
from tests.bench.evaluation.test_search import unit

ITEMS = (3 * unit(150, 16, seed=1)).half()
ITEMS[90] = ITEMS[20]
QUERY, TARGET = unit(60, 16, seed=2), np.random.default_rng(0).integers(0, 150, 60)
TARGET[:2] = 20, 90


@pytest.mark.parametrize("block", [7, 64, 1000])
def test_counted_ranks_in_blocks_are_those_of_the_whole_matrix(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(galleries, "ITEMS", block)
    monkeypatch.setattr(galleries, "QUERIES", 16)
    sim = (QUERY @ normalise(ITEMS.float()).T).numpy()
    assert np.array_equal(counted_ranks(QUERY, ITEMS.numpy(), TARGET), ranks(sim, TARGET))


@pytest.mark.parametrize("shards", [1, 2, 5, 999])
def test_counts_of_shards_add_up_to_the_ranks_of_the_whole(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shards: int
) -> None:
    monkeypatch.setattr(galleries, "ITEMS", 7)
    np.save(tmp_path / "g.npy", ITEMS.numpy())
    with ThreadPoolExecutor(2) as pool:
        found = sharded_ranks(QUERY, tmp_path / "g.npy", TARGET, shards, pool)
        with pytest.raises(InputError, match="has 150 rows, and a target is row 150"):
            sharded_ranks(QUERY, tmp_path / "g.npy", TARGET * 0 + 150, shards, pool)
    assert np.array_equal(found, counted_ranks(QUERY, ITEMS.numpy(), TARGET))


@pytest.mark.parametrize(("items", "shards"), [(1, 1), (8192, 3), (8193, 2), (100_000, 4), (1_000_000, 7)])
def test_shards_begin_with_a_block_and_leave_no_item_out(items: int, shards: int) -> None:
    spans = shard_spans(items, shards)
    assert [first % 8192 for first, _ in spans] == [0] * len(spans)
    assert np.array_equal(np.concatenate([np.arange(*span) for span in spans]), np.arange(items))
    assert len(spans) == min(shards, -(-items // 8192))
