"""Rows of a result table from the records of a suite: one row for each method as configured, values over its runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ctvr_bench.bench.forgetting import intransigence
from ctvr_bench.bench.records.finished import read_metrics
from ctvr_bench.bench.records.record import RunConfig, RunRecord
from ctvr_bench.bench.records.suites import folder_of, read_suite_records
from ctvr_bench.bench.records.versions import earlier_versions
from ctvr_bench.features.errors import InputError, unknown_name

OWN = "t2v/stored/own/R@1"
AGAINST_OTHERS = {"intransigence": "cumulative", "gap-to-joint": "joint"}
"""Metrics of a row that are made with another row's runs, by the method of those."""


@dataclass(frozen=True)
class Run:
    """A finished run with its metrics (see bench.records.summary.metrics_of) and the folder they lie in."""

    record: RunRecord
    metrics: dict[str, Any]
    directory: Path

    @property
    def final(self) -> dict[str, float]:
        """Metrics after the last task."""
        values: dict[str, float] = self.metrics["final"]
        return values

    def matrix(self, key: str = OWN) -> np.ndarray[Any, np.dtype[np.float64]]:
        """R@1 on task j after task i, [T, T], NaN above the diagonal."""
        return np.array(self.metrics["matrices"][key], np.float64)

    def curve(self, key: str) -> list[float]:
        """A retrieval metric after every task, [T]. Raises InputError for one that no stage has."""
        stages = self.metrics["stages"]
        if any(key not in stage for stage in stages):
            raise unknown_name("metric of every stage", key, stages[0])
        return [stage[key] for stage in stages]


@dataclass(frozen=True)
class Row:
    """All finished runs of one label, orders and seeds together."""

    label: str
    runs: tuple[Run, ...]

    def values(self, key: str) -> list[float]:
        """A final metric in every run that has it."""
        return [run.final[key] for run in self.runs if key in run.final]

    def cost(self, field: str) -> float:
        """Mean over runs of a field of Cost."""
        return float(np.mean([getattr(run.record.cost, field) for run in self.runs]))


@dataclass(frozen=True)
class SuiteResults:
    """rows in the order of the suite; unfinished: runs that are running, diverged or failed, never in a row."""

    name: str
    directory: Path
    rows: tuple[Row, ...]
    unfinished: tuple[RunRecord, ...]

    @property
    def smoke_test(self) -> str:
        """What to say of numbers from a part of the stream; empty where the whole was asked."""
        limits = sorted({run.record.config.limit for row in self.rows for run in row.runs} - {""})
        return f"a smoke test ({'; '.join(limits)}): these numbers are no result" if limits else ""

    @property
    def measured(self) -> dict[str, str]:
        """How the numbers were measured, where all runs agree: store, stream, selection, protocol, seeds, orders."""
        records = [run.record for row in self.rows for run in row.runs]
        configs = [record.config for record in records]
        stores = {config.store for config in configs}
        usual = {"shots": None, "long_tail": 1.0, "validation": 0, "split": False, "blurred": 0.0, "seed": 0}
        options = {
            tuple((k, value) for k, value in c.options.items() if k != "order" and value != usual.get(k))
            + (tuple(c.first_stage.model_dump(exclude_defaults=True).items()) if c.first_stage else ())
            for c in configs
        }
        return {
            "store": ", ".join(sorted(f"{s.name} ({s.digest[:12]})" for s in stores)),
            "features": "simulated" if any(s.simulated for s in stores) else "extracted",
            "stream": ", ".join(sorted({config.stream for config in configs})),
            "options": "; ".join(" ".join(f"{k}={v}" for k, v in option) or "none" for option in sorted(options))
            + (self.smoke_test and f", {self.smoke_test}"),
            "headline": "R@1 of all queries of tasks 1..T, text to item, stored galleries, seen scope",
            "selection": ", ".join(sorted({config.selection for config in configs})),
            "recipe": ", ".join(sorted({str(c.config["recipe"]) for c in configs if "recipe" in c.config})) or "none",
            "seeds": ", ".join(map(str, sorted({config.seed for config in configs}))),
            "orders": ", ".join(map(str, sorted({config.options["order"] for config in configs}))),
            "protocol": ", ".join(map(str, sorted({config.protocol for config in configs}))),
            "commit": ", ".join(sorted({str(record.environment.get("commit") or "none") for record in records})),
        }


