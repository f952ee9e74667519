"""What becomes of runs that did not end: recorded as lost, or no trace of them left."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from ctvr_bench.bench.executors.claims import owner_of
from ctvr_bench.bench.records.record import RunRecord, finished_record, save_record
from ctvr_bench.bench.records.suites import LAST
from ctvr_bench.bench.run.jobs import Job


def lost_runs(directory: Path, unit: Job, reason: str) -> list[RunRecord]:
    """The records of runs whose process was killed, or that no worker could make."""
    return [
        save_record(
            directory / job.config.run_id,
            RunRecord(
                label=job.label,
                position=job.position,
                config=job.config,
                run_id=job.config.run_id,
                status="failed",
                reason=reason,
                source=job.entry.written_as,
                sees=job.entry.method.sees,
                stores_samples="",
                fidelity=job.entry.method.fidelity,
                deviations=job.entry.method.deviations,
                made_by=dict(job.made_by),
            ),
        )
        for job in unit.group
    ]


def remove_begun(directory: Path, jobs: Sequence[Job]) -> None:
    """After wrong input: no folder of a run without a finished task stays, nor an empty one above it."""
    for folder in (directory / job.config.run_id for job in jobs):
        begun = (folder / "run.json").is_file() and not (folder / "state").exists()
        if begun and owner_of(folder) is None and finished_record(folder) is None:
            shutil.rmtree(folder)
    if not any(directory.glob("*/run.json")):
        (directory / LAST).unlink(missing_ok=True)
        shutil.rmtree(directory / "suites", ignore_errors=True)
    for folder in (directory, directory.parent):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
