"""The embedded stores: built on first use, kept in the user's cache folder."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

_WORLD = re.compile(r"moving-shapes-(\d+)-[0-9a-f]{12}")
Progress = Callable[[str, int, int], None]


def cache_folder() -> Path:
    """Where built stores are kept: CTVR_CACHE, or the user's cache folder."""
    named = os.environ.get("CTVR_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ctvr-bench"


def world_file(seed: int, content: str) -> Path:
    """Where the store of a world is kept. content: twelve hexadecimal digits, of all but its seed."""
    return cache_folder() / f"moving-shapes-{seed}-{content}.h5"


def world_of(store: Path) -> int | None:
    """Seed of the world that a file of the cache folder holds; None for any other file."""
    match = _WORLD.fullmatch(store.stem)
    return int(match[1]) if match and store.resolve().parent == cache_folder().resolve() else None


def default_store(progress: Progress = lambda stage, done, total: None) -> Path:
    """Path of the default store, moving shapes of world 0, built if it is not there (`features.worlds.build`).

    progress: called with a stage, what is done of it, and its total.
    """
    from ctvr_bench.features.worlds.build import default_store_path

    return default_store_path(0, progress)
