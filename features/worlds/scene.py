"""What is in a video: one or two objects with attributes, a background, one of twenty motions; sampled from a prior.

Axes: N scenes, 2 objects (the second may be absent), C categories, K values of an attribute.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from ctvr_bench.features.worlds import words

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

CATEGORIES = tuple(words.VERBS)
OBJECT_ATTRIBUTES = ("shape", "colour", "size", "texture")
NEEDS_TWO = tuple("{other}" in phrases[0] for phrases in words.VERBS.values())
NEUTRAL_SIZE = ("grow", "shrink")  # where the size changes, no caption names one
RGB = np.array(
    [
        (0.9, 0.1, 0.1),
        (0.1, 0.7, 0.15),
        (0.15, 0.25, 0.95),
        (0.95, 0.9, 0.1),
        (1.0, 0.5, 0.05),
        (0.55, 0.1, 0.75),
        (1.0, 0.55, 0.75),
        (0.1, 0.85, 0.9),
        (0.97, 0.97, 0.97),
        (0.5, 0.28, 0.1),
    ]
)
BACKGROUND_RGB = np.array(
    [
        (0.05, 0.05, 0.05),
        (0.45, 0.45, 0.45),
        (0.05, 0.08, 0.3),
        (0.8, 0.7, 0.5),
        (0.38, 0.38, 0.38),
        (0.3, 0.45, 0.5),
        (0.25, 0.33, 0.28),
        (0.4, 0.4, 0.4),
    ]
)
MIN_CONTRAST = 0.38  # distance in RGB below which an object can hardly be seen
_VISIBLE = np.linalg.norm(RGB[:, None] - BACKGROUND_RGB, axis=-1) >= MIN_CONTRAST
_ROUND = (0, 4)  # disc and ring
_SAME_ALL_ROUND, _STRIPED = (0, 3), 1  # plain and outlined; striped


@dataclass(frozen=True)
class Scenes:
    """Many scenes, one row each. Attribute values are positions in `words.NAMES`.

    count_N: 1 or 2 objects. tilt_N2: radians. final_colour_N: what the first object's colour turns into, equal to its
    colour except in 'change colour'. way_N: position in `words.WAYS`, 0 where the category has none. tempo_N: 0 slow,
    1 fast. chance_N8: uniform numbers that place the motion.
    """

    category_N: Ints
    count_N: Ints
    shape_N2: Ints
    colour_N2: Ints
    size_N2: Ints
    texture_N2: Ints
    tilt_N2: Floats
    background_N: Ints
    final_colour_N: Ints
    way_N: Ints
    tempo_N: Ints
    chance_N8: Floats

    def __len__(self) -> int:
        return len(self.category_N)

    def __getitem__(self, rows: slice | Ints) -> Scenes:
        return Scenes(*(getattr(self, field.name)[rows] for field in fields(self)))

    def of_object(self, attribute: str) -> Ints:
        """[N, 2] values of an attribute of `OBJECT_ATTRIBUTES`."""
        values: Ints = getattr(self, f"{attribute}_N2")
        return values


@dataclass(frozen=True)
class Prior:
    """How often each attribute value occurs in each category: tables_CK by attribute, rows sum to one."""

    tables_CK: Mapping[str, Floats]

    def draw(self, rng: np.random.Generator, attribute: str, category_N: Ints) -> Ints:
        cumulative_NK = np.cumsum(self.tables_CK[attribute], axis=1)[category_N]
        drawn = (rng.random((len(category_N), 1)) > cumulative_NK[:, :-1]).sum(axis=1)
        return np.asarray(drawn, np.int64)


def even_prior(exponent: float) -> Prior:
    """The same in every category; the k-th value of an attribute has weight 1 / k^exponent (so the last are rare)."""
    tables = {}
    for attribute, values in words.NAMES.items():
        weight_K = 1 / np.arange(1, len(values) + 1) ** (0.0 if attribute == "size" else exponent)
        tables[attribute] = np.tile(weight_K / weight_K.sum(), (len(CATEGORIES), 1))
    return Prior(tables)


def skewed_prior(rng: np.random.Generator, concentration: float) -> Prior:
    """Each category favours some values: rows from Dirichlet(concentration), sizes evenly."""
    tables = {}
    for attribute, values in words.NAMES.items():
        alpha = 1e3 if attribute == "size" else concentration
        tables[attribute] = rng.dirichlet(np.full(len(values), alpha), len(CATEGORIES))
    return Prior(tables)


def sample_scenes(rng: np.random.Generator, category_N: Ints, prior: Prior, two_share: float = 0.5) -> Scenes:
    """One scene for each entry of `category_N`.

    two_share: share of scenes with a bystander among categories that need no second object. The two objects differ in
    shape or colour, and every object can be told from its background.
    """
    n = len(category_N)
    needs_two_N = np.array(NEEDS_TWO)[category_N]
    count_N = np.where(needs_two_N | (rng.random(n) < two_share), 2, 1)
    drawn = {a: np.stack([prior.draw(rng, a, category_N) for _ in range(2)], axis=1) for a in OBJECT_ATTRIBUTES}
    background_N = prior.draw(rng, "background", category_N)
    bad_N = np.ones(n, bool)
    for attempt in range(200):
        colour_N2, shape_N2 = drawn["colour"], drawn["shape"]
        same_N = (colour_N2[:, 0] == colour_N2[:, 1]) & (shape_N2[:, 0] == shape_N2[:, 1])
        bad_N = same_N | ~_VISIBLE[colour_N2, background_N[:, None]].all(axis=1)
        rows = np.flatnonzero(bad_N)
        if not rows.size:
            break
        source = prior if attempt < 50 else even_prior(0.0)  # a prior may put all its weight on what cannot be seen
        for attribute in ("colour", "shape"):
            for k in range(2):
                drawn[attribute][rows, k] = source.draw(rng, attribute, category_N[rows])
    final_N = drawn["colour"][:, 0].copy()
    for row in np.flatnonzero(category_N == CATEGORIES.index("change colour")):
        others = np.flatnonzero(_VISIBLE[:, background_N[row]])
        final_N[row] = rng.choice(others[others != final_N[row]])
    spinning_N = category_N == CATEGORIES.index("spin")
    round_N = np.isin(drawn["shape"][:, 0], _ROUND) & np.isin(drawn["texture"][:, 0], _SAME_ALL_ROUND)
    drawn["texture"][spinning_N & round_N, 0] = _STRIPED  # else nothing would be seen to spin
    ways_C = np.array([len(words.WAYS.get(name, ((),))) for name in CATEGORIES])
    return Scenes(
        category_N=category_N,
        count_N=count_N,
        **{f"{attribute}_N2": values for attribute, values in drawn.items()},
        tilt_N2=rng.uniform(-0.35, 0.35, (n, 2)),
        background_N=background_N,
        final_colour_N=final_N,
        way_N=rng.integers(0, ways_C[category_N]),
        tempo_N=rng.integers(0, 2, n),
        chance_N8=rng.random((n, 8)),
    )
