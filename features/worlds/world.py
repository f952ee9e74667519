"""A benchmark world: 20 categories of videos and captions, drawn from a seed, that differ from what the encoder saw.

The shift is partly global (the look of the film, blur, compression; wording and grammar): what one task teaches keeps
paying. It is partly each category's own (motion words, favoured attributes): what the next task overwrites.
`Knobs` were fixed on validation worlds; results/README.md has the evidence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ctvr_bench.features.schema import TEST, TRAIN, VALIDATION
from ctvr_bench.features.worlds import captions, scene
from ctvr_bench.features.worlds.captions import Caption
from ctvr_bench.features.worlds.film import Film, Shift, sample_film
from ctvr_bench.features.worlds.scene import Ints, Scenes

NUM_TASKS = 10


@dataclass(frozen=True)
class Knobs:
    """What a world is like.

    train, validation, test: videos of each category. captions: of a training video. queries: captions asked of a test
    video, since many captions of a few videos tell methods apart for less than many videos do (docs/statistics.md); a
    validation video has one.
    concentration: of the Dirichlet draw of a category's attributes, small for strong favourites. camera: see
    `Shift`. crf: lowest and highest H.264 rate factor of a video. synonyms, inverted, mention: see
    `captions.Speaker`.
    """

    train: int = 16
    validation: int = 8
    test: int = 40
    captions: int = 20
    queries: int = 5
    concentration: float = 0.5
    camera: Shift = field(
        default_factory=lambda: Shift(
            **{"hue": 25, "saturation": 0.7, "blur": 0.5, "ghost": 0.2},
            **{"pan": 1.5, "wobble": 0.4, "zoom": 0.04, "light": 0.02, "noise": 0.01},
        )
    )
    crf: tuple[int, int] = (24, 28)
    synonyms: tuple[float, float, float] = (0.34, 0.33, 0.33)
    inverted: float = 0.5
    mention: Mapping[str, float] = field(
        default_factory=lambda: {
            **{"shape": 0.8, "colour": 0.8, "size": 0.3, "texture": 0.5, "background": 0.5},
            **{"second": 0.5, "verb": 1.0, "way": 0.6, "tempo": 0.4},
        }
    )


@dataclass(frozen=True)
class World:
    """N videos and M captions before rendering.

    crf_N: rate factor of each video. caption_video_M: row of each caption's video. role_N: see schema.ROLES. query_N:
    caption row asked of a test or validation video, else -1. further_NK: rows asked of a test video beside it.
    task_of_category_C: int32.
    """

    seed: int
    scenes: Scenes
    film: Film
    crf_N: Ints
    captions: tuple[Caption, ...]
    caption_video_M: Ints
    role_N: npt.NDArray[np.int8]
    query_N: Ints
    further_NK: Ints
    task_of_category_C: npt.NDArray[np.int32]

    @property
    def video_ids(self) -> list[str]:
        """'spin-train-03' and so on."""
        names = {TRAIN: "train", VALIDATION: "validation", TEST: "test"}
        counts: dict[tuple[int, int], int] = {}
        ids = []
        for category, role in zip(self.scenes.category_N.tolist(), self.role_N.tolist(), strict=True):
            number = counts[category, role] = counts.get((category, role), 0) + 1
            ids.append(f"{scene.CATEGORIES[category].replace(' ', '-')}-{names[role]}-{number:02d}")
        return ids


def make_world(seed: int, knobs: Knobs | None = None) -> World:
    """The world of a seed: same seed, same knobs, same world."""
    knobs = knobs or Knobs()
    rng = np.random.default_rng([seed, 2026])
    roles = np.repeat(np.array([TRAIN, VALIDATION, TEST], np.int8), [knobs.train, knobs.validation, knobs.test])
    num_categories = len(scene.CATEGORIES)
    role_N = np.tile(roles, num_categories)
    category_N = np.repeat(np.arange(num_categories), len(roles))
    scenes = scene.sample_scenes(rng, category_N, scene.skewed_prior(rng, knobs.concentration))
    film = sample_film(rng, len(scenes), knobs.camera)
    crf_N = rng.integers(knobs.crf[0], knobs.crf[1] + 1, len(scenes))
    speaker = captions.Speaker(knobs.synonyms, knobs.inverted, knobs.mention)
    told: list[Caption] = []
    query_N = np.full(len(scenes), -1)
    caption_video: list[int] = []
    for row, role in enumerate(role_N.tolist()):
        number = knobs.captions if role == TRAIN else 1
        if role != TRAIN:
            query_N[row] = len(told)
        told += [captions.describe_video(rng, speaker, scenes, row) for _ in range(number)]
        caption_video += [row] * number
    task_of_category_C = (rng.permutation(num_categories) // (num_categories // NUM_TASKS)).astype(np.int32)
    further_NK = np.full((len(scenes), knobs.queries - 1), -1)
    for row in np.flatnonzero(role_N == TEST).tolist():  # after all else, which is the same for any number of them
        further_NK[row] = np.arange(len(told), len(told) + knobs.queries - 1)
        known = [told[query_N[row]].text]
        while len(known) < knobs.queries:
            caption = captions.describe_video(rng, speaker, scenes, row)
            if caption.text not in known:
                known.append(caption.text)
                told.append(caption)
                caption_video.append(row)
    return World(
        seed=seed,
        scenes=scenes,
        film=film,
        crf_N=crf_N,
        captions=tuple(told),
        caption_video_M=np.array(caption_video),
        role_N=role_N,
        query_N=query_N,
        further_NK=further_NK,
        task_of_category_C=task_of_category_C,
    )
