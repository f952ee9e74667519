"""All pairs at once: the distribution against scipy's, closed forms, and error rates by simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from ctvr_bench.bench.all_pairs import Answers, all_pairs, critical_values, meet, range_tail
from tests.bench.simulation import World, earlier_false_alarms, false_alarms, power, store_false_alarms


def answers(value_MRN: np.ndarray, drawn: tuple[bool, ...] = ()) -> list[Answers]:
    flags = drawn or (True,) * len(value_MRN)
    return [
        Answers({(0, r): v for r, v in enumerate(value_RN)}, d) for value_RN, d in zip(value_MRN, flags, strict=True)
    ]


@pytest.mark.parametrize(("methods", "freedom"), [(2, 3), (3, 2), (8, 14), (40, 120), (5, math.inf)])
def test_the_studentised_range_is_scipys(methods: int, freedom: float) -> None:
    q = np.array([1.0, 3.0, 5.0, 7.0])
    assert range_tail(q, methods, freedom) == pytest.approx(stats.studentized_range.sf(q, methods, freedom), abs=3e-5)


def test_critical_values_are_tukeys_table_and_two_methods_students() -> None:
    level = np.array([0.05, 0.01])
    assert critical_values(5, 20, level) * math.sqrt(2) == pytest.approx([4.232, 5.294], abs=2e-3)
    assert critical_values(2, 7, level) == pytest.approx(stats.t.isf(level / 2, 7), rel=1e-5)


def test_two_methods_whose_queries_do_not_differ_are_the_t_test_of_their_runs() -> None:
    score_MR = np.array([[20.0, 22.0, 27.0, 23.0], [19.0, 18.0, 21.0, 22.5]])
    found = all_pairs(answers(np.repeat(score_MR[:, :, None], 10, axis=2)))[0, 1]
    theirs = stats.ttest_rel(*score_MR)
    low, high = theirs.confidence_interval()
    assert found.p == pytest.approx(theirs.pvalue, rel=1e-4)
    assert (found.low, found.high) == (pytest.approx(low, rel=1e-4), pytest.approx(high, rel=1e-4))


def test_two_methods_that_are_not_drawn_are_the_t_test_of_their_queries() -> None:
    value_MN = np.random.default_rng(0).normal(size=(2, 40))
    found = all_pairs(answers(value_MN[:, None], (False, False)))[0, 1]
    assert found.p == pytest.approx(stats.ttest_rel(*value_MN).pvalue, rel=1e-4)
    assert not found.seeds


def test_without_queries_all_pairs_are_tukeys_test_of_a_block_design() -> None:
    """Where every pair's own variance is below the pooled one, as here: q = |difference| / sqrt(MS / R)."""
    noise_MR = np.array([[1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 1.0, -1.0], [-1.0, 1.0, -1.0, 1.0]])
    score_MR = noise_MR + np.array([[0.0], [1.0], [4.0]])
    found = all_pairs(answers(score_MR[:, :, None]))
    away = score_MR - score_MR.mean(1, keepdims=True) - score_MR.mean(0) + score_MR.mean()
    mean_square = np.square(away).sum() / 6
    pair = found[0, 1]
    own = np.var(score_MR[0] - score_MR[1], ddof=1) / 4
    assert own <= 2 * mean_square / 4
    q = abs(pair.estimate) / math.sqrt(mean_square / 4)
    assert pair.p == pytest.approx(stats.studentized_range.sf(q, 3, pair.run_freedom), rel=2e-3)


def test_one_p_value_is_below_5_percent_exactly_where_the_interval_leaves_zero_out() -> None:
    rng = np.random.default_rng(2)
    value_MRN = rng.normal(size=(12, 3, 60)) + np.linspace(0, 1.2, 12)[:, None, None] + rng.normal(size=(12, 3, 1)) / 8
    found = all_pairs(answers(value_MRN))
    told = [pair.p < 0.05 for pair in found.values() if pair.p is not None]
    assert 5 < sum(told) < 60
    assert told == [pair.low > 0 or pair.high < 0 for pair in found.values()]  # type: ignore[operator]


