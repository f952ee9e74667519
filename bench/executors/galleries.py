"""Exact ranks in a gallery that is larger than memory, by one process or shared out over several.

Each shard answers twice: with the scores of the targets that lie in it, then with how many of its items score at
least as high as each target. Counts add up, so the ranks are those of the whole gallery. A shard begins where a block
of the whole would begin and every score is made in a block of the same shape, so they are equal to the last bit too.
Axes: N queries, M gallery items, B items of a block, Q queries of a block, D feature dimensions.
"""

from __future__ import annotations

from concurrent.futures import Executor
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ctvr_bench.features.errors import InputError
from ctvr_bench.methods.shared.similarity import normalise

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Span = tuple[int, int]

QUERIES, ITEMS = 2048, 8192
"""A block of scores: 64 MB."""


def counted_ranks(query_ND: Tensor, gallery_MD: npt.NDArray[Any], target_N: Ints) -> Ints:
    """Exact ranks of the targets by cosine, ties against the query, with a block of the gallery in memory at a time.

    query_ND: unit rows. gallery_MD: raw rows of any float type, such as a memory map of float16; it is read twice, the
    first time for the scores of the targets alone.
    """
    whole = (0, len(gallery_MD))
    own_N = target_scores(query_ND, gallery_MD, target_N, whole)
    return 1 + rivals(query_ND, gallery_MD, target_N, own_N, whole)


def sharded_ranks(query_ND: Tensor, gallery: Path, target_N: Ints, shards: int, executor: Executor) -> Ints:
    """The same of a gallery in an .npy file [M, D] that all workers of the executor see, bit for bit.

    executor: a pool of processes, or `Client.get_executor()` of a Dask cluster. Raises InputError for a target that is
    no row of the gallery.
    """
    items = len(np.load(gallery, mmap_mode="r"))
    if len(target_N) and not (0 <= target_N.min() and target_N.max() < items):
        raise InputError(f"{gallery}: has {items} rows, and a target is row {target_N.max()} or {target_N.min()}")
    spans = shard_spans(items, shards)
    own_N = np.full(len(target_N), np.nan, np.float32)
    parts = executor.map(partial(_target_scores_of, query_ND.numpy(), gallery, target_N), spans)
    for (first, last), part_N in zip(spans, parts, strict=True):
        inside_N = (target_N >= first) & (target_N < last)
        own_N[inside_N] = part_N[inside_N]
    counts = executor.map(partial(_rivals_of, query_ND.numpy(), gallery, target_N, own_N), spans)
    return sum(counts, np.ones(len(target_N), np.int64))


def shard_spans(items: int, shards: int) -> list[Span]:
    """First item of each shard and the one after its last; each begins with a block. Fewer where there are few blocks.

    >>> shard_spans(20_000, 2)
    [(0, 8192), (8192, 20000)]
    """
    blocks = -(-items // ITEMS)
    shards = max(1, min(shards, blocks))
    ends = [min(items, ITEMS * (blocks * shard // shards)) for shard in range(shards + 1)]
    return list(pairwise(ends))


def target_scores(query_ND: Tensor, gallery_MD: npt.NDArray[Any], target_N: Ints, span: Span) -> Floats:
    """Score of each query with its target [N], NaN where the target lies outside the span."""
    own_N = np.full(len(query_ND), np.nan, np.float32)
    for first in range(*span, ITEMS):
        mine_Q = np.flatnonzero((target_N >= first) & (target_N < first + ITEMS))
        if len(mine_Q):
            sim_QB = (query_ND[torch.from_numpy(mine_Q)] @ _unit_block(gallery_MD, first).T).numpy()
            own_N[mine_Q] = sim_QB[np.arange(len(mine_Q)), target_N[mine_Q] - first]
    return own_N


def rivals(query_ND: Tensor, gallery_MD: npt.NDArray[Any], target_N: Ints, own_N: Floats, span: Span) -> Ints:
    """How many items of the span, but the target, score at least `own_N` with each query [N]."""
    count_N = np.zeros(len(query_ND), np.int64)
    for first in range(*span, ITEMS):
        block_DB = _unit_block(gallery_MD, first).T
        for row in range(0, len(query_ND), QUERIES):
            rows = slice(row, row + QUERIES)
            sim_QB = (query_ND[rows] @ block_DB).numpy()
            inside_Q = np.flatnonzero((target_N[rows] >= first) & (target_N[rows] < first + ITEMS))
            sim_QB[inside_Q, target_N[rows][inside_Q] - first] = -np.inf  # an item is not its own rival
            count_N[rows] += np.count_nonzero(sim_QB >= own_N[rows, None], axis=1)
    return count_N


def _target_scores_of(query_ND: Floats, gallery: Path, target_N: Ints, span: Span) -> Floats:
    """On a worker, which computes with one thread as the whole is."""
    torch.set_num_threads(1)
    return target_scores(torch.from_numpy(query_ND), np.load(gallery, mmap_mode="r"), target_N, span)


def _rivals_of(query_ND: Floats, gallery: Path, target_N: Ints, own_N: Floats, span: Span) -> Ints:
    torch.set_num_threads(1)
    return rivals(torch.from_numpy(query_ND), np.load(gallery, mmap_mode="r"), target_N, own_N, span)


def _unit_block(gallery_MD: npt.NDArray[Any], first: int) -> Tensor:
    return normalise(torch.from_numpy(np.array(gallery_MD[first : first + ITEMS], np.float32)))
