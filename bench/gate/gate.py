"""The gate: runs made anew against a baseline, and a verdict on every method.

Where the environment is the baseline's, a run is repeatable bit for bit, so every rank, metric and loss term must be
equal. Elsewhere the mean of the repeated runs must lie within the tolerances (see bench.gate.tolerance). A method is

    other      a run did not finish, or trained on other videos, with other sizes or loss terms: not the same thing
    worse      a metric with a better side is worse beyond its tolerance
    better     one is better beyond it and none is worse: passes, and waits for --accept
    moved      a metric without a better side (a loss term, geometry) is beyond its tolerance
    changed    within the tolerances but not equal, in the environment where it must be
    same       equal, or within the tolerances where the environment is another
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ctvr_bench.bench.gate.baseline import Baseline, BaselineRow, BaselineRun, Metric
from ctvr_bench.bench.gate.measure import Measured, Measurement
from ctvr_bench.bench.gate.tolerance import better_side

Verdict = Literal["other", "worse", "better", "moved", "changed", "same"]
PASSES = frozenset({"same", "better"})
_ORDER: tuple[Verdict, ...] = ("worse", "better", "moved", "changed")


@dataclass(frozen=True)
class Move:
    """A metric that is not what it was. before, now: mean over the repeated runs; allowed: for `now`."""

    metric: str
    before: float
    now: float
    allowed: tuple[float, float]
    verdict: Verdict


@dataclass(frozen=True)
class RowOutcome:
    """A method's verdict, every metric that moved, and in words what else is not what it was.

    seconds: that its runs took.
    """

    label: str
    verdict: Verdict
    reasons: tuple[str, ...]
    moves: tuple[Move, ...]
    now: Mapping[str, float]
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return self.verdict in PASSES


@dataclass(frozen=True)
class Outcome:
    """The verdict on a whole baseline. exact: equality was asked for; differs: why not, (before, now) of each fact."""

    exact: bool
    differs: Mapping[str, tuple[str, str]]
    level: float
    commits: tuple[str, str]
    rows: tuple[RowOutcome, ...]

    @property
    def ok(self) -> bool:
        return all(row.ok for row in self.rows)

    def as_json(self) -> dict[str, Any]:
        """Everything for machines."""
        return {
            "ok": self.ok,
            "exact": self.exact,
            "environment": {key: {"before": before, "now": now} for key, (before, now) in self.differs.items()},
            "level": self.level,
            "commits": {"before": self.commits[0], "now": self.commits[1]},
            "rows": [
                {
                    "label": row.label,
                    "verdict": row.verdict,
                    "reasons": list(row.reasons),
                    "moves": [
                        {
                            "metric": m.metric,
                            "before": m.before,
                            "now": m.now,
                            "allowed": m.allowed,
                            "verdict": m.verdict,
                        }
                        for m in row.moves
                    ],
                }
                for row in self.rows
            ],
        }


def check(baseline: Baseline, found: Measurement, labels: Collection[str] = ()) -> Outcome:
    """Compare every metric of the rows of a baseline (or of some labels) with the runs made anew."""
    differs = {
        key: (baseline.environment.get(key, "unknown"), found.environment.get(key, "unknown"))
        for key in sorted(baseline.environment.keys() | found.environment.keys())
        if baseline.environment.get(key) != found.environment.get(key)
    }
    exact = not differs and found.repeatable
    rows = [row for row in baseline.rows if not labels or row.label in labels]
    return Outcome(
        exact,
        differs,
        baseline.level,
        (baseline.commit, found.commit),
        tuple(check_row(row, found.rows.get(row.label), exact) for row in rows),
    )


def check_row(row: BaselineRow, found: Measured | None, exact: bool) -> RowOutcome:
    """The verdict on one method."""
    if found is None:
        return RowOutcome(row.label, "other", ("is not run any more",), (), {})
    runs = {run.key: run for run in found.runs}
    pairs = [(run, runs[run.key]) for run in row.runs if run.key in runs]
    other = list(found.unfinished) or [f"{run.name} was not run" for run in row.runs if run.key not in runs]
    for before, after in pairs:
        other += [reason for reason in _not_the_same(before, after) if reason not in other]
    common = [key for key in row.metrics if pairs and all(key in now.metrics for _, now in pairs)]
    moves = tuple(move for key in common if (move := _move(key, row.metrics[key], pairs, exact)))
    other_ranks = exact and any(before.ranks != now.ranks for before, now in pairs)
    verdicts: set[Verdict] = {move.verdict for move in moves} | ({"changed"} if other_ranks else set())
    verdict: Verdict = "other" if other else next((name for name in _ORDER if name in verdicts), "same")
    reasons = (*other, *_notes(row, found, moves, other_ranks if exact else None))
    now = {key: float(np.mean([run.metrics[key] for _, run in pairs])) for key in common}
    return RowOutcome(row.label, verdict, reasons, moves, now, found.seconds)


def _notes(row: BaselineRow, found: Measured, moves: Sequence[Move], other_ranks: bool | None) -> list[str]:
    """What explains a verdict without being one. other_ranks: None where ranks may differ."""
    notes = [
        f"{key} was {row.config.get(key)!r}, is {found.config.get(key)!r}"
        for key in sorted(row.config.keys() | found.config.keys())
        if row.config.get(key) != found.config.get(key)
    ]
    derived = [move for move in moves if not move.metric.startswith(("training/", "geometry/"))]
    if other_ranks is False and derived:
        notes.append("the same ranks give other metrics: a definition changed")
    if other_ranks and not derived:
        notes.append("ranks differ, though no metric made from them does")
    return notes


def _move(key: str, metric: Metric, pairs: list[tuple[BaselineRun, BaselineRun]], exact: bool) -> Move | None:
    """The metric's move; None where it is what it was, or within its tolerance where that is all that is asked."""
    before = float(np.mean([run.metrics[key] for run, _ in pairs]))
    now = float(np.mean([run.metrics[key] for _, run in pairs]))
    equal = all(old.metrics[key] == new.metrics[key] for old, new in pairs)
    low, high = metric.range
    if equal or (low <= now <= high and not exact):
        return None
    if low <= now <= high:
        return Move(key, before, now, metric.range, "changed")
    side = better_side(key) * (1 if now > high else -1)
    return Move(key, before, now, metric.range, "better" if side > 0 else "worse" if side < 0 else "moved")


def _not_the_same(before: BaselineRun, now: BaselineRun) -> list[str]:
    """In words, how a run is not the run that it repeats."""
    reasons = [
        f"training {number} saw {new}; it was {old}"
        for number, (old, new) in enumerate(zip(before.trained_on, now.trained_on, strict=False), start=1)
        if old != new
    ]
    if len(before.trained_on) != len(now.trained_on):
        reasons.append(f"{len(now.trained_on)} trainings; it was {len(before.trained_on)}")
    reasons += [
        f"{key} is {now.counts[key]:,}; it was {value:,}"
        for key, value in before.counts.items()
        if now.counts[key] != value
    ]
    reasons += [f"{key} is gone" for key in before.metrics if key not in now.metrics]
    return reasons + [f"{key} is new" for key in now.metrics if key not in before.metrics]
