"""A registry of results: a folder for each method, revision, store and setting, with all that is needed to check it.

<registry>/results/<method>/<revision>/<store>/<stream>-<setting>/result.json      what a leaderboard shows
                                                                /<run id>/...      the runs, ranks included
                                                                /suites/...        how they were made: `rerun` works
                                                                /rerun.json        that they came out again, where tried

revision: first digits of the digest of the method's code. setting: of everything but method, order and seed.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ctvr_bench.bench.analysis.columns import COLUMNS, is_reference
from ctvr_bench.bench.audit.rerun import Rerun, rerun
from ctvr_bench.bench.audit.verify import Fault, Verified, verify
from ctvr_bench.bench.records.aggregate import AGAINST_OTHERS, Row, SuiteResults, read_results
from ctvr_bench.bench.records.files import write_bytes
from ctvr_bench.bench.records.record import RunRecord, read_checked, write_checked
from ctvr_bench.bench.records.suites import Suite, folder_of, read_suite, write_suite
from ctvr_bench.bench.records.summary import HEADLINE
from ctvr_bench.bench.suite.plugins import names_a_file
from ctvr_bench.bench.suite.stores import is_world
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.partial import partial_of
from ctvr_bench.features.store import tool_version
from ctvr_bench.features.whole import digest_of_file

SCHEMA = "ctvr-result 1"
_RUN_FILES = ("run.json", "ranks.h5", "metrics.json", "training.jsonl")


@dataclass(frozen=True)
class Entry:
    """A submitted result. state: rerun, recomputed (metrics made again from its ranks) or as sent (faults: why).

    reference: whether it frames the others and is not ranked (bench.analysis.columns.is_reference).
    """

    folder: Path
    values: Mapping[str, Any]
    state: str
    faults: tuple[str, ...]
    reference: bool


def submit(place: Path, registry: Path) -> list[Path]:
    """Put every row of a suite into a registry, whole or not at all; the folders that were written or renewed.

    Raises InputError where `verify` finds a fault, a suite does not remember how it was made, or there is none.
    """
    found = verify(place)
    if found.faults:
        raise InputError(f"{place}: cannot be submitted, since {found.faults[0]}; 'verify' names all of it")
    results, suite = read_results(place), read_suite(place)
    if results.smoke_test:
        raise InputError(f"{place}: is {results.smoke_test}; run it without --limit and submit that")
    if not suite.config:
        raise InputError(f"{place}: does not remember how it was made; repeat its 'run' command once")
    return [_submit_row(results, suite, row, registry) for row in results.rows]


def entries(registry: Path) -> list[Entry]:
    """Every result of a registry, checked. Raises InputError where there is none, or one cannot be read."""
    if not (found := folders(registry)):
        raise InputError(f"{registry}: holds no results; put some there with 'submit RUNS --to {registry}'")
    return [_entry(folder / "result.json") for folder in found]


def folders(registry: Path) -> list[Path]:
    """Those of a registry's results, each a folder of runs; none where it is no registry."""
    found = (registry / "results").glob("*/*/*/*/result.json")
    return sorted(path.parent for path in found if not path.parent.name.startswith("."))  # those are being written


def check(folder: Path) -> Verified:
    """What `verify` finds of a result's runs, and whether its result.json is what was written and says what they do."""
    found, path = verify(folder), folder / "result.json"
    try:
        values = _values(path)
        wrong = "" if found.faults else _unlike_its_runs(folder, values)
    except InputError as error:
        wrong = str(error).partition(": ")[2]
    return replace(found, faults=(*found.faults, Fault("", path.name, wrong))) if wrong else found


def record_rerun(folder: Path, found: Sequence[Rerun]) -> bool:
    """Note beside a folder's runs that they came out again, or that they did not; whether all did."""
    same = all(each.same for each in found)
    ranks = {each.record.run_id: digest_of_file(folder_of(folder) / each.record.run_id / "ranks.h5") for each in found}
    changed = sorted({each for run in found for each in run.changed})
    values = {"same": same, "ranks": ranks, "changed": changed, "version": tool_version(), "date": _now()}
    write_checked(folder_of(folder) / "rerun.json", values)
    return same


def _submit_row(results: SuiteResults, suite: Suite, row: Row, registry: Path) -> Path:
    record = row.runs[0].record
    target = registry / "results" / _path_of(record)
    planned = {run.run_id: run for run in suite.runs}
    config = _of_row(suite.config, planned[record.run_id].position)
    whole = partial_of(target)  # beside it: some disks rename within a folder alone
    missing = [folder for folder in target.parents if not folder.exists()]  # the innermost first
    try:
        for run in row.runs:
            for name in _RUN_FILES:
                if (run.directory / name).is_file():
                    write_bytes(whole / run.record.run_id / name, (run.directory / name).read_bytes())
        runs = tuple(planned[run.record.run_id].model_copy(update={"position": 0}) for run in row.runs)
        write_suite(whole, Suite(runs=runs, setting=row.label, config=config, version=suite.version, begun=suite.begun))
        if names_a_file(name := config["methods"][0]["name"]):
            source = name.rpartition(":")[0]
            write_bytes(whole / source, (results.directory / source).read_bytes())
        write_checked(whole / "result.json", _result(row))
        if target.exists() and (kept := target / "rerun.json").is_file():
            write_bytes(whole / "rerun.json", kept.read_bytes())
        shutil.rmtree(target, ignore_errors=True)
        whole.rename(target)
    finally:
        shutil.rmtree(whole, ignore_errors=True)
        with suppress(OSError):  # it holds the result
            for folder in missing:
                folder.rmdir()
    return target


