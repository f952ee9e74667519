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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from ctvr_bench.bench.all_pairs import Place, meet
from ctvr_bench.bench.analysis.pairing import is_drawn, place_of
from ctvr_bench.bench.escaping import markdown_text
from ctvr_bench.bench.records.aggregate import Row, Run, SuiteResults
from ctvr_bench.bench.records.summary import BWF, HEADLINE
from ctvr_bench.features.errors import InputError, unknown_name
from ctvr_bench.features.tables import read_toml

MEASURES = ("R@1", "BWF", "staleness", "drift_disagreement", "drift_text", "drift_video")
"""Metrics after the last task in points, and geometry of the last stage in its own units (docs/protocol.md)."""
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


def judge(claims: Claims, results: Sequence[SuiteResults]) -> list[Judged]:
    """Every claim against the suite's results on each of its stores.

    Raises InputError where a row is missing on a store, or a measure in all paired runs of one.
    """
    return [
        Judged(claim, tuple(_found(expected, claims, results) for expected in claim.expects)) for claim in claims.claim
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


def _found(expected: Expectation, claims: Claims, results: Sequence[SuiteResults]) -> Found:
    if expected.reduces_drift is not None and claims.reduced is not None:
        drift = _by_store(expected, "drift_disagreement", claims, results)
        recall = _mean(_by_store(expected, "R@1", claims, results))
        lower = _mean(drift) <= -claims.reduced.by and all(value < 0 for value in drift.values())
        reduced = lower and recall >= -claims.reduced.costs
        return Found(expected, _mean(drift), drift, reduced is expected.reduces_drift)
    by_store = _by_store(expected, expected.measure, claims, results)
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


def _by_store(expected: Expectation, measure: str, claims: Claims, results: Sequence[SuiteResults]) -> dict[str, float]:
    found = {}
    for result in results:
        rows = [_row(result, claims.rows[name]) for name in expected.rows]
        values = [_values(row, measure) for row in rows]
        if len(rows) == 2:
            drawn = (is_drawn(rows[0]), is_drawn(rows[1]))
            singles = [one - other for _, one, other in meet(values[0], values[1], drawn)]
        else:
            singles = list(values[0].values())
        if not singles:
            raise InputError(
                f"{result.directory}: {' and '.join(expected.rows)} have no {measure} in a common run; finish the suite"
            )
        found[result.name] = float(np.mean(singles))
    return found


def _row(result: SuiteResults, label: str) -> Row:
    for row in result.rows:
        if row.label == label:
            return row
    raise unknown_name(f"row of {result.directory}", label, [row.label for row in result.rows])


def _values(row: Row, measure: str) -> dict[Place, float]:
    """Of the runs that have it."""
    found = {place_of(run): _value(run, measure) for run in row.runs}
    return {place: value for place, value in found.items() if value is not None}


def _value(run: Run, measure: str) -> float | None:
    if measure in _FINAL:
        return run.final.get(_FINAL[measure])
    return run.record.geometry[-1].get(measure) if run.record.geometry else None
