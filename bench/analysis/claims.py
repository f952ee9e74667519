"""Predictions that were written down before a suite was run, and what came of each.

A file of claims (TOML) names rows of the suite's table, and says of each claim what it expects in numbers. Sentences
are made from the numbers, so that a table whose rows are exchanged tells another story:

    minus = [first, second]     first minus second: mean over stores of the mean over their paired runs
    of = row                    the row's own value, averaged in the same way
    at_least, at_most           bounds of that mean
    every_store                 "above" or "below": its sign on each store
    reduces_drift               true or false: whether `first` reduces drift against `second`, as [reduced] defines it
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from ctvr_bench.bench.all_pairs import Place, meet
from ctvr_bench.bench.analysis.pairing import is_drawn, place_of
from ctvr_bench.bench.escaping import csv_text, markdown_text
from ctvr_bench.bench.records.aggregate import Run, SuiteResults
from ctvr_bench.bench.records.summary import BWF, HEADLINE
from ctvr_bench.features.errors import InputError, unknown_name
from ctvr_bench.features.tables import read_text, read_toml

MEASURES = ("R@1", "BWF", "staleness", "drift_disagreement", "drift_text", "drift_video")
"""Metrics after the last task in points, and geometry of the last stage in its own units (docs/protocol.md)."""
_COLUMNS = ("store", "label", "order", "seed", "drawn")
_FINAL = {"R@1": HEADLINE, "BWF": BWF, "staleness": "staleness"}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Reduced(_Strict):
    """When a row reduces drift: its disagreement is lower on every store, by `by` on average, at a cost of R@1."""

    by: float
    costs: float


class Expectation(_Strict):
    """One line of a claim; see the module."""

    minus: tuple[str, str] | None = None
    of: str | None = None
    measure: Literal[MEASURES] = "R@1"  # type: ignore[valid-type]
    at_least: float | None = None
    at_most: float | None = None
    every_store: Literal["above", "below"] | None = None
    reduces_drift: bool | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if (self.minus is None) == (self.of is None):
            raise ValueError("names two rows with minus, or one with of")
        bounds = (self.at_least, self.at_most, self.every_store)
        if (self.reduces_drift is None) == all(bound is None for bound in bounds):
            raise ValueError("gives bounds (at_least, at_most, every_store), or reduces_drift")
        if self.reduces_drift is not None and self.minus is None:
            raise ValueError("drift is reduced against another row: name two with minus")
        return self

    @property
    def rows(self) -> tuple[str, ...]:
        return self.minus or (str(self.of),)


class Claim(_Strict):
    """What is said, and the numbers that would bear it out; it holds where all of them do."""

    id: str
    says: str
    expects: tuple[Expectation, ...]


class Claims(_Strict):
    """A file of claims. rows: short names of the suite's labels."""

    question: str
    rows: dict[str, str]
    claim: tuple[Claim, ...]
    reduced: Reduced | None = None

    @model_validator(mode="after")
    def _can_be_asked(self) -> Self:
        for claim in self.claim:
            for expected in claim.expects:
                for row in expected.rows:
                    if row not in self.rows:
                        raise ValueError(f"{claim.id} names {row!r}, which is not under [rows]")
                if expected.reduces_drift is not None and self.reduced is None:
                    raise ValueError(f"{claim.id} asks whether drift is reduced; say what that means under [reduced]")
        return self


@dataclass(frozen=True)
class Found:
    """What came of one expectation. mean: over the stores, `by_store`. holds: as expected."""

    expected: Expectation
    mean: float
    by_store: Mapping[str, float]
    holds: bool

    @property
    def sentence(self) -> str:
        """What was measured, and what had been expected."""
        expected, digits = self.expected, 2 if self.expected.measure in _FINAL else 3
        name = " minus ".join(expected.rows)
        each = ", ".join(f"{value:+.{digits}f}" for value in self.by_store.values())
        text = f"{name}: {expected.measure} {self.mean:+.{digits}f} ({each})"
        if expected.reduces_drift is not None:
            wanted = "drift is reduced" if expected.reduces_drift else "drift is not reduced"
            return f"{name}: disagreement {self.mean:+.3f} ({each}); {wanted}: {'yes' if self.holds else 'no'}"
        bounds = [
            f"{word} {bound:+g}"
            for word, bound in (("at least", expected.at_least), ("at most", expected.at_most))
            if bound is not None
        ]
        bounds += [f"{expected.every_store} 0 on every store"] if expected.every_store else []
        return f"{text}; {' and '.join(bounds)}: {'yes' if self.holds else 'no'}"


@dataclass(frozen=True)
class Judged:
    """A claim with what came of each of its expectations."""

    claim: Claim
    found: tuple[Found, ...]

    @property
    def holds(self) -> bool:
        return all(found.holds for found in self.found)


def read_claims(path: Path) -> Claims:
    """Raises InputError with the place for what is no file of claims."""
    try:
        return Claims.model_validate(read_toml(path, "a file of claims"))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "file"
        raise InputError(f"{path}: {place}: {first['msg'].removeprefix('Value error, ')}") from error


@dataclass(frozen=True)
class Numbers:
    """What claims speak of, of one row on one store: its measures in every run, by order and seed. drawn: by seeds."""

    store: str
    label: str
    drawn: bool
    values: Mapping[Place, Mapping[str, float]]


