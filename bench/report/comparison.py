"""A comparison as a person and as a machine read it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from ctvr_bench.bench.analysis.compare import Difference, RowComparison, SuiteComparison
from ctvr_bench.bench.analysis.pairing import Flip
from ctvr_bench.bench.report.tables import interval_numbers, interval_text
from ctvr_bench.features.errors import one_line
from ctvr_bench.features.store import FeatureStore

_STYLE = {"better": "green", "worse": "red", "changed": "yellow"}
_LISTED = 5


def print_comparison(found: SuiteComparison, store: FeatureStore | None = None) -> None:
    """Every method's metrics, tasks and queries that changed, to standard output. store: for captions."""
    console = Console(highlight=False)
    console.print(f"first:  {one_line(found.first)}\nsecond: {one_line(found.second)}", markup=False)
    for name, (one, other) in found.differs.items():
        console.print(one_line(f"{name}: {one} → {other}"), style="dim", markup=False)
    for row in found.rows:
        console.print()
        console.print(one_line(f"{row.label} ({_runs(row)})"), style="bold", markup=False)
        for key, (before, after) in row.changed.items():
            console.print(f"  {key}: {before!r} → {after!r}", markup=False)
        if all(difference.equal for difference in row.differences) and not row.flips:
            console.print("  equal in every run and query")
            continue
        console.print(_table("metric", [(d.column.title, d) for d in row.differences if not d.equal]))
        if tasks := [
            (f"task {t.task} ({t.queries} queries)", t.difference) for t in row.tasks if not t.difference.equal
        ]:
            console.print(_table("R@1 of", tasks))
        for line in _flip_lines(row, store):
            console.print(one_line(line), markup=False)
    for name, labels in zip((found.first, found.second), found.only, strict=True):
        if labels:
            console.print(f"\nonly in {name}: {one_line(', '.join(labels))}", markup=False)
    console.print(
        "\nverdicts at 5 %, corrected (Holm) over the methods for a metric and over the tasks of a method; "
        "intervals 95 %, over seeds and queries, and over orders where there are three",
        style="dim",
    )


def comparison_numbers(found: SuiteComparison, store: FeatureStore | None = None) -> dict[str, Any]:
    """Everything for machines."""
    return {
        "first": found.first,
        "second": found.second,
        "differs": {name: {"first": one, "second": other} for name, (one, other) in found.differs.items()},
        "only_first": list(found.only[0]),
        "only_second": list(found.only[1]),
        "rows": [
            {
                "label": row.label,
                "runs": list(row.runs),
                "paired": row.paired,
                "changed": {key: {"first": one, "second": other} for key, (one, other) in row.changed.items()},
                "metrics": {d.column.key: _numbers(d) for d in row.differences},
                "tasks": [{"task": t.task, "queries": t.queries, **_numbers(t.difference)} for t in row.tasks],
                "costs": {key: {"first": one, "second": other} for key, (one, other) in row.costs.items()},
                "lost": row.lost,
                "won": row.won,
                "flips": [_flip(flip, store) for flip in row.flips],
            }
            for row in found.rows
        ],
    }


def _numbers(found: Difference) -> dict[str, Any]:
    return {
        "first": found.before,
        "second": found.after,
        "difference": found.after - found.before,
        "interval": found.interval and interval_numbers(found.interval),
        "p_holm": found.p,
        "verdict": found.verdict,
    }


def _flip(flip: Flip, store: FeatureStore | None) -> dict[str, Any]:
    named = {} if store is None else {"text": store.captions[flip.caption], "id": store.video_ids[flip.video]}
    return {
        "caption": flip.caption,
        "video": flip.video,
        **named,
        "task": flip.task,
        "runs": flip.runs,
        "mean_rank_first": flip.before,
        "mean_rank_second": flip.after,
    }


def _runs(row: RowComparison) -> str:
    first, second = row.runs
    if row.paired:
        return f"{row.paired} runs paired by order and seed"
    return f"{first} and {second} runs, compared apart: no run or query in common"


def _table(title: str, differences: Sequence[tuple[str, Difference]]) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 2))
    table.add_column(title)
    for head in ("first", "second", "change", "95 %", "p"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("")
    for name, found in differences:
        text = found.column.text
        sure = "–" if found.interval is None else interval_text(found.interval, found.column, shift=True)
        p = "–" if found.p is None else "< 0.001" if found.p < 0.001 else f"{found.p:.3f}"
        change = f"{found.after - found.before:+.{found.column.digits}f}"
        cells = [text(found.before), text(found.after), change, sure, p, found.verdict]
        table.add_row(name, *cells, style=_STYLE.get(found.verdict))
    return table


def _flip_lines(row: RowComparison, store: FeatureStore | None) -> list[str]:
    """How many queries left and reached rank 1, and those that moved most, in words where the store is known."""
    if not row.flips:
        return []
    lines = [f"  queries that left rank 1: {row.lost:.1f}; that reached it: {row.won:.1f} (mean over runs)"]
    fell = [flip for flip in row.flips if flip.after > flip.before][:_LISTED]
    rose = [flip for flip in reversed(row.flips) if flip.after < flip.before][:_LISTED]
    for flip in (*fell, *rose):
        what = f"caption {flip.caption}" if store is None else repr(store.captions[flip.caption])
        lines.append(f"    rank {flip.before:.1f} → {flip.after:.1f} in task {flip.task}, {flip.runs} runs: {what}")
    return lines
