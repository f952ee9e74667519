"""Folders of runs: where a suite stands, and several made one.

Where it stands is told from its folder alone: what is done, who makes what, what failed, and how long the rest takes.
Where two folders contradict each other nothing is written.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

from ctvr_bench.bench.executors.claims import claimed, shown_owner_of, sweep
from ctvr_bench.bench.records.files import check_below, write_bytes
from ctvr_bench.bench.records.finished import read_log, read_metrics, read_ranks
from ctvr_bench.bench.records.record import RunRecord, read_record
from ctvr_bench.bench.records.suites import SOURCES, PlannedRun, Suite, folder_of, last_suite, read_suite, write_suite
from ctvr_bench.features.errors import InputError

_FINISHED = ("done", "diverged")


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
        if record is not None and record.status in _FINISHED:
            finished.append(record.model_copy(update={"label": run.label}))
            if record.status == "done":
                done.append(name)
            else:
                diverged[name] = record.reason
            continue
        left.append(run)
        if (owner := shown_owner_of(folder / run.run_id)) is not None:
            makers.add(str(owner))
            running[name] = str(owner)
        elif record is None:
            missing.append(name)
        elif record.status == "failed":
            failed[name] = record.reason
        else:
            begun.append(name)
    peak = max((record.cost.peak_memory_bytes for record in finished if record.cost), default=0)
    seconds = seconds_left(left, finished, max(1, len(makers)))
    return Standing(
        tuple(done), running, tuple(begun), failed, diverged, tuple(missing), len(makers), seconds, peak
    )  # fmt: skip


def _named(run: PlannedRun) -> str:
    """Label, order and seed, which stand in a run's id before its digest."""
    order, seed = (part[1:] for part in run.run_id.split("-")[-3:-1])
    return f"{run.label} (order {order}, seed {seed})"


def seconds_left(left: Sequence[PlannedRun], finished: Sequence[RunRecord], makers: int) -> float | None:
    """By what finished runs of the same row took, or of all rows where none of it is finished."""
    seconds: dict[str, list[float]] = {}
    for record in finished:
        if (cost := record.cost) is not None:
            seconds.setdefault(record.label, []).append(cost.seconds)
    if not seconds:
        return None if left else 0.0
    any_row = fmean(value for values in seconds.values() for value in values)
    return sum(fmean(seconds.get(run.label, [any_row])) for run in left) / makers


@dataclass(frozen=True)
class Merged:
    """How many runs were copied, were there already, and are finished in none of the folders."""

    copied: int
    present: int
    unfinished: int


@dataclass(frozen=True)
class _Found:
    """A run as one of the folders has it."""

    folder: Path
    record: RunRecord

    @property
    def is_finished(self) -> bool:
        return self.record.status in _FINISHED


def merge(sources: Sequence[Path], into: Path) -> Merged:
    """Copy what is finished in any of the folders, and what failed in all of them, to `into`.

    Everything is read and checked against its digests before anything is written. Raises InputError where a folder
    holds no runs, a result is damaged, or one run has two results.
    """
    places = [*([into] if into.is_dir() else []), *(source for source in sources if source.resolve() != into.resolve())]
    found: dict[str, list[_Found]] = {}
    for place in places:
        for run in _runs_of(place, may_be_empty=place == into):
            found.setdefault(run.record.run_id, []).append(run)
    chosen = {run_id: _best(run_id, runs) for run_id, runs in found.items()}
    suite = _joined(places)
    new = {run_id: run for run_id, run in chosen.items() if run is not None and run.folder.parent != into}
    for run_id, run in new.items():
        _copy(run.folder, into / run_id)
    for place in places:
        for path in sorted((place / "suites").glob("*.json")):
            if not (into / "suites" / path.name).exists():
                write_bytes(into / "suites" / path.name, path.read_bytes())
        for path in sorted((place / SOURCES).glob("*.py")):
            write_bytes(into / SOURCES / path.name, path.read_bytes())
    write_suite(into, suite)
    sweep(into, chosen)
    finished = sum(run is not None and run.is_finished for run in chosen.values())
    return Merged(len(new), len(chosen) - len(new) - list(chosen.values()).count(None), len(chosen) - finished)


