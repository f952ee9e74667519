"""A suite on several stores as one table: each row's mean over them, what it costs, and what so many stores can tell.

Stores are the sample: an interval is Student's over the means on them, and every pair of rows is tested over them (see
bench.analysis.contrasts). Rows stand here that have the same orders and seeds on every store, so that a mean over runs
is the mean over stores.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from rich.markup import escape
from rich.table import Table

from ctvr_bench.bench.all_pairs import PairDifference
from ctvr_bench.bench.analysis.budgets import budget_markdown
from ctvr_bench.bench.analysis.columns import CONTINUAL, COSTS, RETRIEVAL, Column, columns_of, ranked, references
from ctvr_bench.bench.analysis.contrasts import pairs_over_stores
from ctvr_bench.bench.analysis.findings import ALPHA, TEST, smallest_told, untrained_beside
from ctvr_bench.bench.analysis.names import NAMED, grouped, listed
from ctvr_bench.bench.analysis.pairing import place_of
from ctvr_bench.bench.escaping import csv_text, markdown_lines, markdown_text
from ctvr_bench.bench.records.aggregate import Row, SuiteResults
from ctvr_bench.bench.records.summary import HEADLINE
from ctvr_bench.bench.statistics import TOO_FEW, run_interval, says_nothing
from ctvr_bench.features.errors import InputError, one_line

_BESIDE = (
    *(column for column in RETRIEVAL if column.title == "BWF"),
    *(column for column in CONTINUAL if column.key == "staleness"),
    *(column for column in COSTS if column.key in ("cost/trainable", "cost/stored_bytes", "cost/train_s")),
)
"""Columns beside R@1, means over stores."""
_CONSOLE = tuple(column for column in _BESIDE if column.title in ("BWF", "staleness", "training"))


@dataclass(frozen=True)
class OverStores:
    """pooled: the runs of all stores as one suite. by_store: R@1 on each of `stores` in their order, by label.

    left_out: labels of rows that some store lacks runs of. pairs: R@1 of every pair of rows, tested over stores.
    """

    pooled: SuiteResults
    stores: tuple[str, ...]
    by_store: Mapping[str, tuple[float, ...]]
    left_out: tuple[str, ...]
    pairs: Mapping[tuple[str, str], PairDifference]

    def interval(self, label: str) -> tuple[float, float] | None:
        """95 % of the mean over stores like these; None of one store, or where all have one value."""
        found = run_interval(self.by_store[label], [0] * len(self.stores), seed_R=range(len(self.stores)))
        return None if found is None or found.low == found.high else (found.low, found.high)


def over_stores(results: Sequence[SuiteResults]) -> OverStores:
    """The suites of several stores together. Raises InputError where two of them are of the same store."""
    first: dict[str, int] = {}
    for number, result in enumerate(results):
        for digest in {run.record.config.store.digest for row in result.rows for run in row.runs}:
            if (other := first.setdefault(digest, number)) != number:
                raise InputError(
                    f"{results[other].directory} and {result.directory} are of one store, and a table over stores "
                    "takes each once; put them side by side with --format md"
                )
    labels = dict.fromkeys(row.label for result in results for row in result.rows)
    found_rows = {label: [row for result in results for row in result.rows if row.label == label] for label in labels}
    whole = {
        label: rows
        for label, rows in found_rows.items()
        if len(rows) == len(results) and len({tuple(sorted(map(place_of, row.runs))) for row in rows}) == 1
    }
    pooled = [Row(label, tuple(run for row in rows for run in row.runs)) for label, rows in whole.items()]
    return OverStores(
        SuiteResults(results[0].directory.parent.name, results[0].directory.parent, tuple(pooled), ()),
        tuple(result.name for result in results),
        {label: tuple(float(np.mean(row.values(HEADLINE))) for row in rows) for label, rows in whole.items()},
        tuple(label for label in labels if label not in whole),
        pairs_over_stores([_only(result, whole) for result in results], whole, HEADLINE),
    )


def store_sentences(found: OverStores) -> list[str]:
    """What so many stores allow to say of the rows that stand on all of them."""
    rows = [row.label for row in ranked(found.pooled)]
    below = [
        f"{row.label} ({pair.estimate:.2f} points{_how_sure(pair)})"
        for row, other in untrained_beside(found.pooled)
        if (pair := found.pairs[row.label, other]).estimate < 0
    ]
    said = [f"Trained and below the same features without training: {listed(below)}."] if below else []
    if rows:
        best, count = rows[0], len(found.stores)
        mean = RETRIEVAL[0].text(float(np.mean(found.by_store[best])))
        said.append(
            f"{best} has the highest R@1 of the continual methods over {count} stores: {mean} %, {_sure(found, best)}."
        )
        against = {label: found.pairs[best, label] for label in rows[1:]}
        behind = [label for label, pair in against.items() if _told(pair)]
        if behind:
            said.append(f"It is ahead of {grouped(behind, rows[1:], 'others')} beyond noise ({TEST}).")
        left = {label: pair.estimate for label, pair in against.items() if label not in behind}
        if left:
            each = [f"{label} ({estimate:.2f})" for label, estimate in left.items()]
            many = f"{len(left)} others ({min(left.values()):.2f} to {max(left.values()):.2f} points ahead of them)"
            said.append(f"It is not told from {listed(each) if len(left) <= NAMED else many}.")
        said += smallest_told(list(against.values()), "These stores")
    if found.left_out:
        said.append(f"Left out, since not every store has the same runs of it: {listed(found.left_out)}.")
    return said


def store_table(found: OverStores) -> Table:
    """For a terminal: means over stores, continual methods first."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0), caption_justify="left")
    table.add_column("row", overflow="fold")
    for head in ("R@1", "95 % interval", *(column.title for column in _CONSOLE)):
        table.add_column(head, justify="right", no_wrap=True)
    for line in _lines(found, lambda row: escape(one_line(row.label)), _CONSOLE, each=False):
        table.add_row(*line)
    table.caption = f"means over {len(found.stores)} stores; zero-shot and upper bounds below, not ranked"
    return table


