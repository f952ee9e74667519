"""Folders of runs: where a suite stands, and several made one."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from ctvr_bench.bench.executors.claims import claimed
from ctvr_bench.bench.records.record import RankTable, read_record, save_record
from ctvr_bench.bench.records.suites import PlannedRun, Suite, last_suite
from ctvr_bench.bench.records.suites import write_suite as remember
from ctvr_bench.bench.suite import folders
from ctvr_bench.bench.suite.folders import Merged, merge, standing_of
from ctvr_bench.features.errors import InputError
from tests.bench.fake_suite import write_suite
from tests.commands import called, fails


def remembered(folder: Path) -> Path:
    """The folder with its runs as its suite."""
    records = [read_record(path.parent) for path in sorted(folder.glob("*/run.json"))]
    runs = tuple(PlannedRun(run_id=r.run_id, label=r.label, position=r.position) for r in records)
    remember(folder, Suite(runs=runs))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return remembered(write_suite(tmp_path / "a", ("zero_shot", "finetune"), seeds=2, queries=4))


def finetune(folder: Path, seed: int) -> Path:
    return next(path.parent for path in folder.glob(f"finetune-o0-s{seed}-*/run.json"))


def test_status_says_what_is_done_running_begun_failed_and_missing(runs: Path) -> None:
    first, second = finetune(runs, 0), finetune(runs, 1)
    record = read_record(first)
    assert record.cost is not None
    seconds = record.cost.load_s + record.cost.train_s + record.cost.evaluate_s + record.cost.write_s
    assert (len(standing_of(runs).done), standing_of(runs).seconds_left) == (3, 0.0)
    save_record(second, read_record(second).model_copy(update={"status": "failed", "reason": "no memory"}))
    assert standing_of(runs).failed == {"finetune (order 0, seed 1)": "no memory"}
    assert standing_of(runs).seconds_left == pytest.approx(seconds)
    save_record(second, read_record(second).model_copy(update={"status": "running"}))
    assert standing_of(runs).begun == ("finetune (order 0, seed 1)",)
    with claimed([second]):
        standing = standing_of(runs)
        assert list(standing.running) == ["finetune (order 0, seed 1)"]
        assert "process" in standing.running["finetune (order 0, seed 1)"]
        assert (standing.makers, standing.begun) == (1, ())
    shutil.rmtree(second)
    standing = standing_of(runs)
    assert standing.missing == ("finetune (order 0, seed 1)",)
    assert standing.total == 3


def test_the_status_command_prints_it(runs: Path, tmp_path: Path) -> None:
    shutil.rmtree(finetune(runs, 1))
    result = called("status", runs)
    assert result.returncode == 0, result.stderr
    assert "2 of 3 runs done" in result.stdout
    assert "missing: 1\n  finetune (order 0, seed 1)\n" in result.stdout
    assert "s left by one process" in result.stdout
    assert re.search(r"memory of a process: \d+ MB at most; a cluster's: --memory-limit \d+00MB\n", result.stdout)
    assert json.loads(called("status", runs, "--json").stdout)["missing"] == ["finetune (order 0, seed 1)"]
    (tmp_path / "empty").mkdir()
    assert "holds no suite" in fails(tmp_path, "status", tmp_path / "empty")


def test_two_halves_become_one_whole(runs: Path, tmp_path: Path) -> None:
    half = tmp_path / "b"
    shutil.copytree(runs, half)
    for folder in (finetune(runs, 0), finetune(half, 1)):
        (folder / "state").mkdir()
        save_record(folder, read_record(folder).model_copy(update={"status": "running"}))
    assert merge([runs, half], tmp_path / "c") == Merged(copied=3, present=0, unfinished=0)
    assert len(standing_of(tmp_path / "c").done) == 3
    assert last_suite(tmp_path / "c") == last_suite(runs)
    assert not list((tmp_path / "c").rglob("state"))
    assert merge([runs, half], tmp_path / "c") == Merged(copied=0, present=3, unfinished=0)
    assert merge([half], runs) == Merged(copied=1, present=2, unfinished=0)


def test_different_suites_become_one_with_all_rows(runs: Path, tmp_path: Path) -> None:
    other = remembered(write_suite(tmp_path / "b", ("zero_shot", "lwf"), seeds=1, queries=4))
    result = called("merge", runs, other, "--into", tmp_path / "c")
    assert result.returncode == 0, result.stderr
    suite = last_suite(tmp_path / "c")
    assert suite is not None
    assert [run.label for run in suite.runs] == ["zero_shot", "finetune", "finetune", "lwf"]
    assert [run.position for run in suite.runs] == [0, 1, 1, 2]
    assert len(list((tmp_path / "c/suites").glob("*.json"))) == 3


def test_one_run_with_two_results_is_refused_and_nothing_is_written(runs: Path, tmp_path: Path) -> None:
    other = tmp_path / "b"
    shutil.copytree(runs, other)
    path = finetune(other, 1) / "ranks.h5"
    table = RankTable.load(path)
    changed = {name: np.array(values) for name, values in table.ranks.items()}
    changed["stored/own/t2v"][0, 0] += 1
    RankTable(**{**vars(table), "ranks": changed}).save(path)
    assert "has two results" in fails(tmp_path, "merge", runs, other, "--into", tmp_path / "c")


def test_a_run_that_failed_in_one_folder_and_ended_in_another_has_ended(runs: Path, tmp_path: Path) -> None:
    other = tmp_path / "b"
    shutil.copytree(runs, other)
    for folder in (finetune(other, 0), finetune(other, 1), finetune(runs, 1)):
        save_record(folder, read_record(folder).model_copy(update={"status": "failed", "reason": "killed"}))
    assert merge([other, runs], tmp_path / "c") == Merged(copied=3, present=0, unfinished=1)
    assert read_record(finetune(tmp_path / "c", 0)).status == "done"
    assert read_record(finetune(tmp_path / "c", 1)).reason == "killed"


def test_a_merge_that_a_full_disk_ends_is_finished_by_the_next(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, left = folders.write_bytes, [5]

    def full(path: Path, content: bytes) -> str:
        left[0] -= 1
        if left[0] < 0:
            raise InputError(f"{path}: cannot be written (No space left on device); choose a writable folder")
        return real(path, content)

    monkeypatch.setattr(folders, "write_bytes", full)
    with pytest.raises(InputError, match="No space left"):
        merge([runs], tmp_path / "c")
    monkeypatch.undo()
    assert merge([runs], tmp_path / "c").unfinished == 0
    assert len(standing_of(tmp_path / "c").done) == 3
    assert not list((tmp_path / "c").glob(".*partial*"))


def test_a_damaged_or_empty_folder_is_refused(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no runs"):
        merge([tmp_path / "empty"], tmp_path / "c")
    save_record(finetune(runs, 0), read_record(finetune(runs, 0)))
    with (finetune(runs, 0) / "ranks.h5").open("ab") as file:
        file.write(b"0")
    assert "is not what its run wrote" in fails(tmp_path, "merge", runs, "--into", tmp_path / "c")
