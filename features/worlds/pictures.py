"""Single pictures with captions, as the encoder is trained on: random moments of random scenes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ctvr_bench.features.worlds import captions, motion, render, scene
from ctvr_bench.features.worlds.film import Shift, sample_film

TRAIL = 0.12  # of a video's length
RARITY = 0.5  # exponent of the attribute prior, see `scene.even_prior`


def draw_pictures(
    rng: np.random.Generator, pictures: int, captions_each: int, rarity: float = RARITY
) -> tuple[npt.NDArray[np.uint8], list[str]]:
    """uint8 [N, SIZE, SIZE, 3] and N x captions_each texts, those of the first picture first.

    A picture has a faint trail of the moment before, as moving things leave in photographs.
    """
    scenes = scene.sample_scenes(rng, rng.integers(0, len(scene.CATEGORIES), pictures), scene.even_prior(rarity))
    now_N = rng.random(pictures)
    time_N2 = np.stack([np.maximum(now_N - TRAIL, 0), now_N], axis=1)
    state_N26 = motion.states(scenes, time_N2)[:, -1]
    film = replace(sample_film(rng, pictures, Shift()), ghost_N=rng.uniform(0, 0.6, pictures))
    shown = render.render(scenes, time_N2, film, int(rng.integers(1 << 31)))[:, -1]
    texts = [
        captions.describe_frame(rng, captions.PRETRAINING, scenes, row, state_N26[row]).text
        for row in range(pictures)
        for _ in range(captions_each)
    ]
    return shown, texts
