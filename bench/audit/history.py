"""A metric's history over commits, from the folders of runs that were made at each: as `asv` keeps benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ctvr_bench.bench.analysis.columns import Column
from ctvr_bench.bench.records.aggregate import SuiteResults
from ctvr_bench.bench.report.drawing import COLOURS, MARKERS
from ctvr_bench.features.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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


def draw_history(figure: Figure, found: dict[str, Any]) -> None:
    """Draw a line for each row over the commits, bars: deviation over runs; a line breaks where a row was not run."""
    places = range(len(found["commits"]))
    figure.set_size_inches(max(6.4, 1.1 * len(places) + 2.5), max(3.6, 0.22 * len(found["rows"]) + 1.6))
    axes = figure.add_subplot()
    for number, (label, values) in enumerate(found["rows"].items()):
        mean, std = (np.array([np.nan if each is None else each for each in values[key]]) for key in ("mean", "std"))
        axes.errorbar(
            places,
            mean,
            np.nan_to_num(std),
            label=label,
            color=COLOURS[number % len(COLOURS)],
            marker=MARKERS[number % len(MARKERS)],
            linestyle="-" if number < len(COLOURS) else "--",
            capsize=2,
            elinewidth=0.8,
        )
    dates = [ended[:10] for ended in found["ended"]]
    axes.set_xticks(places, [f"{c[:10]}\n{date}" for c, date in zip(found["commits"], dates, strict=True)], fontsize=8)
    axes.set_xlim(-0.4, len(places) - 0.6)
    better = "" if found["better"] is None else f", {found['better']} is better"
    axes.set_ylabel(f"{found['title']} ({found['unit']}{better})")
    figure.suptitle(f"{found['title']} over commits", x=0.01, ha="left", fontsize=11, fontweight="bold")
    figure.legend(loc="outside right center", fontsize=8, frameon=False)


def _ended(suite: SuiteResults) -> str:
    return max(run.record.ended for row in suite.rows for run in row.runs)
