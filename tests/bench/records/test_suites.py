"""Several settings in one folder: a report shows the suite that it is asked about, and nothing gets lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctvr_bench.bench.records.aggregate import read_results
from ctvr_bench.bench.records.finished import read_metrics
from ctvr_bench.bench.records.suites import BESIDE_STORES, PlannedRun, Suite, each_store, other_suites, write_suite
from ctvr_bench.bench.suite.suite import run_suite
from ctvr_bench.features.errors import InputError
from tests.bench.run.test_runner import suite
from tests.commands import called


def test_runs_of_two_settings_live_in_one_folder(tmp_path: Path) -> None:
    """What was tried: `run`, then `run --variant shots=4`, then `run` again, then `--index hnsw --rerank 5`."""
    folder = tmp_path / "default"
    shown = []
    for values in ({}, {"shots": 4}, {}, {"index": "hnsw", "rerank": 5}):
        (record,) = run_suite(suite(tmp_path, "zero_shot", **values))
        (row,) = read_results(folder).rows
        assert [run.record.run_id for run in row.runs] == [record.run_id]
        shown.append(record.run_id)
    assert shown[0] == shown[2]
    assert len(set(shown)) == 3
    files = sorted((folder / "suites").glob("*.json"))
    assert len(files) == 3
    found = {read_results(file).rows[0].runs[0].record.run_id for file in files}
    assert found == set(shown)
    assert len(other_suites(folder)) == 2
    assert any("shots=4" in line for line in other_suites(folder))


def test_a_suite_names_and_orders_its_rows_itself(tmp_path: Path) -> None:
    run_suite(suite(tmp_path, "zero_shot"))
    fused = {"name": "zero_shot", "set": {"scoring": "fused"}}
    records = run_suite(suite(tmp_path, methods=[fused, "zero_shot"]))
    assert [record.position for record in records] == [0, 1]
    assert [row.label for row in read_results(tmp_path / "default").rows] == [
        "zero_shot [scoring=fused]",
        "zero_shot",
    ]


def test_the_command_says_what_else_the_folder_holds_and_reports_it(tmp_path: Path, no_figures: None) -> None:
    run_suite(suite(tmp_path, "zero_shot", shots=4))
    (last,) = run_suite(suite(tmp_path, "zero_shot"))
    folder = tmp_path / "default"
    result = called("report", folder, "--json")
    assert result.returncode == 0, result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("also there: report ")]
    assert "shots=4" in line
    other = line.removeprefix("also there: report ").split(": ")[0]
    result = called("report", other, "--format", "md")
    assert result.returncode == 0, result.stderr
    assert "shots=4" in result.stdout
    assert read_metrics(folder / last.run_id)


def test_a_list_of_runs_that_cannot_be_read_stops_the_command(tmp_path: Path) -> None:
    run_suite(suite(tmp_path, "zero_shot"))
    (tmp_path / "default/suite.json").write_text('{"runs": 3}')
    with pytest.raises(InputError, match=r"suite\.json: cannot be read as a suite's list of runs"):
        read_results(tmp_path / "default")


def test_the_folder_of_a_suites_stores_and_a_star_over_it_are_its_stores(tmp_path: Path) -> None:
    stores = [tmp_path / "suite" / name for name in "ab"]
    for store in stores:
        write_suite(store, Suite(runs=(PlannedRun(run_id="er-1", label="er", position=0),)))
    for name in BESIDE_STORES:
        (tmp_path / "suite" / name).write_text("left by a report")
    assert each_store([tmp_path / "suite"]) == stores
    assert each_store(sorted((tmp_path / "suite").iterdir())) == stores
    assert each_store([stores[0]]) == stores[:1]
    assert each_store([tmp_path / "suite" / "stores.csv"]) == [tmp_path / "suite" / "stores.csv"]  # named, not a star


def test_folders_of_other_rows_are_no_stores_of_one_suite(tmp_path: Path) -> None:
    for number, name in enumerate("ab"):
        write_suite(tmp_path / name, Suite(runs=(PlannedRun(run_id="er-1", label=f"er {number}", position=0),)))
    assert each_store([tmp_path]) == [tmp_path]
