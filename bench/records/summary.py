"""From a table of ranks to the metrics of a run; needs numpy only, and gives the same numbers whenever it is asked.

Keys read gallery, scope, direction, metric: `t2v/stored/seen/R@1`. Axes: T tasks, N queries.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ctvr_bench.bench import forgetting
from ctvr_bench.bench.metrics import retrieval_metrics
from ctvr_bench.bench.records.record import RankTable

HEADLINE = "t2v/stored/seen/R@1"
BWF = "bwf/ctvr"


def metrics_of(table: RankTable) -> dict[str, Any]:
    """All metrics of a run, in percent unless named MedR or MeanR (ranks).

    final: after the last task. stages: the same retrieval metrics after each task, BWF and the losses so far; those
    of re-encoded galleries of all tasks together, and staleness, where they were ranked.
    matrices[key][i][j]: R@1 on task j after task i, null above the diagonal. before, ahead: R@1 of each task in its own
    gallery before any training and just before the task was learned.
    """
    num_tasks = len(table.weights_T)
    stages = [_stage(table, t) for t in range(num_tasks)]
    matrices = {_key(name): score_matrix(table, name) for name in sorted(table.ranks) if "own" in name}
    own, weights = matrices["t2v/stored/own/R@1"], table.weights_T
    before, ahead = (_by_task(ranks, table) for ranks in (table.before_N, table.ahead_N))
    known = own.copy()
    known[np.arange(num_tasks - 1), np.arange(1, num_tasks)] = ahead[1:]
    for stage, lost in zip(stages, forgetting.backward_forgetting_curve(own, weights).tolist(), strict=True):
        stage[BWF] = lost
    final = dict(stages[-1])
    final["average-accuracy"] = forgetting.average_accuracy(own)
    final["bwf/structalign"] = forgetting.backward_forgetting(matrices["t2v/re-encoded/own-of-seen/R@1"], weights)
    final["average-incremental"] = forgetting.average_incremental(np.array([stage[HEADLINE] for stage in stages]))
    final["learning-accuracy"] = forgetting.learning_accuracy(own)
    if num_tasks > 1:
        final["forgetting/best-minus-last"] = forgetting.forgetting(own)
        final["transfer/backward"] = forgetting.backward_transfer(own)
        final["transfer/forward"] = forgetting.forward_transfer(known, before)
    return {
        "final": final,
        "stages": stages,
        "matrices": {key: _with_null(matrix) for key, matrix in matrices.items()},
        "before": before.tolist(),
        "ahead": ahead.tolist(),
    }


def score_matrix(table: RankTable, name: str) -> npt.NDArray[np.float64]:
    """R@1 in percent on task j after task i, NaN for j > i. name: 'stored/own/t2v' and the like."""
    num_tasks = len(table.weights_T)
    matrix = np.full((num_tasks, num_tasks), np.nan)
    for i in range(num_tasks):
        matrix[i, : i + 1] = _by_task(table.ranks[name][i], table)[: i + 1]
    return matrix


def _stage(table: RankTable, t: int) -> dict[str, float]:
    """Retrieval metrics of the queries seen so far, and where the hits of old ones went."""
    seen = table.task_N <= t
    metrics: dict[str, float] = {}
    for name in sorted(table.ranks):
        if name.startswith("frozen-query"):
            continue
        if not table.ranks[name][t].any():
            continue  # not ranked after this task
        prefix = _key(name).removesuffix("R@1")
        metrics |= {prefix + metric: value for metric, value in retrieval_metrics(table.ranks[name][t, seen]).items()}
    hits = {name: table.ranks[f"{name}/seen/t2v"][t] == 1 for name in ("stored", "frozen-query")}
    again = table.ranks["re-encoded/seen/t2v"][t]
    if again.any():
        metrics["staleness"] = forgetting.staleness(hits["stored"][seen], again[seen] == 1)
    if "indexed/seen/t2v" in table.ranks:
        first = [table.best[f"{name}/seen/t2v"][t, seen] for name in ("stored", "indexed")]
        metrics["index/loss"] = metrics[HEADLINE] - metrics["t2v/indexed/seen/R@1"]
        metrics["index/same-first"] = float(100 * np.mean(first[0] == first[1]))
    old = np.flatnonzero(table.task_N < t)
    if len(old):
        at_end = table.ranks["stored/seen/t2v"][table.task_N[old], old] == 1
        split = forgetting.loss_split(at_end, hits["frozen-query"][old], hits["stored"][old])
        metrics |= {
            "loss/total": split.total,
            "loss/gallery-growth": split.gallery_growth,
            "loss/query-drift": split.query_drift,
        }
    return metrics


def _key(name: str) -> str:
    gallery, scope, direction = name.split("/")
    return f"{direction}/{gallery}/{scope}/R@1"


def _by_task(rank_N: npt.NDArray[np.int32], table: RankTable) -> npt.NDArray[np.float64]:
    """R@1 in percent of each task's queries."""
    hits = np.bincount(table.task_N, rank_N == 1, len(table.weights_T))
    return np.asarray(100 * hits / np.bincount(table.task_N, minlength=len(table.weights_T)))


def _with_null(matrix: npt.NDArray[np.float64]) -> list[list[float | None]]:
    return [[None if np.isnan(value) else float(value) for value in row] for row in matrix]
