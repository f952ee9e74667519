"""Scores and ranks of queries against a gallery: exact by counting in blocks, or through a FAISS index.

Counting needs no sorted list: in every size measured it is as fast as FAISS's exact search or faster
(results/PERFORMANCE.md), so exact ranks are counted. The only file that imports faiss.
Axes: N queries, M gallery items, L words, F frames, D feature dimensions.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import faiss
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ctvr_bench.bench.metrics import ranks
from ctvr_bench.bench.records.record import IndexKind

Ints = npt.NDArray[np.int64]
Ranker = Literal["count", "faiss"]
"""Who makes exact ranks: blocks of scores that are counted, or FAISS."""

_ROWS = 256  # queries counted together where FAISS did not reach their target


def set_search_threads(count: int) -> None:
    """How many threads FAISS uses in this process."""
    faiss.omp_set_num_threads(count)


class Ranked(NamedTuple):
    """rank_N: 1 + #greater + #equal others. best_N: gallery position of the item that took rank 1."""

    rank_N: Ints
    best_N: Ints


class DenseGallery:
    """Unit vectors in blocks, one block for each task, behind an exact FAISS inner-product index.

    Blocks are only ever added; positions run through all blocks in order.
    """

    def __init__(self, dim: int) -> None:
        self._index = faiss.IndexFlatIP(dim)
        self._ends: list[int] = []

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def add(self, block_MD: Tensor) -> None:
        """Append the next task's block."""
        self._index.add(_numpy(block_MD))
        self._ends.append(len(self))

    def span(self, block: int) -> tuple[int, int]:
        """First position of a block and the position after its last."""
        return (self._ends[block - 1] if block else 0), self._ends[block]

    def rank(
        self,
        query_ND: Tensor,
        target_N: Ints,
        block: int | None = None,
        depth: int = 100,
        engine: Ranker = "count",
    ) -> Ranked:
        """Exact ranks of the targets, among all blocks or inside one.

        count: scores in blocks of queries, compared and not sorted. faiss: FAISS returns the best `depth` items. Where
        the target is among them, and not level with the last, its rank is counted there; for the rest it is counted
        over the whole span. Ties count against the query either way.
        """
        first, last = (0, len(self)) if block is None else self.span(block)
        if engine == "count":
            return self._counted(_numpy(query_ND), target_N, first, last)
        depth = min(depth, last - first)
        options = None
        if block is not None:
            options = faiss.SearchParameters(sel=faiss.IDSelectorRange(first, last))  # type: ignore[call-arg]
        query = _numpy(query_ND)
        score_NK, item_NK = self._index.search(query, depth, params=options)
        is_target_NK = item_NK == target_N[:, None]
        found_N = is_target_NK.any(1)
        own_N = score_NK[np.arange(len(query)), is_target_NK.argmax(1)]
        rank_N = 1 + ((score_NK >= own_N[:, None]) & ~is_target_NK).sum(1)
        open_N = np.flatnonzero(~found_N | ((depth < last - first) & (score_NK[:, -1] >= own_N)))
        if len(open_N):
            rank_N[open_N] = self._counted(query[open_N], target_N[open_N], first, last).rank_N
        return Ranked(rank_N.astype(np.int64), item_NK[:, 0].astype(np.int64))

    def _counted(self, query_ND: npt.NDArray[np.float32], target_N: Ints, first: int, last: int) -> Ranked:
        items_DM = torch.from_numpy(self._index.reconstruct_n(first, last - first)).T
        rank, best = [], []
        for start in range(0, len(query_ND), _ROWS):
            rows = slice(start, start + _ROWS)
            sim_RM = (torch.from_numpy(query_ND[rows]) @ items_DM).numpy()
            rank.append(ranks(sim_RM, target_N[rows] - first))
            best.append(first + sim_RM.argmax(1))
        return Ranked(np.concatenate(rank), np.concatenate(best))


class ItemIndex:
    """Unit vectors behind a FAISS index, exact or approximate.

    flat: exact. ivf: about sqrt(M) cells, an eighth of them probed. hnsw: a graph of 32 neighbours. pq: products of
    eight-bit codes, one for each 8 dimensions (4 and fewer where the vectors are shorter).
    """

    def __init__(self, gallery_MD: Tensor, kind: IndexKind) -> None:
        gallery = _numpy(gallery_MD)
        count, dim = gallery.shape
        cells = max(1, round(count**0.5))
        codes = max(part for part in range(1, max(2, dim // 8) + 1) if dim % part == 0)
        bits = min(8, int(np.log2(count)))
        kind = kind if bits else "flat"  # one item has nothing to cluster
        recipe = {
            "flat": "Flat",
            "ivf": f"IVF{cells},Flat",
            "hnsw": "HNSW32,Flat",
            "pq": f"PQ{codes}x{bits}np",  # np: without an annealing of codes that only other searches use, 24 s
        }[kind]
        index: Any = faiss.index_factory(dim, recipe, faiss.METRIC_INNER_PRODUCT)
        if kind in ("ivf", "pq"):  # a small gallery is not warned about: what an index loses stands in the table
            clustering = index.cp if kind == "ivf" else index.pq.cp
            clustering.min_points_per_centroid = 1
        index.train(gallery)
        index.add(gallery)
        if kind == "ivf":
            index.nprobe = max(1, cells // 8)
        self._index = index

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def nearest(self, query_ND: Tensor, depth: int) -> tuple[npt.NDArray[np.float32], Ints]:
        """Inner products and positions of the `depth` nearest items, best first; -1 where the index found fewer."""
        score_NK, item_NK = self._index.search(_numpy(query_ND), min(depth, len(self)))
        return score_NK, item_NK.astype(np.int64)


def _numpy(x: Tensor) -> npt.NDArray[np.float32]:
    return np.ascontiguousarray(x.detach().cpu().numpy(), dtype=np.float32)
