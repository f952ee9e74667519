"""The columns of every result table: what they show, how a number is written, and which one is best.

All formats (console, markdown, CSV, LaTeX, HTML, JSON) read these columns, so that they show the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ctvr_bench.bench.records.aggregate import Row, SuiteResults
from ctvr_bench.bench.records.summary import BWF, HEADLINE

T2V = "t2v/stored/seen/"
COST = "cost/"


@dataclass(frozen=True)
class Column:
    """A number of a row. key: of bench.records.summary, or `cost/` and a field of Cost.

    better: 1 higher, -1 lower, 0 neither.

    scale: divides the recorded value to give `unit`. spread: whether its deviation over runs is shown beside it.
    """

    key: str
    title: str
    unit: str
    meaning: str
    better: int
    digits: int = 2
    spread: bool = False
    scale: float = 1.0

    def values(self, row: Row) -> list[float]:
        """The number in every run that has it, in the column's unit."""
        if self.key.startswith(COST):
            field = self.key.removeprefix(COST)
            found = [float(getattr(run.record.cost, field)) for run in row.runs if run.record.cost is not None]
        else:
            found = row.values(self.key)
        return [value / self.scale for value in found]

    def cell(self, row: Row) -> Cell:
        return Cell(tuple(self.values(row)), self)

    def text(self, value: float) -> str:
        """A number as every table writes it; never a negative zero."""
        return f"{round(value, self.digits) + 0.0:,.{self.digits}f}"


@dataclass(frozen=True)
class Cell:
    """A column's number for one row: its values over the runs."""

    values: tuple[float, ...]
    column: Column

    @property
    def mean(self) -> float | None:
        return float(np.mean(self.values)) if self.values else None

    @property
    def std(self) -> float | None:
        """Sample standard deviation over runs; None for fewer than two."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else None

    @property
    def mean_text(self) -> str:
        """The mean as every table writes it; a dash where no run has it."""
        return "–" if self.mean is None else self.column.text(self.mean)

    @property
    def std_text(self) -> str:
        """The deviation where the column shows one and there is one, else empty."""
        return self.column.text(self.std) if self.column.spread and self.std is not None else ""

    @property
    def text(self) -> str:
        """As in '15.83 ± 0.72'."""
        return f"{self.mean_text} ± {self.std_text}" if self.std_text else self.mean_text


RETRIEVAL = (
    Column(HEADLINE, "R@1", "%", "queries whose own item comes first", 1, spread=True),
    Column(T2V + "R@5", "R@5", "%", "queries whose own item is among the first 5", 1),
    Column(T2V + "R@10", "R@10", "%", "queries whose own item is among the first 10", 1),
    Column(T2V + "MedR", "MedR", "rank", "median rank of the own item", -1),
    Column(T2V + "MeanR", "MeanR", "rank", "mean rank of the own item", -1),
    Column(
        BWF, "BWF", "points", "loss since each task was learned: stored, own gallery, by categories", -1, spread=True
    ),
    Column("bwf/structalign", "BWF (SA)", "points", "the same from re-encoded scores, as StructAlign reports it", -1),
)
CONTINUAL = (
    Column("average-incremental", "avg. incr.", "%", "R@1 over all seen queries, averaged over the stages", 1),
    Column("learning-accuracy", "learned", "%", "R@1 of each task right after it was learned, own gallery", 1),
    Column("forgetting/best-minus-last", "forgetting", "points", "best earlier minus last R@1, own gallery", -1),
    Column("transfer/backward", "backward", "points", "backward transfer, own gallery", 1),
    Column("transfer/forward", "forward", "points", "R@1 before learning a task minus before any training", 1),
    Column("intransigence", "intransig.", "points", "new tasks: R@1 of training on all tasks so far, minus this", -1),
    Column("gap-to-joint", "gap to joint", "points", "new tasks: R@1 of training on all tasks at once, minus this", -1),
    Column("loss/gallery-growth", "loss: growth", "points", "old queries lost to more distractors", 0),
    Column("loss/query-drift", "loss: drift", "points", "old queries lost because their embedding moved", 0),
    Column("staleness", "staleness", "points", "what re-encoding the gallery would win back", 0),
)
COSTS = (
    Column(COST + "trainable", "trainable", "parameters", "parameters that training may change", 0, digits=0),
    Column(COST + "stored_bytes", "stored", "kB", "kept beside the parameters at the end", 0, digits=1, scale=1e3),
    Column(COST + "lr", "rate", "1e-4", "peak learning rate, of the Config or found (recipe)", 0, digits=1, scale=1e-4),
    Column(COST + "task_steps", "steps", "a task", "steps of training a task", 0, digits=0),
    Column(COST + "train_s", "training", "s", "seconds of training, all tasks", 0, digits=1),
    Column(COST + "evaluate_s", "evaluation", "s", "seconds of evaluation, all tasks", 0, digits=1),
    Column(COST + "encode_s", "encoding", "s", "of those, in the encoders; the rest: scores, ranks", 0, digits=1),
    Column(COST + "load_s", "loading", "s", "seconds of reading features", 0, digits=1),
    Column(COST + "write_s", "writing", "s", "seconds of writing records and state", 0, digits=1),
    Column(
        COST + "train_flops",
        "operations",
        "TFLOP",
        "matrix products of training: those of one random batch, times steps",
        0,
        digits=2,
        scale=1e12,
    ),
    Column(COST + "peak_memory_bytes", "memory", "MB", "highest of the process while it ran", 0, digits=0, scale=1e6),
)
INDEXED = (
    Column("t2v/indexed/seen/R@1", "R@1", "%", "queries whose own item comes first through the index", 1, spread=True),
    Column("t2v/indexed/seen/R@5", "R@5", "%", "through the index: among the first 5", 1),
    Column("t2v/indexed/seen/R@10", "R@10", "%", "through the index: among the first 10", 1),
    Column("index/loss", "R@1 lost", "points", "R@1 of exact search minus that through the index", -1),
    Column("index/same-first", "same first", "%", "queries that get exact search's first item", 1),
)
GROUPS = (("Retrieval", RETRIEVAL), ("Learning and forgetting", CONTINUAL), ("Cost", COSTS))
COLUMNS = RETRIEVAL + CONTINUAL + COSTS
PAPER = RETRIEVAL[:6]
"""Columns of the papers' tables: R@1/5/10, MedR, MeanR, BWF."""


