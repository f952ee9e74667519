"""The report of a suite: one HTML file, and the same numbers as markdown, CSV, LaTeX, JSON and figures.

Everything is made from the runs' records alone, and can be made again from them at any time. Captions and frame strips
of the queries come from the feature store where it is named; without it they are rows of the store.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ctvr_bench.bench.analysis.against import all_sentences
from ctvr_bench.bench.analysis.budgets import budget_markdown
from ctvr_bench.bench.analysis.findings import Comparison, Evidence, evidence, summary
from ctvr_bench.bench.escaping import markdown_text
from ctvr_bench.bench.records.aggregate import SuiteResults, read_results
from ctvr_bench.bench.records.files import check_below
from ctvr_bench.bench.records.finished import derive_again
from ctvr_bench.bench.records.record import write_json, write_text
from ctvr_bench.bench.records.suites import folder_of, read_suite_records
from ctvr_bench.bench.report.drawn import figures_of
from ctvr_bench.bench.report.latex import Marks, latex_table
from ctvr_bench.bench.report.tables import csv_table, interval_numbers, markdown_table, numbers
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.store import FeatureStore, open_store

Read = Callable[[Path], SuiteResults]
"""read_results, or the same with something said about which rows."""


def write_report(
    directory: Path, recompute: bool = False, store: Path | None = None, folder: Path | None = None
) -> Path:
    """Write the report of a suite and return the path of its index.html; for the arguments see below."""
    return report_with_findings(directory, recompute, store, folder)[0]


def report_with_findings(
    directory: Path,
    recompute: bool = False,
    store: Path | None = None,
    folder: Path | None = None,
    against: str | None = None,
    read: Read = read_results,
) -> tuple[Path, list[str]]:
    """Write the report of a suite; the path of its index.html, and what the runs allow to say.

    folder: default `report/` beside the runs.
    recompute: first derive every finished run's metrics.json from its ranks.h5 again.
    store: the feature store of the runs, for the words of queries and the frames of videos.
    against: a row that is compared with every other in the findings. read: what the rows are read with.
    Raises InputError where no run is finished, a record cannot be read, or the store is another than the runs'.
    """
    if recompute:
        recompute_metrics(directory)
    results = read(directory)
    from ctvr_bench.bench.report.html import html_report

    opened = open_runs_store(results, store)
    found = evidence(results, opened)
    if folder is None:
        folder = results.directory / "report"
        check_below(results.directory, folder)
    images = figures_of(results, folder / "figures")
    write_json(folder / "metrics.json", report_numbers(results, found))
    write_text(folder / "table.csv", csv_table(results, intervals=[found.intervals]))
    write_text(folder / "table.tex", latex_table(results, marks=[Marks(tuple(found.tied))]))
    write_text(folder / "report.md", markdown_report(results, found, list(images)))
    write_text(folder / "index.html", html_report(results, found, images, opened))
    return folder / "index.html", all_sentences(results, found, against)


def recompute_metrics(directory: Path) -> None:
    """Derive metrics.json of every finished run from its ranks.h5."""
    for record in read_suite_records(directory):
        if record.status == "done":
            derive_again(folder_of(directory) / record.run_id)


def report_numbers(results: SuiteResults, found: Evidence) -> dict[str, Any]:
    """All numbers of the report for machines."""
    unfinished = [
        {
            "label": record.label,
            "order": record.config.options["order"],
            "seed": record.config.seed,
            "status": record.status,
            "reason": record.reason,
        }
        for record in results.unfinished
    ]
    return numbers(results, found.intervals) | {
        "against_best": [_comparison(comparison) for comparison in found.against_best],
        "against_zero_shot": [_comparison(comparison) for comparison in found.against_zero_shot],
        "mean_ranks": found.ranks and dict(zip(found.ranked_labels, found.ranks.mean_rank_M, strict=True)),
        "critical_difference": found.ranks and found.ranks.critical_difference,
        "unfinished": unfinished,
    }


def markdown_report(results: SuiteResults, found: Evidence, figures: list[str]) -> str:
    """The tables, the findings, the figures and what did not finish, as markdown. figures: names of those written."""
    parts = [f"# {markdown_text(results.name)}: continual retrieval", markdown_text(summary(results))]
    if results.measured["features"] == "simulated":
        parts.append("**Simulated features**: these numbers say nothing about real data.")
    if results.smoke_test:
        parts.append(f"**This is {results.smoke_test}.**")
    parts += [markdown_table(results, found.intervals), *filter(None, [budget_markdown(results)])]
    parts.append("**What the runs allow to say**")
    parts.append("\n".join(f"- {markdown_text(sentence)}" for sentence in all_sentences(results, found)))
    if results.unfinished:
        parts.append("**Runs that did not finish**, in no table")
        parts.append("\n".join(f"- {markdown_text(line)}" for line in unfinished_lines(results)))
    parts += [f"![{name.replace('_', ' ')}](figures/{name}.png)" for name in figures]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def unfinished_lines(results: SuiteResults) -> list[str]:
    """Every run that is in no table, with its status and reason."""
    return [
        f"{record.label} (order {record.config.options['order']}, seed {record.config.seed}): {record.status}, "
        + (record.reason or "the same command goes on with it")
        for record in results.unfinished
    ]


def _comparison(comparison: Comparison) -> dict[str, Any]:
    return {
        "first": comparison.first,
        "second": comparison.second,
        "difference": interval_numbers(comparison.interval),
        "p": comparison.p,
        "p_here": comparison.p_here,
        "here": comparison.here and ("these models" if comparison.p is None else "these orders"),
        "p_sign_flip": comparison.exact_p,
        "cohen_dz": comparison.effect,
        "win_rate": comparison.wins,
        "runs": comparison.runs,
        "runs_needed": comparison.needed,
        "smallest": comparison.difference.smallest(),
        "smallest_of_all_pairs": comparison.difference.smallest_of_all(),
    }


def open_runs_store(results: SuiteResults, path: Path | None) -> FeatureStore | None:
    """The store that was named, which must be the one of the runs; None where none was. Raises InputError."""
    if path is None:
        return None
    store, ids = open_store(path), {run.record.config.store for row in results.rows for run in row.runs}
    if {found.digest for found in ids} != {store.digest}:
        names = ", ".join(sorted(f"{found.name} ({found.digest[:12]})" for found in ids))
        raise InputError(f"{path}: is not the store of these runs, which is {names}; name that one")
    return store
