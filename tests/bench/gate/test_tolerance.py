import math

import numpy as np
import pytest
from scipy import stats

from ctvr_bench.bench.analysis.columns import CONTINUAL, RETRIEVAL
from ctvr_bench.bench.gate.tolerance import better_side, metric_tolerances, rounding


def values(orders, seeds, keys, draw):
    return {(order, seed): {key: draw() for key in keys} for order in range(orders) for seed in range(seeds)}


def test_the_better_side_of_a_metric_is_that_of_the_tables():
    for column in (*RETRIEVAL, *CONTINUAL):
        if column.key not in ("intransigence", "gap-to-joint"):
            assert better_side(column.key) == column.better, column.key
    assert better_side("v2t/stored/own/MeanR") == -1
    assert better_side("t2v/re-encoded/seen/MRR") == 1
    assert better_side("geometry/drift_text") == 0


def test_tolerance_is_the_prediction_interval_by_hand():
    found = {(0, seed): {"t2v/stored/seen/R@1": value} for seed, value in enumerate((10.0, 12.0, 14.0, 12.0))}
    metric = metric_tolerances({"a": found}, {"a": 2}, 10**6, level=0.04)["a"]["t2v/stored/seen/R@1"]
    std = math.sqrt((4 + 0 + 4 + 0) / 3)
    assert metric.mean == 12
    assert metric.std == pytest.approx(std)
    assert metric.tolerance == pytest.approx(stats.t.ppf(0.99, 3) * std * math.sqrt(1 / 4 + 1 / 2))


def test_noise_between_orders_is_not_seed_noise():
    found = {(order, seed): {"x/R@1": 50.0 * order + seed} for order in (0, 1) for seed in (0, 1, 2)}
    assert metric_tolerances({"a": found}, {"a": 2}, 100)["a"]["x/R@1"].std == pytest.approx(1.0)


def test_what_is_not_drawn_may_move_by_rounding_alone():
    found = {(0, 0): {"t2v/stored/seen/R@1": 30.0, "t2v/stored/seen/MedR": 4.0, "t2v/stored/seen/MeanR": 300.0}}
    metrics = metric_tolerances({"a": found}, {"a": 1}, 400)["a"]
    assert [metric.tolerance for metric in metrics.values()] == [0.5, 1.0, 3.0]
    assert rounding("training/clip", 2.0, 400) == 0.02


def test_the_tables_columns_have_half_of_the_level_whatever_else_is_measured():
    rng = np.random.default_rng(0)
    table, others = "t2v/stored/seen/R@1", [f"v2t/stored/own/R@{k}" for k in range(2, 60)]
    alone = {(0, s): {table: v, others[0]: v} for s, v in enumerate(rng.standard_normal(6))}
    crowd = {key: {**found, **dict.fromkeys(others, found[table])} for key, found in alone.items()}
    few, many = (metric_tolerances({"a": rows}, {"a": 3}, 10**9)["a"] for rows in (alone, crowd))
    assert few[table].tolerance == many[table].tolerance
    assert few[others[0]].tolerance < many[others[0]].tolerance


@pytest.mark.parametrize(("orders", "noise", "repeated"), [(1, 10, 3), (1, 4, 2), (2, 5, 1)])
def test_false_alarms_of_a_whole_check_stay_at_the_stated_level(orders, noise, repeated):
    """Independent metrics, for which Bonferroni is nearly exact: the rate is the level, neither more nor much less."""
    rng = np.random.default_rng(noise)
    keys, level, trials = ["t2v/stored/seen/R@1", "bwf/ctvr", *(f"v2t/stored/own/R@{k}" for k in range(2, 9))], 0.1, 500
    alarms = 0
    for _ in range(trials):
        found = values(orders, noise, keys, rng.standard_normal)
        metrics = metric_tolerances({"a": found}, {"a": orders * repeated}, 10**9, level)["a"]
        later = values(orders, repeated, keys, rng.standard_normal)
        means = {key: np.mean([run[key] for run in later.values()]) for key in keys}
        alarms += any(not metric.range[0] <= means[key] <= metric.range[1] for key, metric in metrics.items())
    rate, error = alarms / trials, math.sqrt(level * (1 - level) / trials)
    assert 0.5 * level < rate < level + 3 * error
