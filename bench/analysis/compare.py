"""Two suites, or two commits of one: what changed, by how much, beyond noise or not, for each task and query.

Second minus first throughout. Runs are paired by order and seed and queries by caption wherever both suites have them;
what cannot be paired is compared apart, with wider intervals. p-values are corrected (Holm) over the methods for each
metric, and over the tasks of a method; each is that of bench.all_pairs for two.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ctvr_bench.bench.all_pairs import PairDifference
from ctvr_bench.bench.analysis.columns import CONTINUAL, COSTS, RETRIEVAL, Column
from ctvr_bench.bench.analysis.findings import ALPHA
from ctvr_bench.bench.analysis.pairing import Flip, Pairing, difference, pair_runs
from ctvr_bench.bench.records.aggregate import Row, SuiteResults
from ctvr_bench.bench.records.record import RunRecord
from ctvr_bench.bench.statistics import Interval, holm, unpaired_difference
from ctvr_bench.features.errors import InputError

COLUMNS = (*RETRIEVAL, *CONTINUAL)
ACROSS = ("store", "stream", "protocol", "options", "selection")
"""What two suites must agree on, unless it is what is compared."""


@dataclass(frozen=True)
class Difference:
    """A metric of both, second minus first with its 95 % interval, and p after Holm's correction.

    equal: in every run, and in every query where it is a mean over queries.
    """

    column: Column
    before: float
    after: float
    interval: Interval | PairDifference | None
    p: float | None
    equal: bool

    @property
    def verdict(self) -> str:
        """equal, better, worse, changed (a metric without a better side), within noise, or unknown from one run."""
        if self.equal or self.p is None:
            return "equal" if self.equal else "unknown"
        if self.p >= ALPHA:
            return "within noise"
        side = self.column.better * (self.after - self.before)
        return "better" if side > 0 else "worse" if side < 0 else "changed"


@dataclass(frozen=True)
class TaskDifference:
    """The headline on the queries of one task, numbered in the learning order of the first run."""

    task: int
    queries: int
    difference: Difference


@dataclass(frozen=True)
class RowComparison:
    """A method in both suites. paired: runs of the same order and seed (0: compared apart).

    costs: means of the first and the second. lost, won: queries that left rank 1 and that reached it, mean over paired
    runs. flips: every query that did either, the deepest fall first. changed: values of the configuration.
    """

    label: str
    runs: tuple[int, int]
    paired: int
    differences: tuple[Difference, ...]
    tasks: tuple[TaskDifference, ...]
    costs: dict[str, tuple[float, float]]
    lost: float
    won: float
    flips: tuple[Flip, ...]
    changed: dict[str, tuple[Any, Any]]


@dataclass(frozen=True)
class SuiteComparison:
    """first, second: the folders. differs: facts that differ. only: labels that one of the two has alone."""

    first: str
    second: str
    differs: dict[str, tuple[str, str]]
    rows: tuple[RowComparison, ...]
    only: tuple[tuple[str, ...], tuple[str, ...]]


def compare(first: SuiteResults, second: SuiteResults, across: Collection[str] = ()) -> SuiteComparison:
    """Compare every row that both suites have, then what is left: the only rows of one method, or of each suite.

    across: of ACROSS, what may differ. Raises InputError where anything else does, or nothing is in common.
    """
    facts = {name: (_fact(first, name), _fact(second, name)) for name in ACROSS}
    for name, (one, other) in facts.items():
        if one != other and name not in across:
            raise InputError(
                f"{first.directory} and {second.directory} cannot be compared, their {name} differs: {one}; {other}; "
                f"if that is what you compare, add --across {name}"
            )
    pairs = _common(first, second)
    facts["commit"] = first.measured["commit"], second.measured["commit"]
    labels = {row.label for pair in pairs for row in pair}
    only = [tuple(row.label for row in suite.rows if row.label not in labels) for suite in (first, second)]
    return SuiteComparison(
        str(first.directory),
        str(second.directory),
        {name: (one, other) for name, (one, other) in facts.items() if one != other},
        _corrected([_compare_rows(*pair) for pair in pairs]),
        (only[0], only[1]),
    )


def _common(first: SuiteResults, second: SuiteResults) -> list[tuple[Row, Row]]:
    others = {row.label: row for row in second.rows}
    pairs = [(row, others[row.label]) for row in first.rows if row.label in others]
    matched = {row.label for row, _ in pairs}
    left = [[row for row in suite.rows if row.label not in matched] for suite in (first, second)]
    methods = [[row.runs[0].record.config.method for row in rows] for rows in left]
    for row, name in zip(left[0], methods[0], strict=True):
        if methods[0].count(name) == methods[1].count(name) == 1:
            pairs.append((row, left[1][methods[1].index(name)]))
    if not pairs and len(left[0]) == len(left[1]) == 1:
        pairs.append((left[0][0], left[1][0]))
    if not pairs:
        have = "; ".join(", ".join(row.label for row in suite.rows) for suite in (first, second))
        raise InputError(f"{first.directory} and {second.directory} have no method in common; they have {have}")
    return pairs


def _fact(suite: SuiteResults, name: str) -> str:
    """One of ACROSS in words; several values where the suite's runs differ."""
    configs = {
        _value(run.record, name) for row in suite.rows for run in row.runs if name != "selection" or run.record.trained
    }
    return ", ".join(sorted(configs)) or "none"


