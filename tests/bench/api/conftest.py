"""Runs that kept everything, made once for the tests of what can be done with them."""

from __future__ import annotations

from pathlib import Path

import pytest

import ctvr_bench
from tests.bench.audit.conftest import METHOD
from tests.stores import small_store

TOP = 7


@pytest.fixture(scope="package")
def kept_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of each kind of method: one vector, closed form, an encoding for each shard, a file from outside, none."""
    folder = tmp_path_factory.mktemp("kept")
    file = folder / "mine.py"
    file.write_text(METHOD)
    short = [{"name": name, "set": {"epochs": 1}} for name in ("finetune", "structalign", str(file))]
    others = [{"name": "simple_cil"}, {"name": "zero_shot", "set": {"scoring": "fused"}}]
    keep = ["weights", f"top={TOP}", "embeddings"]
    made = ctvr_bench.run([*short, *others], small_store(), seeds=1, out=folder, keep=keep)
    file.unlink()
    return made.path
