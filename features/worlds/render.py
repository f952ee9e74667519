"""Scenes as pictures: uint8 frames, as a camera sees them.

Axes: N videos, F frames, P = N * F pictures, H = W = SIZE pixels, 2 objects;
R pictures with the same shape, K rows and columns of each that its object may touch.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ctvr_bench.features.worlds import motion
from ctvr_bench.features.worlds.film import SIZE, Film, develop, view
from ctvr_bench.features.worlds.scene import BACKGROUND_RGB, CATEGORIES, RGB, Floats, Ints, Scenes

RADIUS = (5.0, 8.0, 12.0)  # pixels, by size
_PICTURES = 768  # whose noise is drawn together
_DRAWN = 192  # pictures drawn together: their planes stay in a core's cache
_REACH = 1.25  # nothing is painted farther from an object's centre than this times (radius + 1 pixel)
_PASS_BEHIND = CATEGORIES.index("pass behind")
_Shape = Callable[[Tensor, Tensor], Tensor]


def render(scenes: Scenes, time_NF: Floats, film: Film, seed: int) -> npt.NDArray[np.uint8]:
    """uint8 [N, F, SIZE, SIZE, 3]: every scene at its moments `time_NF` (0..1), filmed. `seed` draws the noise."""
    n, f = time_NF.shape
    frames = np.empty((n, f, SIZE, SIZE, 3), np.uint8)
    step, videos = max(1, _PICTURES // f), max(1, _DRAWN // f)
    for start in range(0, n, step):
        stop = min(start + step, n)
        drawn = torch.Generator().manual_seed(seed + start)
        noise_NF1HW = torch.randn(stop - start, f, 1, SIZE, SIZE, generator=drawn)
        for first in range(start, stop, videos):
            part = slice(first, min(first + videos, stop))
            pictures = _draw(scenes[part], time_NF[part], film[part])
            developed = develop(pictures, film[part], noise_NF1HW[first - start : part.stop - start])
            frames[part] = developed.permute(0, 1, 3, 4, 2).numpy()
    return frames


def _draw(scenes: Scenes, time_NF: Floats, film: Film) -> Tensor:
    """Clean pictures [N, F, 3, H, W] in 0..1, seen from where the camera is."""
    n, f = time_NF.shape
    state_P26 = torch.from_numpy(motion.states(scenes, time_NF)).float().flatten(0, 1)
    x_PW, y_PH = view(film, time_NF)
    picture_P3HW = _backgrounds(_repeat(scenes.background_N, f), _repeat(scenes.chance_N8[:, 7], f), x_PW, y_PH)
    behind_P = _repeat(scenes.category_N == _PASS_BEHIND, f)
    rgb = torch.from_numpy(RGB).float()
    first_P3, last_P3 = rgb[_repeat(scenes.colour_N2[:, 0], f)], rgb[_repeat(scenes.final_colour_N, f)]
    done_P1 = state_P26[:, 0, motion.RECOLOUR, None]
    colour_P23 = torch.stack([first_P3 + (last_P3 - first_P3) * done_P1, rgb[_repeat(scenes.colour_N2[:, 1], f)]], 1)
    shape_P2, texture_P2 = _repeat(scenes.shape_N2, f), _repeat(scenes.texture_N2, f)
    radius_P2 = torch.tensor(RADIUS)[_repeat(scenes.size_N2, f)] * state_P26[..., motion.SCALE]
    turn_P2 = state_P26[..., motion.TURN] + _repeat(scenes.tilt_N2, f)
    for layer in range(2):
        item_P = torch.where(behind_P, layer, 1 - layer)
        for shape, inside in enumerate(_SHAPES):
            pick = torch.arange(n * f), item_P
            rows = torch.nonzero((shape_P2[pick] == shape) & (state_P26[(*pick, motion.OPACITY)] > 0)).flatten()
            if not len(rows):
                continue
            at = rows, item_P[rows]
            place, radius_R = state_P26[at], radius_P2[at]
            dx_RK, x_RK = _near(x_PW[rows] - place[:, motion.X, None] * SIZE, radius_R)
            dy_RK, y_RK = _near(y_PH[rows] - place[:, motion.Y, None] * SIZE, radius_R)
            radius = radius_R[:, None, None]
            dx, dy = dx_RK[:, None, :] / radius, dy_RK[:, :, None] / radius
            cos, sin = torch.cos(turn_P2[at])[:, None, None], torch.sin(turn_P2[at])[:, None, None]
            u, v = cos * dx + sin * dy, cos * dy - sin * dx
            depth = inside(u, v) * radius  # pixels inside the edge
            cover = ((depth + 0.5).clamp(0, 1) * place[:, motion.OPACITY, None, None])[:, None]
            painted = _paint(texture_P2[at], colour_P23[at], u, v, depth)
            plane_R3 = rows[:, None] * 3 + torch.arange(3)
            pixel_R3KK = (plane_R3[:, :, None] * SIZE + y_RK[:, None])[..., None] * SIZE + x_RK[:, None, None]
            picture_P3HW.put_(pixel_R3KK, torch.lerp(picture_P3HW.take(pixel_R3KK), painted, cover))
    picture_NF3HW: Tensor = picture_P3HW.unflatten(0, (n, f))
    return picture_NF3HW


def _near(offset_RW: Tensor, radius_R: Tensor) -> tuple[Tensor, Tensor]:
    """K neighbouring columns (or rows) of every picture that hold all an object may touch: offsets and places [R, K].

    offset_RW: pixels from the object's centre, rising.
    """
    reach_R1 = (_REACH * (radius_R + 1))[:, None]
    before_R, touched_R = (offset_RW < -reach_R1).sum(1), (offset_RW.abs() <= reach_R1).sum(1)
    most = max(1, int(touched_R.max()))
    place_RK = before_R.clamp(max=SIZE - most)[:, None] + torch.arange(most)
    return offset_RW.gather(1, place_RK), place_RK


def _repeat(values: Ints | Floats | npt.NDArray[np.bool_], f: int) -> Tensor:
    """One row per picture from one per video."""
    repeated = np.repeat(values, f, axis=0)
    tensor: Tensor = torch.from_numpy(repeated)
    return tensor.float() if repeated.dtype == np.float64 else tensor


def _backgrounds(background_P: Tensor, phase_P: Tensor, x_PW: Tensor, y_PH: Tensor) -> Tensor:
    """[P, 3, H, W]; patterns are fixed to the world, so that a moving camera moves them."""
    grain = torch.rand(64, 64, generator=torch.Generator().manual_seed(5)) * 0.6 + 0.1
    picture = torch.empty(len(background_P), 3, SIZE, SIZE)
    plain = torch.from_numpy(BACKGROUND_RGB).float()
    for value in range(len(BACKGROUND_RGB)):
        rows = torch.nonzero(background_P == value).flatten()
        x = (x_PW[rows] + 12 * phase_P[rows, None])[:, None, :]
        y = (y_PH[rows] + 12 * phase_P[rows, None])[:, :, None]
        if value == 4:
            picture[rows] = (0.24 + 0.28 * ((x.div(6).floor() + y.div(6).floor()) % 2))[:, None]
        elif value == 5:
            top, bottom = torch.tensor([0.08, 0.3, 0.3]), torch.tensor([0.52, 0.5, 0.68])
            height_RH = (y_PH[rows] / SIZE).clamp(0, 1)
            picture[rows] = torch.lerp(top[:, None], bottom[:, None], height_RH[:, None])[..., None]
        elif value == 6:
            line = ((x % 8 < 1.2) | (y % 8 < 1.2)).float()[:, None]
            picture[rows] = 0.15 + 0.5 * line * torch.tensor([0.4, 1.0, 0.6])[:, None, None]
        elif value == 7:
            picture[rows] = grain[y.div(3).floor().long() % 64, x.div(3).floor().long() % 64][:, None]
        else:
            picture[rows] = plain[value][:, None, None]
    return picture


def _paint(texture: Tensor, colour: Tensor, u: Tensor, v: Tensor, depth: Tensor) -> Tensor:
    """Object colours [P, 3, H, W] with stripes, dots or an edge in a darker tone (a lighter one on dark colours)."""
    luma = colour @ torch.tensor([0.3, 0.59, 0.11])
    accent = torch.where(luma[:, None] > 0.4, colour * 0.4, colour * 0.45 + 0.55)
    marked = torch.zeros_like(u)
    for kind, pattern in enumerate((_stripes, _dots, _edge), 1):
        rows = torch.nonzero(texture == kind).flatten()
        if len(rows):
            marked[rows] = pattern(u[rows], v[rows], depth[rows]).float()
    return torch.lerp(colour[:, :, None, None], accent[:, :, None, None], marked[:, None])


def _stripes(u: Tensor, v: Tensor, depth: Tensor) -> Tensor:
    return (u * 2.2) % 1 < 0.45


def _dots(u: Tensor, v: Tensor, depth: Tensor) -> Tensor:
    return ((u * 2.4) % 1 - 0.5) ** 2 + ((v * 2.4) % 1 - 0.5) ** 2 < 0.085


def _edge(u: Tensor, v: Tensor, depth: Tensor) -> Tensor:
    deepest = depth.amax(dim=(1, 2), keepdim=True)
    return depth < (0.4 * deepest).clamp(max=1.8)  # thin shapes keep most of their colour


def _disc(u: Tensor, v: Tensor) -> Tensor:
    return 1 - torch.hypot(u, v)


def _square(u: Tensor, v: Tensor) -> Tensor:
    return 0.85 - torch.maximum(u.abs(), v.abs())


def _triangle(u: Tensor, v: Tensor) -> Tensor:
    return torch.minimum(0.65 - v, (v + 1.05 - 1.75 * u.abs()) * 0.5)


def _diamond(u: Tensor, v: Tensor) -> Tensor:
    return (1.1 - u.abs() * 1.5 - v.abs()) * 0.6


def _ring(u: Tensor, v: Tensor) -> Tensor:
    radius = torch.hypot(u, v)
    return torch.minimum(1 - radius, radius - 0.5)


def _star(u: Tensor, v: Tensor) -> Tensor:
    return (0.72 + 0.38 * torch.cos(5 * torch.atan2(u, -v)) - torch.hypot(u, v)) * 0.6


def _cross(u: Tensor, v: Tensor) -> Tensor:
    upright = torch.minimum(1 - v.abs(), 0.32 - u.abs())
    return torch.maximum(upright, torch.minimum(1 - u.abs(), 0.32 - v.abs()))


def _crescent(u: Tensor, v: Tensor) -> Tensor:
    return torch.minimum(1 - torch.hypot(u, v), torch.hypot(u - 0.5, v) - 0.75)


def _bar(u: Tensor, v: Tensor) -> Tensor:
    return torch.minimum(1.1 - u.abs(), 0.42 - v.abs())


def _dome(u: Tensor, v: Tensor) -> Tensor:
    """Flat side down."""
    return torch.minimum(1 - torch.hypot(u, v), 0.25 - v)


_SHAPES: tuple[_Shape, ...] = (_disc, _square, _triangle, _diamond, _ring, _star, _cross, _crescent, _bar, _dome)
