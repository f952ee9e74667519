"""Feature stores by what a user may write: a file, or a world of the embedded benchmark by its seed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from ctvr_bench.features.errors import InputError
from ctvr_bench.features.stages import OnStage, say_nothing

if TYPE_CHECKING:
    from ctvr_bench.features.store import FeatureStore

_WORLD = re.compile(r"moving-shapes:(\d+)")
_DIGITS = 12  # what the generators of a world take
DEFAULT_WORLD = "moving-shapes:0"
TUNING_WORLDS = ("moving-shapes:1001", "moving-shapes:1002", "moving-shapes:1003")
"""Where defaults are tuned: worlds that no reported table uses."""


def is_world(name: str | Path) -> bool:
    """Whether a store is named by its world's seed.

    >>> is_world("moving-shapes:3"), is_world("moving-shapes.h5")
    (True, False)
    """
    return _WORLD.fullmatch(str(name)) is not None


def is_embedded(store: FeatureStore) -> bool:
    """Whether the defaults of learning rate and epochs were made for stores of this kind."""
    return store.name.startswith("moving shapes, ")


def store_path(name: str | Path, on_stage: OnStage = say_nothing) -> Path:
    """The file of a store; that of a world is built in the cache folder if it is not there."""
    seed = _seed(name)
    if seed is None:
        return Path(name)
    from ctvr_bench.features.worlds.build import default_store_path

    return default_store_path(seed, on_stage)


def is_unbuilt_world(name: str | Path) -> bool:
    """Whether a store is a world that is not in the cache folder, so that no run of it can be there."""
    seed = _seed(name)
    if seed is None:
        return False
    from ctvr_bench.features.worlds.build import default_world_file

    return not default_world_file(seed).is_file()


def _seed(name: str | Path) -> int | None:
    """Of a world; None for a file. Raises InputError for a number that is no seed."""
    match = _WORLD.fullmatch(str(name))
    if match is None:
        return None
    if len(match[1]) > _DIGITS:
        raise InputError(f"the seed of a world has at most {_DIGITS} digits; got {len(match[1]):,}. Choose another")
    return int(match[1])


def short_name(name: str | Path) -> str:
    """How a store is called in the name of a folder.

    >>> short_name("moving-shapes:3"), short_name("data/msrvtt.h5")
    ('moving-shapes-3', 'msrvtt')
    """
    return str(name).replace(":", "-") if is_world(name) else Path(name).stem
