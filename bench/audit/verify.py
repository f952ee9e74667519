"""Is a folder of runs what was written, and can its numbers be? Nothing in it is changed, and no store is needed.

Each run: its record and its digest, the digests of its files, ranks that can be ranks, metrics made again from them
and compared, the training log. The folder: its lists of runs, the copies of methods' files. Who alters everything in
accord, digests included, is found by making the run again (bench.audit.rerun).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ctvr_bench.bench.audit.tables import faults_of_table
from ctvr_bench.bench.records.code import metrics_code
from ctvr_bench.bench.records.kept import FOLDER
from ctvr_bench.bench.records.record import RankTable, RunRecord, read_record
from ctvr_bench.bench.records.suites import LAST, SOURCES, folder_of, read_suite
from ctvr_bench.bench.records.summary import metrics_of
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.whole import digest_of_file

_SHOWN = 3
_NEEDED = ("metrics.json", "ranks.h5")


@dataclass(frozen=True)
class Fault:
    """What is wrong with a file. run: its id, empty where the file is the folder's."""

    run: str
    file: str
    what: str

    def __str__(self) -> str:
        return f"{self.run + '/' if self.run else ''}{self.file}: {self.what}"


@dataclass(frozen=True)
class Verified:
    """How many runs were looked at, of those how many are done, and everything that is wrong."""

    runs: int
    done: int
    faults: tuple[Fault, ...]


def verify(place: Path) -> Verified:
    """Look at every run of a folder, or of one of its suites. Raises InputError where there is none."""
    folder = folder_of(place)
    there = {path.parent.name for path in folder.glob("*/run.json")}
    if not there:
        raise InputError(f"{place}: holds no runs; name the folder that 'run' wrote, e.g. results/runs/default")
    lists = (
        [place]
        if place != folder
        else [p for p in (folder / LAST, *sorted(folder.glob("suites/*.json"))) if p.is_file()]
    )
    faults, listed = [], set[str]()
    for path in lists:
        try:
            suite = read_suite(path)
        except InputError as error:
            faults.append(Fault("", str(path.relative_to(folder)), str(error).partition(": ")[2]))
            continue
        listed |= {run.run_id for run in suite.runs}
        if path.name != LAST and path.stem != suite.key:
            faults.append(Fault("", f"suites/{path.name}", f"lists other runs than its name says ({suite.key})"))
    faults += _sources(folder)
    chosen = sorted(there & listed if place != folder else there)
    faults += [Fault(run, "run.json", "is listed by a suite and not there") for run in sorted(listed - there)]
    done = 0
    for run in chosen:
        try:
            record = read_record(folder / run)
        except InputError as error:
            faults.append(Fault(run, "run.json", str(error).partition(": ")[2]))
            continue
        done += record.status == "done"
        faults += [replace(fault, run=run) for fault in _faults(folder / run, record)]
    return Verified(len(chosen), done, tuple(faults))


def _faults(directory: Path, record: RunRecord) -> Iterator[Fault]:
    yield from _record(directory, record)
    ended = record.status in ("done", "diverged")
    missing = [name for name in _NEEDED if record.status == "done" and not (directory / name).is_file()]
    yield from (Fault("", name, "is not there") for name in missing)
    kept = sorted(path.relative_to(directory).as_posix() for path in (directory / FOLDER).glob("*.safetensors"))
    for name in ("metrics.json", "ranks.h5", "training.jsonl", *kept):
        path = directory / name
        if not ended or not path.is_file():
            continue
        if name not in record.files:
            yield Fault("", name, "has no digest in run.json")
        elif digest_of_file(path) != record.files[name]:
            yield Fault("", name, "is not what its run wrote (run.json has another digest)")
    if record.status == "done" and not missing:
        yield from _numbers(directory, record)
    if ended and (directory / "training.jsonl").is_file():
        yield from _log(directory / "training.jsonl", record)


