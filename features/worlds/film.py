"""What a camera adds to the pictures: the look of its film, its own motion, blur, light and noise.

Axes: N videos, F frames, P = N * F pictures, H = W = SIZE pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ctvr_bench.features.worlds.scene import Floats

SIZE = 48


@dataclass(frozen=True)
class Shift:
    """How far the camera departs from the pictures that the encoder was trained on.

    The same in every video, the look of the film: hue: degrees by which all colours are turned. saturation: 1 leaves
    it, 0 is grey. blur, ghost: 0..1, share of the defocused picture and of the previous frame. Different in every
    video: pan, wobble: pixels (largest slow drift, and hand tremor). zoom: largest relative change. light: largest
    relative change of each colour. noise: largest standard deviation added to the renderer's own.
    """

    hue: float = 0.0
    saturation: float = 1.0
    blur: float = 0.0
    ghost: float = 0.0
    pan: float = 0.0
    wobble: float = 0.0
    zoom: float = 0.0
    light: float = 0.0
    noise: float = 0.0


@dataclass(frozen=True)
class Film:
    """What N videos look like. tone_N33: matrices that turn the colours of the picture."""

    pan_N2: Floats
    wobble_N4: Floats  # amplitude in x and y, phase in x and y
    zoom_N: Floats
    blur_N: Floats
    ghost_N: Floats
    tone_N33: Floats
    noise_N: Floats

    def __getitem__(self, rows: slice) -> Film:
        return Film(*(getattr(self, field.name)[rows] for field in fields(self)))


def sample_film(rng: np.random.Generator, n: int, shift: Shift) -> Film:
    """A camera for each of n videos: one look for all, the rest drawn for each video, so nothing tells its category."""
    angle_N, reach_N = rng.uniform(0, 2 * np.pi, n), shift.pan * rng.uniform(0.3, 1, n)
    wobble_N2 = shift.wobble * rng.uniform(0, 1, (n, 2))
    gain_N3 = rng.uniform(0.92, 1.08, (n, 1)) * (1 + shift.light * rng.uniform(-1, 1, (n, 3)))
    return Film(
        pan_N2=np.stack([reach_N * np.cos(angle_N), reach_N * np.sin(angle_N)], axis=1),
        wobble_N4=np.concatenate([wobble_N2, rng.uniform(0, 2 * np.pi, (n, 2))], axis=1),
        zoom_N=shift.zoom * rng.uniform(-1, 1, n),
        blur_N=np.full(n, shift.blur),
        ghost_N=np.full(n, shift.ghost),
        tone_N33=gain_N3[:, :, None] * _look(shift),
        noise_N=0.02 + shift.noise * rng.uniform(0, 1, n),
    )


def view(film: Film, time_NF: Floats) -> tuple[Tensor, Tensor]:
    """World coordinates in pixels of the centres of every column [P, W] and of every row [P, H]."""
    amplitude_N12, phase_N12 = film.wobble_N4[:, None, :2], film.wobble_N4[:, None, 2:]
    wobble_NF2 = amplitude_N12 * np.sin(2 * np.pi * time_NF[..., None] * np.array([2.3, 3.1]) + phase_N12)
    offset_NF2 = film.pan_N2[:, None] * (time_NF[..., None] - 0.5) + wobble_NF2
    scale_NF = 1 / (1 + film.zoom_N[:, None] * (time_NF * 1.2 - 0.2))
    centred_H = torch.arange(SIZE) + 0.5 - SIZE / 2
    scaled_PH = centred_H * torch.from_numpy(scale_NF).float().flatten()[:, None]
    offset_P2 = torch.from_numpy(offset_NF2).float().flatten(0, 1) + SIZE / 2
    return scaled_PH + offset_P2[:, :1], scaled_PH + offset_P2[:, 1:]


def develop(picture_NF3HW: Tensor, film: Film, noise_NF1HW: Tensor) -> Tensor:
    """Blur, ghosts of the previous frame, light and (of deviation 1 before) noise; uint8."""
    n, f = picture_NF3HW.shape[:2]
    if film.blur_N.any():
        taps = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
        kernel = torch.outer(taps, taps)
        planes = n * f * 3  # as channels of one picture: three at a time leave most of a vector register empty
        padded = functional.pad(picture_NF3HW.reshape(1, planes, SIZE, SIZE), (2, 2, 2, 2), mode="replicate")
        blurred = functional.conv2d(padded, kernel.expand(planes, 1, 5, 5), groups=planes).view_as(picture_NF3HW)
        picture_NF3HW = torch.lerp(picture_NF3HW, blurred, _per_video(film.blur_N))
    if film.ghost_N.any():
        previous = torch.cat([picture_NF3HW[:, :1], picture_NF3HW[:, :-1]], dim=1)
        picture_NF3HW = torch.lerp(picture_NF3HW, previous, _per_video(film.ghost_N))
    lit = torch.einsum("nij,nfjhw->nfihw", torch.from_numpy(film.tone_N33).float(), picture_NF3HW)
    lit += _per_video(film.noise_N) * noise_NF1HW
    return lit.clamp_(0, 1).mul_(255).round_().to(torch.uint8)


def _look(shift: Shift) -> Floats:
    """The colour matrix [3, 3] of hue and saturation."""
    turned = _hue_turn(shift.hue)
    return np.asarray(shift.saturation * turned + (1 - shift.saturation) / 3)


def _hue_turn(degrees: float) -> Floats:
    """The colour matrix [3, 3] that turns every hue about the grey axis; red goes to green, green to blue."""
    angle = np.radians(degrees)
    across = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    return np.asarray(np.cos(angle) * np.eye(3) + (1 - np.cos(angle)) / 3 + np.sin(angle) * across)


def _per_video(values_N: Floats) -> Tensor:
    return torch.from_numpy(values_N).float()[:, None, None, None, None]
