"""A metric's history over commits, from the folders of runs that were made at each: as `asv` keeps benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ctvr_bench.bench.analysis.columns import Column
from ctvr_bench.bench.records.aggregate import SuiteResults
from ctvr_bench.features.errors import InputError


def history(suites: Sequence[SuiteResults], column: Column) -> dict[str, Any]:
    """Commits in the order in which their runs ended, and for each row its mean, deviation and runs at each.

    Where a row was not run, or has no such number, there is null. Raises InputError where suites are of different
    stores or streams, whose numbers are no history of each other.
    """
    for fact in ("store", "stream", "options", "selection", "protocol"):
        found = {suite.measured[fact] for suite in suites}
        if len(found) > 1:
            raise InputError(f"a history needs one {fact}; these folders have {', '.join(sorted(found))}")
    ordered = sorted(suites, key=_ended)
    cells: dict[str, list[Any]] = {}
    for place, suite in enumerate(ordered):
        for row in suite.rows:
            cells.setdefault(row.label, [None] * len(ordered))[place] = column.cell(row)
    return {
        "metric": column.key,
        "title": column.title,
        "unit": column.unit,
        "better": {1: "higher", -1: "lower", 0: None}[column.better],
        "folders": [str(suite.directory) for suite in ordered],
        "commits": [suite.measured["commit"] for suite in ordered],
        "ended": [_ended(suite) for suite in ordered],
        "rows": {
            label: {
                "mean": [cell and cell.mean for cell in values],
                "std": [cell and cell.std for cell in values],
                "runs": [list(cell.values) if cell else [] for cell in values],
            }
            for label, values in cells.items()
        },
    }


def history_lines(found: dict[str, Any]) -> list[str]:
    """The means as a table in text, a line for each row."""
    heads = [commit[:12] for commit in found["commits"]]
    wide = max(map(len, [*found["rows"], "row"]))
    lines = [f"{found['title']} ({found['unit']})", f"{'row':<{wide}}  " + "  ".join(f"{head:>12}" for head in heads)]
    for label, values in found["rows"].items():
        means = ["–" if mean is None else f"{mean:.2f}" for mean in values["mean"]]
        lines.append(f"{label:<{wide}}  " + "  ".join(f"{mean:>12}" for mean in means))
    return lines


def _ended(suite: SuiteResults) -> str:
    return max(run.record.ended for row in suite.rows for run in row.runs)
