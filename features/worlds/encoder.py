"""The trained moving-shapes encoder as extraction uses it; its weights lie beside this file in half precision.

Axes: F frames, n captions, T words of all of them together, D features. Meets `features.dual_encoder.Encoder`.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from ctvr_bench.features.dual_encoder import EncodedCaptions
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.worlds import model
from ctvr_bench.features.worlds.film import SIZE
from ctvr_bench.features.worlds.words import vocabulary

WEIGHTS = Path(__file__).with_name("encoder.safetensors")
_PICTURES = 256  # encoded together


class MovingShapesEncoder:
    """A `DualEncoder` on one device, and what the store records of it."""

    dim = model.DIM
    image_size = SIZE

    def __init__(self, towers: model.DualEncoder, provenance: Mapping[str, Any], device: str = "cpu") -> None:
        self._towers = towers.eval().requires_grad_(False).to(device)
        self._device = device
        self.provenance = dict(provenance)

    @property
    def scale(self) -> float:
        """What similarities were multiplied with before the softmax in training."""
        return float(self._towers.log_scale.exp())

    def prepare(self, frames_FHWC: npt.NDArray[np.uint8]) -> Tensor:
        pixels = model.normalise_pictures(torch.from_numpy(frames_FHWC))
        if pixels.shape[2:] != (SIZE, SIZE):
            pixels = functional.interpolate(pixels, (SIZE, SIZE), mode="bilinear", antialias=True)
        return pixels

    def encode_frames(self, pixels: Tensor) -> Tensor:
        with torch.inference_mode():
            parts = [self._towers.pictures(part.to(self._device)).cpu() for part in pixels.split(_PICTURES)]
        return torch.cat(parts)

    def encode_captions(self, texts: list[str]) -> EncodedCaptions:
        numbers_nL, truncated_n = model.word_numbers(texts)
        with torch.inference_mode():
            out_nLD = self._towers.text(numbers_nL.to(self._device)).cpu()
        real_nL = numbers_nL[:, 1:] != model.PADDING  # the sentence token is no word
        return EncodedCaptions(out_nLD[:, 0], out_nLD[:, 1:][real_nL], real_nL.sum(1), truncated_n)


def load_encoder(device: str = "cpu", path: Path = WEIGHTS) -> MovingShapesEncoder:
    """The committed encoder. Raises InputError where the file is damaged or belongs to another vocabulary."""
    try:
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["about"])
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read as encoder weights ({error}); train them again or reinstall"
        ) from error
    if about["vocabulary"] != _vocabulary_digest():
        raise InputError(f"{path}: was trained with other words; run 'python -m ctvr_bench.features.worlds.pretrain'")
    towers = model.DualEncoder()
    towers.load_state_dict(
        {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    )
    provenance = {
        "family": "moving-shapes",
        "model": "moving-shapes",
        "revision": f"seed {about['training']['seed']}",
        "weights": weights_digest(path),
        "dtype": "float32",
        "preprocessing": {"size": SIZE, "mean": model.MEAN, "std": model.STD},
        "versions": {"torch": metadata.version("torch")},
        "training": about["training"],
    }
    return MovingShapesEncoder(towers, provenance, device)


@functools.cache
def weights_digest(path: Path = WEIGHTS) -> str:
    """SHA-256 of the weights file."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); reinstall, or run "
            "'python -m ctvr_bench.features.worlds.pretrain'"
        ) from error


def save_weights(towers: model.DualEncoder, path: Path, training: Mapping[str, Any]) -> None:
    """Write the weights in half precision, with how they were trained."""
    halves = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in towers.state_dict().items()
    }
    about = {"training": dict(training), "vocabulary": _vocabulary_digest()}
    save_file(halves, path, {"about": json.dumps(about, sort_keys=True)})


def _vocabulary_digest() -> str:
    return hashlib.sha256(" ".join(vocabulary()).encode()).hexdigest()