def _record(directory: Path, record: RunRecord) -> Iterator[Fault]:
    if "digest" not in json.loads((directory / "run.json").read_text(encoding="utf-8")):
        yield Fault("", "run.json", "has no digest of its own values")
    if record.config.run_id != record.run_id:
        yield Fault("", "run.json", f"its configuration is that of {record.config.run_id}")
    costs = {} if record.cost is None else record.cost.model_dump()
    for name, value in costs.items():
        if not math.isfinite(value) or value < 0:
            yield Fault("", "run.json", f"cost {name} is {value}")
    if record.cost is not None and record.cost.steps and not record.trained_on:
        yield Fault("", "run.json", f"says {record.cost.steps} steps of training and no pairs that it was trained on")


def _numbers(directory: Path, record: RunRecord) -> Iterator[Fault]:
    """Ranks that can be ranks, and metrics that are theirs."""
    try:
        table = RankTable.load(directory / "ranks.h5")
        wrong = list(faults_of_table(table))
    except (InputError, KeyError, ValueError, IndexError) as error:
        yield Fault("", "ranks.h5", f"cannot be read as a table of ranks ({error})")
        return
    if record.tasks and record.tasks != len(table.weights_T):
        wrong.append(f"has {len(table.weights_T)} tasks, run.json has {record.tasks}")
    yield from (Fault("", "ranks.h5", what) for what in wrong)
    if wrong:
        return
    made = metrics_of(table)
    try:
        written = json.loads((directory / "metrics.json").read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        yield Fault("", "metrics.json", f"cannot be read ({error})")
        return
    same_code = record.derived_by in ("", metrics_code())
    different = list(_differences(written, made, 0.0 if same_code else 1e-9, both=not same_code))
    for what in different[:_SHOWN]:
        yield Fault("", "metrics.json", what)
    if len(different) > _SHOWN:
        yield Fault("", "metrics.json", f"and {len(different) - _SHOWN} more that differ")


def _differences(written: Any, made: Any, tolerance: float, *, both: bool, where: str = "") -> Iterator[str]:
    """Where two trees of numbers differ. both: keys that only one has are passed over, as definitions changed since."""
    if isinstance(written, Mapping) and isinstance(made, Mapping):
        for key in {**written, **made}:
            if key in written and key in made:
                at = f"{where} {key}".strip()
                yield from _differences(written[key], made[key], tolerance, both=both, where=at)
            elif not both:
                yield f"{where} {key} is {'missing' if key in made else 'no metric of these ranks'}".strip()
    elif isinstance(written, Sequence) and isinstance(made, Sequence) and not isinstance(written, str):
        if len(written) != len(made):
            yield f"{where} has {len(written)} values, the ranks give {len(made)}"
            return
        for number, (one, other) in enumerate(zip(written, made, strict=True)):
            yield from _differences(one, other, tolerance, both=both, where=f"{where}[{number}]")
    elif written != made and not _near(written, made, tolerance):
        yield f"{where} is {written}, the ranks give {made}"


def _near(written: Any, made: Any, tolerance: float) -> bool:
    known = isinstance(written, int | float) and isinstance(made, int | float)
    return known and math.isclose(written, made, rel_tol=tolerance, abs_tol=tolerance)


def _log(path: Path, record: RunRecord) -> Iterator[Fault]:
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        tasks = [line["task"] for line in lines]
        terms = [value for line in lines for value in line["terms"].values()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        yield Fault("", path.name, f"cannot be read as a log of epochs ({error})")
        return
    if tasks != sorted(tasks) or (tasks and tasks[0] < 1):
        yield Fault("", path.name, "its tasks are out of order")
    if record.status == "done" and not all(math.isfinite(value) for value in terms):
        yield Fault("", path.name, "a loss term is not finite, in a run that is done")


def _sources(folder: Path) -> Iterator[Fault]:
    for path in sorted((folder / SOURCES).glob("*.py")):
        try:
            same = digest_of_file(path)[:16] == path.stem
        except OSError as error:
            yield Fault("", f"{SOURCES}/{path.name}", f"cannot be read ({error.strerror or error})")
            continue
        if not same:
            yield Fault("", f"{SOURCES}/{path.name}", "is not the file that was run (its name is its digest)")
