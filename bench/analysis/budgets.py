"""The lightweight question: which method to take where little may be trained, kept or waited for.

Under each budget of trainable parameters stand the continual method of highest R@1 and the Pareto front: the methods
that no other one under the budget beats or equals in everything (fewer parameters, fewer bytes kept, fewer seconds of
training, higher R@1) and beats in something. Means over runs. Seconds differ from run to run, so costs are compared by
two significant digits. R@1 is what the runs measured: whether the best is told from the others, the findings say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ctvr_bench.bench.analysis.columns import COSTS, RETRIEVAL, Column, ranked, references
from ctvr_bench.bench.escaping import markdown_lines, markdown_text
from ctvr_bench.bench.records.aggregate import Row, SuiteResults

BUDGETS = (10_000, 50_000, 250_000)
"""Trainable parameters at most; after the last one, everything."""
BUDGET_NOTE = (
    "Pareto front: no other continual method under the budget is as good in parameters, bytes kept, seconds of "
    "training and R@1 and better in one; costs by two significant digits, means over runs."
)
_SCORE = RETRIEVAL[0]
_PAID: tuple[Column, ...] = tuple(
    column for column in COSTS if column.key in ("cost/trainable", "cost/stored_bytes", "cost/train_s")
)


@dataclass(frozen=True)
class UnderBudget:
    """most: trainable parameters, None without a limit. rows: the continual methods within it, highest R@1 first.

    front: those of them that no other beats, in the same order.
    """

    most: int | None
    rows: tuple[Row, ...]
    front: tuple[Row, ...]


def under_budgets(results: SuiteResults) -> list[UnderBudget]:
    """Of every budget under which there is a method, and which more methods keep than the budget before it."""
    rows = [row for row in ranked(results) if all(column.values(row) for column in (_SCORE, *_PAID))]
    found: list[UnderBudget] = []
    for most in (*BUDGETS, None):
        within = tuple(row for row in rows if most is None or _mean(_PAID[0], row) <= most)
        if within and (not found or len(within) > len(found[-1].rows)):
            found.append(UnderBudget(most, within, tuple(pareto(within))))
    return found


def pareto(rows: Sequence[Row]) -> list[Row]:
    """The rows that no other one dominates, in their order."""
    points = {row.label: _point(row) for row in rows}
    return [row for row in rows if not any(_dominates(other, points[row.label]) for other in points.values())]


def budget_lines(results: SuiteResults) -> list[list[str]]:
    """A head, a line for what is not trained at all, and one a budget; the head alone where nothing was trained."""
    paid = [f"{column.title} ({column.unit})" for column in _PAID]
    lines = [["parameters at most", "methods", "highest R@1", "R@1 (%)", *paid, "also on the Pareto front"]]
    free = [row for row in references(results) if _PAID[0].values(row) and not _mean(_PAID[0], row)]
    budgets = under_budgets(results)
    for budget in [*([UnderBudget(0, tuple(free), ())] if free and budgets else []), *budgets]:
        best = budget.rows[0]
        limit = "any" if budget.most is None else f"{budget.most:,}"
        others = ", ".join(row.label for row in budget.front if row is not best)
        costs = [column.cell(best).mean_text for column in _PAID]
        lines.append([limit, str(len(budget.rows)), best.label, _SCORE.cell(best).text, *costs, others or "–"])
    return lines


def budget_markdown(results: SuiteResults) -> str:
    """The best method and the Pareto front under each budget; empty where nothing was trained."""
    head, *lines = budget_lines(results)
    align = ["---" if place in (2, len(head) - 1) else "--:" for place in range(len(head))]
    table = markdown_lines([head, align, *([markdown_text(cell) for cell in line] for line in lines)])
    return f"**Under a budget**\n\n{table}\n\n{BUDGET_NOTE}" if lines else ""


def _point(row: Row) -> tuple[float, ...]:
    """All of it the lower the better."""
    return (-round(_mean(_SCORE, row), _SCORE.digits), *(_two_digits(_mean(column, row)) for column in _PAID))


def _dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def _two_digits(value: float) -> float:
    return float(f"{value:.2g}")


def _mean(column: Column, row: Row) -> float:
    """Of a column that the row has."""
    mean = column.cell(row).mean
    assert mean is not None
    return mean
