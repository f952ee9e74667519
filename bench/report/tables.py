"""The result table for a terminal, markdown, CSV and JSON: one set of numbers, see `columns` and `latex`.

Zero-shot and upper bounds stand below the continual methods and are never marked as best.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ctvr_bench.bench.all_pairs import PairDifference
from ctvr_bench.bench.analysis.columns import (
    COLUMNS,
    CONTINUAL,
    COSTS,
    PAPER,
    RETRIEVAL,
    Column,
    columns_of,
    footnotes,
    groups_of,
    is_reference,
    note_of,
    places,
    ranked,
    references,
)
from ctvr_bench.bench.escaping import csv_text, markdown_lines, markdown_text
from ctvr_bench.bench.records.aggregate import Row, SuiteResults
from ctvr_bench.bench.report.reported import HEADS, NOTE, has_reported, reported_cells
from ctvr_bench.bench.statistics import TOO_FEW, Interval, in_percent, says_nothing
from ctvr_bench.features.errors import one_line

Intervals = Mapping[str, Mapping[str, Interval]]
"""By label and by key of a column, see bench.analysis.findings.Evidence."""

# In the order in which they are worth their width; shown in the order of COLUMNS.
_CONSOLE = (
    RETRIEVAL[0], RETRIEVAL[5], COSTS[2], RETRIEVAL[2], RETRIEVAL[3], RETRIEVAL[1],
    COSTS[0], CONTINUAL[1], RETRIEVAL[4], COSTS[1], RETRIEVAL[6], CONTINUAL[0],
)  # fmt: skip
_NUMBERS = 36
"""Letters of a line that are left for numbers, however long a label is: R@1 and BWF with their deviations."""
_SURE = (*RETRIEVAL, *CONTINUAL)
_NOT_RANKED = "below the line: zero-shot and upper bounds, not ranked"


def console_table(results: SuiteResults, width: int | None = None) -> Table:
    """The table for a terminal of that width (default: this one): as many columns as fit, the most telling first.

    ±: standard deviation over runs. Bold: best; underlined: second.
    """
    rows, below = ranked(results), references(results)
    width = width or Console().width
    label_width = min(max(len(row.label) for row in results.rows), max(16, width - _NUMBERS))
    room = width - label_width - len("  runs  ")
    chosen = []
    for column in _CONSOLE:
        if not any(column.values(row) for row in results.rows):
            continue
        need = 2 + max(len(column.title), len(_unit(column)), *(len(column.cell(row).text) for row in results.rows))
        if need <= room:
            chosen.append(column)
            room -= need
    columns = [column for column in COLUMNS if column in chosen]
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0), caption_justify="left")
    table.caption = "\n".join(filter(None, [results.smoke_test, _NOT_RANKED if below else ""])) or None
    table.add_column("method\n", overflow="fold", max_width=label_width)
    table.add_column("runs\n", justify="right")
    for column in columns:
        table.add_column(f"{column.title}\n[dim]{_unit(column)}[/]", justify="right", no_wrap=True)
    best = {column.key: places(rows, column) for column in columns}
    for row in [*rows, *below]:
        cells = [styled(column.cell(row).text, best[column.key].get(row.label), _RICH) for column in columns]
        style = "dim" if is_reference(row) else None
        table.add_row(escape(one_line(row.label)), str(len(row.runs)), *cells, style=style)
        if rows and row is rows[-1] and below:
            table.add_row()
    return table


def markdown_table(results: SuiteResults, intervals: Intervals | None = None) -> str:
    """The tables (retrieval; learning and forgetting; cost and what is kept), footnotes, and how it was measured.

    intervals: adds a table of them.
    """
    rows, below = ranked(results), references(results)
    notes = footnotes([*rows, *below])
    parts = []
    for title, columns in groups_of(results):
        best = {column.key: places(rows, column) for column in columns}
        keeps = ["keeps", "fidelity"] if title == "Cost" else []
        printed = HEADS if title == "Retrieval" and has_reported(results) else ()
        head = ["method", "runs", *(f"{column.title} ({_unit(column)})" for column in columns), *printed, *keeps]
        body = []
        for row in [*rows, *below]:
            cells = [
                styled(column.cell(row).text, best[column.key].get(row.label), MARKDOWN_STYLES) for column in columns
            ]
            name = f"*{markdown_text(row.label)}*" if is_reference(row) else markdown_text(row.label)
            record, note = row.runs[0].record, note_of(row, notes)
            kept = (
                [markdown_text(record.stores_samples), markdown_text(record.fidelity) + (f" [{note}]" if note else "")]
                if keeps
                else []
            )
            cells += reported_cells(results, row) if printed else ()
            body.append([name, str(len(row.runs)), *cells, *kept])
        align = ["---", "--:", *("--:" for _ in [*columns, *printed]), *("---" for _ in keeps)]
        parts.append(f"**{title}**\n\n" + markdown_lines([head, align, *body]))
    if intervals:
        parts.insert(1, _markdown_intervals([*rows, *below], intervals))
    parts.append("In *italics*: zero-shot and upper bounds, not ranked. **Bold**: best; <u>underlined</u>: second.")
    if has_reported(results):
        parts.append(NOTE)
    if notes:
        parts.append("\n".join(f"[{number}] adapted: {markdown_text(text)}  " for text, number in notes.items()))
    parts.append("\n".join(f"- {key}: {markdown_text(value)}" for key, value in results.measured.items()))
    return "\n\n".join(parts) + "\n"


def csv_table(
    *suites: SuiteResults, intervals: Sequence[Intervals] = (), columns: Sequence[Column] | None = None
) -> str:
    """One line for each row: mean, deviation and number of runs of every column, in full precision.

    How it was measured stands in columns of its own, so that several suites stand in one table.
    intervals: of each suite; adds low and high of every column that has them. columns: default all.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    columns = columns or columns_of(*suites)
    sure = [column for column in _SURE if column in columns]
    head = [f"{column.key} {part}" for column in columns for part in ("mean", "std", "n")]
    head += [f"{column.key} {part}" for column in sure for part in ("low", "high")] if intervals else []
    writer.writerow(["label", "kind", "runs", *head, "keeps", "fidelity", "deviations", *suites[0].measured])
    rows = [(number, row) for number, suite in enumerate(suites) for row in (*ranked(suite), *references(suite))]
    for number, row in rows:
        numbers: list[float | str] = []
        for column in columns:
            cell = column.cell(row)
            numbers += [_or_empty(cell.mean), _or_empty(cell.std), len(cell.values)]
        if intervals:
            spans = [intervals[number][row.label].get(column.key) for column in sure]
            numbers += [bound for span in spans for bound in (("", "") if span is None else (span.low, span.high))]
        record = row.runs[0].record
        kept = [record.stores_samples, record.fidelity, record.deviations, *suites[number].measured.values()]
        writer.writerow(
            [csv_text(row.label), _kind(row), len(row.runs), *numbers, *(csv_text(str(text)) for text in kept)]
        )
    return out.getvalue()


