"""Finished runs for TensorBoard, Weights & Biases and MLflow, from their records; the only file that imports them.

Each run is one of theirs, named by its id: every loss term after each epoch (axis: epochs so far), and the metrics of
the tables' retrieval columns after each task (axis: tasks so far). A run is logged once, also where it was made before;
`<suite>/logged/` remembers that for services, which keep what they are sent.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

from ctvr_bench.bench.analysis.columns import RETRIEVAL
from ctvr_bench.bench.records.finished import read_log, read_metrics
from ctvr_bench.bench.records.record import RunRecord, write_text
from ctvr_bench.features.errors import InputError, unknown_name

OnRun = Callable[[int, int, RunRecord], None]
Axis = Literal["epoch", "task"]


class Logger(Protocol):
    """Where the scalars of one run go."""

    def add(self, axis: Axis, step: int, scalars: Mapping[str, float]) -> None:
        """Values after an epoch or a task, counted from 1."""

    def close(self) -> None:
        """Nothing follows."""


class TensorBoard:
    """Event files in `<suite>/tensorboard/<run id>`, in place of what was there."""

    def __init__(self, directory: Path, record: RunRecord) -> None:
        from tensorboard.summary import Writer

        folder = directory / "tensorboard" / record.run_id
        shutil.rmtree(folder, ignore_errors=True)
        self._writer = Writer(str(folder))

    def add(self, axis: Axis, step: int, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run of the project that WANDB_PROJECT names (default ctvr-bench), in a group called as the suite."""

    def __init__(self, directory: Path, record: RunRecord) -> None:
        import os

        import wandb

        project = os.environ.get("WANDB_PROJECT", "ctvr-bench")
        named = {"project": project, "group": directory.name, "name": record.run_id, "dir": str(directory)}
        self._run = wandb.init(**named, config=facts_of(record), reinit="finish_previous")
        for axis, names in (("epoch", ["loss/*"]), ("task", [column.key for column in RETRIEVAL])):
            self._run.define_metric(axis)
            for name in names:
                self._run.define_metric(name, step_metric=axis)

    def add(self, axis: Axis, step: int, scalars: Mapping[str, float]) -> None:
        self._run.log({axis: step, **scalars})

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """A run of the experiment that MLFLOW_EXPERIMENT_NAME names (default ctvr-bench); `@` in a name becomes `_at_`."""

    def __init__(self, directory: Path, record: RunRecord) -> None:
        import os

        import mlflow

        self._mlflow = mlflow
        mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", "ctvr-bench"))
        mlflow.start_run(run_name=record.run_id, tags={"suite": directory.name})
        mlflow.log_params(facts_of(record))

    def add(self, axis: Axis, step: int, scalars: Mapping[str, float]) -> None:
        self._mlflow.log_metrics({name.replace("@", "_at_"): value for name, value in scalars.items()}, step=step)

    def close(self) -> None:
        self._mlflow.end_run()


LOGGERS: Mapping[str, tuple[str, Callable[[Path, RunRecord], Logger]]] = {
    "tensorboard": ("tensorboard.summary", TensorBoard),
    "wandb": ("wandb", WeightsAndBiases),
    "mlflow": ("mlflow", MLflow),
}
"""The module that each needs, and what opens it for a run of the suite in a folder. The extra is called the same."""


def facts_of(record: RunRecord) -> dict[str, object]:
    """What a run is, by name: label, method, stream, order, seed, store, and the method's Config."""
    config = record.config
    return {
        "label": record.label,
        "method": config.method,
        "stream": config.stream,
        "store": config.store.digest[:12],
        "order": config.options["order"],
        "seed": config.seed,
        **{f"config.{field}": value for field, value in config.config.items()},
    }


def check_loggers(names: Iterable[str]) -> None:
    """Raises InputError for an unknown logger, or one whose package is not installed."""
    from importlib import import_module

    for name in names:
        if name not in LOGGERS:
            raise unknown_name("logger", name, LOGGERS)
        try:
            import_module(LOGGERS[name][0])
        except ImportError as error:
            raise InputError(
                f"--log {name} needs the package {name}, which is not installed; pip install ctvr-bench[{name}]"
            ) from error


def logged(names: Sequence[str], directory: Path, on_run: OnRun) -> OnRun:
    """A watcher of runs that also logs each when it finishes, where these loggers keep it."""

    def finished(number: int, total: int, record: RunRecord) -> None:
        for name in names:
            log_run(name, directory, record)
        on_run(number, total, record)

    return finished


def log_run(name: str, directory: Path, record: RunRecord) -> None:
    """Log a run of the suite in `directory`, unless it is not done, or a service was sent this very run before."""
    marker = directory / "logged" / name / f"{record.run_id}.txt"
    if record.status != "done" or (marker.is_file() and marker.read_text(encoding="utf-8") == record.ended):
        return
    run = directory / record.run_id
    logger = LOGGERS[name][1](directory, record)
    for step, line in enumerate(read_log(run), start=1):
        logger.add("epoch", step, {f"loss/{term}": value for term, value in line["terms"].items()})
    for step, stage in enumerate(read_metrics(run)["stages"], start=1):
        logger.add("task", step, {column.key: stage[column.key] for column in RETRIEVAL if column.key in stage})
    logger.close()
    if name != "tensorboard":
        write_text(marker, record.ended)