def read_results(place: Path, *, across_stores: bool = False, versions: bool = False) -> SuiteResults:
    """The finished runs of a suite as rows: of the folder's last one, or of that whose file under `suites/` is named.

    versions: also rows of earlier versions of methods' files (bench.records.versions).
    Raises InputError where there is none, and where rows were run on different stores, unless across_stores.
    """
    records, directory = read_suite_records(place), folder_of(place)
    records += earlier_versions(directory, records) if versions else []
    finished = [record for record in records if record.status == "done"]
    if not finished:
        raise InputError(f"{directory}: no run is finished ({len(records)} begun); repeat the 'run' command to go on")
    runs = [Run(record, read_metrics(directory / record.run_id), directory / record.run_id) for record in finished]
    _add_references(runs)
    rows: dict[str, list[Run]] = {}
    for run in sorted(runs, key=_position):
        rows.setdefault(run.record.label, []).append(run)
    if not across_stores:
        _check_one_store(directory, finished)
    for label, members in rows.items():
        _check_one_setting(directory, label, [run.record.config for run in members])
    return SuiteResults(
        directory.name,
        directory,
        tuple(Row(label, tuple(members)) for label, members in rows.items()),
        tuple(record for record in records if record.status != "done"),
    )


def _check_one_store(directory: Path, records: Sequence[RunRecord]) -> None:
    """Rows are ranked where they answer for the same features; an embedded world differs between processors."""
    rows: dict[str, set[str]] = {}
    for record in records:
        rows.setdefault(f"{record.config.store.name} ({record.config.store.digest[:12]})", set()).add(record.label)
    if len(rows) > 1:
        each = "; ".join(f"{', '.join(sorted(labels))} on {store}" for store, labels in rows.items())
        raise InputError(
            f"{directory}: its rows were run on different stores ({each}), whose numbers cannot be ranked together; "
            "run them on one store, or add --across store to see them in one table all the same"
        )


def _check_one_setting(directory: Path, label: str, configs: Sequence[RunConfig]) -> None:
    """Runs of a row may differ in order and seed alone; anything else would be averaged unseen."""
    varies = {"order", "seed", "options", "config", "stack"}
    ways: dict[str, set[str]] = {}
    for config in configs:
        values = {key: value for key, value in config.model_dump().items() if key not in varies}
        options = {key: value for key, value in config.options.items() if key != "order"}
        for key, value in (values | options | config.config).items():
            ways.setdefault(key, set()).add(str(value["digest"][:12] if key == "store" else value))
    different = [f"{key}: {', '.join(sorted(found))}" for key, found in ways.items() if len(found) > 1]
    if different:
        raise InputError(
            f"{directory}: {label!r} was run in several ways ({'; '.join(different)}), which one row would mix; "
            "repeat the 'run' command, which tells its runs from others, or remove the runs that are not meant"
        )


def _position(run: Run) -> tuple[int, str, int, int]:
    config = run.record.config
    return (run.record.position, run.record.label, config.options["order"], config.seed)


def _add_references(runs: Sequence[Run]) -> None:
    """Metrics against other methods: final['intransigence'] where `cumulative` ran, 'gap-to-joint' where `joint` did.

    Of the same order and scoring, their means over seeds. `cumulative` after task k was trained on tasks 0..k, as
    Chaudhry's definition asks; `joint` saw the later tasks as well.
    """
    for key, method in AGAINST_OTHERS.items():
        references: dict[tuple[int, str], list[np.ndarray[Any, np.dtype[np.float64]]]] = {}
        for run in runs:
            if run.record.config.method == method:
                scores = run.matrix()
                references.setdefault(_setting(run), []).append(scores[-1] if method == "joint" else np.diag(scores))
        for run in runs:
            reference = references.get(_setting(run))
            if reference:
                run.final[key] = intransigence(np.mean(reference, axis=0), run.matrix())


def _setting(run: Run) -> tuple[int, str]:
    config = run.record.config
    return config.options["order"], str(config.config.get("scoring", ""))
