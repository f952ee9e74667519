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


def by_video(table: RankTable, value_N: Floats) -> Floats:
    """The mean over each video's queries, videos by row of the store: what one video adds, however often it is asked.

    Captions of one video are no independent sample, so that videos are what intervals and tests count.
    """
    _, video_N = np.unique(table.video_N, return_inverse=True)
    return np.asarray(np.bincount(video_N, value_N) / np.bincount(video_N))


def hits(rank_RN: npt.NDArray[np.integer[Any]]) -> Floats:
    """100 where the query found its video first, else 0: the mean is the headline."""
    return np.where(rank_RN == 1, 100.0, 0.0)


def final_ranks(row: Row) -> Ints:
    """rank_RN after the last task, queries by caption row, runs as in the row."""
    tables = [rank_table(run) for run in row.runs]
    return np.stack([t.ranks[SEEN][-1][np.argsort(t.caption_N)].astype(np.int64) for t in tables])


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
