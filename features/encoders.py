"""Frozen dual encoders behind one protocol, by name. The CLIPs of transformers and open_clip are in clip_towers.py.

Axes: F frames, S side of the square input, n captions, T words of all of them together, D features.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
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


# Encoders of this suite by name: module and function(device) -> Encoder, imported when asked for.
NAMED = {"moving-shapes": ("ctvr_bench.features.worlds.encoder", "load_encoder")}


def load_encoder(name_or_folder: str, device: str = "auto") -> Encoder:
    """The encoder of that name, ready on `device` ('auto': the GPU if there is one).

    name_or_folder: a CLIP or SigLIP of transformers by name ('openai/clip-vit-base-patch32') or local folder; a CLIP of
    open_clip as architecture and weights ('ViT-B-32:laion2b_s34b_b79k' or 'ViT-B-32:FILE'); or a name in `NAMED`.
    On CUDA towers run in float16 mixed precision, elsewhere in float32. Raises InputError, in one line.
    """
    chosen = _choose_device(device)
    if name_or_folder in NAMED:
        module, function = NAMED[name_or_folder]
        encoder: Encoder = getattr(importlib.import_module(module), function)(str(chosen))
        return encoder
    load: Callable[[str, torch.device], Encoder] = importlib.import_module("ctvr_bench.features.clip_towers").load_clip
    return load(name_or_folder, chosen)


def _choose_device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.partition(":")[0] == "cuda" and not torch.cuda.is_available():
        raise InputError("device cuda: torch sees no GPU here; use cpu or auto")
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise InputError(f"device {device!r}: must be auto, cpu or cuda") from error
