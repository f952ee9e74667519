"""How embeddings lie in the shared space, and how they move.

Axes: N embeddings (row n of text and of video belong together wherever both are paired), M videos, C categories,
D features.

Retrieval compares directions, so every function divides each row by its length first: raw and unit embeddings give the
same number. Inputs may be float32; everything is computed in float64. A row of zeros has no direction and raises
ValueError, as do NaN and infinity; `stage_measures` alone leaves such rows out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Embeddings = npt.NDArray[np.floating[Any]]
Categories = npt.NDArray[np.integer[Any]]
Floats = npt.NDArray[np.float64]

# A unit vector that moved less than this is taken as still: the rounding of float32 alone moves it by up to 6e-8.
STILL = 1e-7


def modality_gap(text_ND: Embeddings, video_MD: Embeddings) -> float:
    """The distance between the centre of the texts and the centre of the videos, in 0..2.

    gap = || 1/N sum_n text_n - 1/M sum_m video_m ||, rows of unit length          Liang et al. 2022

    >>> modality_gap(np.array([[2.0, 0.0]]), np.array([[-1.0, 0.0], [-5.0, 0.0]]))
    2.0
    """
    text, video = _unit("text_ND", text_ND), _unit("video_MD", video_MD)
    if text.shape[1] != video.shape[1]:
        raise ValueError(
            f"text_ND and video_MD must lie in one space; got {text.shape[1]} and {video.shape[1]} features; "
            f"embed both with the same method"
        )
    return float(np.linalg.norm(text.mean(axis=0) - video.mean(axis=0)))


def drift(before_ND: Embeddings, after_ND: Embeddings) -> float:
    """How far the embeddings of the same items turned, averaged, in 0..2; exactly 0 if none did.

    drift = 1/N sum_n ( 1 - cos(before_n, after_n) )

    >>> drift(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[0.0, 3.0], [0.0, 1.0]]))
    0.5
    """
    _same_shape(before_ND=before_ND, after_ND=after_ND)
    return float(_cosine_distance(_unit("before_ND", before_ND), _unit("after_ND", after_ND)).mean())


def drift_disagreement(
    text_before_ND: Embeddings, text_after_ND: Embeddings, video_before_ND: Embeddings, video_after_ND: Embeddings
) -> float:
    """Whether texts and their own videos move the same way: 0 together, 1 unrelated, 2 in opposite directions.

    disagreement = 1 - mean_n cos(text_after_n - text_before_n, video_after_n - video_before_n), rows of unit length

    Row n of all four belongs to one text and its own video. A pair in which either side moved by less than `STILL` has
    no direction to compare and is left out; NaN if that leaves none.

    >>> still, up, right = np.array([[1.0, 1.0]]), np.array([[0.0, 1.0]]), np.array([[1.0, 0.0]])
    >>> drift_disagreement(still, up, still, up), drift_disagreement(still, up, still, still)
    (0.0, nan)
    """
    _same_shape(
        text_before_ND=text_before_ND,
        text_after_ND=text_after_ND,
        video_before_ND=video_before_ND,
        video_after_ND=video_after_ND,
    )
    text = _unit("text_after_ND", text_after_ND) - _unit("text_before_ND", text_before_ND)
    video = _unit("video_after_ND", video_after_ND) - _unit("video_before_ND", video_before_ND)
    moved = np.minimum(np.linalg.norm(text, axis=1), np.linalg.norm(video, axis=1)) >= STILL
    if not moved.any():
        return float("nan")
    return float(_cosine_distance(_unit("text", text[moved]), _unit("video", video[moved])).mean())


def etf_error(embedding_ND: Embeddings, category_N: Categories, *, centred: bool) -> float:
    """How far the class means are from a simplex equiangular tight frame: 0 is one exactly.

    error = mean_{c<c'} | cos(mu_c, mu_c') + 1/(C-1) |          Papyan et al. 2020
    mu_c is the mean of the unit rows of category c.
    centred=False: mu_c as it is, what StructAlign's loss asks for. centred=True: mu_c minus the mean of all mu_c (every
    category counts once), the shape alone wherever it lies; with two categories it is always 0.
    Raises ValueError for fewer than two categories.

    >>> etf_error(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0, 1]), centred=False)
    1.0
    """
    mean_CD, _ = _class_means(embedding_ND, category_N)
    C = len(mean_CD)
    if C < 2:
        raise ValueError("etf_error needs at least 2 categories; got 1; measure it over the tasks seen so far")
    if centred:
        mean_CD = mean_CD - mean_CD.mean(axis=0)
    direction_CD = _unit("the class means", mean_CD)
    cosine_P = (direction_CD @ direction_CD.T)[np.triu_indices(C, k=1)]
    return float(np.abs(cosine_P + 1 / (C - 1)).mean())


def within_class_spread(embedding_ND: Embeddings, category_N: Categories) -> float:
    """How far the embeddings turn away from the mean of their category, averaged over embeddings, in 0..1.

    spread = 1/N sum_n ( 1 - cos(x_n, mu_{c(n)}) ), mu_c the mean of the unit rows of category c

    >>> within_class_spread(np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]), np.array([4, 4, 7]))
    0.0
    """
    mean_CD, class_N = _class_means(embedding_ND, category_N)
    unit_ND = _unit("embedding_ND", embedding_ND)
    return float(_cosine_distance(unit_ND, _unit("the class means", mean_CD)[class_N]).mean())


def stage_measures(
    text_ND: Embeddings,
    video_ND: Embeddings,
    before_text_ND: Embeddings,
    before_video_ND: Embeddings,
    category_N: Categories,
    old_N: npt.NDArray[np.bool_],
) -> dict[str, float | None]:
    """All measures of one evaluation's paired embeddings, None where one is not defined.

    before: the same items when their own task ended. old_N: those of earlier tasks, over which movement is measured.
    A pair of which a side is all zero has no direction: it scores 0 in every ranking and is left out here. All are None
    where no pair is left.
    """
    sides = (text_ND, video_ND, before_text_ND, before_video_ND)
    directed_N = np.logical_and.reduce([(side != 0).any(axis=1) for side in sides])
    if not directed_N.any():
        return dict.fromkeys(("modality_gap", "spread_text", "spread_video"))
    if not directed_N.all():
        text_ND, video_ND, before_text_ND, before_video_ND = (side[directed_N] for side in sides)
        category_N, old_N = category_N[directed_N], old_N[directed_N]
    measured: dict[str, float | None] = {
        "modality_gap": modality_gap(text_ND, video_ND),
        "spread_text": within_class_spread(text_ND, category_N),
        "spread_video": within_class_spread(video_ND, category_N),
    }
    if len(np.unique(category_N)) > 1:
        measured["etf_error_text"] = etf_error(text_ND, category_N, centred=False)
        measured["etf_error_video"] = etf_error(video_ND, category_N, centred=False)
        measured["etf_error_text_centred"] = etf_error(text_ND, category_N, centred=True)
        measured["etf_error_video_centred"] = etf_error(video_ND, category_N, centred=True)
    if old_N.any():
        texts, videos = (before_text_ND[old_N], text_ND[old_N]), (before_video_ND[old_N], video_ND[old_N])
        measured["drift_text"] = drift(*texts)
        measured["drift_video"] = drift(*videos)
        disagreement = drift_disagreement(*texts, *videos)
        measured["drift_disagreement"] = None if np.isnan(disagreement) else disagreement
    return measured


def _unit(name: str, rows_ND: Embeddings) -> Floats:
    if rows_ND.ndim != 2 or len(rows_ND) == 0:
        raise ValueError(f"{name} must be [rows, features] with at least one row; got shape {rows_ND.shape}")
    rows = rows_ND.astype(np.float64)
    length_N = np.linalg.norm(rows, axis=1)
    bad = np.flatnonzero(~(np.isfinite(length_N) & (length_N > 0)))
    if bad.size:
        raise ValueError(
            f"every row of {name} must be finite and not zero, to have a direction; "
            f"row {bad[0]} has length {length_N[bad[0]]}; look at that item, or leave it out"
        )
    rows /= length_N[:, None]
    return rows


def _cosine_distance(a_ND: Floats, b_ND: Floats) -> Floats:
    """1 - cos of paired unit rows, as half the squared distance: no cancellation, never below 0."""
    distance_N: Floats = 0.5 * np.square(a_ND - b_ND).sum(axis=1)
    return distance_N


def _class_means(embedding_ND: Embeddings, category_N: Categories) -> tuple[Floats, npt.NDArray[np.intp]]:
    """The mean of the unit rows of each category present, [C, D], and the row of it each embedding belongs to, [N]."""
    unit_ND = _unit("embedding_ND", embedding_ND)
    if category_N.shape != (len(unit_ND),):
        raise ValueError(
            f"category_N must hold one category per row of embedding_ND, shape ({len(unit_ND)},); "
            f"got shape {category_N.shape}; pass both from the same items"
        )
    present_C, class_N = np.unique(category_N, return_inverse=True)
    return np.stack([unit_ND[class_N == c].mean(axis=0) for c in range(len(present_C))]), class_N


def _same_shape(**arrays: Embeddings) -> None:
    shapes = {name: array.shape for name, array in arrays.items()}
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"row n must be the same item everywhere, so the shapes must be equal; got {listed}")
