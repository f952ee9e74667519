"""Which methods differ: every pair at once, with one error rate for all that is said about them.

Axes: M methods, R runs, N queries, A levels alpha.

The probability that any two methods which do not differ are called different is at most the stated level, however
many there are and however one was picked from them (the best against the rest, all against one row, any two). It is
Tukey's method of all pairs in Games' and Howell's form: a variance for each pair, the studentised range for them all,

    | mean_i - mean_j |^2  <=  c(M, f)^2 (run_ij + noise_ij)  +  c(M, g)^2 (query_ij - noise_ij)
    c(M, f) = q(1 - alpha; M, f) / sqrt(2)          M = 2: Student's t, nothing to correct

with the variances of bench.crossed. Each part has the quantile of its own degrees of freedom (Cochran 1964), which
stays within the level where Satterthwaite's approximation does not, with two or three runs. So few runs tell `run_ij`
badly in one pair, and well over all pairs: it is the larger of the pair's own and the mean over all pairs. How far the
mean's degrees of freedom may be used is asked of the data (Smyth 2004): if some methods scatter much more than others
they are few. docs/statistics.md has the simulated error rates and the power.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from scipy import special

from ctvr_bench.bench.crossed import ORDERS, Floats, pairwise, spread_of
from ctvr_bench.bench.quantiles import chi2_ends, chi2_pdf, normal_pdf, t_isf

Ints = npt.NDArray[np.int64]
Place = tuple[int, int]
"""Order and seed of a run."""
Item = TypeVar("Item")
_LEVELS = np.concatenate([1 - np.linspace(0, 0.9, 400, endpoint=False), np.logspace(-1, -9, 1600)])


@dataclass(frozen=True)
class Answers:
    """A method's values, one row of N queries for each run. drawn: whether another seed would give other values.

    What is not drawn has one run for each order, which meets every seed of the others.
    """

    value_N: Mapping[Place, npt.NDArray[np.float64]]
    drawn: bool = True


def meet(
    first: Mapping[Place, Item], second: Mapping[Place, Item], drawn: tuple[bool, bool] = (True, True)
) -> list[tuple[Place, Item, Item]]:
    """What two methods have at the same order and seed, in the order of the first; how runs are paired everywhere.

    drawn: of the two; what is not drawn has one for each order, which meets every seed of the other.

    >>> meet({(0, 0): "a0", (0, 1): "a1"}, {(0, 0): "z"}, (True, False))
    [((0, 0), 'a0', 'z'), ((0, 1), 'a1', 'z')]
    """
    one, other = first, second
    if drawn == (True, False):
        other = _at_every_seed(second, first)
    if drawn == (False, True):
        one = _at_every_seed(first, second)
    return [(place, one[place], other[place]) for place in one if place in other]


def _at_every_seed(fixed: Mapping[Place, Item], drawn: Mapping[Place, Item]) -> dict[Place, Item]:
    by_order = {order: item for (order, _), item in fixed.items()}
    return {place: by_order[place[0]] for place in drawn if place[0] in by_order}


@dataclass(frozen=True)
class PairDifference:
    """First minus second over the runs that both have.

    low, high: hold at `level` together with those of all pairs. p: of no difference, corrected for all pairs.
    All three None where nothing is known about runs. run, query, noise: variances of the difference, as used.
    run_freedom: behind `run`. seeds, orders, queries: what the three speak of beyond those that were run.
    """

    estimate: float
    low: float | None
    high: float | None
    p: float | None
    level: float
    run: float
    query: float
    noise: float
    run_freedom: float
    places: tuple[Place, ...]
    seeds: bool
    orders: bool
    queries: bool

    def smallest(self, power: float = 0.8) -> float | None:
        """The true difference that this pair, were it the only one planned, shows at 5 % with this power.

        (t(0.975) + t(power)) standard errors, part by part; None where `p` is.
        """
        return None if self.p is None else self._reach(0.025) + self._reach(1 - power)

    def smallest_of_all(self, power: float = 0.8) -> float | None:
        """The same where all pairs are looked at: half the interval's width stands for t(0.975)."""
        return None if self.high is None else self.high - self.estimate + self._reach(1 - power)

    def turned(self) -> PairDifference:
        """Second minus first."""
        low, high = (None if end is None else -end for end in (self.high, self.low))
        return replace(self, estimate=-self.estimate, low=low, high=high)

    def _reach(self, tail: float) -> float:
        parts = ((self.run + self.noise, self.run_freedom), (self.query - self.noise, math.inf))
        return math.sqrt(sum(t_isf(tail, free or math.inf) ** 2 * value for value, free in parts if value > 0))


