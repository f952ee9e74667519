"""Ranks in both directions from rows of scores that come a chunk at a time, so that no matrix is held whole.

Axes: N queries, M videos of these rows' columns, V videos, S sheets.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ctvr_bench.bench.evaluation.grid import GridRow
from ctvr_bench.bench.evaluation.queries import Queries
from ctvr_bench.bench.evaluation.scores import side_by_side
from ctvr_bench.bench.evaluation.search import Ranked
from ctvr_bench.bench.metrics import ranks
from ctvr_bench.methods.shared.base import MethodConfig

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Key = tuple[str, str, str]
"""gallery, scope, direction, as in 'stored', 'seen', 't2v'."""

_ROWS = 128


class Ranking:
    """Ranks of queries among videos, and of videos among the captions of each sheet, in one gallery and scope.

    Rows come in the order of the queries. A video's column can be counted once its own caption's row is there; until
    then its scores wait. Of a square of scores no more than a quarter ever waits.
    """

    def __init__(self, queries: Queries, tasks: int) -> None:
        videos = queries.ends[tasks - 1]
        self._queries, self._tasks = queries, tasks
        self._rank_N, self._best_N = (np.empty(queries.sheets * videos, np.int64) for _ in range(2))
        shape = queries.sheets, videos
        self._own_SV, self._high_SV = np.empty(shape, np.float32), np.full(shape, -np.inf, np.float32)
        self._count_SV, self._first_SV = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        self._waiting: dict[tuple[int, int], list[Floats]] = {}  # by sheet and task of the columns

    def put(self, task: int, rows: slice, sim_NM: Tensor, own: bool = False) -> None:
        """Scores of some rows of a task, with the videos of all tasks or with its own alone."""
        columns = self._queries.videos(task) if own else slice(0, self._queries.ends[self._tasks - 1])
        scores_NM = numpy_of(sim_NM)
        found = rank_rows(scores_NM, self._queries.target_N[rows] - columns.start)
        self._rank_N[rows], self._best_N[rows] = found.rank_N, columns.start + found.best_N
        for part in self._queries.by_sheet(rows):
            self._put_sheet(task, part, scores_NM[part.start - rows.start : part.stop - rows.start], columns)

    def ranked(self, direction: str) -> Ranked:
        """Ranks, and top items by `Queries.item_V`, of all queries or, 'v2t', of each one's video among its sheet."""
        item_V = self._queries.item_V
        if direction == "t2v":
            return Ranked(self._rank_N, item_V[self._best_N])
        of_N = self._queries.sheet_N[: len(self._rank_N)], self._queries.target_N[: len(self._rank_N)]
        return Ranked(self._count_SV[of_N], item_V[self._first_SV[of_N]])

    def _put_sheet(self, task: int, rows: slice, sim_NM: Floats, columns: slice) -> None:
        sheet, target_N = int(self._queries.sheet_N[rows.start]), self._queries.target_N[rows]
        self._own_SV[sheet, target_N] = sim_NM[np.arange(len(sim_NM)), target_N - columns.start]
        first_M = _best(sim_NM.T)
        high_M = sim_NM[first_M, np.arange(len(first_M))]
        better_M = high_M > self._high_SV[sheet, columns]  # among equals the first row's stays
        self._high_SV[sheet, columns][better_M] = high_M[better_M]
        self._first_SV[sheet, columns][better_M] = target_N[first_M[better_M]]
        mine = self._queries.videos(task)
        self._count(sheet, slice(columns.start, mine.start), sim_NM[:, : mine.start - columns.start])
        for other in range(task, self._tasks):
            videos = self._queries.videos(other)
            if videos.start < columns.stop:
                part_NM = sim_NM[:, videos.start - columns.start : videos.stop - columns.start]
                self._waiting.setdefault((sheet, other), []).append(part_NM.copy())
        if target_N[-1] == mine.stop - 1:
            for part_NM in self._waiting.pop((sheet, task)):
                self._count(sheet, mine, part_NM)

    def _count(self, sheet: int, videos: slice, sim_NM: Floats) -> None:
        self._count_SV[sheet, videos] += np.count_nonzero(sim_NM >= self._own_SV[sheet, videos], axis=0)


