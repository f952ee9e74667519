"""The result table as text for a terminal, markdown, CSV, LaTeX and JSON: one set of numbers, see bench.columns.

Zero-shot and upper bounds stand below the continual methods and are never marked as best.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.aggregate import Row, SuiteResults
from bench.columns import (
    COLUMNS,
    CONTINUAL,
    COSTS,
    GROUPS,
    PAPER,
    RETRIEVAL,
    Column,
    footnotes,
    is_reference,
    note_of,
    places,
    ranked,
    references,
)
from bench.statistics import Interval

# In the order in which they are worth their width; shown in the order of COLUMNS.
_CONSOLE = (
    RETRIEVAL[0], RETRIEVAL[5], COSTS[2], RETRIEVAL[2], RETRIEVAL[3], RETRIEVAL[1],
    COSTS[0], CONTINUAL[1], RETRIEVAL[4], COSTS[1], RETRIEVAL[6], CONTINUAL[0],
)  # fmt: skip
_NOT_RANKED = "below the line: zero-shot and upper bounds, not ranked"


def console_table(results: SuiteResults, width: int | None = None) -> Table:
    """The table for a terminal of that width (default: this one): as many columns as fit, the most telling first.

    ±: standard deviation over runs. Bold: best; underlined: second.
    """
    rows, below = ranked(results), references(results)
    width = width or Console().width
    label_width = min(max(len(row.label) for row in results.rows), max(16, width // 4))
    room = width - label_width - len("  runs  ")
    chosen = []
    for column in _CONSOLE:
        need = 2 + max(len(column.title), len(_unit(column)), *(len(column.cell(row).text) for row in results.rows))
        if need <= room:
            chosen.append(column)
            room -= need
    columns = [column for column in COLUMNS if column in chosen]
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0), caption_justify="left")
    table.caption = _NOT_RANKED if below else None
    table.add_column("method\n", overflow="fold", max_width=label_width)
    table.add_column("runs\n", justify="right")
    for column in columns:
        table.add_column(f"{column.title}\n[dim]{_unit(column)}[/]", justify="right", no_wrap=True)
    best = {column.key: places(rows, column) for column in columns}
    for row in [*rows, *below]:
        cells = [_styled(column.cell(row).text, best[column.key].get(row.label), _RICH) for column in columns]
        style = "dim" if is_reference(row) else None
        table.add_row(escape(row.label), str(len(row.runs)), *cells, style=style)
        if rows and row is rows[-1] and below:
            table.add_row()
    return table


def markdown_table(results: SuiteResults, intervals: Mapping[str, Interval] | None = None) -> str:
    """Three tables (retrieval; learning and forgetting; cost and what is kept), footnotes, and how it was measured.

    intervals: of the headline, by label.
    """
    rows, below = ranked(results), references(results)
    notes = footnotes([*rows, *below])
    parts = []
    for title, columns in GROUPS:
        best = {column.key: places(rows, column) for column in columns}
        keeps = ["keeps", "fidelity"] if title == "Cost" else []
        sure = ["95 % interval"] if title == "Retrieval" and intervals else []
        head = ["method", "runs", *(f"{column.title} ({_unit(column)})" for column in columns), *sure, *keeps]
        body = []
        for row in [*rows, *below]:
            cells = [_styled(column.cell(row).text, best[column.key].get(row.label), _MARKDOWN) for column in columns]
            name = f"*{_md(row.label)}*" if is_reference(row) else _md(row.label)
            record, note = row.runs[0].record, note_of(row, notes)
            kept = [_md(record.stores_samples), record.fidelity + (f" [{note}]" if note else "")] if keeps else []
            spans = [interval_text(intervals[row.label])] if sure and intervals else []
            body.append([name, str(len(row.runs)), *cells, *spans, *kept])
        align = ["---", "--:", *("--:" for _ in [*columns, *sure]), *("---" for _ in keeps)]
        lines = [head, align, *body]
        parts.append(f"**{title}**\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines))
    parts.append("In *italics*: zero-shot and upper bounds, not ranked. **Bold**: best; <u>underlined</u>: second.")
    if notes:
        parts.append("\n".join(f"[{number}] adapted: {_md(text)}  " for text, number in notes.items()))
    parts.append("\n".join(f"- {key}: {_md(value)}" for key, value in results.measured.items()))
    return "\n\n".join(parts) + "\n"


def csv_table(results: SuiteResults, intervals: Mapping[str, Interval] | None = None) -> str:
    """One line for each row: mean, deviation and number of runs of every column, in full precision.

    How it was measured stands in columns of its own, so that files of several suites can be put together.
    intervals: of the headline, by label.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    head = [f"{column.key} {part}" for column in COLUMNS for part in ("mean", "std", "n")]
    head += [f"{RETRIEVAL[0].key} {part}" for part in ("low", "high")] if intervals else []
    writer.writerow(["label", "kind", "runs", *head, "keeps", "fidelity", "deviations", *results.measured])
    for row in [*ranked(results), *references(results)]:
        numbers: list[float | str] = []
        for column in COLUMNS:
            cell = column.cell(row)
            numbers += [_or_empty(cell.mean), _or_empty(cell.std), len(cell.values)]
        if intervals:
            numbers += [intervals[row.label].low, intervals[row.label].high]
        record = row.runs[0].record
        kept = [record.stores_samples, record.fidelity, record.deviations]
        writer.writerow([row.label, _kind(row), len(row.runs), *numbers, *kept, *results.measured.values()])
    return out.getvalue()