@dataclass
class _Parts:
    """Variances of the differences of P pairs, `run_P` with single answers in it. places: the runs that both have.

    drawn_P: how many of the two are drawn. freedom_P: behind `run_P`, 0 where runs say nothing.
    """

    first_P: Ints
    second_P: Ints
    estimate_P: Floats
    run_P: Floats
    noise_P: Floats
    query_P: Floats
    freedom_P: Floats
    drawn_P: Ints
    places: list[tuple[Place, ...]]
    queries: int

    @property
    def runs_P(self) -> Ints:
        return np.array([len(places) for places in self.places])


def all_pairs(
    methods: Sequence[Answers], *, level: float = 0.95, these_orders: bool = False, these_runs: bool = False
) -> dict[tuple[int, int], PairDifference]:
    """Every method minus every later one, by their two positions.

    these_orders: speaks of the orders that were run, however many. these_runs: of the trained models themselves, with
    other queries: what another seed would give is left open. Pairs without a common run are left out.

    >>> first, second = (Answers({(0, 0): np.array(v, float)}) for v in ([1, 1, 1, 1, 0], [0, 0, 0, 1, 0]))
    >>> found = all_pairs([first, second], these_runs=True)[0, 1]
    >>> round(found.estimate, 3), round(found.p, 3)
    (0.6, 0.07)
    """
    parts = _parts(methods, these_orders, these_runs)
    if not parts.places:
        return {}
    terms = _terms(parts, [method.drawn for method in methods])
    low, high, p = _tested(parts, terms, len(methods), level)
    known = these_runs | (parts.drawn_P == 0) | (parts.freedom_P > 0)
    orders, seeds = (np.array([len({place[k] for place in places}) for places in parts.places]) for k in (0, 1))
    found = {}
    for k, pair in enumerate(zip(parts.first_P.tolist(), parts.second_P.tolist(), strict=True)):
        told = known[k] and not np.isnan(p[k])
        found[pair] = PairDifference(
            estimate=float(parts.estimate_P[k]),
            low=float(low[k]) if told else None,
            high=float(high[k]) if told else None,
            p=float(p[k]) if told else None,
            level=level,
            run=float(sum(value[k] for value, _ in terms[:2])),
            query=float(parts.query_P[k]),
            noise=float(parts.noise_P[k]),
            run_freedom=float(terms[1][1][k]),
            places=parts.places[k],
            seeds=bool(parts.freedom_P[k] > 0 and parts.drawn_P[k] > 0 and seeds[k] > 1),
            orders=bool(orders[k] >= ORDERS) and not (these_orders or these_runs),
            queries=parts.queries > 1,
        )
    return found


def _parts(methods: Sequence[Answers], these_orders: bool, these_runs: bool) -> _Parts:
    """Of all pairs: in one go where all methods made the same runs, else pair by pair."""
    lead = next((method for method in methods if method.drawn), methods[0]) if methods else Answers({})
    met = [meet(lead.value_N, method.value_N, (lead.drawn, method.drawn)) for method in methods]
    whole = all(
        len(found) == len(lead.value_N) and (len(found) == len(method.value_N) or not method.drawn)
        for method, found in zip(methods, met, strict=True)
    )
    found: list[_Parts] = []
    if len(methods) > 1 and whole:
        values = [[second for _, _, second in each] for each in met]
        return _parts_of(values, methods, range(len(methods)), list(lead.value_N), these_orders, these_runs)
    for pair in itertools.combinations(range(len(methods)), 2):
        two = [methods[index] for index in pair]
        common = meet(two[0].value_N, two[1].value_N, (two[0].drawn, two[1].drawn))
        if common:
            places, *values = zip(*common, strict=True)
            found.append(_parts_of(values, two, pair, places, these_orders, these_runs))
    names = [field.name for field in fields(_Parts)][:8]
    joined: dict[str, Any] = {
        name: np.concatenate([getattr(one, name) for one in found]) if found else np.zeros(0) for name in names
    }
    return _Parts(**joined, places=[p for one in found for p in one.places], queries=found[0].queries if found else 0)


def _parts_of(
    values: Sequence[Sequence[npt.NDArray[np.float64]]],
    methods: Sequence[Answers],
    position_M: Sequence[int],
    places: Sequence[Place],
    these_orders: bool,
    these_runs: bool,
) -> _Parts:
    value_MRN = np.array(values, np.float64)
    drawn_M, mean_M = np.array([m.drawn for m in methods]) * 1, value_MRN.mean((1, 2))
    order_R, seed_R = zip(*places, strict=True)
    spread = spread_of(value_MRN, order_R, seed_R, these_orders=these_orders)
    i, j = np.triu_indices(len(methods), 1)
    run, noise, query = (pairwise(part)[i, j] for part in (spread.run, spread.noise, spread.query))
    known = 0 if these_runs else 1
    return _Parts(
        first_P=np.asarray(position_M)[i],
        second_P=np.asarray(position_M)[j],
        estimate_P=mean_M[i] - mean_M[j],
        run_P=run * known,
        noise_P=np.clip(noise, 0, query) * known,
        query_P=query,
        freedom_P=np.full(len(i), float(spread.freedom * known)),
        drawn_P=drawn_M[i] + drawn_M[j],
        places=[tuple(places)] * len(i),
        queries=value_MRN.shape[2],
    )


