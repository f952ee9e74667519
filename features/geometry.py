"""How paired features lie in the space they share, as numbers that can be held against those of real CLIP.

Axes: N items (row n of video and of text belong together), D features; a group is [rows, D] of one item: the frames of
a video, the captions of a video, the words of a caption. Everything is computed in float64 on rows of unit length, so
raw and unit features give the same numbers; `norm_range` alone looks at lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Features = npt.NDArray[np.floating[Any]]
Floats = npt.NDArray[np.float64]

SHARES = (1, 5, 10, 50, 100)  # numbers of first directions whose share of the variance is told
_PENALTIES = (0.1, 1.0, 3.0, 10.0, 30.0)
_FOLDS = 5
_LEAST_ITEMS = 10  # below this no fold can be held out in earnest


def unit(rows_XD: Features) -> Floats:
    """The rows at length 1; a row of zeros stays zero."""
    rows = rows_XD.astype(np.float64)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-9))


def pair_statistics(video_ND: Features, text_ND: Features) -> dict[str, float]:
    """Statistics of N paired features by name; row n of both belongs to one item.

    matched, unmatched: cosine of a text with its own and with other videos, with deviations.
    centred_...: the same after each modality's mean is taken away.
    gap: distance of the two means. cone_...: length of a modality's mean; rogue_...: share of its square that the two
    largest coordinates carry. hub_video, hub_text: deviation of a video's (a text's) mean cosine over all others.
    rsa: correlation of the two centred Gram matrices, how far both agree on what is alike.
    r2: share of the text's variance that the videos predict (ridge, five folds, best of five penalties).
    rank_...: exp of the entropy of the centred spectrum; share_<k>_...: share of its first k directions, where k <= N.
    recall_1, recall_5, recall_10: percent of texts whose own video is among the first; ties count against it.
    Raises ValueError for fewer than 10 items or differing shapes.

    >>> rng = np.random.default_rng(0)
    >>> same = rng.standard_normal((50, 8))
    >>> found = pair_statistics(same, same)
    >>> round(found["matched"], 6), round(found["rsa"], 6), found["recall_1"], round(found["gap"], 6)
    (1.0, 1.0, 100.0, 0.0)
    """
    if video_ND.shape != text_ND.shape or video_ND.ndim != 2 or len(video_ND) < _LEAST_ITEMS:
        raise ValueError(
            f"video_ND and text_ND must be two [N, D] of one shape with at least {_LEAST_ITEMS} rows; "
            f"got {video_ND.shape} and {text_ND.shape}; pass paired features"
        )
    video, text = unit(video_ND), unit(text_ND)
    other = ~np.eye(len(video), dtype=bool)
    sim = text @ video.T
    matched, unmatched = np.diag(sim), sim[other]
    rank_N = (sim >= matched[:, None]).sum(axis=1)
    video_mean, text_mean = video.mean(axis=0), text.mean(axis=0)
    video_0, text_0 = video - video_mean, text - text_mean
    centred = unit(text_0) @ unit(video_0).T
    found = {
        "matched": matched.mean(),
        "matched_deviation": matched.std(),
        "unmatched": unmatched.mean(),
        "unmatched_deviation": unmatched.std(),
        "centred_matched": np.diag(centred).mean(),
        "centred_matched_deviation": np.diag(centred).std(),
        "centred_unmatched_deviation": centred[other].std(),
        "gap": np.linalg.norm(video_mean - text_mean),
        "hub_video": sim.mean(axis=0).std(),
        "hub_text": sim.mean(axis=1).std(),
        "rsa": rsa(video_0, text_0),
        "r2": ridge_r2(video_0, text_0),
    }
    for side, mean_D, centred_ND in (("video", video_mean, video_0), ("text", text_mean, text_0)):
        found[f"cone_{side}"] = np.linalg.norm(mean_D)
        found[f"rogue_{side}"] = np.sort(mean_D**2)[-2:].sum() / max(np.square(mean_D).sum(), 1e-12)
        share_K = spectrum(centred_ND)
        found[f"rank_{side}"] = np.exp(-(share_K * np.log(share_K + 1e-12)).sum())
        found |= {f"share_{k}_{side}": share_K[:k].sum() for k in SHARES if k <= len(video)}
    found |= {f"recall_{k}": 100 * (rank_N <= k).mean() for k in (1, 5, 10)}
    return {name: float(value) for name, value in found.items()}


def rsa(x_ND: Features, y_ND: Features) -> float:
    """Correlation of the inner products of all pairs of rows of x with those of y; NaN where either has no spread."""
    pairs = np.triu_indices(len(x_ND), 1)
    x, y = (x_ND @ x_ND.T)[pairs], (y_ND @ y_ND.T)[pairs]
    if min(x.std(), y.std()) < 1e-12:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def ridge_r2(x_ND: Features, y_ND: Features, seed: int = 0) -> float:
    """1 - (error of y predicted from x) / (square of y) on held-out rows; both without their means.

    Ridge regression in its dual form, five folds, the best of five penalties (0.1 to 30).
    """
    order = np.random.default_rng(seed).permutation(len(x_ND))
    left = np.zeros(len(_PENALTIES))
    for fold in range(_FOLDS):
        test = order[fold::_FOLDS]
        train = np.setdiff1d(order, test)
        value_T, vector_TT = np.linalg.eigh(x_ND[train] @ x_ND[train].T)
        seen = x_ND[test] @ x_ND[train].T @ vector_TT
        wanted = vector_TT.T @ y_ND[train]
        for place, penalty in enumerate(_PENALTIES):
            predicted = (seen / (np.maximum(value_T, 0) + penalty)) @ wanted
            left[place] += np.square(y_ND[test] - predicted).sum()
    return float(1 - left.min() / max(float(np.square(y_ND).sum()), 1e-12))


def spectrum(centred_ND: Features) -> Floats:
    """Share of the variance of each principal direction, the largest first; all 0 where there is none."""
    square_K = np.linalg.svd(centred_ND, compute_uv=False) ** 2
    return np.asarray(square_K / max(square_K.sum(), 1e-12))


def cosine_within(groups: Sequence[Features]) -> float:
    """Cosine of two rows of one group, averaged over its pairs and then over groups; NaN without a group of two.

    >>> cosine_within([np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([[1.0, 0.0], [3.0, 0.0]])])
    0.5
    """
    cosines = []
    for group in groups:
        if len(group) > 1:
            rows = unit(group)
            cosines.append((np.square(rows.sum(axis=0)).sum() - len(rows)) / (len(rows) * (len(rows) - 1)))
    return float(np.mean(cosines)) if cosines else float("nan")


def cosine_between(groups: Sequence[Features]) -> float:
    """Cosine of a row of one group with a row of another, averaged over pairs of groups; NaN for fewer than two."""
    if len(groups) < 2:
        return float("nan")
    mean_GD = np.stack([unit(group).mean(axis=0) for group in groups])
    count = len(mean_GD)
    return float((np.square(mean_GD.sum(axis=0)).sum() - np.square(mean_GD).sum()) / (count * (count - 1)))


def mean_length(groups: Sequence[Features]) -> float:
    """Length of the mean of a group's unit rows, averaged over groups: 1 where all rows of a group are alike."""
    return float(np.mean([np.linalg.norm(unit(group).mean(axis=0)) for group in groups])) if groups else float("nan")


def norm_range(rows_XD: Features) -> tuple[float, float, float]:
    """Length of a raw row: the 5th percentile, the median and the 95th."""
    low, middle, high = np.percentile(np.linalg.norm(rows_XD.astype(np.float64), axis=-1), (5, 50, 95))
    return float(low), float(middle), float(high)
