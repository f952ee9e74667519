"""A folder of runs that was altered is found out, by its digests, by its numbers, or by making its runs again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ctvr_bench.bench.audit.rerun import rerun
from ctvr_bench.bench.audit.tables import faults_of_table
from ctvr_bench.bench.audit.verify import verify
from ctvr_bench.bench.records.aggregate import read_results
from ctvr_bench.bench.records.record import RankTable, read_record, save_record, write_json
from ctvr_bench.bench.records.suites import read_suite
from ctvr_bench.bench.records.summary import metrics_of
from ctvr_bench.bench.suite.folders import merge
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.whole import digest_of_file
from tests.bench.fake_suite import rank_table, write_suite
from tests.commands import called

SEEN = "stored/seen/t2v"


@pytest.fixture
def copy(runs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(runs, tmp_path / runs.name))


def run_of(folder: Path, method: str) -> Path:
    return next(folder.glob(f"{method}-*"))


def altered(run: Path, change: Callable[[RankTable], None], *, in_accord: bool) -> None:
    """Change the ranks of a run; in accord: its metrics and digests as well."""
    table = RankTable.load(run / "ranks.h5")
    own = replace(
        table,
        ranks={name: np.array(values) for name, values in table.ranks.items()},
        best={name: np.array(values) for name, values in table.best.items()},
    )
    change(own)
    own.save(run / "ranks.h5")
    if in_accord:
        write_json(run / "metrics.json", metrics_of(own))
        save_record(run, read_record(run))


def lift(table: RankTable) -> None:
    """Put the worst query of the end on rank 1."""
    table.ranks[SEEN][-1, table.ranks[SEEN][-1].argmax()] = 1


def lift_with_its_video(table: RankTable) -> None:
    worst = table.ranks[SEEN][-1].argmax()
    table.ranks[SEEN][-1, worst], table.best[SEEN][-1, worst] = 1, worst


def test_a_folder_as_it_was_written_has_no_fault(runs: Path) -> None:
    before = {path: path.read_bytes() for path in runs.rglob("*") if path.is_file()}
    found = verify(runs)
    assert (found.runs, found.done, found.faults) == (2, 2, ())
    assert {path: path.read_bytes() for path in runs.rglob("*") if path.is_file()} == before


def test_altered_metrics_are_named_digests_or_not(copy: Path) -> None:
    run = run_of(copy, "mine")
    metrics = json.loads((run / "metrics.json").read_text())
    truth, metrics["final"]["t2v/stored/seen/R@1"] = metrics["final"]["t2v/stored/seen/R@1"], 99.0
    write_json(run / "metrics.json", metrics)
    said = [str(fault) for fault in verify(copy).faults]
    assert said == [
        f"{run.name}/metrics.json: is not what its run wrote (run.json has another digest)",
        f"{run.name}/metrics.json: final t2v/stored/seen/R@1 is 99.0, the ranks give {truth}",
    ]
    save_record(run, read_record(run))  # now the digests agree, and a table would rank it first
    assert [str(fault) for fault in verify(copy).faults] == said[1:]


def test_altered_ranks_are_named_digests_and_metrics_or_not(copy: Path) -> None:
    run = run_of(copy, "mine")
    altered(run, lift, in_accord=False)
    assert {(fault.file, fault.run) for fault in verify(copy).faults} == {("ranks.h5", run.name)}
    altered(run, lift, in_accord=True)
    (fault,) = verify(copy).faults
    assert (fault.run, fault.file) == (run.name, "ranks.h5")
    assert "rank 1 where another video is stored as the best" in fault.what


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda run: (run / "ranks.h5").unlink(), "ranks.h5: is not there"),
        (lambda run: (run / "training.jsonl").write_text("{}\n"), "training.jsonl: cannot be read as a log"),
        (lambda run: edit(run, '"seed": 0,\n  "selection', '"seed": 4,\n  "selection'), "run.json: cannot be read as"),
        (lambda run: edit(run, '"digest": "', '"digets": "', last=True), "run.json: has no digest of its own values"),
        (lambda run: run.rename(run.with_name("mine-1")), "run.json: cannot be read as a run (it is of another run"),
        (shutil.rmtree, "run.json: is listed by a suite and not there"),
        (lambda run: next(run.parent.glob("suites/sources/*")).write_text("x = 1\n"), "is not the file that was run"),
        (lambda run: (run.parent / "suite.json").write_text("{"), "suite.json: cannot be read as a suite's list"),
    ],
)
def test_what_else_was_done_to_a_folder_is_named(copy: Path, change: Callable[[Path], object], words: str) -> None:
    change(run_of(copy, "mine"))
    assert any(words in str(fault) for fault in verify(copy).faults)


def edit(run: Path, old: str, new: str, *, last: bool = False) -> None:
    text = (run / "run.json").read_text()
    assert old in text
    (run / "run.json").write_text(new.join(text.rsplit(old, 1)) if last else text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("name", "index", "value", "words"),
    [
        ("ranks", (2, 3), 99, "beyond the size of the gallery"),
        ("ranks", (2, 3), 0, "no rank for a query that was asked"),
        ("ranks", (0, 20), 2, "a rank for a query that was not asked yet"),
        ("best", (0, 0), 9, "not among those seen"),
        ("ahead_N", 0, 9, "ahead_N has ranks outside"),
        ("task_N", 0, 1, "not those of 3 tasks in order"),
        ("caption_N", 0, 101, "a caption is asked twice"),
    ],
)
def test_impossible_ranks_are_named(name: str, index: tuple[int, int] | int, value: int, words: str) -> None:
    table = rank_table(0.3, 0, 0, 3, 8)
    assert not list(faults_of_table(table))
    values = getattr(table, name)
    (values[SEEN] if isinstance(values, dict) else values)[index] = value
    assert any(words in fault for fault in faults_of_table(table))


def test_re_encoded_galleries_may_be_ranked_after_the_last_task_alone() -> None:
    table, name = rank_table(0.3, 0, 0, 3, 8), "re-encoded/seen/t2v"
    table.ranks[name][1], table.best[name][1] = 0, -1
    assert not list(faults_of_table(table))
    table.ranks[name][2] = 0
    assert ["no rank for a query that was asked" in fault for fault in faults_of_table(table)] == [True]


def test_runs_come_out_again_from_the_folder_alone(runs: Path, tmp_path: Path) -> None:
    """A merged one; the method's file is gone; one run was altered in accord with all that `verify` reads."""
    folder = tmp_path / "merged"
    merge([runs], folder)
    list_of_merged_runs = read_suite(folder).model_copy(update={"config": {}})
    write_json(folder / "suite.json", list_of_merged_runs.model_dump(mode="json"))
    altered(run_of(folder, "zero_shot"), lift_with_its_video, in_accord=True)
    assert not verify(folder).faults
    before = {path: digest_of_file(path) for path in folder.rglob("*") if path.is_file()}
    zero_shot, mine = rerun(folder, jobs=1)
    assert (mine.same, mine.moved, mine.now, mine.changed) == (True, 0, mine.before, ())
    assert (zero_shot.same, zero_shot.moved) == (False, 1)
    assert zero_shot.now == pytest.approx(zero_shot.before - 100 / zero_shot.queries)
    assert {path: digest_of_file(path) for path in folder.rglob("*") if path.is_file()} == before


