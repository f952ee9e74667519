"""Where a suite stands, from its folder alone: what is done, who makes what, what failed, how long the rest takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from ctvr_bench.bench.records.record import RunRecord, read_record
from ctvr_bench.bench.records.suites import PlannedRun, folder_of, last_suite, read_suite
from ctvr_bench.bench.suite.claims import owner_of
from ctvr_bench.features.errors import InputError


@dataclass(frozen=True)
class Standing:
    """Runs of a suite by how they stand, each by its label, order and seed where that is known.

    running: with who makes them. begun: not finished, and nobody makes them. failed, diverged: with the reason.
    makers: processes that make runs now. seconds_left: with as many of them as now, at least one; None where no run of
    the suite has ended. peak_memory: bytes of the process of a run, at most.
    """

    done: tuple[str, ...]
    running: dict[str, str]
    begun: tuple[str, ...]
    failed: dict[str, str]
    diverged: dict[str, str]
    missing: tuple[str, ...]
    makers: int
    seconds_left: float | None
    peak_memory: int

    @property
    def total(self) -> int:
        return sum(map(len, (self.done, self.running, self.begun, self.failed, self.diverged, self.missing)))

    def as_json(self) -> dict[str, Any]:
        """Everything for machines."""
        return {**vars(self), "total": self.total}


def standing_of(place: Path) -> Standing:
    """Of a folder's last suite, or of one whose file is named. Raises InputError where there is no suite."""
    folder = folder_of(place)
    suite = last_suite(folder) if place == folder else read_suite(place)
    if suite is None:
        raise InputError(f"{place}: holds no suite; name the folder that 'run' wrote, e.g. results/runs/default")
    done, begun, missing = [list[str]() for _ in range(3)]
    running, failed, diverged, makers = dict[str, str](), dict[str, str](), dict[str, str](), set[str]()
    finished: list[RunRecord] = []
    left: list[PlannedRun] = []
    for run in suite.runs:
        record = read_record(folder / run.run_id) if (folder / run.run_id / "run.json").is_file() else None
        name = _named(run)
        if record is not None and record.status in ("done", "diverged"):
            finished.append(record.model_copy(update={"label": run.label}))
            if record.status == "done":
                done.append(name)
            else:
                diverged[name] = record.reason
            continue
        left.append(run)
        if (owner := owner_of(folder / run.run_id)) is not None:
            makers.add(str(owner))
            running[name] = str(owner)
        elif record is None:
            missing.append(name)
        elif record.status == "failed":
            failed[name] = record.reason
        else:
            begun.append(name)
    peak = max((record.cost.peak_memory_bytes for record in finished if record.cost), default=0)
    seconds = _seconds_left(left, finished, max(1, len(makers)))
    return Standing(
        tuple(done), running, tuple(begun), failed, diverged, tuple(missing), len(makers), seconds, peak
    )  # fmt: skip


def _named(run: PlannedRun) -> str:
    """Label, order and seed, which stand in a run's id before its digest."""
    order, seed = (part[1:] for part in run.run_id.split("-")[-3:-1])
    return f"{run.label} (order {order}, seed {seed})"


def _seconds_left(left: Sequence[PlannedRun], finished: Sequence[RunRecord], makers: int) -> float | None:
    """By what finished runs of the same row took, or of all rows where none of it is finished."""
    seconds: dict[str, list[float]] = {}
    for record in finished:
        if (cost := record.cost) is not None:
            seconds.setdefault(record.label, []).append(cost.load_s + cost.train_s + cost.evaluate_s + cost.write_s)
    if not seconds:
        return None if left else 0.0
    any_row = fmean(value for values in seconds.values() for value in values)
    return sum(fmean(seconds.get(run.label, [any_row])) for run in left) / makers
