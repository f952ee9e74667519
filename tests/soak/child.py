"""A command in a forked child: it shares what this process has loaded, and may end anywhere without harm to it."""

from __future__ import annotations

import importlib
import os
import pkgutil
import resource
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import ctvr_bench
from tests.commands import called

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


def run(arguments: tuple[str, ...], cwd: Path, patch: Patch = nothing, seconds: float = 120.0) -> Ended:
    """Run a command in a child; it is killed after `seconds`."""
    said, start = cwd.with_name(f"{cwd.name}.said"), time.perf_counter()
    said.write_text("")
    pid = os.fork()
    if pid == 0:
        _run_and_exit(arguments, cwd, patch, said)
    while True:
        ended, wait, usage = os.wait4(pid, os.WNOHANG)
        if ended:
            break
        if time.perf_counter() - start > seconds:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)
    begun, _, output = said.read_text(errors="replace").partition("\n")
    status = os.waitstatus_to_exitcode(wait)
    stopped = status < 0 or status == STOPPED
    grown = usage.ru_maxrss * 1024 - int(begun or 0)
    cpu = usage.ru_utime + usage.ru_stime
    return Ended(None if stopped else status, output, time.perf_counter() - start, cpu, max(0, grown))


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
