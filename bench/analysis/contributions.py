"""What each query adds to a metric, and the intervals that follow: almost every metric is a mean over queries.

Axes: R runs, N queries, V videos that they ask for, T tasks. `contributions(table, key).mean()` is the metric itself.
The median rank, the best earlier moment of `forgetting/best-minus-last` and what compares with another method are no
such means; their intervals are over runs alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from ctvr_bench.bench.analysis.queries import by_video, hits, rank_table
from ctvr_bench.bench.records.aggregate import Row
from ctvr_bench.bench.records.record import RankTable
from ctvr_bench.bench.records.summary import BWF
from ctvr_bench.bench.statistics import Interval, hierarchical_interval, run_interval

Floats = npt.NDArray[np.float64]


def contributions(table: RankTable, key: str) -> Floats | None:
    """value_N whose mean is the final metric `key`, queries in the order of the table; None where it is no mean."""
    if key in _SPECIAL:
        return _SPECIAL[key](table)
    direction, _, rest = key.partition("/")
    gallery, _, rest = rest.partition("/")
    scope, _, metric = rest.partition("/")
    name = f"{gallery}/{scope}/{direction}"
    if name not in table.ranks:
        return None
    rank_N = table.ranks[name][-1].astype(np.float64)
    if metric.startswith("R@"):
        return np.where(rank_N <= int(metric.removeprefix("R@")), 100.0, 0.0)
    return {"MeanR": rank_N, "MRR": 100 / rank_N}.get(metric)


def row_values(tables: Sequence[RankTable], key: str) -> Floats | None:
    """value_RV of runs, a video's queries averaged, videos by row; None where the metric is no mean over queries.

    Every video is asked for equally often, so that the mean over videos is the metric too.
    """
    values = []
    for table in tables:
        value_N = contributions(table, key)
        if value_N is None:
            return None
        values.append(by_video(table, value_N))
    return np.stack(values)


def row_intervals(row: Row, keys: Iterable[str], level: float = 0.95) -> dict[str, Interval]:
    """Intervals of final metrics over seeds, queries and (from three on) orders, or over runs alone; by key.

    A metric is left out where some run does not have it, or where one run alone says nothing about its spread.
    """
    tables = [rank_table(run) for run in row.runs]
    order_R = [run.record.config.options["order"] for run in row.runs]
    seed_R = [run.record.config.seed for run in row.runs]
    found: dict[str, Interval] = {}
    for key in keys:
        single_R, value_RN = row.values(key), row_values(tables, key)
        if len(single_R) < len(row.runs):
            continue
        interval = run_interval(single_R, order_R, level, seed_R=seed_R)
        if value_RN is not None:
            interval = hierarchical_interval(value_RN, order_R, level, seed_R=seed_R)
        if interval is not None:
            found[key] = interval
    return found


def by_task(table: RankTable, share_T: npt.ArrayLike) -> Floats:
    """weight_N that turns a mean over queries into sum_j share_j (mean over task j): N share_j / n_j."""
    size_T = np.bincount(table.task_N, minlength=len(table.weights_T))
    return np.asarray((len(table.task_N) * np.asarray(share_T, np.float64) / size_T)[table.task_N])


def _hits(table: RankTable, name: str, stage: int | npt.NDArray[np.int32] = -1) -> Floats:
    """100 where the query came first at a stage (one for all, or one for each query), else 0."""
    return hits(table.ranks[name][stage, np.arange(len(table.task_N))])


def _old_share(table: RankTable, weight_T: npt.ArrayLike) -> Floats:
    """Shares of the tasks before the last, proportional to `weight_T`; all 0 for a single task."""
    share_T = np.array(weight_T, np.float64)
    share_T[-1] = 0
    return np.asarray(share_T / max(share_T.sum(), 1e-300))


def _lost(name: str, sign: float, weigh: Callable[[RankTable], npt.ArrayLike]) -> Callable[[RankTable], Floats]:
    def lost(table: RankTable) -> Floats:
        fell_N = _hits(table, name, table.task_N) - _hits(table, name)
        return sign * fell_N * by_task(table, _old_share(table, weigh(table)))

    return lost


def _average_incremental(table: RankTable) -> Floats:
    seen_T = np.cumsum(np.bincount(table.task_N, minlength=len(table.weights_T)))
    hit_TN = hits(table.ranks["stored/seen/t2v"])
    return np.asarray((len(table.task_N) / seen_T / len(seen_T)) @ hit_TN)


def _learning_accuracy(table: RankTable) -> Floats:
    tasks = len(table.weights_T)
    return _hits(table, "stored/own/t2v", table.task_N) * by_task(table, np.full(tasks, 1 / tasks))


def _average_accuracy(table: RankTable) -> Floats:
    tasks = len(table.weights_T)
    return _hits(table, "stored/own/t2v") * by_task(table, np.full(tasks, 1 / tasks))


def _forward_transfer(table: RankTable) -> Floats:
    tasks = len(table.weights_T)
    share_T = np.full(tasks, 1 / max(tasks - 1, 1))
    share_T[0] = 0
    gained_N = hits(table.ahead_N) - hits(table.before_N)
    return gained_N * by_task(table, share_T)


def _old_loss(first: str, second: str) -> Callable[[RankTable], Floats]:
    """Mean over old queries of a hit under `first` minus one under `second`; 'end': when the query's task ended."""

    def loss(table: RankTable) -> Floats:
        end_N = _hits(table, "stored/seen/t2v", table.task_N)
        hit = {name: end_N if name == "end" else _hits(table, f"{name}/seen/t2v") for name in (first, second)}
        old_N = table.task_N < len(table.weights_T) - 1
        return np.asarray((hit[first] - hit[second]) * old_N * len(old_N) / max(old_N.sum(), 1))

    return loss


_SPECIAL: dict[str, Callable[[RankTable], Floats]] = {
    BWF: _lost("stored/own/t2v", 1, lambda table: table.weights_T),
    "bwf/structalign": _lost("re-encoded/own-of-seen/t2v", 1, lambda table: table.weights_T),
    "transfer/backward": _lost("stored/own/t2v", -1, lambda table: np.ones(len(table.weights_T))),
    "transfer/forward": _forward_transfer,
    "average-incremental": _average_incremental,
    "average-accuracy": _average_accuracy,
    "learning-accuracy": _learning_accuracy,
    "loss/total": _old_loss("end", "stored"),
    "loss/gallery-growth": _old_loss("end", "frozen-query"),
    "loss/query-drift": _old_loss("frozen-query", "stored"),
    "staleness": lambda table: _hits(table, "re-encoded/seen/t2v") - _hits(table, "stored/seen/t2v"),
}
