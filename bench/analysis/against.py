"""One row against all others, in sentences: is mine better? The tests are those of every table (bench.all_pairs)."""

from __future__ import annotations

from collections.abc import Sequence

from ctvr_bench.bench.analysis.contributions import row_intervals
from ctvr_bench.bench.analysis.findings import TEST, Comparison, Evidence, against, sentences, within
from ctvr_bench.bench.analysis.names import listed
from ctvr_bench.bench.records.aggregate import SuiteResults
from ctvr_bench.bench.records.summary import HEADLINE
from ctvr_bench.bench.records.versions import is_earlier

_OWN = 3
"""Rows of one's own, at most, that a report speaks of first."""


def all_sentences(results: SuiteResults, found: Evidence, label: str | None = None) -> list[str]:
    """The findings in words: of the row of that label first, of the methods from outside, then of all.

    Of up to three methods from outside; of more, and of earlier versions, the page speaks as of all others.
    """
    rows = [row.label for row in results.rows if row.runs[0].record.config.code and not is_earlier(row.label)]
    own = rows if len(rows) <= _OWN else []
    labels = dict.fromkeys([*([] if label is None else [label]), *own])
    return [said for each in labels for said in sentences_against(results, each, found)] + sentences(results, found)


def sentences_against(results: SuiteResults, label: str, evidence: Evidence | None = None) -> list[str]:
    """What the row reaches, whom it is ahead of, behind, and not told from. Raises InputError for an unknown label."""
    compared = against(results, label, evidence)
    (row,) = (row for row in results.rows if row.label == label)
    found = row_intervals(row, [HEADLINE])[HEADLINE]
    told = [c for c in compared if c.differs]
    here = [c for c in compared if c.differs_here]
    left = [c for c in compared if not (c.differs or c.differs_here)]
    groups = (
        ("It is ahead of", [c for c in told if c.interval.estimate < 0], f" beyond noise ({TEST})"),
        ("It is behind", [c for c in told if c.interval.estimate > 0], f" beyond noise ({TEST})"),
        ("In the runs that were made, but not beyond them, it is ahead of", [c for c in here if _gain(c) > 0], ""),
        ("In the runs that were made, but not beyond them, it is behind", [c for c in here if _gain(c) < 0], ""),
        ("It is not told from", left, ""),
    )
    said = [f"{label}: R@1 {found.estimate:.2f} %, {within(found)}."]
    return said + [f"{words} {_each(chosen)}{end}." for words, chosen, end in groups if chosen]


def _gain(c: Comparison) -> float:
    """Points by which the row that is asked about is above the other: comparisons are the other minus it."""
    return -c.interval.estimate


def _each(chosen: Sequence[Comparison]) -> str:
    return listed([f"{c.first} ({_gain(c):+.2f} points{_sure(c)})" for c in chosen])


def _sure(c: Comparison) -> str:
    p = c.p if c.p is not None else c.p_here
    needed = f", about {c.needed} runs would" if c.needed is not None and not (c.differs or c.differs_here) else ""
    return ("" if p is None else ", p < 0.001" if p < 0.001 else f", p {p:.3f}") + needed
