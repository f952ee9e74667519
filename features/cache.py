"""Where stores that are built on first use are kept: the user's cache folder."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ctvr_bench.features.errors import InputError

_WORLD = re.compile(r"moving-shapes-(\d+)-[0-9a-f]{12}")


def cache_folder() -> Path:
    """Where built stores are kept: CTVR_CACHE, or the user's cache folder. Raises InputError where neither is known."""
    if named := os.environ.get("CTVR_CACHE"):
        return Path(named)
    if cache := os.environ.get("XDG_CACHE_HOME"):
        return Path(cache) / "ctvr-bench"
    try:
        return Path.home() / ".cache" / "ctvr-bench"
    except RuntimeError as error:
        raise InputError(
            f"no cache folder for embedded stores can be found ({error}); name a folder in the variable CTVR_CACHE"
        ) from error


def world_file(seed: int, content: str) -> Path:
    """Where the store of a world is kept. content: twelve hexadecimal digits, of all but its seed."""
    return cache_folder() / f"moving-shapes-{seed}-{content}.h5"


def world_of(store: Path) -> int | None:
    """Seed of the world that a file of the cache folder holds; None for any other file."""
    match = _WORLD.fullmatch(store.stem)
    return int(match[1]) if match and store.resolve().parent == cache_folder().resolve() else None