def test_a_folder_cannot_have_another_file_run_or_another_place_used(copy: Path, tmp_path: Path) -> None:
    suite = read_suite(copy)
    hostile = {**suite.config, "stage": str(tmp_path / "elsewhere"), "executor": "dask", "out": str(tmp_path / "out")}
    hostile["methods"] = [{"name": "../../mine.py:Mine", "set": {}}]
    write_json(copy / "suite.json", suite.model_copy(update={"config": hostile}).model_dump(mode="json"))
    with pytest.raises(
        InputError, match=r"names the method '../../mine.py:Mine', which is no copy under suites/sources"
    ):
        list(rerun(copy))


def test_the_commands_say_it_and_end_with_one(copy: Path) -> None:
    assert called("verify", copy).returncode == 0
    run = run_of(copy, "zero_shot")
    result = called("rerun", copy, run.name, "--jobs", 1)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("same    zero_shot (order 0, seed 0): every rank is equal, R@1 ")
    altered(run, lift, in_accord=False)
    result = called("verify", copy)
    assert (result.returncode, "FAULT" in result.stdout, run.name in result.stdout) == (1, True, True)
    assert "unknown finished run" in called("rerun", copy, "mine").stderr
    shutil.rmtree(copy / "suites")
    (copy / "suite.json").unlink()
    with pytest.raises(InputError, match="does not remember how "):
        list(rerun(copy))


def test_rows_of_different_stores_are_not_ranked_unless_told(tmp_path: Path) -> None:
    write_suite(tmp_path, ("zero_shot",), seeds=1)
    write_suite(tmp_path, ("lwf",), seeds=1, simulated=False)
    for path in tmp_path.glob("lwf-*/run.json"):
        record = read_record(path.parent)
        store = record.config.store.model_copy(update={"digest": "1e" * 32})
        config = record.config.model_copy(update={"store": store})
        shutil.move(path.parent, tmp_path / config.run_id)
        save_record(tmp_path / config.run_id, record.model_copy(update={"config": config, "run_id": config.run_id}))
    with pytest.raises(InputError, match=r"lwf on fake_store \(1e1e.*zero_shot on fake_store \(0f0f.*--across store"):
        read_results(tmp_path)
    assert len(read_results(tmp_path, across_stores=True).rows) == 2
    assert "--across store" in called("report", tmp_path, "--format", "md").stderr
    assert called("report", tmp_path, "--format", "md", "--across", "store").returncode == 0
