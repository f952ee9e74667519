"""A video, or a block of captions, through an encoder, as arrays; always in batches of the same composition.

Axes: n captions of the block, T frames of the video or words of all captions, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ctvr_bench.features.dual_encoder import Encoder
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.read_ahead import Reading
from ctvr_bench.features.schema import Array

FRAME_BATCH = 64
CAPTION_BATCH = 256


def encode_video(reading: Reading, encoder: Encoder, dtype: str) -> dict[str, Array]:
    """features [T, D] of a video's frames, their count, the reason why it gave none, and damage (as of a `Reading`)."""
    waiting: list[Tensor] = []  # prepared frames, fewer than a batch of them between two chunks
    features: list[Array] = []
    count = 0
    for pixels in reading:
        count += len(pixels)
        waiting.append(pixels)
        while sum(map(len, waiting)) >= FRAME_BATCH:
            batch = torch.cat(waiting)
            features.append(_stored(encoder.encode_frames(batch[:FRAME_BATCH]), dtype))
            waiting = [batch[FRAME_BATCH:]]
    if sum(map(len, waiting)):
        features.append(_stored(encoder.encode_frames(torch.cat(waiting)), dtype))
    return {
        "features": np.concatenate([np.empty((0, encoder.dim), dtype), *features]),
        "count": np.array(count, np.int32),
        "reason": np.array(reading.reason),
        "damage": np.array(reading.damage),
    }


def encode_caption_block(texts: Sequence[str], encoder: Encoder, dtype: str) -> dict[str, Array]:
    """pooled [n, D], words [T, D], lengths [n] words of each, truncated [n] bool."""
    parts = [encoder.encode_captions(list(texts[i : i + CAPTION_BATCH])) for i in range(0, len(texts), CAPTION_BATCH)]
    return {
        "pooled": _stored(torch.cat([part.pooled for part in parts]), dtype),
        "words": _stored(torch.cat([part.words for part in parts]), dtype),
        "lengths": torch.cat([part.lengths for part in parts]).numpy(),
        "truncated": torch.cat([part.truncated for part in parts]).numpy(),
    }


def _stored(features: Tensor, dtype: str) -> Array:
    with np.errstate(over="ignore"):
        stored: np.ndarray[Any, Any] = features.numpy().astype(dtype)
    if not np.isfinite(stored).all():
        raise InputError(
            f"the encoder gives numbers that {dtype} cannot hold, or none at all; "
            "store float32, and look at the model's weights if that does not help"
        )
    return stored
