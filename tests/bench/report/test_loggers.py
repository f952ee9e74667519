"""Runs for TensorBoard, Weights & Biases and MLflow: the scalars of the records, sent once; no service is asked."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ctvr_bench.bench.analysis.columns import RETRIEVAL
from ctvr_bench.bench.records.aggregate import Run, read_results
from ctvr_bench.bench.records.finished import read_log
from ctvr_bench.bench.records.record import RunRecord
from ctvr_bench.bench.records.summary import HEADLINE
from ctvr_bench.bench.report.loggers import LOGGERS, check_loggers, log_run, logged
from ctvr_bench.bench.suite.suite import run_suite
from ctvr_bench.features.errors import InputError
from tests.bench.run.test_runner import suite
from tests.commands import called
from tests.stores import small_store


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    config = suite(tmp_path_factory.mktemp("logged"), "lwf", set={"lwf": {"epochs": 2}})
    run_suite(config)
    return read_results(config.directory).rows[0].runs[0]


def losses(run: Run) -> dict[str, list[float]]:
    log = read_log(run.directory)
    assert len(log) == 6
    return {term: [line["terms"][term] for line in log] for term in ("contrastive", "distillation")}


class Fake:
    """A module in which every call of every function and object is noted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        monkeypatch.setitem(sys.modules, name, self)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            self.calls.append((name, arguments, named))
            return SimpleNamespace(**{each: getattr(self, each) for each in ("define_metric", "log", "finish")})

        return call

    def of(self, name: str) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        return [(arguments, named) for called, arguments, named in self.calls if called == name]


def test_tensorboard_holds_the_scalars_of_the_log_and_the_metrics(run: Run) -> None:
    pytest.importorskip("tensorboard.summary", reason="the extra tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    told: list[RunRecord] = []
    watcher = logged(["tensorboard"], run.directory.parent, lambda *heard: told.append(heard[2]))
    for _ in range(2):
        watcher(1, 1, run.record)
    assert told == [run.record, run.record]
    events = EventAccumulator(str(run.directory.parent / "tensorboard" / run.record.run_id))
    events.Reload()

    def scalars(tag: str) -> list[float]:
        return [float(make_ndarray(event.tensor_proto)) for event in events.Tensors(tag)]

    for term, values in losses(run).items():
        assert scalars(f"loss/{term}") == pytest.approx(values, rel=1e-6), "once, though written twice"
    assert scalars(HEADLINE) == pytest.approx(run.curve(HEADLINE), rel=1e-6)


def test_wandb_gets_losses_over_epochs_and_metrics_over_tasks(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    fake, folder = Fake(monkeypatch, "wandb"), run.directory.parent
    log_run("wandb", folder, run.record)
    ((_, begun),) = fake.of("init")
    assert (begun["project"], begun["name"], begun["group"]) == ("ctvr-bench", run.record.run_id, "default")
    assert (begun["config"]["method"], begun["config"]["seed"], begun["config"]["config.epochs"]) == ("lwf", 0, 2)
    assert {names: given.get("step_metric") for (names,), given in fake.of("define_metric")} == {
        **{"epoch": None, "loss/*": "epoch", "task": None},
        **{column.key: "task" for column in RETRIEVAL},
    }
    sent = [values for (values,), _ in fake.of("log")]
    by_epoch, by_task = sent[:6], sent[6:]
    assert [values["epoch"] for values in by_epoch] == [1, 2, 3, 4, 5, 6]
    assert [values["task"] for values in by_task] == [1, 2, 3]
    for term, values in losses(run).items():
        assert [each[f"loss/{term}"] for each in by_epoch] == values
    assert [values[HEADLINE] for values in by_task] == run.curve(HEADLINE)
    assert all({*values} <= {"task", *(column.key for column in RETRIEVAL)} for values in by_task)
    assert fake.calls[-1][0] == "finish"

    count = len(fake.calls)
    log_run("wandb", folder, run.record)
    log_run("wandb", folder, run.record.model_copy(update={"status": "diverged", "ended": "later"}))
    assert len(fake.calls) == count, "a service is sent a run once, and only one that is done"
    log_run("wandb", folder, run.record.model_copy(update={"ended": "made again"}))
    assert len(fake.of("init")) == 2


def test_mlflow_gets_the_same_under_names_that_it_takes(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    fake = Fake(monkeypatch, "mlflow")
    log_run("mlflow", run.directory.parent, run.record)
    assert [name for name, _, _ in fake.calls][:3] == ["set_experiment", "start_run", "log_params"]
    assert fake.of("set_experiment") == [(("mine",), {})]
    assert fake.of("start_run") == [((), {"run_name": run.record.run_id, "tags": {"suite": "default"}})]
    sent = fake.of("log_metrics")
    assert [given["step"] for _, given in sent] == [1, 2, 3, 4, 5, 6, 1, 2, 3]
    for term, values in losses(run).items():
        assert [named[f"loss/{term}"] for (named,), _ in sent[:6]] == values
    assert [named["t2v/stored/seen/R_at_1"] for (named,), _ in sent[6:]] == run.curve(HEADLINE)
    assert not any("@" in name for (named,), _ in sent for name in named), "MLflow refuses it"
    assert fake.calls[-1][0] == "end_run"


@pytest.mark.parametrize("name", LOGGERS)
def test_without_the_package_the_extra_is_named(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, LOGGERS[name][0], None)
    with pytest.raises(InputError, match=rf"--log {name} needs .* pip install ctvr-bench\[{name}\]"):
        check_loggers([name])
    line = ["run", "--store", small_store().path, "--methods", "zero_shot", "--out", tmp_path, "--log", name]
    assert called(*line).returncode == 2
    assert not any(tmp_path.iterdir())
    with pytest.raises(InputError, match="unknown logger 'tensorbord'; did you mean 'tensorboard'"):
        check_loggers(["tensorbord"])