def _terms(parts: _Parts, drawn_M: Sequence[bool]) -> list[tuple[Floats, Floats]]:
    """Variances with their degrees of freedom, whose sum is that of the difference.

    Between runs, in two parts: `shared` is what the runs of all drawn methods have in common, which does not cancel
    against a method that is not drawn; `apart` is each method's own, known from all pairs. Together they are at least
    what the pair's own runs say. Then single answers, under the quantile of the runs they were told apart from, and
    queries.
    """
    known_P, drawn = parts.freedom_P > 0, sum(drawn_M)
    excess_P = (parts.run_P - parts.noise_P) * parts.runs_P
    both_P, one_P = known_P & (parts.drawn_P == 2), known_P & (parts.drawn_P == 1)
    apart, apart_freedom = 0.0, 0.0
    if both_P.any():
        freedom = float(parts.freedom_P[both_P].min())
        apart, apart_freedom = max(0.0, float(excess_P[both_P].mean()) / 2), freedom * (drawn - 1)
        if drawn > 2 and both_P.sum() == drawn * (drawn - 1) // 2:
            apart_freedom = min(apart_freedom, freedom + _prior_freedom(parts, both_P, freedom))
    share = 1 - 1 / drawn if both_P.any() else 0.0
    shared = max(0.0, float(excess_P[one_P].mean()) - share * apart) if one_P.any() else 0.0
    one = parts.drawn_P == 1
    common_P = np.where(one, shared, 0.0) / parts.runs_P
    apart_P = np.select([parts.drawn_P == 2, one], [2 * apart, share * apart], 0.0) / parts.runs_P
    total_P, own_P = common_P + apart_P, np.maximum(parts.run_P - parts.noise_P, 0.0)
    grown_P = np.divide(np.maximum(own_P, total_P), total_P, out=np.ones_like(own_P), where=total_P > 0)
    common_P, apart_P = common_P * grown_P, np.where(total_P > 0, apart_P * grown_P, own_P)
    free_P = np.where(parts.drawn_P == 0, parts.freedom_P, np.maximum(parts.freedom_P, apart_freedom)) * known_P
    query_freedom_P = np.full(len(own_P), parts.queries - 1.0)
    return [
        (common_P * known_P, parts.freedom_P),
        (apart_P * known_P, free_P),
        (parts.noise_P, free_P),
        (parts.query_P - parts.noise_P, query_freedom_P),
    ]


def _prior_freedom(parts: _Parts, both_P: npt.NDArray[np.bool_], freedom: float) -> float:
    """Degrees of freedom that the other methods lend to one: few where methods scatter differently (Smyth 2004).

    The methods' own variances come from those of their differences, by double centring; the variance of their
    logarithms beyond trigamma(f / 2), that of a chi-square's, is trigamma(d / 2) of the prior's d. From two runs its
    standard error is added.
    """
    index, place = np.unique(np.stack([parts.first_P[both_P], parts.second_P[both_P]]), return_inverse=True)
    i, j = place.reshape(2, -1)
    between = np.zeros((len(index), len(index)))
    between[i, j] = between[j, i] = (parts.run_P * parts.runs_P)[both_P]
    centre = np.eye(len(index)) - 1 / len(index)
    own_M = np.diag(-centre @ between @ centre / 2)
    if own_M.mean() <= 0:
        return math.inf
    if (own_M <= 0).any():  # only where a variance of orders and seeds was added and subtracted
        own_M = np.maximum(own_M, own_M.mean() / 50)
    expected = float(special.polygamma(1, freedom / 2))
    beyond = float(np.log(own_M).var(ddof=1)) - expected
    if freedom < 2:  # from two runs this is too uncertain to be believed where it comes out small
        beyond += math.sqrt((float(special.polygamma(3, freedom / 2)) + 2 * expected**2) / len(own_M))
    return math.inf if beyond <= 0 else 2 * _inverse_trigamma(beyond)


def _inverse_trigamma(value: float) -> float:
    """Newton's method on 1 / trigamma, from below (Smyth 2004, appendix)."""
    found = 0.5 + 1 / value
    step = found
    while abs(step) > 1e-9 * found:
        at = float(special.polygamma(1, found))
        step = at * (1 - at / value) / float(special.polygamma(2, found))
        found += step
    return found


