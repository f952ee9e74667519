"""How sure a number is: intervals, tests between methods, effect sizes, and how many runs a claim would need.

Axes: R runs (an order and a seed each), N queries, M methods, B blocks.

A score is the mean over runs and queries of value_RN[r, n], for instance 100 where query n was a hit in run r. Runs and
queries are crossed, and so are orders and seeds: see bench.crossed for the variance of such a mean, which has a closed
form: the same records give the same interval, to the last digit. Each level has Student's quantile for its own degrees
of freedom. docs/statistics.md has the model and what every interval covers, measured by simulation; differences between
methods, all at once, are in bench.all_pairs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from ctvr_bench.bench.all_pairs import critical_values
from ctvr_bench.bench.crossed import ORDERS, spread_of
from ctvr_bench.bench.quantiles import noncentral_t_sf, t_isf


@dataclass(frozen=True)
class Variance:
    """Variance of a mean over runs and queries, by level.

    run: between runs, beyond the noise of single answers; unbiased, so that it may be below 0 where runs hardly differ.
    query: between queries, that noise included.
    noise: of single answers, its part of `query`; like `run` it falls with more runs.
    run_freedom: degrees of freedom behind `run`; 0 where it cannot be estimated (one run of each order).
    """

    run: float
    query: float
    noise: float
    run_freedom: float
    query_freedom: float

    def half_width(self, level: float) -> float:
        """sqrt( t(f)^2 (run + noise / f) + t(g)^2 (query - noise / f) ), at least t(g) sqrt(query)

        f: run_freedom, g: query_freedom. The noise stands under the runs' wider quantile as far as so few runs cannot
        tell it from `run`.
        """
        wide = t_isf((1 - level) / 2, self.query_freedom) ** 2 if self.query_freedom else 0.0
        alone = wide * self.query
        if not self.run_freedom:
            return math.sqrt(alone)
        shared = self.noise / self.run_freedom
        runs = t_isf((1 - level) / 2, self.run_freedom) ** 2 * max(0.0, self.run + shared)
        return math.sqrt(max(alone, runs + wide * (self.query - shared)))


TOO_FEW = "too few runs"
"""What tables say in place of an interval that says nothing."""


def says_nothing(low: float, high: float) -> bool:
    """Whether an interval of percents or points is wider than all percents, as of two seeds that lie apart."""
    return high - low > 100.0


def in_percent(low: float, high: float) -> tuple[float, float]:
    """The part of an interval that a share can have.

    >>> in_percent(-2.5, 15.0)
    (0.0, 15.0)
    """
    return max(0.0, low), min(100.0, high)


@dataclass(frozen=True)
class Interval:
    """A mean and where it would lie for other seeds, queries and task orders, at the given level.

    seeds, orders, queries: which of them. Not seeds where there was one; not orders where there were one or two: it
    then speaks of those that were run, and of queries alone where there was one run.
    """

    estimate: float
    low: float
    high: float
    level: float
    variance: Variance
    seeds: bool
    orders: bool
    queries: bool = True

    @property
    def p(self) -> float | None:
        """Two-sided p-value of 0: one minus the level whose interval just reaches it. None where runs say nothing."""
        if not (self.seeds or self.orders):
            return None
        away = abs(self.estimate)
        if away == 0 or self.variance.half_width(0.5) == 0:
            return 0.0 if away else 1.0

        def short_of_zero(log_p: float) -> float:
            return away - self.variance.half_width(1 - 10**log_p)

        from scipy import optimize  # as long to import as a report without figures takes

        smallest = -12.0
        return 10 ** float(smallest if short_of_zero(smallest) > 0 else optimize.brentq(short_of_zero, smallest, 0.0))


def mean_variance(
    value_RN: npt.ArrayLike,
    order_R: Sequence[int],
    seed_R: Sequence[int] | None = None,
    *,
    these_orders: bool = False,
) -> Variance:
    """Variance of the mean of `value_RN` by level, see bench.crossed.

    seed_R: seed of each run, where orders share seeds; None where no two runs share anything but their order.
    these_orders: of the orders that were run, not of orders in general, however many they are.
    """
    value = np.asarray(value_RN, np.float64)
    if value.ndim != 2 or value.shape[0] != len(order_R) or value.shape[1] < 2:
        raise ValueError(f"value_RN must be [runs, 2 or more queries] with an order for each run; got {value.shape}")
    found = spread_of(value[None], order_R, seed_R, these_orders=these_orders)
    run, noise, query = (float(part[0, 0]) for part in (found.run, found.noise, found.query))
    noise = min(max(0.0, noise), query)
    return Variance(run - noise if found.freedom else 0.0, query, noise, found.freedom, value.shape[1] - 1)


def hierarchical_interval(
    value_RN: npt.ArrayLike,
    order_R: Sequence[int],
    level: float = 0.95,
    *,
    seed_R: Sequence[int] | None = None,
    these_orders: bool = False,
) -> Interval:
    """The mean of `value_RN` and its interval over orders, seeds and queries; seed_R, these_orders: `mean_variance`.

    >>> found = hierarchical_interval([[0, 100, 100, 0], [0, 100, 0, 0], [0, 100, 100, 100]], [0, 0, 0])
    >>> found.estimate, round(found.low, 1), found.seeds, found.orders
    (50.0, -33.0, True, False)
    """
    value = np.asarray(value_RN, np.float64)
    variance = mean_variance(value, order_R, seed_R, these_orders=these_orders)
    mean, half = float(value.mean()), variance.half_width(level)
    orders = len(set(order_R)) >= ORDERS and not these_orders
    seeds = variance.run_freedom > 0 and (seed_R is None or len(set(seed_R)) > 1)
    return Interval(mean, mean - half, mean + half, level, variance, seeds, orders)


def run_interval(
    value_R: npt.ArrayLike, order_R: Sequence[int], level: float = 0.95, *, seed_R: Sequence[int] | None = None
) -> Interval | None:
    """The mean of single values of runs and its interval over seeds and orders, for the queries that were asked.

    None where its spread cannot be estimated (one run of each order).

    >>> found = run_interval([1, 2, 3], [0, 0, 0])
    >>> round(found.low, 2), round(found.high, 2), found.queries
    (-0.48, 4.48, False)
    """
    value = np.asarray(value_R, np.float64)
    found = spread_of(value[None, :, None], order_R, seed_R)
    if found.freedom == 0:
        return None
    variance = Variance(float(found.run[0, 0]), 0.0, 0.0, found.freedom, 0)
    mean, half = float(value.mean()), variance.half_width(level)
    seeds, orders = seed_R is None or len(set(seed_R)) > 1, len(set(order_R)) >= ORDERS
    return Interval(mean, mean - half, mean + half, level, variance, seeds, orders, queries=False)


def unpaired_difference(
    value_RN: npt.ArrayLike,
    order_R: Sequence[int],
    other_RN: npt.ArrayLike,
    other_R: Sequence[int],
    *,
    seed_R: Sequence[int] | None = None,
    other_seed_R: Sequence[int] | None = None,
) -> Interval:
    """Mean of the first minus mean of the second, answered by other queries or other runs: variances add.

    Degrees of freedom are the smaller of the two, so that the interval is rather too wide.
    """
    first = hierarchical_interval(value_RN, order_R, seed_R=seed_R)
    second = hierarchical_interval(other_RN, other_R, seed_R=other_seed_R)
    parts = first.variance, second.variance
    variance = Variance(
        sum(part.run for part in parts),
        sum(part.query for part in parts),
        sum(part.noise for part in parts),
        min((part.run_freedom for part in parts if part.run_freedom), default=0),
        min(part.query_freedom for part in parts),
    )
    mean, half = first.estimate - second.estimate, variance.half_width(first.level)
    seeds, orders = first.seeds and second.seeds, first.orders and second.orders
    return Interval(mean, mean - half, mean + half, first.level, variance, seeds, orders)


def sign_flip_test(difference_R: npt.ArrayLike) -> float:
    """Two-sided p-value of paired differences being symmetric about 0, by exact enumeration of all 2^R signs.

    It assumes nothing else, and with R runs cannot be smaller than 2 / 2^R: five runs never reach 5 %.
    """
    difference = np.asarray(difference_R, np.float64)
    runs = len(difference)
    if not 1 <= runs <= 20:
        raise ValueError(f"the exact test enumerates 2^R signs and takes 1 to 20 runs; got {runs}; use the interval")
    sign_PR = 1 - 2 * ((np.arange(2**runs)[:, None] >> np.arange(runs)) & 1)
    flipped = np.abs(sign_PR @ difference)
    observed = abs(difference.sum())
    return float((flipped >= observed * (1 - 1e-12) - 1e-12).mean())


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for being several, step by step from the smallest (Holm 1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for done, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - done) * p_values[index]))
        corrected[index] = highest
    return corrected


def cohen_dz(difference_R: npt.ArrayLike) -> float | None:
    """Mean difference in standard deviations of the paired differences, unbiased; None for fewer than three runs.

    d = J(R - 1) mean / s,   J(f) = Gamma(f / 2) / ( sqrt(f / 2) Gamma((f - 1) / 2) )          Hedges 1981
    J(1) = 0: from two runs there is no unbiased value. None, too, where all differences are the same.
    """
    difference = np.asarray(difference_R, np.float64)
    freedom = len(difference) - 1
    if freedom < 2 or np.ptp(difference) == 0:
        return None
    correction = math.exp(special.gammaln(freedom / 2) - special.gammaln((freedom - 1) / 2)) / math.sqrt(freedom / 2)
    return float(difference.mean() / difference.std(ddof=1) * correction)


def win_rate(rank_RN: npt.ArrayLike, other_RN: npt.ArrayLike) -> float:
    """Share in percent of queries that the first ranks better than the second; a tie counts half. 50: no difference.

    >>> win_rate([[1, 5]], [[2, 5]])
    75.0
    """
    first, second = np.asarray(rank_RN), np.asarray(other_RN)
    return float(100 * ((first < second).mean() + (first == second).mean() / 2))


def runs_needed(
    difference: float, run_variance: float, query_variance: float, *, alpha: float = 0.05, power: float = 0.8
) -> int | None:
    """Paired runs for which a true difference of this size is found with this power; None where 1000 are not enough.

    run_variance: of one paired run's difference, single answers' noise included. query_variance: of the mean, from the
    choice of queries; more runs do not lower it. Both are taken as known, so the answer is about right, not exact.
    """
    if difference == 0:
        return None
    for runs in _candidates():
        spread = run_variance / runs
        total = spread + query_variance
        if total == 0:
            return runs
        freedom = max(total**2 / (spread**2 / (runs - 1)), runs - 1) if spread else math.inf
        bound, shift = float(t_isf(alpha / 2, min(freedom, 1e6))), abs(difference) / math.sqrt(total)
        if noncentral_t_sf(bound, min(freedom, 1e6), shift) >= power:
            return runs
    return None


@dataclass(frozen=True)
class Friedman:
    """Mean ranks of methods over blocks (1 is best) and whether they differ at all.

    critical_difference: mean ranks further apart than this differ (Nemenyi, at `alpha`).
    """

    mean_rank_M: tuple[float, ...]
    statistic: float
    p: float
    blocks: int
    alpha: float
    critical_difference: float


def friedman(score_BM: npt.ArrayLike, alpha: float = 0.05) -> Friedman:
    """Friedman's test and Nemenyi's critical difference; scores are better when higher, ties share their mean rank.

    chi-square = (M - 1) sum_m ( sum_b moved_bm )^2 / sum_bm moved_bm^2, moved: rank_bm - (M + 1) / 2
    CD = q_alpha sqrt( M (M + 1) / (6 B) ), q: studentised range over sqrt(2)          Demsar 2006
    """
    score = np.asarray(score_BM, np.float64)
    if score.ndim != 2 or score.shape[0] < 2 or score.shape[1] < 3:
        raise ValueError(f"score_BM needs at least 2 blocks and 3 methods; got shape {score.shape}")
    blocks, methods = score.shape
    equal_BM = (score[:, :, None] == score[:, None, :]).sum(-1)  # each with itself among them
    rank_BM = (score[:, :, None] < score[:, None, :]).sum(-1) + (equal_BM + 1) / 2
    moved_BM = rank_BM - (methods + 1) / 2
    statistic = float((methods - 1) * (moved_BM.sum(0) ** 2).sum() / max((moved_BM**2).sum(), 0.5))
    p = float(special.chdtrc(methods - 1, statistic))
    critical = float(critical_values(methods, math.inf, np.array([alpha]))[0])
    difference = critical * math.sqrt(methods * (methods + 1) / (6 * blocks))
    return Friedman(tuple(map(float, rank_BM.mean(0))), statistic, p, blocks, alpha, difference)


def indistinct_groups(mean_rank_M: Sequence[float], critical_difference: float) -> list[tuple[float, float]]:
    """First and last mean rank of every largest group that the critical difference does not tell apart.

    >>> indistinct_groups([1.0, 1.5, 3.0, 3.2], 1.6)
    [(1.0, 1.5), (1.5, 3.0), (3.0, 3.2)]
    """
    ranks = sorted(mean_rank_M)
    groups: list[tuple[float, float]] = []
    for start, first in enumerate(ranks):
        last = max(rank for rank in ranks[start:] if rank - first <= critical_difference)
        if last > first and (not groups or last > groups[-1][1]):
            groups.append((first, last))
    return groups


def _candidates() -> list[int]:
    """2, 3, ... and from 50 on in steps of about 5 %, up to 1000."""
    found = list(range(2, 50))
    while found[-1] < 1000:
        found.append(math.ceil(found[-1] * 1.05))
    return found
