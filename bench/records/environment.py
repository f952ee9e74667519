"""What a number was made with, and how much memory it took."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import resource
import shlex
import subprocess
import sys
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from ctvr_bench.features.store import tool_version


def environment(device: str) -> dict[str, Any]:
    """Versions, hardware and commit that a number was made with."""
    return {
        "python": platform.python_version(),
        "version": tool_version(),
        **_versions(),
        "platform": platform.platform(terse=True),
        "device": torch.cuda.get_device_name(device) if device != "cpu" else platform.machine(),
        "threads": torch.get_num_threads(),
        "cpus": cores(),
        "commit": git_commit(),
    }


@cache
def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in ("torch", "numpy", "faiss-cpu", "h5py", "scipy")}


def command_line() -> str:
    """The command that this process was started with; empty where it is not one of this suite's."""
    program = Path(sys.argv[0]).name if sys.argv else ""
    return shlex.join([program, *sys.argv[1:]]) if program in ("run_benchmark.py", "ctvr-bench") else ""


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def git_commit() -> str:
    """Commit of the source tree when first asked, with '+' where it has changes; empty outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+", "--abbrev=12", "--match="]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def forget_peak_memory(device: str) -> None:
    """Begin to measure `peak_memory` anew, where the system can (CUDA, Linux)."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory(device: str) -> int:
    """Most bytes of the process since `forget_peak_memory`, else since it began; on a GPU, of its allocated memory."""
    if device != "cpu":
        return int(torch.cuda.max_memory_allocated(device))
    with suppress(OSError):
        found = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(encoding="ascii"), re.M)
        if found:
            return 1024 * int(found[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)


def give_back_memory() -> None:
    """Return to the system what was freed: glibc keeps blocks of up to 32 MB for itself otherwise."""
    with suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def wait_for(device: str) -> None:
    """Return when a GPU has done what it was given; a stopwatch asks first."""
    if device != "cpu":
        torch.cuda.synchronize(device)