def store_markdown(found: OverStores) -> str:
    """The table with each store's R@1, the sentences, and the best method and Pareto front under each budget."""
    heads = ["method", "R@1 (% ↑)", "95 % interval", *map(markdown_text, found.stores)]
    heads += [f"{column.title} ({column.unit})" for column in _BESIDE]
    below = {row.label for row in references(found.pooled)}

    def name(row: Row) -> str:
        return f"*{markdown_text(row.label)}*" if row.label in below else markdown_text(row.label)

    align = ["---", *("--:" for _ in heads[1:])]
    table = markdown_lines([heads, align, *_lines(found, name, _BESIDE, each=True)])
    said = "\n".join(f"- {markdown_text(sentence)}" for sentence in store_sentences(found))
    text = [table, said, budget_markdown(found.pooled)]
    return "\n\n".join(part for part in text if part) + "\n"


def store_csv(found: OverStores) -> str:
    """One line a row: mean R@1 with its interval, R@1 on each store, and the mean of every other column."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    others = [column for column in columns_of(found.pooled) if column.key != HEADLINE]
    writer.writerow(
        ["label", "kind", "runs", HEADLINE, "low", "high", *map(csv_text, found.stores), *(c.key for c in others)]
    )
    for kind, rows in (("continual", ranked(found.pooled)), ("reference", references(found.pooled))):
        for row in rows:
            means = [_mean(column, row) for column in (RETRIEVAL[0], *others)]
            sure = found.interval(row.label) or ("", "")
            writer.writerow(
                [csv_text(row.label), kind, len(row.runs), means[0], *sure, *found.by_store[row.label], *means[1:]]
            )
    return out.getvalue()


def _only(result: SuiteResults, labels: Collection[str]) -> SuiteResults:
    return replace(result, rows=tuple(row for row in result.rows if row.label in labels))


def _lines(found: OverStores, name: Callable[[Row], str], columns: Sequence[Column], *, each: bool) -> list[list[str]]:
    """each: with R@1 on each store."""
    lines = []
    for row in (*ranked(found.pooled), *references(found.pooled)):
        line = [name(row), RETRIEVAL[0].cell(row).mean_text, _bounds(found, row.label)]
        line += [RETRIEVAL[0].text(value) for value in found.by_store[row.label]] if each else []
        lines.append([*line, *(column.cell(row).mean_text for column in columns)])
    return lines


def _bounds(found: OverStores, label: str) -> str:
    bounds = found.interval(label)
    if bounds is None:
        return "–"
    return TOO_FEW if says_nothing(*bounds) else f"{bounds[0]:.2f} to {bounds[1]:.2f}"


def _sure(found: OverStores, label: str) -> str:
    bounds = _bounds(found, label)
    known = bounds not in ("–", TOO_FEW)
    return f"95 % interval {bounds}" if known else f"with {TOO_FEW} for an interval over stores"


def _told(pair: PairDifference) -> bool:
    return pair.p is not None and pair.p < ALPHA


def _how_sure(pair: PairDifference) -> str:
    return ", beyond noise" if _told(pair) else ", within noise"


def _mean(column: Column, row: Row) -> float | str:
    mean = column.cell(row).mean
    return "" if mean is None else mean