def _tested(
    parts: _Parts, terms: Sequence[tuple[Floats, Floats]], methods: int, level: float
) -> tuple[Floats, Floats, Floats]:
    """Low, high and p of every pair.

    Where nothing varies they are the estimate itself, but NaN without queries: scores come in steps, so that a few
    equal differences are chance.
    """
    half_P = half_widths(terms, lambda free: critical_values(methods, free, np.array([1 - level])))[0]
    half_AP = half_widths(terms, lambda free: critical_values(methods, free))
    away_P = np.abs(parts.estimate_P)
    p_P = np.array([math.exp(np.interp(away, half_AP[:, k], np.log(_LEVELS))) for k, away in enumerate(away_P)])
    still = half_P == 0
    p_P[still] = np.where(away_P[still] == 0, 1.0, _LEVELS[-1] if parts.queries > 1 else np.nan)
    return parts.estimate_P - half_P, parts.estimate_P + half_P, p_P


def half_widths(terms: Sequence[tuple[Floats, Floats]], critical: Callable[[float], Floats]) -> Floats:
    """[A, P]: sqrt( sum c(freedom)^2 variance ) over the terms of P pairs, at the A levels of `critical`."""
    square_AP = np.zeros((len(critical(math.inf)), len(terms[0][0])))
    for value_P, free_P in terms:
        for free in np.unique(free_P[value_P > 0]):
            used_P = np.where((free_P == free) & (value_P > 0), value_P, 0.0)
            square_AP = square_AP + critical(float(free))[:, None] ** 2 * used_P
    return np.sqrt(square_AP)


def critical_values(methods: int, freedom: float, level_A: Floats | None = None) -> Floats:
    """c(M, f) of the module's docstring at levels alpha; by default those that p-values are looked up in."""
    found = _critical(methods, _step_down(freedom))
    return found if level_A is None else np.interp(-np.log(level_A), -np.log(_LEVELS), found)


def _step_down(freedom: float) -> float:
    """The next of few degrees of freedom below, so that tables are made once: whole ones stay, up to 64."""
    if freedom > 5000:
        return math.inf
    if freedom == int(freedom) <= 64 or freedom < 1:
        return freedom
    if freedom < 8:
        return math.floor(4 * freedom) / 4
    return float(math.floor(freedom)) if freedom < 32 else 32 * 1.1 ** math.floor(math.log(freedom / 32, 1.1))


@lru_cache(maxsize=512)
def _critical(methods: int, freedom: float) -> Floats:
    if methods == 2:
        return t_isf(_LEVELS / 2, freedom)
    q = np.concatenate([np.arange(0.04, 16, 0.04), np.logspace(math.log10(16), 13, 250)])
    tail = range_tail(q, methods, freedom)
    at = np.interp(-np.log(_LEVELS), -np.log(np.maximum(tail, 1e-300)), q, left=0.0)
    return np.asarray(at / math.sqrt(2))


def range_tail(q: npt.ArrayLike, methods: int, freedom: float) -> Floats:
    """P(studentised range > q) of M means with f degrees of freedom, f = inf included; to about 2e-5 of itself.

    1 - M int phi(z) (Phi(z) - Phi(z - w))^(M - 1) dz  at  w = q s, averaged over s = sqrt(chi2_f / f)

    scipy.stats.studentized_range does the same in 50 ms a value; here hundreds take 10 ms.
    """
    w, log_tail = _range_tail(methods)
    q = np.asarray(q, np.float64)
    if math.isinf(freedom):
        return np.asarray(np.exp(np.interp(q, w, log_tail, right=-np.inf)))
    ends = chi2_ends(1e-13, freedom)
    log_s = np.linspace(0.5 * math.log(ends[0] / freedom), 0.5 * math.log(ends[1] / freedom), 200)
    s = np.exp(log_s)
    weight = chi2_pdf(freedom * s**2, freedom) * 2 * freedom * s**2 * (log_s[1] - log_s[0])
    return np.asarray(np.exp(np.interp(q[..., None] * s, w, log_tail, right=-np.inf)) @ weight)


@lru_cache
def _range_tail(methods: int) -> tuple[Floats, Floats]:
    """w and log P(range of M normal means > w)."""
    w, z = np.arange(0.0, 13.0, 0.02), np.linspace(-8.5, 9.5, 181)
    inside = (special.ndtr(z) - special.ndtr(z - w[:, None])) ** (methods - 1)
    return w, np.log(np.maximum(1 - methods * (inside * normal_pdf(z)).sum(1) * (z[1] - z[0]), 1e-16))
