"""The default store: moving shapes of world 0, built on first use and kept in the user's cache folder."""

from __future__ import annotations

from pathlib import Path

from ctvr_bench.features.stages import OnStage, say_nothing


def default_store(on_stage: OnStage = say_nothing) -> Path:
    """Its path; built if it is not there."""
    from ctvr_bench.features.worlds.build import default_store_path  # half a second of imports

    return default_store_path(0, on_stage)
