"""Where every object is at a given time: the twenty motions.

Axes: N scenes, F moments, 2 objects, 6 state values (`X` ... `RECOLOUR`). Places are in 0..1 of the picture, y
downward.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ctvr_bench.features.worlds.scene import CATEGORIES, Floats, Scenes

X, Y, SCALE, TURN, OPACITY, RECOLOUR = range(6)
_Motion = Callable[[Scenes, Floats, Floats], None]


def states(scenes: Scenes, time_NF: Floats) -> Floats:
    """[N, F, 2, 6]: place, scale, turn in radians, opacity, and how far the first colour has become the final one.

    time_NF lies in 0..1. The second object stands still unless its category moves it; it has opacity 0 where absent.
    """
    n, f = time_NF.shape
    state_NF26 = np.zeros((n, f, 2, 6))
    chance_N18 = scenes.chance_N8[:, None]
    state_NF26[..., SCALE] = 1
    state_NF26[:, :, 0, OPACITY] = 1
    state_NF26[:, :, 1, OPACITY] = (scenes.count_N > 1)[:, None]
    state_NF26[:, :, 0, X] = 0.3 + 0.4 * chance_N18[..., 0]
    state_NF26[:, :, 0, Y] = 0.3 + 0.4 * chance_N18[..., 1]
    state_NF26[:, :, 1, X] = np.where(chance_N18[..., 2] < 0.5, 0.17, 0.73) + 0.1 * chance_N18[..., 3]
    state_NF26[:, :, 1, Y] = 0.18 + 0.64 * chance_N18[..., 4]
    for category in np.unique(scenes.category_N):
        rows = np.flatnonzero(scenes.category_N == category)
        part = state_NF26[rows]
        _MOTIONS[CATEGORIES[category]](scenes[rows], time_NF[rows], part)
        state_NF26[rows] = part
    return state_NF26


def _progress(s: Scenes, t: Floats) -> Floats:
    """0..1: slowly over the whole video, or quickly in its middle."""
    return np.where(s.tempo_N[:, None] == 0, t, np.clip((t - 0.32) / 0.36, 0, 1))


def _cycles(s: Scenes, t: Floats, slow: float) -> Floats:
    """Cycles done so far: `slow` in a slow video, twice as many in a fast one (at most 4, which 12 frames can show)."""
    return t * slow * (1 + s.tempo_N[:, None])


def _travel(s: Scenes, t: Floats) -> Floats:
    """A way through the middle of the picture, in its coordinates."""
    length = 0.55 + 0.15 * s.chance_N8[:, 5:6]
    return np.asarray(0.5 - length / 2 + length * _progress(s, t))


def _sign(s: Scenes) -> Floats:
    """-1 for the first way of a category, 1 for the second."""
    return np.asarray(2.0 * s.way_N[:, None] - 1)


def _move_left(s: Scenes, t: Floats, state: Floats) -> None:
    state[:, :, 0, X] = 1 - _travel(s, t)


def _move_right(s: Scenes, t: Floats, state: Floats) -> None:
    state[:, :, 0, X] = _travel(s, t)


def _move_up(s: Scenes, t: Floats, state: Floats) -> None:
    state[:, :, 0, Y] = 1 - _travel(s, t)


def _move_down(s: Scenes, t: Floats, state: Floats) -> None:
    state[:, :, 0, Y] = _travel(s, t)


def _move_diagonally(s: Scenes, t: Floats, state: Floats) -> None:
    to_right, to_bottom = (s.way_N % 2)[:, None], (s.way_N // 2)[:, None]
    state[:, :, 0, X] = np.where(to_right, _travel(s, t), 1 - _travel(s, t))
    state[:, :, 0, Y] = np.where(to_bottom, _travel(s, t), 1 - _travel(s, t))


def _angle(s: Scenes, t: Floats) -> Floats:
    """Clockwise on the screen (y points down) for the first way."""
    return np.asarray(2 * np.pi * (s.chance_N8[:, :1] - _sign(s) * _cycles(s, t, 0.9)))


def _circle(s: Scenes, t: Floats, state: Floats) -> None:
    state[:, :, 0, X], state[:, :, 0, Y] = 0.5 + 0.25 * np.cos(_angle(s, t)), 0.5 + 0.25 * np.sin(_angle(s, t))


def _orbit(s: Scenes, t: Floats, state: Floats) -> None:
    state[:, :, 1, X] = state[:, :, 1, Y] = 0.5
    state[:, :, 0, X], state[:, :, 0, Y] = 0.5 + 0.31 * np.cos(_angle(s, t)), 0.5 + 0.31 * np.sin(_angle(s, t))


def _zigzag(s: Scenes, t: Floats, state: Floats) -> None:
    length = 0.55 + 0.15 * s.chance_N8[:, 5:6]
    along = 0.5 - length / 2 + length * t
    along = np.where(s.chance_N8[:, 6:7] < 0.5, along, 1 - along)
    turns = _cycles(s, t, 1.5) + s.chance_N8[:, 1:2]
    across = 0.5 + 0.36 * (2 * np.abs(turns - np.floor(turns + 0.5)) - 0.5)
    vertical = s.way_N[:, None] == 1
    state[:, :, 0, X], state[:, :, 0, Y] = np.where(vertical, across, along), np.where(vertical, along, across)


def _bounce(s: Scenes, t: Floats, state: Floats) -> None:
    state[:, :, 0, Y] = 0.8 - 0.55 * np.abs(np.sin(np.pi * (_cycles(s, t, 1.5) + 0.5 * s.chance_N8[:, 1:2])))
    state[:, :, 0, X] += 0.15 * (t - 0.5)


def _grow(s: Scenes, t: Floats, state: Floats) -> None:
    state[:, :, 0, SCALE] = 0.5 + 1.1 * _progress(s, t)


def _shrink(s: Scenes, t: Floats, state: Floats) -> None:
    state[:, :, 0, SCALE] = 1.6 - 1.1 * _progress(s, t)


def _spin(s: Scenes, t: Floats, state: Floats) -> None:
    state[:, :, 0, TURN] = -_sign(s) * 2 * np.pi * _cycles(s, t, 0.75)


def _blink(s: Scenes, t: Floats, state: Floats) -> None:
    state[:, :, 0, OPACITY] = (_cycles(s, t, 1.5) + s.chance_N8[:, 5:6]) % 1 < 0.55


def _change_colour(s: Scenes, t: Floats, state: Floats) -> None:
    state[:, :, 0, RECOLOUR] = _progress(s, t)


def _fade(s: Scenes, t: Floats, state: Floats) -> None:
    gone = _progress(s, t)
    state[:, :, 0, OPACITY] = 0.05 + 0.95 * np.where(s.way_N[:, None] == 0, 1 - gone, gone)


def _follow(s: Scenes, t: Floats, state: Floats) -> None:
    length = (0.55 + 0.15 * s.chance_N8[:, 5:6]) * 0.75
    leader = 0.5 - length / 2 + length * _progress(s, t) + 0.18
    to_left = s.way_N[:, None] == 0
    state[:, :, 0, X] = np.where(to_left, 1 - (leader - 0.38), leader - 0.38)
    state[:, :, 1, X] = np.where(to_left, 1 - leader, leader)
    state[:, :, :, Y] = (0.3 + 0.4 * s.chance_N8[:, 1])[:, None, None]


def _mirror(s: Scenes, state: Floats) -> None:
    """Half of the scenes the other way round."""
    state[:, :, :, X] = np.where(s.chance_N8[:, 6, None, None] < 0.5, state[:, :, :, X], 1 - state[:, :, :, X])


def _collide(s: Scenes, t: Floats, state: Floats) -> None:
    apart = 0.13 + 0.36 * np.abs(1 - 2 * _progress(s, t))
    state[:, :, 0, X], state[:, :, 1, X] = 0.5 - apart, 0.5 + apart
    state[:, :, :, Y] = (0.3 + 0.4 * s.chance_N8[:, 1])[:, None, None]
    _mirror(s, state)


def _pass_behind(s: Scenes, t: Floats, state: Floats) -> None:
    state[:, :, 1, X] = 0.5
    state[:, :, :, Y] = (0.3 + 0.4 * s.chance_N8[:, 1])[:, None, None]
    state[:, :, 0, X] = np.where(s.way_N[:, None] == 0, 1 - _travel(s, t), _travel(s, t))


def _shake(s: Scenes, t: Floats, state: Floats) -> None:
    swing = (0.06 + 0.04 * s.chance_N8[:, 5:6]) * np.sin(2 * np.pi * (_cycles(s, t, 2.0) + s.chance_N8[:, 6:7]))
    vertical = s.way_N[:, None] == 1
    state[:, :, 0, X] += np.where(vertical, 0, swing)
    state[:, :, 0, Y] += np.where(vertical, swing, 0)


def _swap(s: Scenes, t: Floats, state: Floats) -> None:
    done = _progress(s, t)
    eased = done * done * (3 - 2 * done)
    state[:, :, 0, X], state[:, :, 1, X] = 0.22 + 0.56 * eased, 0.78 - 0.56 * eased
    state[:, :, 0, Y], state[:, :, 1, Y] = 0.5 - 0.22 * np.sin(np.pi * eased), 0.5 + 0.22 * np.sin(np.pi * eased)
    _mirror(s, state)


_MOTIONS: dict[str, _Motion] = {
    "move left": _move_left,
    "move right": _move_right,
    "move up": _move_up,
    "move down": _move_down,
    "move diagonally": _move_diagonally,
    "circle": _circle,
    "zigzag": _zigzag,
    "bounce": _bounce,
    "grow": _grow,
    "shrink": _shrink,
    "spin": _spin,
    "blink": _blink,
    "change colour": _change_colour,
    "fade": _fade,
    "follow": _follow,
    "collide": _collide,
    "pass behind": _pass_behind,
    "orbit": _orbit,
    "shake": _shake,
    "swap": _swap,
}