def groups_of(*suites: SuiteResults) -> tuple[tuple[str, tuple[Column, ...]], ...]:
    """Title and columns of each table, without columns that no row has a number in."""
    rows = [row for suite in suites for row in suite.rows]
    known = [
        (title, tuple(column for column in columns if any(column.values(row) for row in rows)))
        for title, columns in (*GROUPS[:1], ("Through the index", INDEXED), *GROUPS[1:])
    ]
    return tuple((title, columns) for title, columns in known if columns)


def columns_of(*suites: SuiteResults) -> tuple[Column, ...]:
    """All columns, also those that these suites leave empty; those of an index only where one was asked."""
    asked = any(INDEXED[0].values(row) for suite in suites for row in suite.rows)
    return (*RETRIEVAL, *(INDEXED if asked else ()), *CONTINUAL, *COSTS)


def is_reference(row: Row) -> bool:
    """Whether a row is a frame for the others and not ranked: it learns nothing, or it sees more than a task at a time.

    Those are zero-shot (no training at all) and upper bounds such as `joint`.
    """
    return row.runs[0].record.sees != "current" or not row.runs[0].record.trained


def ranked(results: SuiteResults) -> list[Row]:
    """The continual methods, highest headline first; ties in the order of the suite."""
    return sorted((row for row in results.rows if not is_reference(row)), key=_headline, reverse=True)


def references(results: SuiteResults) -> list[Row]:
    """Zero-shot and upper bounds, highest headline first."""
    return sorted((row for row in results.rows if is_reference(row)), key=_headline, reverse=True)


def places(rows: Sequence[Row], column: Column) -> dict[str, int]:
    """Labels of the best (1) and the second (2) number of a column, as shown: equal texts share a place.

    Nothing is best where the column has no better side, or where all rows show the same.
    """
    shown = {row.label: column.cell(row) for row in rows}
    means = {label: cell.mean for label, cell in shown.items() if cell.mean is not None}
    texts = sorted({round(mean, column.digits) for mean in means.values()}, reverse=column.better > 0)
    if column.better == 0 or len(texts) < 2:
        return {}
    first = {text: place for place, text in enumerate(texts[:2], start=1)}
    found = {label: first.get(round(mean, column.digits)) for label, mean in means.items()}
    return {label: place for label, place in found.items() if place is not None}


def footnotes(rows: Sequence[Row]) -> dict[str, int]:
    """Every deviation from a paper among the rows, numbered from 1 in their order."""
    deviations = dict.fromkeys(row.runs[0].record.deviations for row in rows)
    return {text: number for number, text in enumerate(filter(None, deviations), start=1)}


def note_of(row: Row, notes: dict[str, int]) -> int | None:
    """Number of the row's footnote."""
    return notes.get(row.runs[0].record.deviations)


def _headline(row: Row) -> float:
    return float(np.mean(row.values(HEADLINE)))
