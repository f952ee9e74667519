"""Work in forked processes: the same results in the same order, errors that come through, a killed process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ctvr_bench.bench.executors import forked
from ctvr_bench.bench.executors.forked import in_processes
from ctvr_bench.bench.records.aggregate import read_results
from ctvr_bench.bench.report import plots
from tests.bench.fake_suite import write_suite

ALONE = """
import os, signal, sys
from ctvr_bench.bench.executors import forked

forked._cores = lambda: 3
known = [os.getpid()]

def make(number):
    if sys.argv[1] == "fails" and number == 2:
        raise ValueError("the third of them")
    if sys.argv[1] == "killed" and number == 2 and os.getpid() != known[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return number, os.getpid() != known[0]

print(forked.in_processes(make, 5))
"""


def alone(what: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, which has one thread."""
    return subprocess.run([sys.executable, "-c", ALONE, what], capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.skipif(sys.platform != "linux", reason="forks on Linux alone")
def test_results_are_in_order_and_made_elsewhere() -> None:
    assert alone("works").stdout.strip() == str([(number, True) for number in range(5)])


@pytest.mark.skipif(sys.platform != "linux", reason="forks on Linux alone")
def test_what_was_killed_is_made_here() -> None:
    assert alone("killed").stdout.strip() == str([(number, False) for number in range(5)])


def test_an_error_comes_through() -> None:
    assert "ValueError: the third of them" in alone("fails").stderr


def test_one_core_makes_all_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forked, "_cores", lambda: 1)
    seen: list[int] = []
    assert in_processes(lambda number: seen.append(number) or number, 3) == seen == [0, 1, 2]


def test_figures_are_the_same_bytes_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = write_suite(tmp_path / "suite")
    code = """
import sys
from pathlib import Path
from ctvr_bench.bench.records.aggregate import read_results
from ctvr_bench.bench.executors import forked
from ctvr_bench.bench.report import plots

forked._cores = lambda: 2
plots.save_figures(read_results(Path(sys.argv[1])), Path(sys.argv[2]))
"""
    subprocess.run([sys.executable, "-c", code, str(suite), str(tmp_path / "2")], check=True, timeout=120)
    monkeypatch.setattr(forked, "_cores", lambda: 1)
    plots.save_figures(read_results(suite), tmp_path / "1")
    first, second = ({file.name: file.read_bytes() for file in (tmp_path / cores).iterdir()} for cores in "12")
    assert first == second
    assert len(first) > 4
