"""Which videos a caption really fits: the ceiling of any retrieval, known because the world is made up.

Axes: N scenes, M captions.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import numpy as np
import numpy.typing as npt

from ctvr_bench.features.worlds.captions import Caption, Claims
from ctvr_bench.features.worlds.scene import CATEGORIES, NEUTRAL_SIZE, Scenes

_SIZELESS = [CATEGORIES.index(name) for name in NEUTRAL_SIZE]


def fitting_videos(captions: Sequence[Caption], scenes: Scenes) -> npt.NDArray[np.bool_]:
    """bool [M, N]: whether all that a caption claims is so in a video.

    Where the motion is told, the objects have the roles the caption gives them; otherwise either may be either, a
    colour may be the one before or after a change, and an object that grows or shrinks has every size.
    """
    return np.stack([_fits(caption, scenes) for caption in captions])


def _fits(caption: Caption, scenes: Scenes) -> npt.NDArray[np.bool_]:
    claimed = {
        "category": scenes.category_N,
        "background": scenes.background_N,
        "way": scenes.way_N,
        "tempo": scenes.tempo_N,
        "final colour": scenes.final_colour_N,
    }
    fits_N = scenes.count_N >= len(caption.objects)
    for attribute, value in caption.scene.items():
        fits_N = fits_N & (claimed[attribute] == value)
    told = "category" in caption.scene
    roles = [tuple(range(len(caption.objects)))] if told else permutations(range(2), len(caption.objects))
    any_role_N = np.zeros(len(scenes), bool)
    for role in roles:
        present_N = scenes.count_N > max(role)
        matches = [_object_fits(claims, scenes, k, told) for claims, k in zip(caption.objects, role, strict=True)]
        any_role_N |= present_N & np.logical_and.reduce(matches)
    return np.asarray(fits_N & any_role_N)


def _object_fits(claims: Claims, scenes: Scenes, k: int, told: bool) -> npt.NDArray[np.bool_]:
    fits_N = np.ones(len(scenes), bool)
    for attribute, value in claims.items():
        matches_N = scenes.of_object(attribute)[:, k] == value
        if attribute == "colour" and k == 0 and not told:
            matches_N |= scenes.final_colour_N == value
        if attribute == "size" and k == 0 and not told:
            matches_N |= np.isin(scenes.category_N, _SIZELESS)
        fits_N &= matches_N
    return fits_N
