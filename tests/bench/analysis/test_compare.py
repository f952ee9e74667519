"""Two suites against each other: known differences are found, nothing is found where nothing is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from ctvr_bench.bench.analysis.compare import SuiteComparison, compare
from ctvr_bench.bench.records.aggregate import SuiteResults, read_results
from ctvr_bench.bench.records.record import RankTable, write_json
from ctvr_bench.bench.records.summary import HEADLINE, metrics_of
from ctvr_bench.bench.report.comparison import comparison_numbers
from ctvr_bench.features.errors import InputError
from tests.bench.fake_suite import write_suite
from tests.commands import called, command, fails

LABELS = ["zero_shot", "finetune", "er"]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> SuiteResults:
    return read_results(write_suite(tmp_path_factory.mktemp("runs") / "first", LABELS, queries=20))


def changed(first: SuiteResults, folder: Path, label: str, change: Callable[[RankTable, int], None]) -> SuiteResults:
    """A copy of the suite in which the ranks of one row were changed and its metrics derived again."""
    shutil.copytree(first.directory, folder)
    for row in read_results(folder).rows:
        for run in row.runs if row.label == label else ():
            table = RankTable.load(run.directory / "ranks.h5")
            ranks = {name: np.array(values) for name, values in table.ranks.items()}
            table = replace(table, ranks=ranks)
            change(table, run.record.config.seed)
            table.save(run.directory / "ranks.h5")
            write_json(run.directory / "metrics.json", metrics_of(table))
    return read_results(folder)


def edited(first: SuiteResults, folder: Path, edit: Callable[[dict[str, Any]], None]) -> SuiteResults:
    """A copy of the suite whose run.json files were edited."""
    shutil.copytree(first.directory, folder)
    for path in folder.glob("*/run.json"):
        values = json.loads(path.read_text())
        edit(values)
        path.write_text(json.dumps(values))
    return read_results(folder)


def differences(found: SuiteComparison, label: str) -> dict[str, Any]:
    (row,) = (row for row in found.rows if row.label == label)
    return {difference.column.key: difference for difference in row.differences}


def test_runs_of_one_row_made_in_several_ways_are_not_mixed(first: SuiteResults, tmp_path: Path) -> None:
    other = edited(first, tmp_path / "b", lambda run: run["config"].update(selection="validation"))
    path = next(path for path in other.directory.glob("er-*/run.json"))
    values = json.loads(path.read_text())
    values["config"]["selection"] = "last"
    path.write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"'er' was run in several ways \(selection: last, validation\)"):
        read_results(other.directory)


def test_a_suite_equals_itself(first: SuiteResults, tmp_path: Path) -> None:
    shutil.copytree(first.directory, tmp_path / "second")
    found = compare(first, read_results(tmp_path / "second"))
    assert [row.label for row in found.rows] == LABELS
    assert found.differs == {}
    for row in found.rows:
        assert row.paired == (1 if row.label == "zero_shot" else 3)
        assert {difference.verdict for difference in row.differences} == {"equal"}
        assert row.flips == ()
        assert row.lost == row.won == 0


def test_four_queries_of_one_task_that_lost_rank_1_are_found(first: SuiteResults, tmp_path: Path) -> None:
    def lose(table: RankTable, seed: int) -> None:
        hits = np.flatnonzero((table.ranks["stored/seen/t2v"][-1] == 1) & (table.task_N == 1))[:4]
        table.ranks["stored/seen/t2v"][-1, hits] = 7

    found = compare(first, changed(first, tmp_path / "second", "er", lose))
    er = next(row for row in found.rows if row.label == "er")
    assert er.lost == 4
    assert er.won == 0
    headline = differences(found, "er")[HEADLINE]
    assert headline.after - headline.before == pytest.approx(-100 * 4 / 60)
    assert headline.interval.estimate == pytest.approx(-100 * 4 / 60)
    assert [task.difference.verdict for task in er.tasks][::2] == ["equal", "equal"]
    assert er.tasks[1].difference.after - er.tasks[1].difference.before == pytest.approx(-20)
    assert all(flip.task == 2 and flip.after > flip.before for flip in er.flips)
    assert [flip.runs for flip in er.flips] == sorted((flip.runs for flip in er.flips), reverse=True)
    assert sum(flip.runs for flip in er.flips) == 12
    assert differences(found, "finetune")[HEADLINE].verdict == "equal"


def test_p_values_are_those_of_the_paired_queries_corrected_over_methods(first: SuiteResults, tmp_path: Path) -> None:
    def lose(table: RankTable, seed: int) -> None:
        hits = np.flatnonzero(table.ranks["stored/seen/t2v"][-1] == 1)[:9]
        table.ranks["stored/seen/t2v"][-1, hits] = 3

    second = changed(first, tmp_path / "second", "zero_shot", lose)
    found = differences(compare(first, second), "zero_shot")[HEADLINE]
    difference_N = np.zeros(60)
    difference_N[:9] = -100
    assert found.verdict == "worse"
    assert found.p == pytest.approx(3 * stats.ttest_1samp(difference_N, 0).pvalue, rel=1e-6)


def test_noise_is_called_noise_and_a_large_change_is_not(tmp_path: Path) -> None:
    """The made-up skill grows with the place in the suite: er stands last in both, one place later in the second."""
    one = read_results(write_suite(tmp_path / "a", ["zero_shot", "er"], queries=20))
    near = read_results(write_suite(tmp_path / "b", ["zero_shot", "x", "er"], queries=20))
    far = read_results(write_suite(tmp_path / "c", ["zero_shot", *(f"x{i}" for i in range(12)), "er"], queries=20))
    assert differences(compare(one, near), "er")[HEADLINE].verdict == "within noise"
    assert differences(compare(one, far), "er")[HEADLINE].verdict == "better"
    assert differences(compare(far, one), "er")[HEADLINE].verdict == "worse"
    assert compare(one, near).only == ((), ("x",))


@pytest.mark.parametrize(
    ("fact", "edit"),
    [
        ("store", lambda run: run["config"]["store"].update(digest="ab" * 32)),
        ("stream", lambda run: run["config"].update(stream="other")),
        ("protocol", lambda run: run["config"].update(protocol=2)),
        ("options", lambda run: run["config"]["options"].update(shots=4)),
        ("selection", lambda run: run["config"].update(selection="validation")),
    ],
)
def test_what_cannot_be_compared_is_refused_by_name_unless_it_is_what_is_compared(
    first: SuiteResults, tmp_path: Path, fact: str, edit: Callable[[dict[str, Any]], None]
) -> None:
    other = edited(first, tmp_path / "other", edit)
    with pytest.raises(InputError, match=f"their {fact} differs.*add --across {fact}"):
        compare(first, other)
    found = compare(first, other, [fact])
    assert set(found.differs) == {fact}
    assert all(row.paired == (0 if fact == "store" else row.paired) for row in found.rows)
    assert found.rows[0].paired == (0 if fact == "store" else 1)


def test_what_cannot_be_paired_is_compared_apart_with_wider_intervals(first: SuiteResults, tmp_path: Path) -> None:
    other = edited(first, tmp_path / "other", lambda run: run["config"]["store"].update(digest="ab" * 32))
    apart = differences(compare(first, other, ["store"]), "er")[HEADLINE]
    assert apart.before == apart.after
    assert apart.interval.low < -5 < 5 < apart.interval.high
    assert apart.verdict == "within noise"


def test_changed_values_of_a_configuration_are_named(first: SuiteResults, tmp_path: Path) -> None:
    def edit(run: dict[str, Any]) -> None:
        run["config"]["config"]["scoring"] = "fused"

    found = compare(first, edited(first, tmp_path / "other", edit))
    assert found.rows[0].changed == {"scoring": ("cosine", "fused")}


def test_two_suites_of_one_method_each_are_compared_whatever_they_are_called(tmp_path: Path) -> None:
    one, other = (read_results(write_suite(tmp_path / label, [label])) for label in ("er", "lwf"))
    (row,) = compare(one, other).rows
    assert row.label == "er → lwf"
    assert row.paired == 3
    with pytest.raises(InputError, match="no method in common"):
        compare(one, read_results(write_suite(tmp_path / "two", ["lwf", "finetune"])))


def test_a_method_with_other_values_is_compared_under_both_names(tmp_path: Path) -> None:
    one = read_results(write_suite(tmp_path / "one", ["zero_shot", "er", "lwf [a=1]"]))
    other = read_results(write_suite(tmp_path / "other", ["zero_shot", "er", "lwf [a=2]", "finetune"]))
    found = compare(one, other)
    assert [row.label for row in found.rows] == ["zero_shot", "er", "lwf [a=1] → lwf [a=2]"]
    assert found.only == ((), ("finetune",))
    two = read_results(write_suite(tmp_path / "two", ["zero_shot", "lwf [a=2]", "lwf [a=3]"]))
    assert [row.label for row in compare(one, two).rows] == ["zero_shot"]


def test_one_run_says_nothing_about_seeds(tmp_path: Path) -> None:
    one, other = (
        read_results(write_suite(tmp_path / str(n), ["zero_shot", *["x"] * n, "er"], seeds=1)) for n in (0, 9)
    )
    assert differences(compare(one, other), "er")[HEADLINE].verdict == "unknown"


def test_the_command_prints_what_changed_and_json(first: SuiteResults, tmp_path: Path) -> None:
    def lose(table: RankTable, seed: int) -> None:
        table.ranks["stored/seen/t2v"][-1, :4] += 5

    second = changed(first, tmp_path / "second", "er", lose)
    result = command("compare", first.directory, second.directory)
    assert result.returncode == 0, result.stderr
    assert "equal in every run and query" in result.stdout
    assert "queries that left rank 1" in result.stdout
    assert "caption 1" in result.stdout
    values = json.loads(called("compare", first.directory, second.directory, "--json").stdout)
    assert values == json.loads(json.dumps(comparison_numbers(compare(first, second))))
    assert "did you mean 'stream'" in fails(tmp_path, "compare", "a", "b", "--across", "streem")
    assert "holds no runs" in fails(tmp_path, "compare", tmp_path, second.directory)


def test_numbers_for_machines_are_those_of_the_comparison(first: SuiteResults, tmp_path: Path) -> None:
    def lose(table: RankTable, seed: int) -> None:
        table.ranks["stored/seen/t2v"][-1, :4] += 2

    found = compare(first, changed(first, tmp_path / "second", "er", lose))
    values = json.loads(json.dumps(comparison_numbers(found)))
    for row, written in zip(found.rows, values["rows"], strict=True):
        assert written["label"] == row.label
        for difference in row.differences:
            numbers = written["metrics"][difference.column.key]
            assert numbers["difference"] == difference.after - difference.before
            assert numbers["verdict"] == difference.verdict
        assert [flip["caption"] for flip in written["flips"]] == [flip.caption for flip in row.flips]
