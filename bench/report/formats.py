"""One format of the report by itself: for a paper, a spreadsheet, a slide. Several suites stand side by side."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from ctvr_bench.bench.analysis.findings import against, evidence
from ctvr_bench.bench.records.aggregate import SuiteResults, read_results
from ctvr_bench.bench.records.record import write_text
from ctvr_bench.bench.report.latex import Marks, latex_table, paper_markdown
from ctvr_bench.bench.report.report import markdown_report, open_runs_store
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
    directories: Sequence[Path], name: str, baseline: str | None = None, *, across_stores: bool = False
) -> str:
    """The report as markdown, LaTeX or CSV. baseline: a row that every other is tested against, for marks."""
    suites = [read_results(directory, across_stores=across_stores) for directory in directories]
    found = [evidence(suite) for suite in suites]
    if name == "csv":
        return csv_table(*suites, intervals=[evidence.intervals for evidence in found])
    marks = [_marks(suite, one.tied, baseline) for suite, one in zip(suites, found, strict=True)]
    if name == "latex":
        return latex_table(*suites, marks=marks)
    if len(suites) == 1 and baseline is None:
        return markdown_report(suites[0], found[0], [])
    return paper_markdown(*suites, marks=marks)


def write_page(directory: Path, out: Path, store: Path | None = None, *, across_stores: bool = False) -> None:
    """The report as one HTML file that refers to nothing beside it."""
    from ctvr_bench.bench.report.html import html_report
    from ctvr_bench.bench.report.plots import save_figures

    results = read_results(directory, across_stores=across_stores)
    opened = open_runs_store(results, store)
    with tempfile.TemporaryDirectory() as folder:
        images = save_figures(results, Path(folder), ("png",))
        write_text(out, html_report(results, evidence(results, opened), images, opened, alone=True))


def write_figures(directories: Sequence[Path], kind: str, out: Path, *, across_stores: bool = False) -> list[Path]:
    """Every figure as PNG or PDF; several suites in a folder each. Raises InputError where two have one name."""
    from ctvr_bench.bench.report.plots import save_figures

    suites = [read_results(directory, across_stores=across_stores) for directory in directories]
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


def _marks(suite: SuiteResults, tied: Sequence[str], baseline: str | None) -> Marks:
    if baseline is None:
        return Marks(tuple(tied))
    told = [comparison for comparison in against(suite, baseline) if comparison.differs]
    above = tuple(comparison.first for comparison in told if comparison.interval.estimate > 0)
    below = tuple(comparison.first for comparison in told if comparison.interval.estimate < 0)
    return Marks(tuple(tied), baseline, above, below)
