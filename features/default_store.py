"""The embedded default store: built on first use, kept in the user's cache folder, the same bytes everywhere."""

from __future__ import annotations

import os
from pathlib import Path

from features.synthetic import SyntheticConfig, generated_structure, synthesise

_VERSION = 1  # raised when the content changes, so that an old file in a cache is not used


def cache_folder() -> Path:
    """Where built stores are kept: CTVR_CACHE, or the user's cache folder."""
    named = os.environ.get("CTVR_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ctvr-bench"


def default_store() -> Path:
    """Path of the default store, built if it is not there: 20 categories in 10 tasks, simulated 128-d features.

    16 training, 8 validation and 40 test videos a category, 10 captions for each training video, 12 frames.
    """
    path = cache_folder() / f"simulated-default-{_VERSION}.h5"
    if not path.is_file():
        structure = generated_structure(
            categories=20, tasks=10, test_per_category=40, validation_per_category=8, captions_per_train_video=10
        )
        synthesise(structure, SyntheticConfig(dim=128), path, name="simulated default")
    return path
