"""Suites whose truth is known, for what the statistics promise: error rates, coverage and power.

A query is answered where  ease_n + taste_mn + shift_mr + noise_mrn > threshold, all normal, noise with variance 1; then
method m's expected R@1 in run r, over all queries there could be, is  100 Phi( (shift_mr - threshold) / sqrt(1 + ease^2
+ taste^2) ).  Methods are alike where their shifts have the same distribution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from ctvr_bench.bench.all_pairs import Answers, _parts, _terms, critical_values, half_widths
from ctvr_bench.bench.crossed import pairwise, spread_of
from ctvr_bench.bench.statistics import hierarchical_interval, run_interval, unpaired_difference

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class World:
    """Standard deviations on the scale of the noise.

    run: of order x seed. scatter: of each method, times the runs' spread. better: method 0's shift.
    untrained: the last method has no runs of its own.
    """

    methods: int
    seeds: int = 1
    orders: int = 1
    queries: int = 200
    ease: float = 1.2
    taste: float = 0.5
    run: float = 0.0
    order: float = 0.0
    seed: float = 0.0
    scatter: tuple[float, ...] | None = None
    better: float = 0.0
    untrained: bool = False

    @property
    def places(self) -> list[tuple[int, int]]:
        return [(order, seed) for order in range(self.orders) for seed in range(self.seeds)]

    def draw(self, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """value_MRN (100 for a hit) and expected_MR; method 0 is better by `better`."""
        shape = (self.methods, self.orders, self.seeds)
        shift = self.run * rng.standard_normal(shape) + self.order * rng.standard_normal((*shape[:2], 1))
        shift += self.seed * rng.standard_normal((shape[0], 1, shape[2]))
        if self.scatter is not None:
            shift *= np.asarray(self.scatter)[:, None, None]
        shift_MR = shift.reshape(self.methods, -1)
        if self.untrained:
            shift_MR[-1] = 0
        shift_MR[0] += self.better
        query_MN = self.ease * rng.standard_normal(self.queries) + self.taste * rng.standard_normal(
            (self.methods, self.queries)
        )
        noise = rng.standard_normal((*shift_MR.shape, self.queries), dtype=np.float32)
        if self.untrained:
            noise[-1] = noise[-1, :1]
        hit = query_MN[:, None, :] + shift_MR[:, :, None] + noise > _THRESHOLD
        return 100.0 * hit, self.expected(shift_MR)

    def expected(self, shift_MR: Floats) -> Floats:
        return np.asarray(100 * stats.norm.cdf((shift_MR - _THRESHOLD) / np.sqrt(1 + self.ease**2 + self.taste**2)))

    def answers(self, value_MRN: Floats) -> list[Answers]:
        found = [Answers(dict(zip(self.places, value_RN, strict=True))) for value_RN in value_MRN]
        if self.untrained:
            one = {place: value_N for place, value_N in found[-1].value_N.items() if place[1] == 0}
            found[-1] = Answers(one, drawn=False)
        return found


_THRESHOLD = 1.3


def told_apart(
    methods: list[Answers], *, these_runs: bool = False, these_orders: bool = False
) -> tuple[Floats, Floats, npt.NDArray[np.int64]]:
    """Differences and half widths of all pairs, and the pairs, at 5 %: what `all_pairs` says, without its p-values."""
    parts = _parts(methods, these_orders, these_runs)
    terms = _terms(parts, [method.drawn for method in methods])
    half = half_widths(terms, lambda free: critical_values(len(methods), free, np.array([0.05])))[0]
    if not these_runs:
        half = np.where((parts.freedom_P > 0) | (parts.drawn_P == 0), half, np.inf)
    return parts.estimate_P, half, np.stack([parts.first_P, parts.second_P])


def false_alarms(world: World, times: int, seed: int = 0, *, these_runs: bool = False) -> float:
    """How often anything at all is told apart among methods that are alike (or, of these runs, whose models are)."""
    rng, wrong = np.random.default_rng(seed), 0
    for _ in range(times):
        value_MRN, expected_MR = world.draw(rng)
        estimate, half, (i, j) = told_apart(world.answers(value_MRN), these_runs=these_runs)
        truth = expected_MR.mean(1)[i] - expected_MR.mean(1)[j] if these_runs else 0.0
        wrong += bool((np.abs(estimate - truth) > half).any())
    return wrong / times


def power(world: World, times: int, seed: int = 0) -> tuple[float, float]:
    """Share of method 0's true advantages found: by all pairs, and by the test before it at the same error rate.

    That test: the best against each other, Holm, a variance for each pair. Its level is lowered until it raises as few
    false alarms as it should.
    """
    rng, alike = np.random.default_rng(seed), World(**{**vars(world), "better": 0.0})
    null = [max(_earlier(alike, *alike.draw(rng)).tolist(), default=0.0) for _ in range(times)]
    bound = max(1.0, float(np.quantile(null, 0.95)))
    found = np.zeros(2)
    for _ in range(times):
        value_MRN, _ = world.draw(rng)
        estimate, half, (i, _) = told_apart(world.answers(value_MRN))
        leads = value_MRN.mean((1, 2)).argmax() == 0
        earlier = _earlier(world, value_MRN, None)
        found += (estimate > half)[i == 0].mean(), (earlier > bound).mean() if leads else 0.0
    return float(found[0] / times), float(found[1] / times)


def earlier_false_alarms(world: World, times: int, seed: int = 0) -> float:
    """How often the test before this one called the best method ahead of another among methods that are alike."""
    rng = np.random.default_rng(seed)
    return float(np.mean([(_earlier(world, *world.draw(rng)) > 1).any() for _ in range(times)]))


def _earlier(world: World, value_MRN: Floats, _expected: Floats | None) -> Floats:
    """|difference| of the best to each other over its half width at 5 % / (M - 1): Holm's first step."""
    order_R = [order for order, _ in world.places]
    best = int(value_MRN.mean((1, 2)).argmax())
    spread = spread_of(value_MRN, order_R, None)
    run, noise, query = (pairwise(part)[best] for part in (spread.run, spread.noise, spread.query))
    tail = 0.025 / (len(value_MRN) - 1)
    bound = stats.t.isf(tail, spread.freedom) ** 2 * np.maximum(run - noise, 0)
    half = np.sqrt(bound + stats.t.isf(tail, world.queries - 1) ** 2 * query)
    away = value_MRN.mean((1, 2))[best] - value_MRN.mean((1, 2))
    return np.asarray(np.delete(away / np.maximum(half, 1e-300), best))


