"""Runs of a method's file and of one of the suite's own, made once for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

import ctvr_bench
from tests.stores import small_store

METHOD = """
from ctvr_bench.methods.finetune import Finetune

class Mine(Finetune):
    name, paper, idea = "mine", "none", "its file is gone when it is run again"

    def loss(self, batch):
        return {name: 2 * value for name, value in super().loss(batch).items()}
"""


@pytest.fixture(scope="package")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made from a method's file that is not there any more."""
    folder = tmp_path_factory.mktemp("audit")
    file = folder / "mine.py"
    file.write_text(METHOD)
    made = ctvr_bench.run(["zero_shot", {"name": str(file), "set": {"epochs": 1}}], small_store(), seeds=1, out=folder)
    file.unlink()
    return made.path
