"""Whether a table of ranks can be one: which values no run can have written.

Axes: T tasks, N queries.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ctvr_bench.bench.records.record import Ints, RankTable

_SHAPED = ("ahead_N", "before_N", "caption_N", "video_N", "category_N")


def faults_of_table(table: RankTable) -> Iterator[str]:
    """What is impossible in it, a sentence each.

    Tasks in order, each with queries; every caption asked once, and as many of each video; a rank for every query seen
    and none for others, from 1 to the size of its gallery; a best item among those seen; and a query's own video there
    wherever its rank is 1.
    """
    task_N, tasks = table.task_N, len(table.weights_T)
    sizes_T = np.bincount(task_N, minlength=tasks) if len(task_N) and task_N.min() >= 0 else np.zeros(0)
    if len(sizes_T) != tasks or not sizes_T.all() or (np.diff(task_N) < 0).any():
        yield f"its queries are not those of {tasks} tasks in order"
        return
    for name in _SHAPED:
        if getattr(table, name).shape != task_N.shape:
            yield f"{name} has {len(getattr(table, name))} values for {len(task_N)} queries"
            return
    if len(np.unique(table.caption_N)) != len(task_N):
        yield "a caption is asked twice"
    if len(set(np.unique(table.video_N, return_counts=True)[1].tolist())) > 1:
        yield "some videos are asked for more often than others"
        return
    sizes_T = sizes_T // (len(task_N) // len(table.first_n))
    for name in ("ahead_N", "before_N"):
        values = getattr(table, name)
        if (values < 1).any() or (values > sizes_T[task_N]).any():
            yield f"{name} has ranks outside the gallery of the query's own task"
    if table.ranks.keys() != table.best.keys():
        yield "ranks and best items are not of the same galleries"
        return
    for name in sorted(table.ranks):
        yield from _faults_of_gallery(name, table.ranks[name], table.best[name], table)


def _faults_of_gallery(name: str, rank_TN: Ints, best_TN: Ints, table: RankTable) -> Iterator[str]:
    shape = (len(table.weights_T), len(table.task_N))
    if rank_TN.shape != shape or best_TN.shape != shape:
        yield f"{name} has the shape {rank_TN.shape}, and not {shape}"
        return
    gallery, scope, _ = name.split("/")
    seen_TN = table.task_N <= np.arange(shape[0])[:, None]
    first_n = table.first_n
    asked_T = seen_TN.sum(1)[:, None]
    count_T = asked_T * len(first_n) // shape[1]
    if (gallery, scope) == ("re-encoded", "seen"):  # after the last task, and after others where it was asked for
        seen_TN = seen_TN & (rank_TN.any(1) | (np.arange(shape[0]) == shape[0] - 1))[:, None]
    own_N = np.bincount(table.task_N[first_n])[table.task_N]
    size_TN = np.where(scope == "seen", count_T, own_N) + (gallery == "indexed")  # M + 1: not returned
    for words, wrong_TN in (
        ("a rank for a query that was not asked yet", (rank_TN != 0) & ~seen_TN),
        ("no rank for a query that was asked", (rank_TN < 1) & seen_TN),
        ("a rank beyond the size of the gallery", (rank_TN > size_TN) & seen_TN),
        ("a best item that is not among those seen", seen_TN & ~(np.isin(best_TN, first_n) & (best_TN < asked_T))),
    ):
        if wrong_TN.any():
            stage, query = np.argwhere(wrong_TN)[0].tolist()
            yield f"{name} has {words} (after task {stage + 1}, query {query}; {int(wrong_TN.sum())} in all)"
            return
    first_TN = seen_TN & (rank_TN == 1)
    taken_TN = first_TN & (table.video_N[np.maximum(best_TN, 0)] != table.video_N)
    if taken_TN.any():
        stage, query = np.argwhere(taken_TN)[0].tolist()
        yield (
            f"{name} has rank 1 where another video is stored as the best (after task {stage + 1}, query {query}; "
            f"{int(taken_TN.sum())} in all)"
        )