def _result(row: Row) -> dict[str, Any]:
    record = row.runs[0].record
    config = record.config
    cells = {column.key: column.cell(row) for column in COLUMNS if column.key not in AGAINST_OTHERS}
    return {
        "schema": SCHEMA,
        "method": config.method,
        "label": row.label,
        "revision": _revision(record),
        "from_outside": bool(config.code),
        "fidelity": record.fidelity,
        "sees": record.sees,
        "keeps": record.stores_samples,
        "config": config.config,
        "store": config.store.model_dump(mode="json"),
        "stream": config.stream,
        "setting": _setting(record),
        "protocol": config.protocol,
        "runs": [run.record.run_id for run in row.runs],
        "metrics": {k: {"mean": c.mean, "std": c.std, "runs": list(c.values)} for k, c in cells.items() if c.values},
        "curve": np.mean([run.curve(HEADLINE) for run in row.runs], axis=0).tolist(),
        "environment": record.environment,
        "ended": max(run.record.ended for run in row.runs),
        "submitted": _now(),
    }


def _values(path: Path) -> dict[str, Any]:
    try:
        values = read_checked(path)
        if values["schema"] != SCHEMA:
            raise ValueError(f"schema {values['schema']!r}, and this version reads {SCHEMA!r}")
        if not isinstance(values["metrics"], dict) or not isinstance(values["runs"], list):
            raise ValueError("it has no metrics or no runs")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as a result ({error}); submit it again") from error
    return values


def _unlike_its_runs(folder: Path, values: Mapping[str, Any]) -> str:
    """What a result says that its runs, which are sound, do not; empty where it is right."""
    claimed = {key: value for key, value in values["metrics"].items() if key not in AGAINST_OTHERS}
    same = all(_result(row)["metrics"] == claimed for row in read_results(folder).rows[:1])
    return "" if same else "its metrics are not those of its runs"


def _entry(path: Path) -> Entry:
    values = _values(path)
    folder, row = path.parent, tuple[Row, ...]()
    try:
        faults = [str(fault) for fault in verify(folder).faults]
        row = read_results(folder).rows if not faults else ()
        if not faults and (wrong := _unlike_its_runs(folder, values)):
            faults.append(f"result.json: {wrong}")
    except InputError as error:
        faults = [str(error)]
    if row and (limit := row[0].runs[0].record.config.limit):
        raise InputError(f"{path}: is a smoke test ({limit}), which is no result; remove it from the registry")
    again = not faults and _came_out_again(folder, values["runs"])
    state = "as sent" if faults else "rerun" if again else "recomputed"
    return Entry(folder, values, state, tuple(faults), is_reference(row[0]) if row else values["sees"] != "current")


def _came_out_again(folder: Path, runs: Sequence[str]) -> bool:
    try:
        found = read_checked(folder / "rerun.json")
        ranks = {run: digest_of_file(folder / run / "ranks.h5") for run in runs}
    except (OSError, ValueError, AttributeError):
        return False
    return bool(found.get("same")) and found.get("ranks") == ranks


def rerun_entries(registry: Path, store: Path | None = None, jobs: int = 0) -> list[tuple[Path, list[Rerun]]]:
    """Make every result of a registry again that was not yet, and note what came of it. store: where it is no world."""
    made = []
    for entry in entries(registry):
        if entry.state == "recomputed":
            found = list(rerun(entry.folder, store=store, jobs=jobs))
            record_rerun(entry.folder, found)
            made.append((entry.folder, found))
    return made


def _path_of(record: RunRecord) -> Path:
    config = record.config
    setting = hashlib.sha256(json.dumps([_setting(record), config.config], sort_keys=True).encode()).hexdigest()[:8]
    store = f"{_as_name(config.store.name)}-{config.store.digest[:8]}"
    return Path(config.method, _revision(record), store, f"{_as_name(config.stream)}-{setting}")


def _setting(record: RunRecord) -> dict[str, Any]:
    """What rows must share to be ranked: everything but method, order and seed."""
    config = record.config.model_dump(mode="json", include={"selection", "first_stage", "protocol", "options"})
    return config | {"options": {key: value for key, value in config["options"].items() if key != "order"}}


def _revision(record: RunRecord) -> str:
    return (record.config.code or record.config.harness)[:12]


def _of_row(config: Mapping[str, Any], position: int) -> dict[str, Any]:
    """The configuration of one row; a store by its world or its file's name, since folders are nobody's business."""
    choice = config["methods"][position]
    store = str(config["store"])
    return {**config, "methods": [choice], "against": None, "store": store if is_world(store) else Path(store).name}


def _as_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "store"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
