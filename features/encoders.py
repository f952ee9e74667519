"""Frozen dual encoders by name."""

from __future__ import annotations

import importlib

import torch

from ctvr_bench.features.dual_encoder import Encoder
from ctvr_bench.features.errors import InputError

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
    from ctvr_bench.features.clip_towers import load_clip  # two heavy libraries of an extra

    return load_clip(name_or_folder, chosen)


def _choose_device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.partition(":")[0] == "cuda" and not torch.cuda.is_available():
        raise InputError("device cuda: torch sees no GPU here; use cpu or auto")
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise InputError(f"device {device!r}: must be auto, cpu or cuda") from error
