"""Finished videos and blocks of captions into the datasets of a store, one at a time.

Axes: N videos, F frames, M captions, T words of all captions, D features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ctvr_bench.features.blocks import Blocks
from ctvr_bench.features.hdf5 import FileWriter
from ctvr_bench.features.schema import Array
from ctvr_bench.features.stages import OnStage


def write_videos(
    writer: FileWriter,
    work: Blocks,
    inputs: Sequence[object],
    shape: tuple[int, int, int],
    dtype: str,
    on_stage: OnStage,
) -> None:
    """Frames and counts of these videos; past a video's own frames, zeros."""
    frames = writer.allocate("videos/frames", shape, dtype)
    counts_N = np.zeros(shape[0], np.int32)
    for row, given in enumerate(inputs):
        features = work.load("videos", given, "features")["features"]
        counts_N[row] = len(features)
        frames[row, : len(features)] = features
        on_stage("store", row + 1, shape[0])
    writer["videos/frame_count"] = counts_N


def write_captions(
    writer: FileWriter, work: Blocks, texts: Sequence[Sequence[str]], kept_M: Array, dim: int, dtype: str
) -> tuple[int, int]:
    """Features of the captions that are kept; how many of these were truncated, and their words."""
    small = [work.load("captions", list(block), "lengths", "truncated") for block in texts]
    length_M = np.concatenate([block["lengths"] for block in small])
    offsets = np.concatenate([[0], np.cumsum(length_M[kept_M])]).astype(np.int64)
    pooled = writer.allocate("captions/pooled", (int(kept_M.sum()), dim), dtype)
    words = writer.allocate("captions/words", (int(offsets[-1]), dim), dtype)
    row = word = start = 0
    for block in texts:
        found = work.load("captions", list(block), "lengths", "pooled", "words")
        kept = kept_M[start : start + len(block)]
        some_pooled, some_words = found["pooled"][kept], found["words"][np.repeat(kept, found["lengths"])]
        pooled[row : row + len(some_pooled)] = some_pooled
        words[word : word + len(some_words)] = some_words
        row, word, start = row + len(some_pooled), word + len(some_words), start + len(block)
    writer["captions/word_offsets"] = offsets
    truncated_M = np.concatenate([block["truncated"] for block in small])
    return int(truncated_M[kept_M].sum()), word
