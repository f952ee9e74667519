"""What a run keeps of the epoch that was picked: all of it, what is averaged over steps included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctvr_bench.bench.evaluation.protocol import Evaluator
from ctvr_bench.bench.records.record import RankTable
from ctvr_bench.bench.suite.config import make_suite
from ctvr_bench.bench.suite.suite import run_suite
from tests.methods.test_hooks import banked_store


def ranks_of(folder: Path, store: Path, name: str, selection: str, **values: Any) -> dict[str, np.ndarray]:
    methods = [{"name": name, "set": {"schedule": "constant", "warmup": 0.0, "lr": 3e-2, "batch_size": 8, **values}}]
    (record,) = run_suite(
        make_suite(
            {"store": store, "methods": methods, "seeds": 1, "out": folder, "jobs": 1, "selection": selection}, "test"
        )
    )
    assert record.status == "done"
    return RankTable.load(folder / "default" / record.run_id / "ranks.h5").ranks


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("finetune", {}),
        (
            "zscl",
            {"average_every": 4},
        ),  # an average falls on the last step of the second epoch and on none of the first
        ("ctp", {}),
        ("ewc", {}),
        ("wise_ft", {}),
        ("structalign", {}),
    ],
)
def test_the_epoch_that_is_picked_leaves_what_training_that_stopped_there_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, values: dict[str, Any]
) -> None:
    store = banked_store(tmp_path / "a.h5")
    stopped = ranks_of(tmp_path / "stopped", store, name, "last", epochs=1, **values)
    scores = iter([60.0, 10.0] * 10)
    monkeypatch.setattr(Evaluator, "headline", lambda *_: next(scores))
    picked = ranks_of(tmp_path / "picked", store, name, "test-oracle", epochs=2, **values)
    longer = ranks_of(tmp_path / "longer", store, name, "last", epochs=2, **values)
    assert picked.keys() == stopped.keys()
    assert all(np.array_equal(picked[key], stopped[key]) for key in stopped)
    assert any(not np.array_equal(longer[key], stopped[key]) for key in stopped)
