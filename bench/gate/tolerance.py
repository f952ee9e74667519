"""How far the metrics of a repeated run may move, from measured seed noise, and which direction is worse.

A metric of a check is the mean of m runs; the baseline's is the mean of M noise runs. Seeds alone let the two differ,
with at most `level` false alarms among all metrics of all rows together (a prediction interval, Bonferroni), by

    tolerance = max( rounding, t_{1 - a/2}(M - O) s sqrt(1/M + 1/m) ),   a = level / 2 / (metrics of the family)

s: deviation between seeds within the O orders, pooled. The columns of the result tables are one family with half of the
level, all other metrics the other. rounding: what a few queries on the edge move on a machine that rounds differently.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from ctvr_bench.bench.analysis.columns import CONTINUAL, RETRIEVAL
from ctvr_bench.bench.gate.baseline import Metric

LEVEL = 0.01
NOISE_SEEDS = 10
TABLE_KEYS = frozenset(column.key for column in (*RETRIEVAL, *CONTINUAL))
_EDGE_QUERIES = 2
_HIGHER = ("R@", "MRR", "transfer/", "average-incremental", "learning-accuracy", "index/same")
_LOWER = ("MedR", "MeanR", "bwf/", "forgetting/", "index/loss")

Values = Mapping[tuple[int, int], Mapping[str, float]]
"""Metrics by (order, seed)."""


def better_side(key: str) -> int:
    """1 where a higher value is better, -1 where a lower one is, 0 where it says nothing about quality.

    >>> better_side("t2v/stored/seen/R@1"), better_side("bwf/ctvr"), better_side("training/clip")
    (1, -1, 0)
    """
    if key.startswith(("training/", "geometry/", "loss/", "staleness")):
        return 0
    return 1 if any(part in key for part in _HIGHER) else -1 if any(part in key for part in _LOWER) else 0


def rounding(key: str, mean: float, queries: int) -> float:
    """What a few queries on the edge move: 100 Q'/Q points, one place of a median, a hundredth of other values."""
    if key.endswith("MedR"):
        return 1.0
    if key.endswith("MeanR"):
        return max(0.01 * mean, _EDGE_QUERIES / queries)
    if key.startswith(("training/", "geometry/")):
        return max(0.01 * abs(mean), 1e-6)
    return 100 * _EDGE_QUERIES / queries


def metric_tolerances(
    rows: Mapping[str, Values], repeated: Mapping[str, int], queries: int, level: float = LEVEL
) -> dict[str, dict[str, Metric]]:
    """Mean, deviation and tolerance of every metric of every row, from its noise runs.

    rows: by label. repeated: runs of each row that a check makes. A row without draws (one run an order) has no seed
    noise, and its tolerance is `rounding`.
    """
    keys = [key for values in rows.values() for key in next(iter(values.values()))]
    in_tables = sum(key in TABLE_KEYS for key in keys)
    share = {True: level / 2 / max(in_tables, 1), False: level / 2 / max(len(keys) - in_tables, 1)}
    return {
        label: {
            key: _metric(key, values, repeated[label], share[key in TABLE_KEYS], queries)
            for key in next(iter(values.values()))
        }
        for label, values in rows.items()
    }


def _metric(key: str, values: Values, repeated: int, share: float, queries: int) -> Metric:
    orders: dict[int, list[float]] = {}
    for (order, _), found in values.items():
        orders.setdefault(order, []).append(found[key])
    mean = float(np.mean([value for members in orders.values() for value in members]))
    allowed, (std, freedom) = rounding(key, mean, queries), _within(list(orders.values()))
    if std > 0:
        width = float(stats.t.isf(share / 2, freedom)) * math.sqrt(1 / len(values) + 1 / repeated)
        allowed = max(allowed, width * std)
    return Metric(mean=mean, std=std, tolerance=allowed)


def _within(orders: Sequence[Sequence[float]]) -> tuple[float, int]:
    """Deviation between seeds within orders, pooled, and its degrees of freedom."""
    freedom = sum(len(members) - 1 for members in orders)
    if freedom == 0:
        return 0.0, 0
    squares = sum(float(np.square(np.asarray(members) - np.mean(members)).sum()) for members in orders)
    return math.sqrt(squares / freedom), freedom
