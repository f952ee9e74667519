import itertools
import math

import numpy as np
import pytest
from scipy import stats

from ctvr_bench.bench.statistics import (
    cohen_dz,
    friedman,
    hierarchical_interval,
    holm,
    indistinct_groups,
    mean_variance,
    runs_needed,
    sign_flip_test,
    win_rate,
)


def simulate(rng, orders, seeds, queries, *, order=0.0, seed=0.0, query=0.0, noise=1.0):
    """Crossed scores with a true mean of 0: deviations of orders, seeds, queries and single answers."""
    order_R = np.repeat(np.arange(orders), seeds)
    value_RN = order * rng.standard_normal(orders)[order_R][:, None] + seed * rng.standard_normal((len(order_R), 1))
    value_RN = value_RN + query * rng.standard_normal(queries)
    return value_RN + noise * rng.standard_normal((len(order_R), queries)), order_R.tolist()


@pytest.mark.parametrize(
    "world",
    [
        {"orders": 1, "seeds": 3, "seed": 0.1, "query": 1.0},
        {"orders": 1, "seeds": 3, "seed": 0.5, "query": 0.3},
        {"orders": 1, "seeds": 5, "seed": 0.0, "query": 0.0},
        {"orders": 2, "seeds": 3, "seed": 0.2, "query": 1.0},
        {"orders": 4, "seeds": 2, "seed": 0.1, "query": 1.0, "order": 0.3},
    ],
)
def test_a_95_percent_interval_covers_the_truth_about_95_times_in_100(world):
    rng = np.random.default_rng(1)
    found = [hierarchical_interval(*simulate(rng, queries=80, **world)) for _ in range(1000)]
    coverage = np.mean([interval.low <= 0 <= interval.high for interval in found])
    assert 0.92 <= coverage <= 0.985


def test_hits_are_covered_as_well_as_gaussian_scores():
    rng = np.random.default_rng(2)
    covered = []
    for _ in range(600):
        easy_N, seed_R = rng.beta(0.6, 1.4, 100), 0.02 * rng.standard_normal((3, 1))
        hit_RN = rng.random((3, 100)) < np.clip(easy_N + seed_R, 0, 1)
        interval = hierarchical_interval(100.0 * hit_RN, [0, 0, 0])
        covered.append(interval.low <= 30 <= interval.high)
    assert 0.925 <= np.mean(covered) <= 0.985


def test_the_p_value_is_the_level_at_which_the_interval_reaches_zero():
    value_RN, order_R = simulate(np.random.default_rng(3), 1, 3, 50, seed=0.2, query=0.5)
    interval = hierarchical_interval(value_RN + 0.4, order_R)
    assert interval.p is not None
    edge = hierarchical_interval(value_RN + 0.4, order_R, level=1 - interval.p)
    assert edge.low == pytest.approx(0, abs=1e-6)


def test_variances_are_those_of_a_hierarchical_bootstrap_that_draws():
    """The twin draws n - 1 of n runs, whose variance is unbiased, and all queries, each level by itself."""
    rng = np.random.default_rng(4)
    value_RN, order_R = simulate(rng, 2, 3, 40, seed=0.5, query=1.0)
    runs, queries = [], []
    for _ in range(6000):
        drawn = [rng.choice([r for r in range(6) if order_R[r] == order], 2) for order in (0, 1)]
        runs.append(np.mean([value_RN[d].mean() for d in drawn]))
        queries.append(value_RN[:, rng.integers(40, size=40)].mean())
    variance = mean_variance(value_RN, order_R)
    assert np.var(runs) == pytest.approx(variance.run + variance.noise, rel=0.1)
    assert np.var(queries) == pytest.approx(variance.query * 39 / 40, rel=0.1)


def test_levels_are_recovered_from_many_simulations():
    rng = np.random.default_rng(5)
    found = [mean_variance(*simulate(rng, 1, 4, 50, seed=0.3, query=0.8, noise=1.2)) for _ in range(800)]
    assert np.mean([v.noise for v in found]) == pytest.approx(1.2**2 / 200, rel=0.03)
    assert np.mean([v.query for v in found]) == pytest.approx(0.8**2 / 50 + 1.2**2 / 200, rel=0.05)
    assert np.mean([v.run for v in found]) == pytest.approx(0.3**2 / 4, rel=0.15)


def test_without_query_effects_the_interval_is_the_t_interval_of_the_runs():
    score_R = np.array([20.0, 22.0, 27.0])
    interval = hierarchical_interval(np.repeat(score_R[:, None], 10, axis=1), [0, 0, 0])
    low, high = stats.t.interval(0.95, 2, score_R.mean(), stats.sem(score_R))
    assert (interval.low, interval.high) == pytest.approx((low, high))
    assert interval.p == pytest.approx(stats.ttest_1samp(score_R, 0).pvalue)


def test_three_orders_speak_of_orders_and_fewer_do_not():
    rng = np.random.default_rng(6)
    three, order_R = simulate(rng, 3, 1, 30)
    assert hierarchical_interval(three, order_R).orders
    assert mean_variance(three, order_R).run_freedom == 2
    two, order_R = simulate(rng, 2, 3, 30)
    assert not hierarchical_interval(two, order_R).orders
    assert mean_variance(two, order_R).run_freedom == 4


