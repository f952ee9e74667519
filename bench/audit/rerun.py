"""Runs made again from their folder alone, and compared with what it holds, rank by rank."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctvr_bench.bench.records.finished import read_metrics, read_ranks
from ctvr_bench.bench.records.record import RunRecord
from ctvr_bench.bench.records.suites import (
    LAST,
    SOURCES,
    Suite,
    folder_of,
    is_copy,
    read_suite,
    read_suite_records,
)
from ctvr_bench.bench.records.summary import HEADLINE
from ctvr_bench.bench.run.jobs import Watch, ignore
from ctvr_bench.bench.suite.config import SuiteConfig, make_suite
from ctvr_bench.bench.suite.plugins import names_a_file
from ctvr_bench.bench.suite.remembered import OF_THE_MACHINE
from ctvr_bench.bench.suite.stores import store_path
from ctvr_bench.bench.suite.suite import OnRun, run_suite
from ctvr_bench.features.errors import InputError, unknown_name
from ctvr_bench.features.stages import OnStage
from ctvr_bench.features.store import open_store

_FINAL = "stored/seen/t2v"


@dataclass(frozen=True)
class Rerun:
    """A run and its repetition.

    moved: queries whose final rank differs, of `queries`. same: every rank and best item
    of every gallery and stage is equal.
    before, now: headline in percent. now is None, with a reason, where the repetition did not end well.
    changed: what is not as it was: versions, processor, files of the suite.
    """

    record: RunRecord
    same: bool
    moved: int
    queries: int
    before: float
    now: float | None
    changed: tuple[str, ...]
    reason: str = ""


def rerun(
    place: Path,
    run: str | None = None,
    store: Path | None = None,
    jobs: int = 0,
    watch: Watch = ignore,
    on_run: OnRun = ignore,
    on_stage: OnStage = ignore,
) -> Iterator[Rerun]:
    """Make the finished runs of a suite again, or the row of one of them, somewhere else, and compare.

    run: id of a run; the runs that were trained in one stack with it are made with it. store: where the runs' store
    lies now, if not where it did. Raises InputError where the folder does not remember how it was made, the store is
    another, or a run is unknown.
    """
    folder, records = folder_of(place), [record for record in read_suite_records(place) if record.status == "done"]
    known = {record.run_id: record for record in records}
    if run is not None and run not in known:
        raise unknown_name("finished run", run, known)
    for suite, wanted in _suites_of(place, folder, records if run is None else [known[run]]):
        config = _remembered(suite, folder, store, on_stage)
        digests = {record.config.store.digest for record in wanted}
        if (found := open_store(config.store).digest) not in digests:
            raise InputError(
                f"{config.store}: is not the store of these runs (digest {found[:12]}, theirs "
                f"{', '.join(digest[:12] for digest in digests)}); name theirs with --store"
            )
        with tempfile.TemporaryDirectory(prefix="ctvr-rerun-") as out:
            positions = {record.position for record in wanted}
            chosen = tuple(choice for number, choice in enumerate(config.methods) if number in positions)
            config = config.model_copy(update={"out": Path(out), "methods": chosen, "jobs": jobs, "against": None})
            made = {_place(record): record for record in run_suite(config, watch, on_run)}
            for record in wanted:
                yield _compared(folder / record.run_id, record, made.get(_place(record)), config.directory)


def _suites_of(place: Path, folder: Path, records: Sequence[RunRecord]) -> list[tuple[Suite, list[RunRecord]]]:
    """The runs by a suite that made them: the named one, or, in a merged folder, one of those that were merged."""
    left, found = list(records), []
    for path in (place, *sorted(folder.glob("suites/*.json"))):
        suite = read_suite(path) if path.is_file() or (path / LAST).is_file() else Suite(runs=())
        listed = suite.shown(left) if suite.config else []
        if listed:
            found.append((suite, listed))
            left = [record for record in left if record.run_id not in {each.run_id for each in listed}]
    if left:
        raise InputError(
            f"{place}: does not remember how {left[0].run_id} was made (an earlier version wrote it); repeat its 'run' "
            "command once"
        )
    return found


def _remembered(suite: Suite, folder: Path, store: Path | None, on_stage: OnStage) -> SuiteConfig:
    values: dict[str, Any] = {k: v for k, v in suite.config.items() if k == "store" or k not in OF_THE_MACHINE}
    for choice in values["methods"]:
        if names_a_file(choice["name"]) and not is_copy(choice["name"]):
            raise InputError(
                f"{folder}: names the method {choice['name']!r}, which is no copy under {SOURCES}/; not run"
            )
    methods = [
        {**choice, "name": str(folder / choice["name"])} if names_a_file(choice["name"]) else choice
        for choice in values["methods"]
    ]
    named = values.pop("store") if store is None else store
    return make_suite({**values, "methods": methods, "store": store_path(named, on_stage)}, str(folder))


def _place(record: RunRecord) -> tuple[str, int, int]:
    config = record.config
    return record.label, config.options["order"], config.seed


def _compared(directory: Path, record: RunRecord, made: RunRecord | None, there: Path) -> Rerun:
    before, table = read_metrics(directory)["final"][HEADLINE], read_ranks(directory)
    changed = () if made is None else tuple(_changed(record, made))
    if made is None or made.status != "done":
        reason = "is not among the runs that the folder's suite makes now" if made is None else made.reason
        return Rerun(record, False, 0, len(table.task_N), before, None, changed, reason)
    again = read_ranks(there / made.run_id)
    now = read_metrics(there / made.run_id)["final"][HEADLINE]
    moved = int((table.ranks[_FINAL][-1] != again.ranks[_FINAL][-1]).sum())
    return Rerun(record, table.same_ranks(again), moved, len(table.task_N), before, now, changed)


def _changed(record: RunRecord, made: RunRecord) -> Iterator[str]:
    for key in ("python", "torch", "numpy", "faiss-cpu", "platform", "device", "threads"):
        old, new = record.environment.get(key), made.environment.get(key)
        if old != new:
            yield f"{key} {old} → {new}"
    files: Sequence[str] = sorted({*record.made_by, *made.made_by})
    yield from (path for path in files if record.made_by.get(path) != made.made_by.get(path))
