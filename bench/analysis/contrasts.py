"""Differences of every row of a suite from one of them, over all of its stores: what a part of a method does.

On one store they are those of every other table: of all pairs of rows at once, over queries, seeds and orders
(bench.all_pairs). On several stores the stores take the runs' place, each with the mean over its runs:

    d_w = mean over the runs (order and seed) of store w of  score(row) - score(reference),   D = mean_w d_w

so that it speaks of stores like them, seeds and queries included, since each has its own.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from ctvr_bench.bench.all_pairs import Answers, PairDifference, meet
from ctvr_bench.bench.analysis.pairing import differences, is_drawn, place_of, suite_answers
from ctvr_bench.bench.crossed import Floats
from ctvr_bench.bench.escaping import csv_text, markdown_lines, markdown_text
from ctvr_bench.bench.records.aggregate import SuiteResults
from ctvr_bench.bench.records.summary import BWF, HEADLINE
from ctvr_bench.bench.statistics import TOO_FEW, says_nothing
from ctvr_bench.features.errors import one_line, unknown_name

MEASURES = (HEADLINE, BWF)
_COLUMNS = ["row", "R@1", "95 % interval", "p", "BWF", "95 % interval", "p", "runs"]


@dataclass(frozen=True)
class Contrast:
    """Row minus reference in points. by_store: the mean on each store. p: corrected for all pairs of rows.

    low, high: hold together at 95 % for all pairs. All three None where one run, or one store, is all there is, or all
    differences are one: scores come in steps of one query, so that equal differences are chance and not certainty.
    """

    label: str
    difference: float
    low: float | None
    high: float | None
    p: float | None
    by_store: Mapping[str, float]
    runs: int


def contrasts(results: Sequence[SuiteResults], against: str, key: str) -> list[Contrast]:
    """Every other row against the reference, largest difference first. Raises InputError for an unknown reference."""
    labels = dict.fromkeys(row.label for result in results for row in result.rows)
    if against not in labels:
        raise unknown_name("row to compare with", against, labels)
    one = len(results) == 1
    tested = differences(suite_answers(results[0], key)) if one else pairs_over_stores(results, labels, key)
    found = []
    for label in labels:
        if (label, against) not in tested:
            continue
        single = {result.name: _singles(result, label, against, key) for result in results}
        by_store = {store: float(np.mean(values)) for store, values in single.items() if values}
        test, runs = tested[label, against], sum(map(len, single.values()))
        found.append(Contrast(label, test.estimate, test.low, test.high, test.p, by_store, runs))
    return sorted(found, key=lambda contrast: contrast.difference, reverse=True)


def contrast_table(results: Sequence[SuiteResults], against: str) -> Table:
    """R@1 and BWF differences for a terminal."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0), caption_justify="left")
    for column in _COLUMNS:
        table.add_column(column, justify="left" if column == _COLUMNS[0] else "right", overflow="fold")
    for line in _lines(results, against):
        table.add_row(escape(one_line(line[0])), *line[1:])
    table.caption = escape(_note(results, against))
    return table


def contrast_markdown(results: Sequence[SuiteResults], against: str) -> str:
    """The same table, and beneath it the R@1 difference on every store."""
    align = ["---", *("--:" for _ in _COLUMNS[1:])]
    stores = [result.name for result in results]
    each = [
        [markdown_text(c.label), *(_points(c.by_store[s]) if s in c.by_store else "–" for s in stores)]
        for c in contrasts(results, against, HEADLINE)
    ]
    tables = [
        [_COLUMNS, align, *([markdown_text(label), *cells] for label, *cells in _lines(results, against))],
        [["R@1 difference on", *map(markdown_text, stores)], ["---", *("--:" for _ in stores)], *each],
    ]
    text = [markdown_lines(lines) for lines in tables]
    return "\n\n".join([text[0], markdown_text(_note(results, against)), text[1]]) + "\n"


def contrast_csv(results: Sequence[SuiteResults], against: str) -> str:
    """One line for each row and measure, in full precision."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    stores = [result.name for result in results]
    writer.writerow(["label", "against", "measure", "difference", "low", "high", "p", "runs", *stores])
    for key in MEASURES:
        for c in contrasts(results, against, key):
            sure: list[Any] = ["" if value is None else value for value in (c.low, c.high, c.p)]
            each = [c.by_store.get(store, "") for store in stores]
            writer.writerow([csv_text(c.label), csv_text(against), key, c.difference, *sure, c.runs, *each])
    return out.getvalue()


def _singles(result: SuiteResults, label: str, against: str, key: str) -> list[float]:
    """The difference in every run that both rows have on a store."""
    rows = [next((row for row in result.rows if row.label == name), None) for name in (label, against)]
    if rows[0] is None or rows[1] is None:
        return []
    values = [{place_of(run): run.final[key] for run in row.runs if key in run.final} for row in rows if row]
    met = meet(values[0], values[1], (is_drawn(rows[0]), is_drawn(rows[1])))
    return [one - other for _, one, other in met]


def pairs_over_stores(
    results: Sequence[SuiteResults], labels: Iterable[str], key: str
) -> dict[tuple[str, str], PairDifference]:
    """All pairs of rows with a value for each store: the mean over the runs that all of its rows have."""
    value_by_label: dict[str, dict[tuple[int, int], Floats]] = {label: {} for label in labels}
    for number, result in enumerate(results):
        places = [{place_of(run) for run in row.runs} for row in result.rows if is_drawn(row)]
        common = set.intersection(*places) if places else set()
        for row in result.rows:
            chosen = [run for run in row.runs if place_of(run) in common] if is_drawn(row) else []
            scores = [run.final[key] for run in chosen or row.runs if key in run.final]
            if scores:
                value_by_label[row.label][0, number] = np.array([np.mean(scores)])
    known = {label: Answers(values) for label, values in value_by_label.items()}
    return differences(known)


def _lines(results: Sequence[SuiteResults], against: str) -> list[list[str]]:
    forgotten = {contrast.label: contrast for contrast in contrasts(results, against, BWF)}
    lines = []
    for c in contrasts(results, against, HEADLINE):
        lines.append([c.label, *_numbers(c), *_numbers(forgotten[c.label]), str(c.runs)])
    return lines


def _numbers(c: Contrast) -> list[str]:
    if c.low is None or c.high is None:
        sure = "–"
    else:
        sure = TOO_FEW if says_nothing(c.low, c.high) else f"{_points(c.low)} to {_points(c.high)}"
    p = "–" if c.p is None else f"{c.p:.3f}" if c.p >= 0.001 else "< 0.001"
    return [_points(c.difference), sure, p]


def _points(value: float) -> str:
    return f"{round(value, 2) + 0.0:+.2f}"


def _note(results: Sequence[SuiteResults], against: str) -> str:
    count = len(results)
    over = f"{count} stores" if count > 1 else "the runs and queries of one store"
    return (
        f"Each row minus {against} in points, paired by store, order and seed, over {over}. Intervals hold together at "
        "95 % for all pairs of rows, and p is corrected for as many. BWF: lower is better."
    )
