"""A command in a forked child: it shares what this process has loaded, and may end anywhere without harm to it."""

from __future__ import annotations

import gc
import importlib
import math
import os
import pkgutil
import resource
import signal
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

import ctvr_bench
from ctvr_bench.bench.records.code import DERIVES_METRICS, digests_of
from ctvr_bench.bench.records.environment import git_commit
from ctvr_bench.bench.suite.code import MAKES_NUMBERS
from tests.commands import ROOT, called

Patch = Callable[[], None]
"""What is changed in the child before the command begins."""


def nothing() -> None:
    """No change."""


@dataclass(frozen=True)
class Ended:
    """How a command ended. status: its exit status, None where the child was killed or ended itself.

    seconds, cpu: that it took, and of a core. grown: bytes of memory beyond those that it began with, at most.
    """

    status: int | None
    output: str
    seconds: float
    cpu: float
    grown: int

    @property
    def traceback(self) -> bool:
        return "Traceback (most recent call last)" in self.output or self.status not in (None, 0, 1, 2)


_DEAR = {"ctvr_bench.bench.api", "ctvr_bench.bench.gate.pytest_plugin", "ctvr_bench.features.clip_towers"}
_LOADED = [
    importlib.import_module(module.name)
    for module in pkgutil.walk_packages(ctvr_bench.__path__, "ctvr_bench.")
    if not any(module.name.startswith(dear) for dear in _DEAR)
]
"""So that no child has to."""
_LATER = ("torch._dynamo", "optuna", "pydantic.dataclasses", "rich._emoji_codes", "av.subtitles.stream")
"""What commands load only when they come to it."""


def get_ready() -> None:
    """Load and compute once what children would else each load and compute when they come to it: for a campaign."""
    for name in _LATER:
        importlib.import_module(name)
    methods = [f"methods/{path.name}" for path in (ROOT / "methods").glob("*.py")]
    digests_of([*MAKES_NUMBERS, *DERIVES_METRICS, *methods])
    gc.collect()
    gc.freeze()


def run(
    arguments: tuple[str, ...], cwd: Path, patch: Patch = nothing, seconds: float = 120.0, kill_after: float = math.inf
) -> Ended:
    """Run a command in a child with a process group of its own.

    The group is killed (SIGKILL) after `seconds`, or when the child has had `kill_after` seconds of a core.
    """
    said, start = cwd.with_name(f"{cwd.name}.said"), time.perf_counter()
    said.write_text("")
    git_commit()  # of the code that is loaded: a child that asked would name what is committed meanwhile
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        _run_and_exit(arguments, cwd, patch, said)
    while True:
        ended, wait, usage = os.wait4(pid, os.WNOHANG)
        if ended:
            break
        if time.perf_counter() - start > seconds or _seconds_of_a_core(pid) > kill_after:
            with suppress(ProcessLookupError, PermissionError):  # is ending, or has not made its group yet
                os.killpg(pid, signal.SIGKILL)
        time.sleep(0.002)
    begun, _, output = said.read_text(errors="replace").partition("\n")
    status = os.waitstatus_to_exitcode(wait)
    stopped = status < 0 or status == STOPPED
    grown = usage.ru_maxrss * 1024 - int(begun or 0)
    cpu = usage.ru_utime + usage.ru_stime
    return Ended(None if stopped else status, output, time.perf_counter() - start, cpu, max(0, grown))


def _seconds_of_a_core(pid: int) -> float:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


STOPPED = 137
"""Exit status of a child that a fault ended."""


def _run_and_exit(arguments: tuple[str, ...], cwd: Path, patch: Patch, said: Path) -> None:
    status = 1
    try:
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        with said.open("a") as file:
            file.write(f"{own}\n")
        with pytest.MonkeyPatch.context() as without_figures:
            without_figures.setattr("ctvr_bench.bench.report.plots.save_figures", lambda *_, **__: {})
            patch()
            result = called(*arguments, cwd=cwd)
        with said.open("a") as file:
            file.write(result.stdout + result.stderr)
        status = result.returncode
    except BaseException:
        with said.open("a") as file:
            file.write(traceback.format_exc())
        status = 70
    finally:
        os._exit(status)
