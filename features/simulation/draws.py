"""Random numbers that depend on the seed, on what they are for and on the row they belong to, and on nothing else.

So a store is the same in whatever blocks it is written, and a knob of the captions leaves the frames as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from ctvr_bench.features.schema import Array


def generators(seed: int, purpose: str, rows: Iterable[int]) -> Iterator[np.random.Generator]:
    """A generator of its own for every purpose and row."""
    key = np.random.SeedSequence([seed, *purpose.encode()]).generate_state(1, np.uint64)[0]
    return (np.random.Generator(np.random.Philox(key=np.array([key, row], np.uint64))) for row in rows)


def normals(seed: int, purpose: str, rows: Iterable[int], *shape: int) -> Array:
    """Standard Gaussians [rows, *shape]."""
    draws = [rng.standard_normal(shape, np.float32) for rng in generators(seed, purpose, rows)]
    return np.array(draws, np.float64).reshape(-1, *shape)


def uniforms(seed: int, purpose: str, rows: Iterable[int], *shape: int) -> Array:
    """Numbers from 0 to 1, [rows, *shape]."""
    return np.array([rng.random(shape) for rng in generators(seed, purpose, rows)]).reshape(-1, *shape)


def ragged(
    seed: int, purpose: str, rows: Array, length_B: Array, draw: Callable[[np.random.Generator, int], Array]
) -> Array:
    """What `draw(generator, length)` gives for each row, one after the other along the first axis."""
    rngs = generators(seed, purpose, rows)
    draws = [draw(rng, int(length)) for rng, length in zip(rngs, length_B, strict=True)]
    return np.concatenate(draws).astype(np.float64)
