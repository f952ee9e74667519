"""Where stores that are built on first use are kept: the user's cache folder."""

from __future__ import annotations

import os
import re
from pathlib import Path

_WORLD = re.compile(r"moving-shapes-(\d+)-[0-9a-f]{12}")


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
