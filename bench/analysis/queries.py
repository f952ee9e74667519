"""What the ranks of a suite's runs say beyond their metrics: confusion between tasks, hits by query, lost queries.

Axes: R runs, N queries, T tasks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ctvr_bench.bench.records.aggregate import Row, Run
from ctvr_bench.bench.records.finished import read_ranks
from ctvr_bench.bench.records.record import RankTable
from ctvr_bench.features.errors import InputError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
SEEN = "stored/seen/t2v"


def rank_table(run: Run) -> RankTable:
    """The run's ranks; the arrays stay on disk until they are used."""
    return read_ranks(run.directory)


def confusion(row: Row) -> Floats:
    """[T, T]: share in percent of task i's queries whose rank 1 went to a video of task j, after the last task.

    Rows sum to 100; the diagonal counts hits and confusions within the task. Mean over runs; tasks by their place in
    the learning order.
    """
    return np.asarray(np.mean([_confusion(rank_table(run)) for run in row.runs], axis=0))


@dataclass(frozen=True)
class QueryRanks:
    """Final rank of every query in every run of a row: rank_RN, queries by caption row, runs by order and seed."""

    rank_RN: Ints
    order_R: tuple[int, ...]
    seed_R: tuple[int, ...]
    caption_N: Ints
    trained: bool


def hits(rank_RN: npt.NDArray[np.integer[Any]]) -> Floats:
    """100 where the query found its video first, else 0: the mean is the headline."""
    return np.where(rank_RN == 1, 100.0, 0.0)


def query_ranks(row: Row) -> QueryRanks:
    """The row's final ranks. Raises InputError where its runs did not answer the same queries."""
    captions, ranks = [], []
    for run in row.runs:
        table = rank_table(run)
        by_caption = np.argsort(table.caption_N)
        captions.append(table.caption_N[by_caption])
        ranks.append(table.ranks[SEEN][-1][by_caption].astype(np.int64))
        if not np.array_equal(captions[0], captions[-1]):
            raise InputError(f"{run.directory}: answers other queries than {row.runs[0].directory}; report them apart")
    configs = [run.record.config for run in row.runs]
    return QueryRanks(
        np.stack(ranks),
        tuple(config.options["order"] for config in configs),
        tuple(config.seed for config in configs),
        captions[0],
        row.runs[0].record.config.method != "zero_shot",
    )


def paired(first: QueryRanks, second: QueryRanks) -> tuple[Ints, Ints, list[int]]:
    """Ranks of both in the runs that have the same order and seed, and those runs' orders.

    What is not trained has one run for each order, which meets every seed of the other. Raises InputError where the
    queries differ or no run has a partner.
    """
    if not np.array_equal(first.caption_N, second.caption_N):
        raise InputError("two methods of one suite answered different queries; report them apart")
    runs: list[dict[tuple[int, int], Ints]] = []
    for one, other in ((first, second), (second, first)):
        keys = list(zip(one.order_R, one.seed_R, strict=True))
        found = dict(zip(keys, one.rank_RN, strict=True))
        if not one.trained and other.trained:
            by_order = dict(zip(one.order_R, one.rank_RN, strict=True))
            partners = zip(other.order_R, other.seed_R, strict=True)
            found = {(order, seed): by_order[order] for order, seed in partners if order in by_order}
        runs.append(found)
    common = [key for key in runs[0] if key in runs[1]]
    if not common:
        raise InputError("two methods have no run of the same order and seed; finish the suite with 'run'")
    ranks = [np.stack([found[key] for key in common]) for found in runs]
    return ranks[0], ranks[1], [order for order, _ in common]


@dataclass(frozen=True)
class LostQuery:
    """A query that found its video first when its task ended and does not any more.

    task, thief_task: places in the learning order, from 1. caption, video, thief: rows in the store. then, now: ranks.
    """

    caption: int
    video: int
    task: int
    now: int
    thief: int
    thief_task: int


def lost_queries(run: Run, limit: int) -> tuple[list[LostQuery], int, int]:
    """The run's deepest falls from rank 1, how many there are in all, and how many queries are old."""
    table = rank_table(run)
    rank_TN, best_TN = table.ranks[SEEN], table.best[SEEN]
    old_N = np.flatnonzero(table.task_N < len(table.weights_T) - 1)
    fell_N = old_N[(rank_TN[table.task_N[old_N], old_N] == 1) & (rank_TN[-1, old_N] > 1)]
    deepest = sorted(fell_N.tolist(), key=lambda n: (-rank_TN[-1, n], n))
    return [_lost(table, n, int(best_TN[-1, n])) for n in deepest[:limit]], len(deepest), len(old_N)


def _lost(table: RankTable, n: int, thief: int) -> LostQuery:
    return LostQuery(
        caption=int(table.caption_N[n]),
        video=int(table.video_N[n]),
        task=int(table.task_N[n]) + 1,
        now=int(table.ranks[SEEN][-1, n]),
        thief=int(table.video_N[thief]),
        thief_task=int(table.task_N[thief]) + 1,
    )


def _confusion(table: RankTable) -> Floats:
    tasks = len(table.weights_T)
    thief_N = table.task_N[table.best[SEEN][-1]]
    count_TT = np.zeros((tasks, tasks))
    np.add.at(count_TT, (table.task_N, thief_N), 1)
    return np.asarray(100 * count_TT / count_TT.sum(1, keepdims=True))
