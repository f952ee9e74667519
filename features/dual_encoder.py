"""What a frozen dual encoder is: frames and captions become features of one space.

Axes: F frames, S side of the square input, n captions, T words of all of them together, D features.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ctvr_bench.features.errors import InputError

Frames = npt.NDArray[np.uint8]


class EncodedCaptions(NamedTuple):
    """pooled [n, D] and words [T, D] float32, raw; lengths [n] int64 words of each; truncated [n] bool."""

    pooled: Tensor
    words: Tensor
    lengths: Tensor
    truncated: Tensor


class Encoder(Protocol):
    """What turns frames and captions into features of one space; every output is float32 and not normalised.

    provenance: family, model, revision, weights (SHA-256), dtype, preprocessing, versions: what a store records.
    """

    dim: int
    image_size: int
    provenance: dict[str, Any]

    def prepare(self, frames_FHWC: Frames) -> Tensor:
        """uint8 frames of any size -> [F, 3, S, S], each frame on its own; called from several threads at once."""

    def encode_frames(self, pixels: Tensor) -> Tensor:
        """[F, 3, S, S] -> [F, D] after the visual projection."""

    def encode_captions(self, texts: list[str]) -> EncodedCaptions:
        """Pooled features, and those of the real words only: no start, end or padding token."""


class EncoderUnavailable(InputError):  # noqa: N818 - reads as what it is
    """A model that cannot be loaded: unknown, incomplete, or to be fetched while there is no network."""
