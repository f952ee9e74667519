"""What orders, seeds and queries each add to the variance of a mean: they are crossed, and all three are samples.

Axes: M methods (1 for a mean, 2 or more for their differences), R runs (an order and a seed each), N queries.

Every run answers the same queries and every order is learned with the same seeds, so that neither answers nor runs are
independent. The variance of a mean over such a table is that of its clusters, added, minus what was counted twice
(Cameron, Gelbach and Miller 2011; for crossed random effects Owen 2007). With U a cluster (an order, a seed, a run):

    V(clusters) = C / (C - 1) * sum_U ( sum_{r in U} (mean_r - mean) )^2 / R^2      C clusters, C - 1 degrees of freedom
    run   = V(orders) + V(seeds) - V(order x seed), at least the larger of the two
    query = s^2 of the queries' means / N
    noise = the part of both that single answers make: (mean_n v_n - v) / (N - 1), v_n being `run` of query n alone

Fewer than ORDERS orders are taken as they are: `run` is then between seeds, each averaged over the orders.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
ORDERS = 3
"""From this many orders on a statement speaks of orders in general; with fewer, of the orders that were run."""


@dataclass(frozen=True)
class Form:
    """A quadratic form in the runs' values, mean_R' matrix_RR mean_R, and its degrees of freedom."""

    matrix_RR: Floats
    freedom: int
    sign: int = 1


@dataclass(frozen=True)
class Spread:
    """Products of methods, [M, M]; the variance of i minus j is a[i, i] + a[j, j] - 2 a[i, j], of i alone a[i, i].

    run: between runs, single answers included. noise: single answers alone. query: between queries, answers included.
    freedom: degrees of freedom behind `run`; 0 where runs cannot tell (one run, or one of each of few orders).
    """

    run: Floats
    noise: Floats
    query: Floats
    freedom: float


def spread_of(
    value_MRN: Floats, order_R: Sequence[int], seed_R: Sequence[int] | None = None, *, these_orders: bool = False
) -> Spread:
    """The three parts for M methods that made the same runs.

    seed_R: None where the runs of different orders share nothing. these_orders: orders are no sample, however many.
    """
    methods, _, queries = value_MRN.shape
    forms = run_forms(order_R, seed_R, these_orders=these_orders)
    mean_MR, by_query_MN = value_MRN.mean(2), value_MRN.mean(1)
    away_MN = by_query_MN - by_query_MN.mean(1, keepdims=True)
    query = away_MN @ away_MN.T / (queries * max(queries - 1, 1))
    nothing = np.zeros((methods, methods))
    if not forms:
        return Spread(nothing, nothing, query, 0)
    run_FMM = np.stack([form.sign * mean_MR @ form.matrix_RR @ mean_MR.T for form in forms])
    weight_F, freedom = _largest(forms, [_typical(run_MM) for run_MM in run_FMM])
    run_MM = np.tensordot(weight_F, run_FMM, 1)
    if queries < 2:
        return Spread(run_MM, nothing, query, freedom)
    matrix_RR = np.tensordot(weight_F, np.stack([form.sign * form.matrix_RR for form in forms]), 1)
    flat, moved = value_MRN.reshape(methods, -1), np.einsum("rs,msn->mrn", matrix_RR, value_MRN).reshape(methods, -1)
    single_MM = flat @ moved.T / queries
    return Spread(run_MM, (single_MM - run_MM) / (queries - 1), query, freedom)


def run_forms(
    order_R: Sequence[int], seed_R: Sequence[int] | None = None, *, these_orders: bool = False
) -> tuple[Form, ...]:
    """The forms whose sum is `run`; none where it cannot be estimated."""
    runs, orders = len(order_R), len(set(order_R))
    seed_R = list(seed_R) if seed_R is not None else list(range(runs))
    seeds = len(set(seed_R))
    full = len(set(zip(order_R, seed_R, strict=True))) == orders * seeds == runs
    same_order, same_seed = (np.equal.outer(np.asarray(key), np.asarray(key)) * 1.0 for key in (order_R, seed_R))
    within = np.eye(runs) - same_order / same_order.sum(1)
    centre = np.eye(runs) - 1 / runs
    if orders >= ORDERS and not these_orders:
        forms = [_clusters(same_order, centre, orders)]
        if 1 < seeds < runs:
            forms.append(_clusters(same_seed, centre, seeds))
        if 1 < seeds < runs and full:
            both = within @ (np.eye(runs) - same_seed / same_seed.sum(1))
            freedom = (orders - 1) * (seeds - 1)
            forms.append(Form(both / (runs * freedom), freedom, -1))
        return tuple(forms)
    if full and seeds > 1:
        return (_clusters(same_seed, within, seeds),)
    if runs > orders:
        return (Form(within / (runs * (runs - orders)), runs - orders),)
    return ()


def pairwise(part_MM: Floats) -> Floats:
    """Of every i minus j, [M, M], from products of methods."""
    own = np.diag(part_MM)
    return np.asarray(own[:, None] + own - 2 * part_MM)


def _clusters(same_RR: Floats, centred_RR: Floats, count: int) -> Form:
    runs = len(same_RR)
    return Form(count / (count - 1) / runs**2 * centred_RR.T @ same_RR @ centred_RR, count - 1)


def _typical(part_MM: Floats) -> float:
    """The variance itself for one method, the mean over all differences for several."""
    methods = len(part_MM)
    return float(part_MM[0, 0] if methods == 1 else pairwise(part_MM).sum() / (methods * (methods - 1)))


def _largest(forms: Sequence[Form], value_F: Sequence[float]) -> tuple[Floats, float]:
    """Weights of the forms and degrees of freedom (Satterthwaite): all of them, or one cluster where it is more."""
    total = sum(value_F)
    added = [index for index, form in enumerate(forms) if form.sign > 0]
    most = max(added, key=lambda index: value_F[index])
    if len(added) == 1 or value_F[most] >= total:
        return np.eye(len(forms))[most], forms[most].freedom
    spread = sum(value**2 / form.freedom for form, value in zip(forms, value_F, strict=True))
    return np.ones(len(forms)), max(total**2 / spread, min(forms[index].freedom for index in added))
