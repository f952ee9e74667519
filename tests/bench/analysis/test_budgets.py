"""The best method under a budget, against a naive look at every pair of rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ctvr_bench.bench.analysis.budgets import budget_lines, budget_markdown, under_budgets
from ctvr_bench.bench.analysis.columns import is_reference
from ctvr_bench.bench.records.aggregate import Run, SuiteResults, read_results
from ctvr_bench.bench.records.record import Cost
from ctvr_bench.bench.records.summary import HEADLINE
from tests.bench.fake_suite import write_suite

LABELS = ("zero_shot", "finetune", "lwf", "joint", *(f"filler_{i}" for i in range(8)), "er")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> SuiteResults:
    return read_results(write_suite(tmp_path_factory.mktemp("budgets") / "runs", LABELS, seeds=2, queries=20))


def costing(results: SuiteResults, costs: dict[str, tuple[int, int, float]]) -> SuiteResults:
    """The same scores at other prices: parameters, bytes, seconds by label."""
    rows = []
    for row in results.rows:
        runs = []
        for run in row.runs:
            if row.label in costs:
                trainable, kept, seconds = costs[row.label]
                change = {"trainable": trainable, "stored_bytes": kept, "train_s": seconds}
                run = replace(run, record=run.record.model_copy(update={"cost": replace_cost(run, change)}))
            runs.append(run)
        rows.append(replace(row, runs=runs))
    return replace(results, rows=rows)


def replace_cost(run: Run, change: dict[str, float]) -> Cost:
    return run.record.cost.model_copy(update=change)


def test_each_budget_has_its_best_method_and_the_front_that_pairwise_comparison_gives(results: SuiteResults) -> None:
    rng = np.random.default_rng(0)
    prices = {
        row.label: (int(rng.choice([3_000, 9_000, 40_000, 200_000, 900_000])), int(rng.choice([0, 1_000, 2_000])), 5.0)
        for row in results.rows
    }
    priced = costing(results, prices)
    budgets = under_budgets(priced)
    assert [budget.most for budget in budgets][-1] is None or len(budgets[-1].rows) == 10
    score = {row.label: round(float(np.mean(row.values(HEADLINE))), 2) for row in priced.rows}
    names = [row.label for row in priced.rows if not is_reference(row)]
    for budget in budgets:
        within = [name for name in names if budget.most is None or prices[name][0] <= budget.most]
        assert budget.rows[0].label == max(within, key=lambda name: score[name])
        assert {row.label for row in budget.rows} == set(within)
        beaten = {
            name
            for name in within
            for other in within
            if score[other] >= score[name]
            and all(a <= b for a, b in zip(prices[other], prices[name], strict=True))
            and (score[other], prices[other]) != (score[name], prices[name])
        }
        assert {row.label for row in budget.front} == set(within) - beaten


def test_seconds_that_differ_by_chance_do_not_save_a_method(results: SuiteResults) -> None:
    """er scores highest; a filler at its price is on the front when much faster, not when a hundredth faster."""
    every = dict.fromkeys(LABELS, (1000, 0, 100.0))
    for seconds, saved in ((99.9, False), (50.0, True)):
        front = under_budgets(costing(results, every | {"filler_3": (1000, 0, seconds)}))[0].front
        assert ("filler_3" in {row.label for row in front}) is saved
        assert "er" in {row.label for row in front}


def test_the_markdown_has_a_line_for_each_budget(results: SuiteResults) -> None:
    table = budget_markdown(results)
    assert table.count("\n| ") == 1 + len(budget_lines(results))  # head, rule, and one a budget
    assert "filler\\_" in table
    assert budget_lines(results)[1][:3] == ["0", "1", "zero_shot"]


def test_where_nothing_was_trained_there_is_no_table(tmp_path: Path) -> None:
    assert budget_markdown(read_results(write_suite(tmp_path / "runs", ["zero_shot"]))) == ""