def test_one_run_has_an_interval_over_queries_and_no_p_value():
    interval = hierarchical_interval([[0.0, 100.0, 100.0, 0.0]], [0])
    assert not interval.seeds
    assert interval.p is None
    low, high = stats.t.interval(0.95, 3, 50, stats.sem([0, 100, 100, 0]))
    assert (interval.low, interval.high) == pytest.approx((low, high))


def test_equal_methods_have_a_difference_of_zero_without_doubt():
    interval = hierarchical_interval(np.zeros((3, 5)), [0, 0, 0])
    assert (interval.low, interval.high, interval.p) == (0, 0, 1)


def test_these_orders_alone_vary_by_seeds_within_them() -> None:
    rng = np.random.default_rng(4)
    order = np.repeat(np.arange(3), 4)
    value = 40.0 + 20 * order[:, None] + rng.normal(size=(12, 1)) + np.zeros((12, 50))
    value[:, ::2] += 10
    general, these = (mean_variance(value, order.tolist(), these_orders=here) for here in (False, True))
    within = np.mean([value.mean(1)[order == o].var(ddof=1) for o in range(3)]) / 12
    assert these.run == pytest.approx(within)
    assert (these.run_freedom, general.run_freedom) == (9, 2)
    assert these.query == general.query
    assert general.run > 20 * these.run


def test_values_without_an_order_for_each_run_are_refused():
    with pytest.raises(ValueError, match="an order for each run"):
        hierarchical_interval(np.zeros((3, 5)), [0, 0])


@pytest.mark.parametrize("runs", [1, 4, 9])
def test_sign_flips_agree_with_loops_and_with_scipy(runs):
    difference = np.random.default_rng(runs).standard_normal(runs) + 0.5
    total = abs(difference.sum())
    flipped = [abs(sum(s * d for s, d in zip(sign, difference, strict=True))) for sign in _signs(runs)]
    assert sign_flip_test(difference) == np.mean([value >= total - 1e-9 for value in flipped])
    if runs > 1:
        theirs = stats.permutation_test((difference,), np.mean, permutation_type="samples", n_resamples=np.inf)
        assert sign_flip_test(difference) == pytest.approx(theirs.pvalue)


def test_five_runs_never_reach_five_percent_by_sign_flips():
    assert sign_flip_test([1, 2, 3, 4, 5]) == 2 / 32


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_effect_sizes_by_hand():
    assert cohen_dz([1.0, 2.0, 3.0]) == pytest.approx(2.0 / math.sqrt(math.pi))  # J(2) = 1 / sqrt(pi)
    assert cohen_dz([1.0]) is None
    assert cohen_dz([1.0, 1.0, 1.0]) is None
    assert win_rate([[1, 3], [4, 2]], [[2, 3], [3, 9]]) == pytest.approx(100 * (2 + 0.5) / 4)


def test_two_runs_have_no_effect_size_rather_than_none_at_all():
    assert cohen_dz([1.0, 2.0]) is None


def test_effect_sizes_are_unbiased():
    draws = 0.8 + np.random.default_rng(3).standard_normal((4000, 5))
    assert np.mean([cohen_dz(draw) for draw in draws]) == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize(("effect", "runs"), [(0.5, 34), (0.8, 15), (1.0, 10)])
def test_runs_needed_are_those_of_the_textbook(effect, runs):
    """Paired t-test, two sides, 5 %, power 80 %: the numbers of G*Power 3."""
    assert runs_needed(effect, 1.0, 0.0) == runs


def test_runs_needed_find_the_difference_four_times_in_five():
    rng, runs = np.random.default_rng(7), runs_needed(1.0, 1.5, 0.0)
    assert runs is not None
    found = [stats.ttest_1samp(1.0 + math.sqrt(1.5) * rng.standard_normal(runs), 0).pvalue < 0.05 for _ in range(1500)]
    assert 0.77 < np.mean(found) < 0.86


def test_no_number_of_runs_replaces_test_queries():
    assert runs_needed(1.0, 1.0, 0.5) is None
    assert runs_needed(0.0, 1.0, 0.0) is None


@pytest.mark.parametrize("digits", [6, 1])
def test_friedman_agrees_with_scipy_and_nemenyi_with_demsar(digits):
    score_BM = np.random.default_rng(8).random((6, 5)).round(digits)  # of one digit: with ties
    found = friedman(score_BM)
    theirs = stats.friedmanchisquare(*score_BM.T)
    assert (found.statistic, found.p) == pytest.approx((theirs.statistic, theirs.pvalue))
    assert found.critical_difference == pytest.approx(2.728 * math.sqrt(5 * 6 / (6 * 6)), rel=1e-3)  # table 5a
    assert found.mean_rank_M == pytest.approx(stats.rankdata(-score_BM, axis=1).mean(0))


def test_the_highest_score_has_rank_one_and_ties_share():
    found = friedman([[3.0, 2.0, 1.0], [3.0, 1.0, 1.0]])
    assert found.mean_rank_M == (1.0, 2.25, 2.75)
    assert friedman(np.ones((2, 3))).p == 1.0


def test_groups_that_are_not_told_apart_are_the_largest():
    assert indistinct_groups([1.0, 2.0, 2.5, 6.0], 1.6) == [(1.0, 2.5)]
    assert indistinct_groups([1.0, 4.0], 1.0) == []


def _signs(runs):
    return itertools.product((1, -1), repeat=runs)
