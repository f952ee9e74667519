"""A cluster of processes on this machine: a scheduler, and nodes with working folders of their own, to be killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from ctvr_bench.bench.run.jobs import Job, Watch
from ctvr_bench.features.store import FeatureStore
from ctvr_bench.features.streams import Stream
from tests.commands import ROOT

PATIENCE = 600.0
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "OMP_NUM_THREADS": "1"}


class Cluster:
    """Scheduler and nodes; every node is a process group."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "scheduler.json"
        self.scheduler: subprocess.Popen[bytes] | None = None
        self.nodes: dict[str, subprocess.Popen[bytes]] = {}

    def start_scheduler(self) -> None:
        self.file.unlink(missing_ok=True)
        options = [
            "--scheduler-file",
            str(self.file),
            "--port",
            "0",
            "--dashboard-address",
            ":0",
            "--host",
            "127.0.0.1",
        ]
        self.scheduler = self._start("scheduler", ["-m", "dask", "scheduler", *options])
        wait_for(self.file.is_file)

    def start_node(self, name: str, *options: str, before: tuple[str, ...] = (), workers: int = 1) -> None:
        """before: a command in front, such as one that hides a folder from the node."""
        arguments = ["-m", "dask", "worker", "--scheduler-file", str(self.file), "--nthreads", "1", *options]
        arguments += ["--nworkers", str(workers), "--no-dashboard", "--memory-limit", "0", "--name", name]
        self.nodes[name] = self._start(name, [*arguments, "--local-directory", str(self.folder / name)], before)

    def kill(self, name: str) -> None:
        """A node with all its processes, or the scheduler."""
        process = self.scheduler if name == "scheduler" else self.nodes.pop(name)
        assert process is not None
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def node_of(self, pid: int) -> str:
        """The node that a process belongs to."""
        return next(name for name, process in self.nodes.items() if os.getpgid(pid) == process.pid)

    def cpu_seconds(self) -> dict[str, float]:
        """Of this process, the scheduler, and all nodes with their children, so far."""
        found = {"driver": _cpu_of(psutil.Process())}
        assert self.scheduler is not None
        found["scheduler"] = _cpu_of(psutil.Process(self.scheduler.pid))
        tops = [psutil.Process(process.pid) for process in self.nodes.values()]
        found["nodes"] = sum(_cpu_of(each) for top in tops for each in [top, *top.children(recursive=True)])
        return found

    def stop(self) -> None:
        for name in [*self.nodes, *(["scheduler"] if self.scheduler else [])]:
            self.kill(name)

    def _start(self, name: str, arguments: list[str], before: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        with (folder / "log").open("ab") as log:
            return subprocess.Popen(
                [*before, sys.executable, *arguments],
                cwd=folder, env=ENVIRONMENT, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip


def _cpu_of(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def wait_for(condition: Callable[[], Any]) -> Any:
    """What the condition gives once it gives something."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def nothing(job: Job, store: FeatureStore, stream: Stream, directory: Path, device: str, watch: Watch) -> str:
    """A run that takes no time."""
    return job.config.run_id


def half_a_second(job: Job, store: FeatureStore, stream: Stream, directory: Path, device: str, watch: Watch) -> str:
    """A run that takes half a second of no core."""
    time.sleep(0.5)
    return job.config.run_id
