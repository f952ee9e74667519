"""Finished runs as TensorBoard event files, from their records; the only file that imports tensorboard.

Scalars of a run, in a folder of its own: every loss term after each epoch (step: epochs so far), and the metrics of the
tables' retrieval columns after each task (step: tasks so far).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from ctvr_bench.bench.analysis.columns import RETRIEVAL
from ctvr_bench.bench.records.finished import read_log, read_metrics
from ctvr_bench.bench.records.record import RunRecord
from ctvr_bench.features.errors import InputError

OnRun = Callable[[int, int, RunRecord], None]


def check_tensorboard() -> None:
    """Raises InputError where tensorboard is not installed."""
    try:
        import tensorboard.summary  # noqa: F401
    except ImportError as error:
        raise InputError(
            "--tensorboard needs the package tensorboard, which is not installed; pip install ctvr-bench[tensorboard]"
        ) from error


def with_events(directory: Path, on_run: OnRun) -> OnRun:
    """A watcher of runs that also writes the events of each when it finishes."""

    def finished(number: int, total: int, record: RunRecord) -> None:
        write_events(directory, record)
        on_run(number, total, record)

    return finished


def write_events(directory: Path, record: RunRecord) -> Path | None:
    """Write the events of a run of the suite in `directory`; their folder, or None for a run that is not done."""
    from tensorboard.summary import Writer

    if record.status != "done":
        return None
    run = directory / record.run_id
    folder = directory / "tensorboard" / record.run_id
    shutil.rmtree(folder, ignore_errors=True)
    writer = Writer(str(folder))
    for step, line in enumerate(read_log(run), start=1):
        for name, value in line["terms"].items():
            writer.add_scalar(f"loss/{name}", value, step)
    for step, stage in enumerate(read_metrics(run)["stages"], start=1):
        for column in RETRIEVAL:
            if column.key in stage:
                writer.add_scalar(column.key, stage[column.key], step)
    writer.close()
    return folder