def _runs_of(place: Path, *, may_be_empty: bool) -> Iterator[_Found]:
    folders = sorted(path.parent for path in place.glob("*/run.json"))
    if not folders and not may_be_empty:
        raise InputError(f"{place}: holds no runs; name a folder that 'run' wrote, e.g. results/runs/default")
    for folder in folders:
        run = _Found(folder, read_record(folder))
        if run.record.status == "done":  # each of these checks its file's digest
            read_metrics(folder), read_ranks(folder), read_log(folder)
        yield run


def _best(run_id: str, runs: Sequence[_Found]) -> _Found | None:
    """The finished one that kept most, else the first that failed; None of a run that is only begun.

    Raises InputError where two differ.
    """
    finished = [run for run in runs if run.is_finished]
    for first, second in combinations(finished, 2):
        if not _is_same(first, second):
            raise InputError(
                f"{run_id}: has two results, in {first.folder.parent} and {second.folder.parent}; machines or "
                "libraries that differ in the last bits made them, keep the runs of one"
            )
    if finished:
        return max(finished, key=lambda run: len(run.record.files))
    return next((run for run in runs if run.record.status == "failed"), None)


def _is_same(first: _Found, second: _Found) -> bool:
    one, other = first.record, second.record
    if one.status != other.status or one.tasks != other.tasks:
        return False
    if one.status == "diverged" or one.files.get("ranks.h5") == other.files.get("ranks.h5") is not None:
        return one.reason == other.reason
    return same_ranks(first.folder, second.folder)


def same_ranks(first: Path, second: Path) -> bool:
    """Whether two finished runs left the same ranks, whatever the bytes of their files."""
    return read_ranks(first).same_ranks(read_ranks(second))


def _copy(source: Path, target: Path) -> None:
    """The files of a run, its record last: without it there is no run. One that is being made is left to its maker."""
    check_below(target.parent, target)
    with claimed([target], patient=True) as owner:
        if owner is not None:
            raise InputError(f"{target}: {owner} makes this run now; merge when it has ended")
        shutil.rmtree(target, ignore_errors=True)
        files = [path for path in sorted(source.iterdir()) if path.is_file() and not path.name.startswith(".")]
        for path in sorted(files, key=lambda path: path.name == "run.json"):
            write_bytes(target / path.name, path.read_bytes())


def _joined(places: Sequence[Path]) -> Suite:
    """The suites of the folders as one, rows in the order in which they come up."""
    known = [suite for place in places if (suite := last_suite(place)) is not None]
    listed = {run.run_id for suite in known for run in suite.runs}
    bare = [_suite_of_records(place) for place in places if last_suite(place) is None]
    bare = [suite for suite in bare if not {run.run_id for run in suite.runs} <= listed]  # of a merge that was killed
    suites = [*known, *bare]
    if len({suite.key for suite in suites}) == 1:
        return suites[0]
    runs = [run for suite in suites for run in sorted(suite.runs, key=lambda run: run.position)]
    rows = {label: position for position, label in enumerate(dict.fromkeys(run.label for run in runs))}
    distinct: dict[str, PlannedRun] = {}
    for run in runs:
        distinct.setdefault(run.run_id, run.model_copy(update={"position": rows[run.label]}))
    setting = f"{len(rows)} rows, merged from {len(suites)} folders"
    return Suite(runs=tuple(distinct.values()), setting=setting)


def _suite_of_records(place: Path) -> Suite:
    records = [read_record(path.parent) for path in sorted(place.glob("*/run.json"))]
    return Suite(runs=tuple(PlannedRun(run_id=r.run_id, label=r.label, position=r.position) for r in records))
