"""Processes of a suite: none outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ctvr_bench.bench.executors import workers
from ctvr_bench.bench.executors.order import Measured
from ctvr_bench.bench.executors.workers import Workshop, run_jobs
from ctvr_bench.bench.records.environment import cores
from ctvr_bench.bench.records.record import read_record
from ctvr_bench.bench.run.jobs import Job, ignore
from ctvr_bench.bench.suite.suite import plan, run_suite
from ctvr_bench.bench.suite.unfinished import lost_runs
from tests.bench.executors.dying import dies_if_asked, says_when_it_began
from tests.bench.run.test_runner import suite
from tests.commands import ROOT
from tests.stores import small_store


def children(pid: int) -> list[int]:
    """Processes whose parent this is."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, IndexError):
            continue
        if parent == pid:
            found.append(int(folder.name))
    return found


def alive(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system knows no affinity")
def test_cores_are_counted_where_the_system_knows_no_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cores() == len(os.sched_getaffinity(0))
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert cores() == 6


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="reads the processes from /proc")
def test_the_workers_of_a_suite_that_is_killed_stop_at_once(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "run_benchmark.py"), "run", "--store", str(small_store().path)]
    options = ["--methods", "structalign[epochs=500]", "--seeds", "2", "--jobs", "2", "--out", str(tmp_path)]
    with subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as suite:
        try:
            deadline = time.monotonic() + 600  # a busy machine, on which three processes load torch
            while len(list(tmp_path.rglob("run.json"))) < 2:
                assert time.monotonic() < deadline
                assert suite.poll() is None
                time.sleep(0.1)
            workers = children(suite.pid)
            assert len(workers) >= 2
        finally:
            suite.kill()
    deadline = time.monotonic() + 20
    while (left := list(filter(alive, workers))) and time.monotonic() < deadline:
        time.sleep(0.1)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, "a worker outlives its suite"


def test_a_job_whose_process_is_killed_is_tried_again_and_then_counted_as_lost(tmp_path: Path) -> None:
    """As by the memory killer; the others are made, whatever they were killed beside."""
    jobs = plan(suite(tmp_path, "finetune", "lwf"), small_store())
    told: list[str] = []
    shop = Workshop(
        dies_if_asked,
        small_store().path,
        tmp_path,
        "cpu",
        workers=2,
        threads=1,
        watch=lambda progress: told.append(progress.note),
        lost=lambda job, reason: (job.label, reason),
    )
    found = dict(run_jobs(jobs, shop))
    assert found["lwf [epochs=1]"] == "done"
    assert found["finetune [epochs=1]"] == "its process was killed 2 times, perhaps for want of memory"
    assert sum("finetune [epochs=1] (order 0, seed 0): its process" in note for note in told) == 1


def test_the_longest_runs_are_handed_out_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no process waits at the end for one that began a long run late."""
    jobs = plan(suite(tmp_path, "finetune", "lwf", seeds=3), small_store())
    costs = {job.label: Measured(9.0 if job.config.method == "lwf" else 1.0, 0) for job in jobs}
    monkeypatch.setattr(workers, "measured_costs", lambda directory, jobs: costs)

    def never(job: Job, reason: str) -> tuple[float, str]:
        raise AssertionError(reason)

    place = (small_store().path, tmp_path, "cpu")
    shop = Workshop(says_when_it_began, *place, workers=2, threads=1, watch=ignore, lost=never)
    methods = [method for _, method in sorted(run_jobs(jobs, shop))]
    assert methods[:2] == ["lwf", "lwf"]
    assert methods[-2:] == ["finetune", "finetune"]


def test_a_lost_run_is_recorded_as_failed_and_tried_by_the_next_command(tmp_path: Path) -> None:
    config = suite(tmp_path, "zero_shot")
    (job,) = plan(config, small_store())
    (record,) = lost_runs(config.directory, job, "its process was killed 2 times")
    assert read_record(config.directory / record.run_id).reason == "its process was killed 2 times"
    assert [record.status for record in run_suite(config)] == ["done"]
