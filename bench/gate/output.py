"""A check as a person and as a CI server read it: a table of what moved, and JUnit's XML."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ctvr_bench.bench.analysis.columns import PAPER
from ctvr_bench.bench.gate.baseline import Baseline
from ctvr_bench.bench.gate.gate import Move, Outcome, RowOutcome
from ctvr_bench.bench.gate.tolerance import TABLE_KEYS
from ctvr_bench.bench.records.record import write_text
from ctvr_bench.features.errors import one_line

_SHOWN = 12
"""Metrics shown of a method; the others are counted, and all are in --json."""
_STYLE = {"other": "red", "worse": "red", "moved": "red", "changed": "red", "better": "green", "same": "default"}


def print_check(found: Outcome) -> None:
    """A line for each method and a table of what moved, to standard output."""
    console = Console(highlight=False)
    for line in how_compared(found):
        console.print(line, style="dim", markup=False)
    for row in found.rows:
        console.print(f"{escape(one_line(row.label))}: [bold {_STYLE[row.verdict]}]{row.verdict}[/]")
        for reason in row.reasons:
            console.print(one_line(f"  {reason}"), markup=False)
        if row.moves:
            console.print(_table(row))


def how_compared(found: Outcome) -> Iterator[str]:
    """Which comparison was made and why, line by line."""
    yield f"baseline of commit {found.commits[0] or 'unknown'}, runs of {found.commits[1] or 'unknown'}"
    if found.exact:
        yield "same environment: every rank, metric and loss term must be equal"
        return
    yield f"within tolerances from seed noise (at most {100 * found.level:g} % false alarms in a whole check), because"
    for key, (before, now) in found.differs.items():
        yield f"  {key} was {before}, is {now}"
    if not found.differs:
        yield "  sums on a GPU have no fixed order"


def row_lines(row: RowOutcome) -> Iterator[str]:
    """A method's verdict as plain text."""
    yield f"{row.label}: {row.verdict}"
    for reason in row.reasons:
        yield f"  {reason}"
    for move in _chosen(row):
        low, high = move.allowed
        yield (
            f"  {move.metric}: {move.before:.6g} -> {move.now:.6g}, {move.verdict}"
            f" (seeds alone: {low:.6g} to {high:.6g})"
        )
    if more := len(row.moves) - len(_chosen(row)):
        yield f"  and {more} metrics more"


def write_junit(path: Path, name: str, found: Outcome) -> None:
    """One test case for each method, as CI servers read it."""
    suite = ElementTree.Element("testsuite", name="ctvr", tests=str(len(found.rows)), errors="0", skipped="0")
    suite.set("failures", str(sum(not row.ok for row in found.rows)))
    suite.set("time", f"{sum(row.seconds for row in found.rows):.3f}")
    for row in found.rows:
        label = one_line(row.label)  # XML has no place for control characters
        named = {"classname": f"ctvr.{one_line(name)}", "name": label, "time": f"{row.seconds:.3f}"}
        case = ElementTree.SubElement(suite, "testcase", named)
        text = "\n".join(map(one_line, [*how_compared(found), *row_lines(row)]))
        if row.ok:
            ElementTree.SubElement(case, "system-out").text = text
        else:
            ElementTree.SubElement(case, "failure", message=f"{label}: {row.verdict}", type=row.verdict).text = text
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode")
    write_text(path, f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n')


def print_side_by_side(old: Baseline | None, new: Baseline) -> None:
    """The papers' columns of the old baseline and of the new, to standard output: means of the noise runs."""
    before = {row.label: row for row in old.rows} if old else {}
    after = {row.label: row for row in new.rows}
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("method", overflow="fold", min_width=12)
    table.add_column("", no_wrap=True)
    for column in PAPER:
        table.add_column(column.title, justify="right", no_wrap=True)
    for label in dict.fromkeys([*before, *after]):
        for name, rows in (("old", before), ("new", after)) if old else (("new", after),):
            if label not in rows:
                table.add_row(escape(label), name, "gone" if name == "new" else "was not there")
                continue
            metrics = rows[label].metrics
            cells = [column.text(metrics[column.key].mean) for column in PAPER]
            table.add_row(escape(label), name, *cells)
    Console().print(table)


def _table(row: RowOutcome) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 2))
    for title in ("metric", "before", "now", "change", "seeds alone", ""):
        table.add_column(title, justify="left" if title in ("metric", "") else "right", no_wrap=title != "metric")
    for move in _chosen(row):
        low, high = move.allowed
        cells = [f"{move.before:.4g}", f"{move.now:.4g}", f"{move.now - move.before:+.3g}", f"{low:.4g} to {high:.4g}"]
        table.add_row(
            escape(move.metric), *cells, move.verdict, style=_STYLE[move.verdict] if move.verdict != "changed" else ""
        )
    if more := len(row.moves) - len(_chosen(row)):
        table.add_row(f"and {more} metrics more (--json)")
    return table


def _chosen(row: RowOutcome) -> list[Move]:
    """Loss terms, from which the rest follows; then what is beyond its tolerance, the tables' columns, the others."""

    def place(move: Move) -> tuple[bool, int, bool]:
        beyond = {"worse": 0, "better": 1, "moved": 2}.get(move.verdict, 3)
        return not move.metric.startswith("training/"), beyond, move.metric not in TABLE_KEYS

    return sorted(row.moves, key=place)[:_SHOWN]