def latex_table(*suites: SuiteResults, tied: Mapping[str, Collection[str]] | None = None) -> str:
    r"""A booktabs table in the papers' layout: R@1/5/10, MedR, MeanR, BWF for each suite side by side.

    tied: for each suite's name, the methods that a test cannot tell from the best; they get a dagger.
    Needs \usepackage{booktabs}. Best in bold, second underlined, references below a rule.
    """
    rows = list({row.label: row for suite in suites for row in ranked(suite)}.values())
    below = list({row.label: row for suite in suites for row in references(suite)}.values())
    notes = footnotes([*rows, *below])
    best = [{column.key: places(ranked(suite), column) for column in PAPER} for suite in suites]

    def line(row: Row) -> str:
        note = note_of(row, notes)
        cells = [_tex(row.label) + (f"$^{{{note}}}$" if note else "")]
        for suite, place in zip(suites, best, strict=True):
            found = next((other for other in suite.rows if other.label == row.label), None)
            dagger = "$^\\dagger$" if row.label in (tied or {}).get(suite.name, ()) else ""
            cells += [
                "--" if found is None else _tex_cell(column, found, place[column.key].get(row.label), dagger)
                for column in PAPER
            ]
        return " & ".join(cells) + r" \\"

    last = 1
    spans, rules = [], []
    for suite in suites:
        spans.append(rf"\multicolumn{{{len(PAPER)}}}{{c}}{{{_tex(suite.measured['stream'])}}}")
        rules.append(rf"\cmidrule(lr){{{last + 1}-{last + len(PAPER)}}}")
        last += len(PAPER)
    titles = [_tex(column.title) + {1: r"$\uparrow$", -1: r"$\downarrow$"}[column.better] for column in PAPER]
    body = [*map(line, rows), *([r"\midrule"] if rows and below else []), *map(line, below)]
    remarks = [f"$^{{{number}}}$ adapted: {_tex(text)}" for text, number in notes.items()]
    remarks += [r"$^\dagger$ not told from the best (paired test, Holm, 5\%)"] if tied and any(tied.values()) else []
    remarks += [f"{_tex(suite.name)}: {_measured(suite)}" for suite in suites]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            r"\setlength{\tabcolsep}{4pt}",
            rf"\begin{{tabular}}{{l{'r' * len(PAPER) * len(suites)}}}",
            r"\toprule",
            " & ".join(["", *spans]) + r" \\",
            " ".join(rules),
            " & ".join(["Method", *titles * len(suites)]) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            *(rf"\par\smallskip{{\footnotesize {remark}\par}}" for remark in remarks),
            r"\end{table}",
            "",
        ]
    )


def numbers(results: SuiteResults, intervals: Mapping[str, Interval] | None = None) -> dict[str, Any]:
    """Every number of every row, for machines: mean, std and the runs' values by column key, in full precision.

    intervals: of the headline, by label.
    """
    rows = []
    for row in [*ranked(results), *references(results)]:
        cells = {column.key: column.cell(row) for column in COLUMNS}
        record = row.runs[0].record
        rows.append(
            {
                "label": row.label,
                "kind": _kind(row),
                "runs": [run.record.run_id for run in row.runs],
                "values": {key: {"mean": c.mean, "std": c.std, "runs": list(c.values)} for key, c in cells.items()},
                "keeps": record.stores_samples,
                "fidelity": record.fidelity,
                "deviations": record.deviations,
                "interval": intervals and interval_numbers(intervals[row.label]),
            }
        )
    units = {column.key: column.unit for column in COLUMNS}
    return {"suite": results.name, "measured": results.measured, "units": units, "rows": rows}


def interval_text(interval: Interval) -> str:
    """As in '15.02 to 17.30'."""
    return f"{RETRIEVAL[0].text(interval.low)} to {RETRIEVAL[0].text(interval.high)}"


def interval_numbers(interval: Interval) -> dict[str, Any]:
    """An interval for machines; over: what it speaks of beyond the runs that were made."""
    over = ["orders"] * interval.orders + ["seeds"] * interval.seeds + ["queries"]
    bounds = {"estimate": interval.estimate, "low": interval.low, "high": interval.high, "level": interval.level}
    return bounds | {"over": over}


_RICH = {1: "[bold]{}[/]", 2: "[underline]{}[/]"}
_MARKDOWN = {1: "**{}**", 2: "<u>{}</u>"}
_LATEX = {1: r"\textbf{{{}}}", 2: r"\underline{{{}}}"}


def _styled(text: str, place: int | None, styles: Mapping[int, str]) -> str:
    return styles[place].format(text) if place else text


def _unit(column: Column) -> str:
    return column.unit + {1: " ↑", -1: " ↓", 0: ""}[column.better]


def _kind(row: Row) -> str:
    return "reference" if is_reference(row) else "continual"


def _or_empty(value: float | None) -> float | str:
    return "" if value is None else value


def _md(text: str) -> str:
    for special in "\\|*_<[]":
        text = text.replace(special, "\\" + special)
    return text


def _tex(text: str) -> str:
    replaced = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--"}
    return "".join(replaced.get(letter, "\\" + letter if letter in "&%$#_{}" else letter) for letter in text)


def _tex_cell(column: Column, row: Row, place: int | None, dagger: str) -> str:
    cell = column.cell(row)
    minus = cell.mean_text.startswith("-")
    text = _styled(("$-$" if minus else "") + _tex(cell.mean_text.removeprefix("-")), place, _LATEX)
    if column is PAPER[0]:
        text += dagger
    return text + (rf" {{\scriptsize$\pm${cell.std_text}}}" if cell.std_text else "")


def _measured(suite: SuiteResults) -> str:
    return "; ".join(f"{_tex(key)}: {_tex(value)}" for key, value in suite.measured.items())
