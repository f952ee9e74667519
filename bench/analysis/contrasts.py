"""Paired differences of every row of a suite from one of them, over all of its stores: what a part of a method does.

d_w = mean over the runs (order and seed) that both rows have on store w of  score(row) - score(reference)
D = mean_w d_w,   interval D -+ t_(W-1) s(d_w) / sqrt(W)
With several stores it speaks of stores like them (seeds and queries included, since each has its own); with one store,
the runs take the stores' place and it speaks of seeds and orders on that store.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table
from scipy import stats

from ctvr_bench.bench.records.aggregate import Row, SuiteResults
from ctvr_bench.bench.records.summary import BWF, HEADLINE
from ctvr_bench.bench.statistics import holm
from ctvr_bench.features.errors import unknown_name

LEVEL = 0.95
_ROUNDING = 1e-9  # points
MEASURES = (HEADLINE, BWF)
_COLUMNS = ["row", "R@1", "95 % interval", "p", "BWF", "95 % interval", "p", "runs"]


@dataclass(frozen=True)
class Contrast:
    """Row minus reference in points. by_store: the mean on each store. p: after Holm's correction over the rows.

    low, high, p: None where one difference is all there is, or all are one: scores come in steps of one query, so that
    equal differences are chance and not certainty.
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
    found = []
    for label in labels:
        if label == against:
            continue
        by_store = {result.name: _paired(_row(result, label), _row(result, against), key) for result in results}
        by_store = {store: values for store, values in by_store.items() if values}
        if by_store:
            found.append(_contrast(label, by_store))
    known = [contrast for contrast in found if contrast.p is not None]
    corrected = dict(zip((c.label for c in known), holm([c.p for c in known if c.p is not None]), strict=True))
    found = [Contrast(**{**vars(c), "p": corrected.get(c.label)}) for c in found]
    return sorted(found, key=lambda contrast: contrast.difference, reverse=True)


def contrast_table(results: Sequence[SuiteResults], against: str) -> Table:
    """R@1 and BWF differences for a terminal."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0), caption_justify="left")
    for column in _COLUMNS:
        table.add_column(column, justify="left" if column == _COLUMNS[0] else "right")
    for line in _lines(results, against):
        table.add_row(escape(line[0]), *line[1:])
    table.caption = escape(_note(results, against))
    return table


def contrast_markdown(results: Sequence[SuiteResults], against: str) -> str:
    """The same table, and beneath it the R@1 difference on every store."""
    align = ["---", *("--:" for _ in _COLUMNS[1:])]
    stores = [result.name for result in results]
    each = [
        [c.label, *(_points(c.by_store[s]) if s in c.by_store else "–" for s in stores)]
        for c in contrasts(results, against, HEADLINE)
    ]
    tables = [
        [_COLUMNS, align, *_lines(results, against)],
        [["R@1 difference on", *stores], ["---", *("--:" for _ in stores)], *each],
    ]
    text = ["\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines) for lines in tables]
    return "\n\n".join([text[0], _note(results, against), text[1]]) + "\n"


def contrast_csv(results: Sequence[SuiteResults], against: str) -> str:
    """One line for each row and measure, in full precision."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    stores = [result.name for result in results]
    writer.writerow(["label", "against", "measure", "difference", "low", "high", "p_holm", "runs", *stores])
    for key in MEASURES:
        for c in contrasts(results, against, key):
            sure: list[Any] = ["" if value is None else value for value in (c.low, c.high, c.p)]
            each = [c.by_store.get(store, "") for store in stores]
            writer.writerow([c.label, against, key, c.difference, *sure, c.runs, *each])
    return out.getvalue()


def _contrast(label: str, by_store: Mapping[str, Sequence[float]]) -> Contrast:
    means = {store: float(np.mean(values)) for store, values in by_store.items()}
    runs = [value for values in by_store.values() for value in values]
    units = np.array(list(means.values()) if len(means) > 1 else runs)
    mean, low, high, p = float(units.mean()), None, None, None
    error = float(units.std(ddof=1)) / math.sqrt(len(units)) if len(units) > 1 else 0.0
    if error > _ROUNDING:
        half = float(stats.t.isf((1 - LEVEL) / 2, len(units) - 1)) * error
        low, high = mean - half, mean + half
        p = float(2 * stats.t.sf(abs(mean) / error, len(units) - 1))
    elif len(units) > 1 and abs(mean) <= _ROUNDING:
        low, high, p = 0.0, 0.0, 1.0
    return Contrast(label, mean, low, high, p, means, len(runs))


def _row(result: SuiteResults, label: str) -> Row | None:
    return next((row for row in result.rows if row.label == label), None)


def _paired(first: Row | None, second: Row | None, key: str) -> list[float]:
    """Differences over common runs; a row with one run for each order, as zero-shot has, meets every seed."""
    if first is None or second is None:
        return []
    scores = [{_place(run): run.final[key] for run in row.runs} for row in (first, second)]
    drawn = [len({seed for _, seed in found}) > 1 for found in scores]
    seeds = {seed for found in scores for _, seed in found}
    for index, found in enumerate(scores):
        if not drawn[index] and drawn[1 - index]:
            scores[index] = {(order, seed): value for (order, _), value in found.items() for seed in seeds}
    return [scores[0][place] - scores[1][place] for place in sorted(scores[0].keys() & scores[1].keys())]


def _place(run: Any) -> tuple[int, int]:
    return run.record.config.options["order"], run.record.config.seed


def _lines(results: Sequence[SuiteResults], against: str) -> list[list[str]]:
    forgotten = {contrast.label: contrast for contrast in contrasts(results, against, BWF)}
    lines = []
    for c in contrasts(results, against, HEADLINE):
        lines.append([c.label, *_numbers(c), *_numbers(forgotten[c.label]), str(c.runs)])
    return lines


def _numbers(c: Contrast) -> list[str]:
    sure = "–" if c.low is None or c.high is None else f"{_points(c.low)} to {_points(c.high)}"
    p = "–" if c.p is None else f"{c.p:.3f}" if c.p >= 0.001 else "< 0.001"
    return [_points(c.difference), sure, p]


def _points(value: float) -> str:
    return f"{round(value, 2) + 0.0:+.2f}"


def _note(results: Sequence[SuiteResults], against: str) -> str:
    count = len(results)
    over = f"{count} stores" if count > 1 else "the runs on one store"
    return (
        f"Each row minus {against} in points, paired by store, order and seed; intervals over {over}; p after Holm. "
        "BWF: lower is better."
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("_", "\\_")
