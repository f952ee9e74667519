"""TensorBoard event files: the scalars of the records, and one line where the package is missing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from ctvr_bench.bench.records.aggregate import read_results
from ctvr_bench.bench.records.summary import HEADLINE
from ctvr_bench.bench.report.tensorboard import check_tensorboard, with_events
from ctvr_bench.bench.suite.suite import run_suite
from ctvr_bench.features.errors import InputError
from tests.bench.run.test_runner import suite


def test_scalars_are_those_of_the_log_and_the_metrics(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard.summary", reason="the extra tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    config, told = suite(tmp_path, "lwf", set={"lwf": {"epochs": 2}}), []
    (record,) = run_suite(config, on_run=with_events(config.directory, lambda *run: told.append(run[2].run_id)))
    assert told == [record.run_id]
    events = EventAccumulator(str(config.directory / "tensorboard" / record.run_id))
    events.Reload()

    def scalars(tag: str) -> list[float]:
        return [float(make_ndarray(event.tensor_proto)) for event in events.Tensors(tag)]

    (row,) = read_results(config.directory).rows
    log = [json.loads(line) for line in (row.runs[0].directory / "training.jsonl").read_text().splitlines()]
    assert len(log) == 6
    for term in ("contrastive", "distillation"):
        assert scalars(f"loss/{term}") == pytest.approx([line["terms"][term] for line in log], rel=1e-6)
    assert scalars(HEADLINE) == pytest.approx(row.runs[0].curve(HEADLINE), rel=1e-6)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.summary", None)
    with pytest.raises(InputError, match=r"pip install ctvr-bench\[tensorboard\]"):
        check_tensorboard()