def test_an_untrained_method_meets_every_seed_and_has_no_noise_of_its_own() -> None:
    value_MRN = np.random.default_rng(3).normal(size=(4, 3, 50))
    rows = answers(value_MRN)
    rows[3] = Answers({(0, 0): value_MRN[3, 0]}, drawn=False)
    whole = all_pairs(rows)
    assert whole[0, 3].estimate == pytest.approx(value_MRN[0].mean() - value_MRN[3, 0].mean())
    assert whole[0, 3].places == whole[0, 1].places
    assert meet({(0, 0): "a", (1, 0): "b"}, {(0, 5): "x", (1, 5): "y"}, (False, True)) == [
        ((0, 5), "a", "x"),
        ((1, 5), "b", "y"),
    ]


def test_a_missing_run_leaves_its_partner_out_of_its_own_pairs_alone() -> None:
    value_MRN = np.random.default_rng(4).normal(size=(4, 4, 50))
    rows = answers(value_MRN)
    rows[2] = Answers({place: v for place, v in rows[2].value_N.items() if place != (0, 1)})
    found, whole = all_pairs(rows), all_pairs(answers(value_MRN))
    assert [place for _, place in found[1, 2].places] == [0, 2, 3]
    assert found[1, 2].estimate == pytest.approx(value_MRN[1, [0, 2, 3]].mean() - value_MRN[2, [0, 2, 3]].mean())
    assert found[0, 1].estimate == whole[0, 1].estimate
    assert set(found) == set(itertools.combinations(range(4), 2))


def test_one_run_makes_no_claim_about_seeds_but_one_about_its_models() -> None:
    value_MRN = np.random.default_rng(5).normal(size=(3, 1, 80)) + np.array([0, 0, 2])[:, None, None]
    assert all(pair.p is None and pair.low is None for pair in all_pairs(answers(value_MRN)).values())
    models = all_pairs(answers(value_MRN), these_runs=True)
    assert models[0, 2].p is not None
    assert models[0, 2].p < 1e-4
    assert not models[0, 2].seeds


def test_the_smallest_difference_is_found_four_times_in_five() -> None:
    """Queries alone: (1.96 + 0.84) standard errors, and the normal power at that difference."""
    value_MN = np.random.default_rng(6).normal(size=(2, 400))
    pair = all_pairs(answers(value_MN[:, None], (False, False)))[0, 1]
    smallest, error = pair.smallest(), math.sqrt(pair.query)
    assert smallest == pytest.approx((stats.norm.isf(0.025) + stats.norm.isf(0.2)) * error)
    assert stats.norm.sf(stats.norm.isf(0.025) - smallest / error) == pytest.approx(0.8, abs=1e-6)
    assert pair.smallest_of_all() == pytest.approx(smallest, rel=0.01)


@pytest.mark.parametrize(
    ("world", "these_runs"),
    [
        (World(2, seeds=3, run=0.3, queries=60), False),
        (World(10, seeds=2, run=0.3, queries=60), False),
        (World(8, seeds=5, run=0.0, queries=60), False),
        (World(8, seeds=3, run=0.3, queries=60, untrained=True), False),
        (World(6, seeds=2, orders=4, run=0.1, order=0.3, seed=0.2, queries=60), False),
        (World(12, run=0.3, queries=100), True),
    ],
    ids=["two", "ten", "no noise", "one untrained", "orders", "one run"],
)
def test_methods_that_are_alike_are_told_apart_at_most_5_times_in_100(world: World, these_runs: bool) -> None:
    """200 suites: at a true rate of 5 % more than 8.5 % happens once in a hundred tries."""
    assert false_alarms(world, 200, these_runs=these_runs) <= 0.085


@pytest.mark.parametrize("stores", [2, 5])
def test_over_several_stores_too(stores: int) -> None:
    assert store_false_alarms(8, stores, 200, uneven=0.4) <= 0.085


def test_the_test_before_it_raised_false_alarms_in_the_same_suites() -> None:
    world = World(12, seeds=4, run=0.3, queries=60)
    assert earlier_false_alarms(world, 150) > 0.15
    assert false_alarms(world, 150) <= 0.09


def test_it_finds_more_than_that_test_would_at_the_same_error() -> None:
    new, earlier = power(World(8, seeds=3, run=0.1, better=0.8, queries=100), 80)
    assert new > 0.5
    assert new > earlier