def _value(record: RunRecord, name: str) -> str:
    config = record.config
    if name == "store":
        return f"{config.store.name} ({config.store.digest[:12]})"
    if name == "options":
        return " ".join(f"{key}={value}" for key, value in sorted(config.options.items()) if key != "order")
    return str(getattr(config, name))


def _compare_rows(first: Row, second: Row) -> RowComparison:
    pairing = pair_runs(first, second)
    one, other = ({"method": c.method, **c.config} for c in (row.runs[0].record.config for row in (first, second)))
    found = RowComparison(
        label=first.label if first.label == second.label else f"{first.label} → {second.label}",
        runs=(len(first.runs), len(second.runs)),
        paired=len(pairing.first) if pairing.paired else 0,
        differences=tuple(d for column in COLUMNS if (d := _difference(column, pairing)) is not None),
        tasks=(),
        costs={column.key: _means(column, first, second) for column in COSTS},
        lost=0.0,
        won=0.0,
        flips=(),
        changed={
            k: (one.get(k), other.get(k)) for k in sorted(one.keys() | other.keys()) if one.get(k) != other.get(k)
        },
    )
    if not pairing.paired:
        return found
    lost, won, flips = pairing.flips()
    return replace(found, tasks=_tasks(pairing), lost=lost, won=won, flips=tuple(flips))


def _means(column: Column, first: Row, second: Row) -> tuple[float, float]:
    one, other = (column.cell(row).mean or 0.0 for row in (first, second))
    return one, other


def _difference(column: Column, pairing: Pairing) -> Difference | None:
    """None where one side does not have the metric."""
    singles = [[run.final.get(column.key) for run in runs] for runs in (pairing.first, pairing.second)]
    first_R, second_R = ([value for value in single if value is not None] for single in singles)
    if len(first_R) < len(pairing.first) or len(second_R) < len(pairing.second):
        return None
    before, after, values = float(np.mean(first_R)), float(np.mean(second_R)), pairing.values(column.key)
    equal = pairing.paired and first_R == second_R
    interval: Interval | PairDifference | None = None
    if pairing.paired:
        one_RV, other_RV = values or (np.array(first_R)[:, None], np.array(second_R)[:, None])
        equal = bool((one_RV == other_RV).all())
        interval = difference(pairing, one_RV, other_RV)
    elif values is not None:
        (one, one_seed), (other, other_seed) = pairing.orders_and_seeds
        interval = unpaired_difference(values[1], other, values[0], one, seed_R=other_seed, other_seed_R=one_seed)
        if not any(run.record.trained for run in (*pairing.first, *pairing.second)):
            interval = replace(interval, seeds=True)  # none to be unsure about
    if isinstance(interval, PairDifference) and interval.low is None:
        interval = None
    return Difference(column, before, after, interval, None if interval is None else interval.p, equal)


def _tasks(pairing: Pairing) -> tuple[TaskDifference, ...]:
    values = pairing.values(RETRIEVAL[0].key)
    assert values is not None
    first_RV, second_RV = values
    asked = pairing.tables[0][0].task_N + 1
    found = []
    for task in range(1, int(asked.max()) + 1):
        mine_V = pairing.task_V == task
        one, other = first_RV[:, mine_V], second_RV[:, mine_V]
        interval = difference(pairing, one, other) if mine_V.sum() > 1 else None
        equal = bool((one == other).all())
        means = float(one.mean()), float(other.mean())
        p = None if interval is None else interval.p
        queries = int((asked == task).sum())
        found.append(TaskDifference(task, queries, Difference(RETRIEVAL[0], *means, interval, p, equal)))
    corrected = _holm([task.difference for task in found])
    return tuple(replace(task, difference=each) for task, each in zip(found, corrected, strict=True))


def _corrected(rows: Sequence[RowComparison]) -> tuple[RowComparison, ...]:
    """p-values of each metric corrected over the rows."""
    by_key: dict[str, list[tuple[int, Difference]]] = {}
    for index, row in enumerate(rows):
        for found in row.differences:
            by_key.setdefault(found.column.key, []).append((index, found))
    done: dict[tuple[int, str], Difference] = {}
    for key, members in by_key.items():
        for (index, _), each in zip(members, _holm([found for _, found in members]), strict=True):
            done[index, key] = each
    return tuple(
        replace(row, differences=tuple(done[index, found.column.key] for found in row.differences))
        for index, row in enumerate(rows)
    )


def _holm(differences: Sequence[Difference]) -> list[Difference]:
    known = [index for index, found in enumerate(differences) if found.p is not None]
    corrected = dict(zip(known, holm([differences[index].p or 0.0 for index in known]), strict=True))
    return [replace(found, p=corrected.get(index)) for index, found in enumerate(differences)]
