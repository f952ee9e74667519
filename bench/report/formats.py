"""One format of the report by itself: for a paper, a spreadsheet, a slide. Several suites stand side by side."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from ctvr_bench.bench.analysis.findings import Evidence, against, evidence
from ctvr_bench.bench.records.aggregate import SuiteResults, read_results
from ctvr_bench.bench.records.record import write_text
from ctvr_bench.bench.report.choice import Choice
from ctvr_bench.bench.report.latex import Marks, latex_table, paper_markdown
from ctvr_bench.bench.report.report import Read, markdown_report, open_runs_store
from ctvr_bench.bench.report.tables import csv_table
from ctvr_bench.features.errors import InputError, unknown_name

TEXTS = {"md": "report.md", "latex": "table.tex", "csv": "table.csv"}
FILES = {"html": "report.html", "png": "figures", "pdf": "figures"}
FORMATS = (*TEXTS, *FILES)
_SUFFIXES = {".md": "md", ".tex": "latex", ".csv": "csv", ".html": "html"}


def format_of(name: str | None, out: Path | None) -> str | None:
    """The format asked for by name, or by the suffix of the file to write; None for the whole report."""
    if name is None:
        return None if out is None else _SUFFIXES.get(out.suffix)
    if name not in FORMATS:
        raise unknown_name("format", name, FORMATS)
    return name


def report_text(
    directories: Sequence[Path],
    name: str,
    baseline: str | None = None,
    choice: Choice | None = None,
    read: Read = read_results,
) -> str:
    """The report as markdown, LaTeX or CSV. baseline: a row that every other is tested against, for marks.

    choice: rows, columns and names; the tests remain those of all rows. read: what the rows are read with.
    """
    suites = [read(directory) for directory in directories]
    found = [evidence(suite) for suite in suites]
    if choice is None and name == "csv":
        return csv_table(*suites, intervals=[evidence.intervals for evidence in found])
    if choice is None and name == "md" and len(suites) == 1 and baseline is None:
        return markdown_report(suites[0], found[0], [])
    choice = (choice or Choice()).among(suites)
    shown = [choice.of(suite) for suite in suites]
    if name == "csv":
        named = [{choice.name(label): spans for label, spans in one.intervals.items()} for one in found]
        return csv_table(*shown, intervals=named, columns=choice.columns)
    marks = [_marks(suite, one, baseline, choice) for suite, one in zip(suites, found, strict=True)]
    table = latex_table if name == "latex" else paper_markdown
    return table(*shown, marks=marks, columns=choice.columns)


def write_page(directory: Path, out: Path, store: Path | None = None, read: Read = read_results) -> None:
    """The report as one HTML file that refers to nothing beside it."""
    from ctvr_bench.bench.report.html import html_report
    from ctvr_bench.bench.report.plots import save_figures

    results = read(directory)
    opened = open_runs_store(results, store)
    with tempfile.TemporaryDirectory() as folder:
        images = save_figures(results, Path(folder), ("png",))
        write_text(out, html_report(results, evidence(results, opened), images, opened, alone=True))


def write_figures(
    directories: Sequence[Path], kind: str, out: Path, choice: Choice | None = None, read: Read = read_results
) -> list[Path]:
    """Every figure as PNG or PDF; several suites in a folder each. Raises InputError where two have one name."""
    from ctvr_bench.bench.report.plots import save_figures

    found = [read(directory) for directory in directories]
    choice = (choice or Choice()).among(found)
    suites = [choice.of(suite) for suite in found]
    if len({suite.name for suite in suites}) < len(suites):
        raise InputError("two of the folders have the same name, and so would their figures; draw them one by one")
    folders = [out / suite.name if len(suites) > 1 else out for suite in suites]
    try:
        return [
            file
            for suite, to in zip(suites, folders, strict=True)
            for file in save_figures(suite, to, (kind,)).values()
        ]
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror or error}); choose a writable folder") from error


def _marks(suite: SuiteResults, found: Evidence, baseline: str | None, choice: Choice) -> Marks:
    named = tuple(map(choice.name, found.tied))
    if baseline is None:
        return Marks(named)
    told = [comparison for comparison in against(suite, baseline, found) if comparison.differs]
    above = tuple(choice.name(comparison.first) for comparison in told if comparison.interval.estimate > 0)
    below = tuple(choice.name(comparison.first) for comparison in told if comparison.interval.estimate < 0)
    return Marks(named, choice.name(baseline), above, below)