def coverage(world: World, times: int, seed: int = 0, *, runs_only: bool = False, these_orders: bool = False) -> float:
    """How often a method's own 95 % interval holds what other orders, seeds and queries would give on average.

    With fewer than three orders, or these_orders: other seeds and queries. runs_only: of single values of runs, here
    with the same queries always.
    """
    rng, inside = np.random.default_rng(seed), 0
    order_R, seed_R = (list(key) for key in zip(*world.places, strict=True))
    fixed = world.orders < 3 or these_orders
    for _ in range(times):
        shape = (world.orders, world.seeds)
        order_R1 = np.repeat(world.order * rng.standard_normal(world.orders), world.seeds)
        shift_R = world.run * rng.standard_normal(shape).ravel() + order_R1
        shift_R += np.tile(world.seed * rng.standard_normal(world.seeds), world.orders)
        truth = order_R1.mean() if fixed else 0.0
        if runs_only:
            interval = run_interval(shift_R, order_R, seed_R=seed_R)
            assert interval is not None
        else:
            value_N = world.ease * rng.standard_normal(world.queries)
            value_RN = shift_R[:, None] + value_N + rng.standard_normal((len(shift_R), world.queries))
            interval = hierarchical_interval(value_RN, order_R, seed_R=seed_R, these_orders=these_orders)
            truth += shift_R.mean() - truth if interval.variance.run_freedom == 0 else 0.0
        inside += interval.low <= truth <= interval.high
    return inside / times


def unpaired_coverage(first: World, second: World, times: int, seed: int = 0) -> float:
    """How often the 95 % interval of a difference between two stores holds it: other queries, other runs."""
    rng, inside = np.random.default_rng(seed), 0
    for _ in range(times):
        sides, truth = [], 0.0
        for world, sign in ((first, 1), (second, -1)):
            order_R, seed_R = (list(key) for key in zip(*world.places, strict=True))
            order_O = world.order * rng.standard_normal(world.orders)
            shift_R = world.run * rng.standard_normal(len(order_R)) + order_O[order_R]
            value_N = world.ease * rng.standard_normal(world.queries)
            sides.append(
                (shift_R[:, None] + value_N + rng.standard_normal((len(order_R), world.queries)), order_R, seed_R)
            )
            fixed = shift_R if len(shift_R) == 1 else order_O if world.orders < 3 else np.zeros(1)
            truth += sign * fixed.mean()
        (one, order, runs), (other, other_order, other_runs) = sides
        interval = unpaired_difference(one, order, other, other_order, seed_R=runs, other_seed_R=other_runs)
        inside += interval.low <= truth <= interval.high
    return inside / times


def store_false_alarms(methods: int, stores: int, times: int, uneven: float = 0.0, seed: int = 0) -> float:
    """How often anything is told apart over several stores, by a mean for each, among methods alike over all stores.

    A method's mean is the store's, the same for all, and its own luck there. uneven: log-normal spread of that luck's
    size over the methods.
    """
    rng, wrong = np.random.default_rng(seed), 0
    size_M = np.exp(uneven * rng.standard_normal(methods))
    for _ in range(times):
        value_MS = 10 * rng.standard_normal(stores) + size_M[:, None] * rng.standard_normal((methods, stores))
        known = [Answers({(0, s): np.array([value]) for s, value in enumerate(value_S)}) for value_S in value_MS]
        estimate, half, _ = told_apart(known)
        wrong += bool((np.abs(estimate) > half).any())
    return wrong / times
