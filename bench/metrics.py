"""Ranks from scores, and retrieval metrics from ranks.

Axes: N queries, M gallery items.

Ties count against the query: a query shares its place with nobody it cannot be told apart from, so a model that gives
every item the same score earns the last rank, not the first. The ranks do not depend on the order of the gallery.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

RECALL_DEPTHS = (1, 5, 10, 50, 100)

# Scores compared at a time. One comparison makes one byte a score, so the temporaries stay near 1 MB (or one row).
_BLOCK_SCORES = 1 << 20


def ranks(sim_NM: npt.NDArray[np.floating[Any]], target_N: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
    """The rank of each query's own item among all items, from 1.

    rank_n = 1 + #{m : sim[n, m] > sim[n, target_n]} + #{m != target_n : sim[n, m] = sim[n, target_n]}

    sim_NM: scores, higher is better. A score of -inf (padding) loses against every finite one.
    target_N: the column of each query's own item. An item that itself has -inf gets rank M: leave padding queries out.
    Pass `sim_NM.T` for the other direction: the transpose is a view and is read in place.
    Raises ValueError for shapes that do not fit, targets outside the gallery, and NaN scores.

    >>> ranks(np.array([[0.9, 0.1, 0.5], [0.2, 0.2, 0.2]]), np.array([2, 0]))
    array([2, 3])
    """
    if sim_NM.ndim != 2:
        raise ValueError(f"sim_NM must be [queries, gallery]; got shape {sim_NM.shape}; pass one row per query")
    N, M = sim_NM.shape
    if target_N.shape != (N,) or not np.issubdtype(target_N.dtype, np.integer):
        raise ValueError(
            f"target_N must hold one integer column index per query, shape ({N},); "
            f"got {target_N.dtype} of shape {target_N.shape}; pass one target for each row of sim_NM"
        )
    outside = np.flatnonzero((target_N < 0) | (target_N >= M))
    if outside.size:
        raise ValueError(
            f"target_N must hold columns of sim_NM, which has {M}, counted from 0; "
            f"got {target_N[outside[0]]} for query {outside[0]}; give the item's column in this gallery"
        )
    rank_N = np.empty(N, dtype=np.int64)
    rows = max(1, _BLOCK_SCORES // max(1, M))
    for start in range(0, N, rows):
        block = slice(start, min(start + rows, N))
        sim_BM, target_B = sim_NM[block], target_N[block]
        if np.isnan(sim_BM).any():
            query = start + int(np.flatnonzero(np.isnan(sim_BM).any(axis=1))[0])
            raise ValueError(f"scores must not be NaN; row {query} of sim_NM has one; look at that query's embedding")
        own_B = sim_BM[np.arange(len(target_B)), target_B]
        # Everything at least as good, the item itself included: that one is the "1 +" of the equation.
        rank_N[block] = np.count_nonzero(sim_BM >= own_B[:, None], axis=1)
    return rank_N


def retrieval_metrics(ranks_N: npt.ArrayLike) -> dict[str, float]:
    """Every retrieval metric of one set of ranks: R@1, R@5, R@10, R@50, R@100, MedR, MeanR, MRR, in this order.

    R@k and MRR are in percent, MedR and MeanR in ranks (1 is best).

    >>> retrieval_metrics([1, 2, 20, 400])["R@10"]
    50.0
    """
    return {f"R@{k}": recall_at_k(ranks_N, k) for k in RECALL_DEPTHS} | {
        "MedR": median_rank(ranks_N),
        "MeanR": mean_rank(ranks_N),
        "MRR": mean_reciprocal_rank(ranks_N),
    }


def recall_at_k(ranks_N: npt.ArrayLike, k: int) -> float:
    """The share of queries whose item is among the first k, in percent.

    R@k = 100 * #{n : rank_n <= k} / N
    """
    if k < 1:
        raise ValueError(f"k must be at least 1; got {k}; R@1 is the share of queries answered by the first item")
    rank_N = _checked(ranks_N)
    return 100 * int(np.count_nonzero(rank_N <= k)) / len(rank_N)


def median_rank(ranks_N: npt.ArrayLike) -> float:
    """The median rank; halfway between the two middle ranks when N is even.

    MedR = median_n rank_n
    """
    return float(np.median(_checked(ranks_N)))


def mean_rank(ranks_N: npt.ArrayLike) -> float:
    """The mean rank.

    MeanR = 1 + 1/N * sum_n (rank_n - 1)      in this order, as the authors' evaluators do, so that all bits agree
    """
    return 1 + float(np.mean(_checked(ranks_N) - 1))


def mean_reciprocal_rank(ranks_N: npt.ArrayLike) -> float:
    """The mean of one over the rank, in percent.

    MRR = 100/N * sum_n 1 / rank_n
    """
    return 100 * float(np.mean(1 / _checked(ranks_N)))


def _checked(ranks_N: npt.ArrayLike) -> npt.NDArray[Any]:
    rank_N = np.asarray(ranks_N)
    if rank_N.ndim != 1 or rank_N.size == 0:
        raise ValueError(f"metrics need the ranks of at least one query, shape (N,); got shape {rank_N.shape}")
    bad = np.flatnonzero(~(rank_N >= 1))  # written so that NaN is caught as well
    if bad.size:
        raise ValueError(f"ranks count from 1; got {rank_N[bad[0]]} for query {bad[0]}; add 1 to ranks that start at 0")
    return rank_N
