"""What a score matrix says about a stream of tasks: how much was learned, kept, passed on, and lost.

Axes: T tasks, N queries.

score_TT[i, j] is the score (R@1 in percent, unless the caller uses another) on task j after learning task i, both from
0; T-1 is the last. Results are in the unit of the scores. Only the entries in a function's equation are read: the
others may be NaN. Reading NaN or infinity raises ValueError, and so does a matrix that is not square.

    backward_forgetting  positive = worse    CTVR's BWF: own score minus last score, weighted by categories
    forgetting           positive = worse    best earlier score minus last score
    intransigence        positive = worse    what a reference reaches and this stream did not
    backward_transfer    positive = better   last score minus own score
    forward_transfer     positive = better   score before learning a task minus score before any training
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def backward_forgetting(score_TT: npt.ArrayLike, weights_T: npt.ArrayLike) -> float:
    """BWF at the last stage: the weighted mean loss of the finished tasks since each was learned.

    BWF = sum_{i<T-1} c_i (score[i, i] - score[T-1, i]) / sum_{i<T-1} c_i       CTVR 2025, StructAlign 2026
    weights_T: c_i > 0, the number of categories of task i.
    Positive: forgetting. 0.0 for T = 1, as CTVR defines it.

    >>> backward_forgetting([[50, np.nan], [40, 60]], [2, 2])
    10.0
    """
    score = _scores(score_TT)
    weights = _vector("weights_T", weights_T, len(score))
    if (weights <= 0).any():
        raise ValueError(f"weights_T must be positive, the number of categories of each task; got {weights.tolist()}")
    if len(score) == 1:
        return 0.0
    old = np.arange(len(score) - 1)
    lost = _entries(score, old, old) - _entries(score, -1, old)
    return float((weights[:-1] * lost).sum() / weights[:-1].sum())


def backward_forgetting_curve(score_TT: npt.ArrayLike, weights_T: npt.ArrayLike) -> Floats:
    """BWF at every stage, shape [T]: entry t is `backward_forgetting` of the first t+1 tasks; entry 0 is 0.0.

    >>> backward_forgetting_curve([[50, np.nan], [40, 60]], [2, 2])
    array([ 0., 10.])
    """
    score = _scores(score_TT)
    weights = _vector("weights_T", weights_T, len(score))
    return np.array([backward_forgetting(score[:t, :t], weights[:t]) for t in range(1, len(score) + 1)])


def forgetting(score_TT: npt.ArrayLike) -> float:
    """How much each finished task lost since its best earlier moment, averaged.

    F = 1/(T-1) * sum_{j<T-1} ( max_{j<=l<T-1} score[l, j] - score[T-1, j] )          Chaudhry et al. 2018
    Chaudhry's maximum runs over all l < T-1; ours starts when the task is learned, so that a good zero-shot score is
    not counted as something learned and lost.
    Positive: forgetting. Negative: the last task helped. Raises ValueError for T = 1.

    >>> forgetting([[50, 0, 0], [70, 60, 0], [40, 60, 80]])
    15.0
    """
    score = _scores(score_TT, least=2)
    last = len(score) - 1
    best = np.array([_entries(score, np.arange(task, last), task).max() for task in range(last)])
    return float((best - _entries(score, last, np.arange(last))).mean())


def backward_transfer(score_TT: npt.ArrayLike) -> float:
    """How much learning later tasks changed the earlier ones, averaged.

    BWT = 1/(T-1) * sum_{j<T-1} ( score[T-1, j] - score[j, j] )          Lopez-Paz & Ranzato 2017
    Positive: later tasks helped. Negative: forgetting. Raises ValueError for T = 1.

    >>> backward_transfer([[50, 0], [40, 60]])
    -10.0
    """
    score = _scores(score_TT, least=2)
    old = np.arange(len(score) - 1)
    return float((_entries(score, -1, old) - _entries(score, old, old)).mean())


def forward_transfer(score_TT: npt.ArrayLike, baseline_T: npt.ArrayLike) -> float:
    """How much the earlier tasks helped a task before it was learned, averaged.

    FWT = 1/(T-1) * sum_{1<=j<T} ( score[j-1, j] - b[j] )          Lopez-Paz & Ranzato 2017
    baseline_T: b, the scores before any training (zero-shot); b[0] is not read.
    Positive: earlier tasks helped. Raises ValueError for T = 1.

    >>> forward_transfer([[50, 25], [40, 60]], [10, 20])
    5.0
    """
    score = _scores(score_TT, least=2)
    baseline = _vector("baseline_T", baseline_T, len(score), start=1)
    later = np.arange(1, len(score))
    return float((_entries(score, later - 1, later) - baseline).mean())


def learning_accuracy(score_TT: npt.ArrayLike) -> float:
    """The mean score of the tasks, each right after it was learned.

    LA = 1/T * sum_j score[j, j]          Riemer et al. 2019
    """
    score = _scores(score_TT)
    task = np.arange(len(score))
    return float(_entries(score, task, task).mean())


def average_accuracy(score_TT: npt.ArrayLike) -> float:
    """The mean score of all tasks after the last one.

    ACC = 1/T * sum_j score[T-1, j]          Lopez-Paz & Ranzato 2017
    """
    score = _scores(score_TT)
    return float(_entries(score, -1, np.arange(len(score))).mean())


def average_incremental(stage_T: npt.ArrayLike) -> float:
    """The mean over the stages of the overall score at each stage.

    AIA = 1/T * sum_t stage[t]          Rebuffi et al. 2017
    stage_T: the score over all queries seen so far, after each task.
    """
    return float(_vector("stage_T", stage_T, np.size(stage_T)).mean())


def intransigence(reference_T: npt.ArrayLike, score_TT: npt.ArrayLike) -> float:
    """How far the stream stayed behind a reference on each task it had just learned, averaged.

    I = 1/T * sum_k ( reference[k] - score[k, k] )          Chaudhry et al. 2018, averaged over the tasks
    reference_T: entry k is the score on task k of a model trained on tasks 0..k together.
    Positive: the stream could not learn what the reference could.

    >>> intransigence([60, 70], [[50, 0], [40, 70]])
    5.0
    """
    score = _scores(score_TT)
    reference = _vector("reference_T", reference_T, len(score))
    task = np.arange(len(score))
    return float((reference - _entries(score, task, task)).mean())


class LossSplit(NamedTuple):
    """Why old queries score lower than when their task ended, in percentage points; positive is a loss.

    total = gallery_growth + query_drift, exactly.
    """

    total: float
    gallery_growth: float
    query_drift: float


def loss_split(hit_at_end_N: npt.ArrayLike, hit_frozen_N: npt.ArrayLike, hit_now_N: npt.ArrayLike) -> LossSplit:
    """The loss of old queries, split into more distractors and a moved query.

    growth = 100/N * sum_n ( at_end_n - frozen_n )       the same query embedding, today's gallery
    drift  = 100/N * sum_n ( frozen_n - now_n )          the same gallery, today's query embedding

    Each is one value per query: its hit (0 or 1), or any score between 0 and 1 such as the reciprocal rank.
    hit_at_end_N: when the query's task ended.
    hit_frozen_N: the query embedding of that moment against today's stored gallery.
    hit_now_N: today's query embedding against today's stored gallery.

    >>> loss_split([1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 0, 0])
    LossSplit(total=75.0, gallery_growth=25.0, query_drift=50.0)
    """
    N = np.size(hit_at_end_N)
    at_end = _vector("hit_at_end_N", hit_at_end_N, N)
    frozen = _vector("hit_frozen_N", hit_frozen_N, N)
    now = _vector("hit_now_N", hit_now_N, N)
    growth = 100 * float((at_end - frozen).mean())
    drift = 100 * float((frozen - now).mean())
    return LossSplit(total=growth + drift, gallery_growth=growth, query_drift=drift)


def staleness(hit_stored_N: npt.ArrayLike, hit_reencoded_N: npt.ArrayLike) -> float:
    """What re-encoding the gallery with today's model would win back, in percentage points.

    staleness = 100/N * sum_n ( reencoded_n - stored_n )
    One value per query, as for `loss_split`. Positive: the stored gallery is out of date.

    >>> staleness([1, 0, 0, 0], [1, 1, 0, 0])
    25.0
    """
    stored = _vector("hit_stored_N", hit_stored_N, np.size(hit_stored_N))
    reencoded = _vector("hit_reencoded_N", hit_reencoded_N, len(stored))
    return 100 * float((reencoded - stored).mean())


def _scores(score_TT: npt.ArrayLike, least: int = 1) -> Floats:
    score = np.asarray(score_TT, dtype=np.float64)
    if score.ndim != 2 or score.shape[0] != score.shape[1]:
        raise ValueError(f"score_TT must be square, [stage, task]; got shape {score.shape}; fill the gaps with NaN")
    if len(score) < least:
        raise ValueError(f"this measure needs at least {least} tasks; got {len(score)}; leave it out for such a stream")
    return score


def _entries(score_TT: Floats, stage: npt.NDArray[np.intp] | int, task: npt.NDArray[np.intp] | int) -> Floats:
    """score_TT[stage, task] as a vector, every entry finite."""
    value = np.atleast_1d(score_TT[stage, task])
    bad = np.flatnonzero(~np.isfinite(value))
    if bad.size:
        i = np.broadcast_to(stage, value.shape)[bad[0]] % len(score_TT)
        j = np.broadcast_to(task, value.shape)[bad[0]]
        raise ValueError(
            f"score_TT[{i}, {j}] must be a finite score; got {value[bad[0]]}; "
            f"evaluate task {j} after learning task {i} (both from 0)"
        )
    return value


def _vector(name: str, values: npt.ArrayLike, length: int, start: int = 0) -> Floats:
    """`values` from `start` on, after checking that it has `length` entries and that those returned are finite."""
    vector = np.asarray(values, dtype=np.float64)
    if vector.shape != (length,) or length == 0:
        raise ValueError(f"{name} must have shape ({length or '1 or more'},); got {vector.shape}; pass a vector")
    bad = np.flatnonzero(~np.isfinite(vector[start:]))
    if bad.size:
        index = bad[0] + start
        raise ValueError(f"{name}[{index}] must be finite; got {vector[index]}; measure it before computing this")
    return vector[start:]