def numbers(results: SuiteResults, intervals: Intervals | None = None) -> dict[str, Any]:
    """Every number of every row, for machines: mean, std, interval and the runs' values by column key."""
    rows, columns = [], columns_of(results)
    for row in [*ranked(results), *references(results)]:
        cells = {column.key: column.cell(row) for column in columns}
        spans = (intervals or {}).get(row.label, {})
        record = row.runs[0].record
        rows.append(
            {
                "label": row.label,
                "kind": _kind(row),
                "runs": [run.record.run_id for run in row.runs],
                "values": {
                    key: {
                        "mean": cell.mean,
                        "std": cell.std,
                        "interval": interval_numbers(spans[key]) if key in spans else None,
                        "runs": list(cell.values),
                    }
                    for key, cell in cells.items()
                },
                "keeps": record.stores_samples,
                "fidelity": record.fidelity,
                "deviations": record.deviations,
            }
        )
    units = {column.key: column.unit for column in columns}
    smoke_test = {"smoke_test": results.smoke_test} if results.smoke_test else {}
    return {"suite": results.name, **smoke_test, "measured": results.measured, "units": units, "rows": rows}


def interval_text(interval: Interval | PairDifference, column: Column = RETRIEVAL[0], *, shift: bool = False) -> str:
    """As in '15.02 to 17.30'; in words where the runs are so few that it would be wider than all percents.

    shift: whether it is one of a difference, which may be negative.
    """
    if interval.low is None or interval.high is None:
        return "–"
    if column.unit in ("%", "points") and says_nothing(interval.low, interval.high):
        return TOO_FEW
    is_share = column.unit == "%" and not shift
    low, high = in_percent(interval.low, interval.high) if is_share else (interval.low, interval.high)
    return f"{column.text(low)} to {column.text(high)}"


def interval_numbers(interval: Interval | PairDifference) -> dict[str, Any]:
    """An interval for machines; over: what it speaks of beyond the runs that were made."""
    over = ["orders"] * interval.orders + ["seeds"] * interval.seeds + ["queries"] * interval.queries
    bounds = {"estimate": interval.estimate, "low": interval.low, "high": interval.high, "level": interval.level}
    return bounds | {"over": over}


_RICH = {1: "[bold]{}[/]", 2: "[underline]{}[/]"}
MARKDOWN_STYLES = {1: "**{}**", 2: "<u>{}</u>"}


def _markdown_intervals(rows: Sequence[Row], intervals: Intervals) -> str:
    """A table of the intervals of the papers' columns."""
    head = ["method", *(f"{column.title} ({column.unit})" for column in PAPER)]
    body = []
    for row in rows:
        spans = [(column, intervals[row.label].get(column.key)) for column in PAPER]
        body.append(
            [
                markdown_text(row.label),
                *("–" if span is None else interval_text(span, column) for column, span in spans),
            ]
        )
    return "**95 % intervals**\n\n" + markdown_lines([head, ["---", *("--:" for _ in PAPER)], *body])


def styled(text: str, place: int | None, styles: Mapping[int, str]) -> str:
    """A number marked by its place (1 best, 2 second)."""
    return styles[place].format(text) if place else text


def _unit(column: Column) -> str:
    return column.unit + {1: " ↑", -1: " ↓", 0: ""}[column.better]


def _kind(row: Row) -> str:
    return "reference" if is_reference(row) else "continual"


def _or_empty(value: float | None) -> float | str:
    return "" if value is None else value