def rank_exact(
    queries: Queries, rows: Iterable[GridRow], tasks: int, config: MethodConfig, *, everywhere: bool
) -> tuple[Tensor, dict[Key, Ranked]]:
    """Pooled captions of the queries of the first tasks, and ranks in every gallery, scope and direction.

    rows: all of the grid. Of re-encoded galleries nothing where no video moved; everywhere: of all together too.
    """
    alpha, fused = config.alpha, config.scoring == "fused"
    seen, own, cut, again, own_again, cut_again = (Ranking(queries, tasks) for _ in range(6))
    frozen: list[tuple[slice, Ranked]] = []
    pooled, moved = [], False
    for row in rows:
        pooled.append(row.pooled_ND)
        task, at = row.task, row.rows
        seen_NM = side_by_side(row.stored).combined(alpha)
        seen.put(task, at, seen_NM)
        own.put(task, at, row.stored[task].combined(alpha), own=True)
        if fused:
            cut.put(task, at, seen_NM[:, queries.videos(task)], own=True)
        if row.frozen is not None:
            rank_N, best_N = rank_rows(numpy_of(row.frozen.combined(alpha)), queries.target_N[at])
            frozen.append((at, Ranked(rank_N, queries.item_V[best_N])))
        if row.again:
            moved = True
            own_again.put(task, at, row.again[task].combined(alpha), own=True)
            if fused:
                cut_again.put(task, at, _own_of_seen(row, alpha)[:, queries.videos(task)], own=True)
            if everywhere:
                again.put(task, at, side_by_side(list(row.again.values())).combined(alpha))
    ranked = _in_scopes("stored", seen, own, cut if fused else own)
    ranked["frozen-query", "seen", "t2v"] = _with_rows(ranked["stored", "seen", "t2v"], frozen)
    if moved:
        ranked |= _in_scopes("re-encoded", again if everywhere else None, own_again, cut_again if fused else own_again)
    return torch.cat(pooled), ranked


def rank_rows(sim_NM: Floats, target_N: Ints) -> Ranked:
    """Ranks of the targets, rows asked, and the column of the first of each row's highest scores."""
    return Ranked(ranks(sim_NM, target_N), _best(sim_NM))


def numpy_of(x: Tensor) -> Floats:
    """The numbers, on the host."""
    return x.cpu().numpy()


def _own_of_seen(row: GridRow, alpha: float) -> Tensor:
    """A task's current videos, fused among the stored galleries of all other tasks."""
    parts = [row.again[row.task] if shard == row.task else block for shard, block in enumerate(row.stored)]
    return side_by_side(parts).combined(alpha)


def _in_scopes(gallery: str, seen: Ranking | None, own: Ranking, cut: Ranking) -> dict[Key, Ranked]:
    """In both directions; one object where two scopes have the same ranks."""
    found: dict[Key, Ranked] = {}
    for direction in ("t2v", "v2t"):
        if seen is not None:
            found[gallery, "seen", direction] = seen.ranked(direction)
        found[gallery, "own", direction] = in_own = own.ranked(direction)
        found[gallery, "own-of-seen", direction] = in_own if cut is own else cut.ranked(direction)
    return found


def _with_rows(ranked: Ranked, others: Sequence[tuple[slice, Ranked]]) -> Ranked:
    """These ranks with other ones in some rows; the very same where there are none."""
    if not others:
        return ranked
    found = Ranked(*(field_N.copy() for field_N in ranked))
    for rows, other in others:
        for field_N, other_N in zip(found, other, strict=True):
            field_N[rows] = other_N
    return found


def _best(sim_NM: Floats) -> Ints:
    """Column of the first of each row's highest scores; a transposed view is copied in parts that stay in the cache."""
    parts = [np.ascontiguousarray(sim_NM[row : row + _ROWS]).argmax(1) for row in range(0, len(sim_NM), _ROWS)]
    return np.concatenate(parts)
