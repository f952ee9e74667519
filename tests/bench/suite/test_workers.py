"""Processes of a suite: none outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ctvr_bench.bench.records.environment import cores
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
            deadline = time.monotonic() + 60
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