def numbers_of(results: Sequence[SuiteResults]) -> list[Numbers]:
    """Of every row on every store."""
    return [
        Numbers(result.name, row.label, is_drawn(row), {place_of(run): _measures(run) for run in row.runs})
        for result in results
        for row in result.rows
    ]


def numbers_csv(numbers: Sequence[Numbers]) -> str:
    """One line a run, so that claims can be judged where the runs are not; a measure that a run lacks is empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*_COLUMNS, *MEASURES])
    for row in numbers:
        for (order, seed), values in row.values.items():
            cells = [repr(values[measure]) if measure in values else "" for measure in MEASURES]
            writer.writerow([csv_text(row.store), csv_text(row.label), order, seed, int(row.drawn), *cells])
    return out.getvalue()


def read_numbers(path: Path) -> list[Numbers]:
    """What `numbers_csv` wrote. Raises InputError for anything else."""
    try:
        lines = list(csv.reader(io.StringIO(read_text(path))))
    except csv.Error:  # a line that ends within a cell, or a cell of over 131,072 letters
        lines = []
    if not lines or lines[0] != [*_COLUMNS, *MEASURES]:
        raise InputError(f"{path}: is no table of claims' numbers; write one with 'claims FILE SUITE --numbers {path}'")
    found: dict[tuple[str, str, bool], dict[Place, dict[str, float]]] = {}
    for number, line in enumerate(lines[1:], start=2):
        try:
            store, label, order, seed, drawn, *cells = line
            values = {name: float(cell) for name, cell in zip(MEASURES, cells, strict=True) if cell}
            found.setdefault((store, label, drawn == "1"), {})[int(order), int(seed)] = values
        except ValueError as error:
            raise InputError(f"{path}: line {number} is no run's numbers ({error}); write the table again") from error
    return [Numbers(store, label, drawn, values) for (store, label, drawn), values in found.items()]


def judge(claims: Claims, numbers: Sequence[Numbers]) -> list[Judged]:
    """Every claim against the rows' numbers on each of their stores.

    Raises InputError where a row is missing on a store, or a measure in all paired runs of one.
    """
    by_store: dict[str, dict[str, Numbers]] = {}
    for row in numbers:
        by_store.setdefault(row.store, {})[row.label] = row
    return [
        Judged(claim, tuple(_found(expected, claims, by_store) for expected in claim.expects)) for claim in claims.claim
    ]


def claims_markdown(claims: Claims, judged: Sequence[Judged]) -> str:
    """The verdict on each claim with the numbers behind it."""
    held = sum(one.holds for one in judged)
    lines = [f"**{markdown_text(claims.question)}** {held} of {len(judged)} predictions hold."]
    for one in judged:
        verdict = "holds" if one.holds else "does not hold"
        lines += ["", f"- **{markdown_text(one.claim.id)} {verdict}**: {markdown_text(one.claim.says)}."]
        lines += [f"    - {markdown_text(found.sentence)}" for found in one.found]
    return "\n".join(lines) + "\n"


_Stores = Mapping[str, Mapping[str, Numbers]]


def _found(expected: Expectation, claims: Claims, stores: _Stores) -> Found:
    if expected.reduces_drift is not None and claims.reduced is not None:
        drift = _by_store(expected, "drift_disagreement", claims, stores)
        recall = _mean(_by_store(expected, "R@1", claims, stores))
        lower = _mean(drift) <= -claims.reduced.by and all(value < 0 for value in drift.values())
        reduced = lower and recall >= -claims.reduced.costs
        return Found(expected, _mean(drift), drift, reduced is expected.reduces_drift)
    by_store = _by_store(expected, expected.measure, claims, stores)
    mean = _mean(by_store)
    holds = (expected.at_least is None or mean >= expected.at_least) and (
        expected.at_most is None or mean <= expected.at_most
    )
    if expected.every_store is not None:
        sign = 1 if expected.every_store == "above" else -1
        holds &= all(sign * value > 0 for value in by_store.values())
    return Found(expected, mean, by_store, holds)


def _mean(by_store: Mapping[str, float]) -> float:
    return float(np.mean(list(by_store.values())))


def _by_store(expected: Expectation, measure: str, claims: Claims, stores: _Stores) -> dict[str, float]:
    found = {}
    for store, by_label in stores.items():
        for name in expected.rows:
            if claims.rows[name] not in by_label:
                raise unknown_name(f"row of {store}", claims.rows[name], by_label)
        rows = [by_label[claims.rows[name]] for name in expected.rows]
        values = [{place: v[measure] for place, v in row.values.items() if measure in v} for row in rows]
        if len(rows) == 2:
            met = meet(values[0], values[1], (rows[0].drawn, rows[1].drawn))
            singles = [one - other for _, one, other in met]
        else:
            singles = list(values[0].values())
        if not singles:
            raise InputError(
                f"{store}: {' and '.join(expected.rows)} have no {measure} in a common run; finish the suite"
            )
        found[store] = float(np.mean(singles))
    return found


def _measures(run: Run) -> dict[str, float]:
    last = run.record.geometry[-1] if run.record.geometry else {}
    found = {name: run.final.get(_FINAL[name]) if name in _FINAL else last.get(name) for name in MEASURES}
    return {name: value for name, value in found.items() if value is not None}
