"""Variances of means over crossed orders, seeds and queries, against analysis of variance and naive clusters."""

from __future__ import annotations

import numpy as np
import pytest

from ctvr_bench.bench.crossed import pairwise, run_forms, spread_of
from tests.bench.simulation import World, coverage, unpaired_coverage


def grid(orders: int, seeds: int) -> tuple[list[int], list[int]]:
    return np.repeat(np.arange(orders), seeds).tolist(), np.tile(np.arange(seeds), orders).tolist()


def clustered(mean_R: np.ndarray, key_R: list[int], centre: float | np.ndarray) -> float:
    groups = set(key_R)
    sums = [
        sum(m - c for m, k, c in zip(mean_R, key_R, np.broadcast_to(centre, len(mean_R)), strict=True) if k == g)
        for g in groups
    ]
    return len(groups) / (len(groups) - 1) * float(np.square(sums).sum()) / len(mean_R) ** 2


def test_orders_and_seeds_are_added_and_what_counts_twice_is_taken_off() -> None:
    """Two-way analysis of variance: (MS_orders + MS_seeds - MS_both) / (O S)."""
    order_R, seed_R = grid(4, 3)
    table_OS = np.random.default_rng(0).normal(size=(4, 3)) + 2 * np.arange(4)[:, None] + 3 * np.arange(3)
    away = table_OS - table_OS.mean(0) - table_OS.mean(1, keepdims=True) + table_OS.mean()
    mean_square = (
        3 * np.square(table_OS.mean(1) - table_OS.mean()).sum() / 3,
        4 * np.square(table_OS.mean(0) - table_OS.mean()).sum() / 2,
        np.square(away).sum() / 6,
    )
    found = spread_of(table_OS.reshape(1, 12, 1), order_R, seed_R)
    expected = (mean_square[0] + mean_square[1] - mean_square[2]) / 12
    assert found.run[0, 0] == pytest.approx(expected)
    satterthwaite = expected**2 / sum((m / 12) ** 2 / f for m, f in zip(mean_square, (3, 2, 6), strict=True))
    assert found.freedom == pytest.approx(satterthwaite)


@pytest.mark.parametrize("missing", [0, 2])
def test_clusters_agree_with_loops(missing: int) -> None:
    order_R, seed_R = (key[missing:] for key in grid(3, 4))
    mean_R = np.random.default_rng(missing).normal(size=len(order_R))
    for form, key in zip(run_forms(order_R, seed_R), (order_R, seed_R), strict=False):
        assert mean_R @ form.matrix_RR @ mean_R == pytest.approx(clustered(mean_R, key, mean_R.mean()))


def test_few_orders_are_taken_as_they_are_and_seeds_are_shared_between_them() -> None:
    """A seed's effect that is the same under both orders is one draw and not two."""
    order_R, seed_R = grid(2, 3)
    mean_R = np.array([1.0, 2.0, 6.0, 11.0, 12.0, 16.0])
    (form,) = run_forms(order_R, seed_R)
    assert form.freedom == 2
    assert mean_R @ form.matrix_RR @ mean_R == pytest.approx(np.var([1, 2, 6], ddof=1) / 3)
    (apart,) = run_forms(order_R)
    assert apart.freedom == 4
    assert mean_R @ apart.matrix_RR @ mean_R == pytest.approx(np.var([1, 2, 6], ddof=1) / 6)


@pytest.mark.parametrize(("orders", "seeds"), [(1, 1), (2, 1)])
def test_one_run_of_each_of_few_orders_says_nothing_of_runs(orders: int, seeds: int) -> None:
    assert run_forms(*grid(orders, seeds)) == ()
    assert spread_of(np.ones((2, orders * seeds, 5)), *grid(orders, seeds)).freedom == 0


def test_several_methods_at_once_are_each_difference_alone() -> None:
    order_R, seed_R = grid(1, 4)
    value_MRN = np.random.default_rng(1).normal(size=(5, 4, 30))
    whole = spread_of(value_MRN, order_R, seed_R)
    for i, j in ((0, 1), (2, 4)):
        alone = spread_of((value_MRN[i] - value_MRN[j])[None], order_R, seed_R)
        for name in ("run", "noise", "query"):
            assert pairwise(getattr(whole, name))[i, j] == pytest.approx(getattr(alone, name)[0, 0])


@pytest.mark.parametrize(
    "world",
    [
        World(1, seeds=3, ease=0.7, run=0.05, queries=80),
        World(1, seeds=5, ease=0.7, run=0.3, queries=80),
        World(1, seeds=4, orders=2, ease=0.7, seed=0.3, run=0.1, order=0.3, queries=80),
        World(1, seeds=3, orders=4, ease=0.7, seed=0.2, run=0.2, order=0.2, queries=80),
    ],
    ids=["few seeds", "seeds", "two orders", "orders and seeds"],
)
def test_intervals_cover_the_truth_about_95_times_in_100(world: World) -> None:
    assert 0.92 <= coverage(world, 500) <= 0.985


def test_a_difference_of_two_stores_is_covered_at_least_95_times_in_100() -> None:
    first, second = (World(1, seeds=s, ease=0.7, run=0.3, queries=q) for s, q in ((3, 80), (5, 120)))
    assert unpaired_coverage(first, second, 250) >= 0.92


def test_orders_and_seeds_taken_as_independent_runs_cover_too_little() -> None:
    """What `against` did: the very same simulation finds it."""
    order_R, seed_R = grid(3, 5)
    rng, inside = np.random.default_rng(0), {"crossed": 0, "independent": 0}
    for _ in range(400):
        value_R = np.repeat(rng.normal(size=3), 5) + 0.3 * rng.normal(size=15)
        crossed = spread_of(value_R.reshape(1, -1, 1), order_R, seed_R)
        for name, variance, bound in (
            ("crossed", crossed.run[0, 0], 4.303),
            ("independent", value_R.var(ddof=1) / 15, 2.145),
        ):
            inside[name] += abs(value_R.mean()) <= bound * np.sqrt(variance)
    assert inside["crossed"] / 400 > 0.93
    assert inside["independent"] / 400 < 0.82
