"""Independent pieces of work, such as figures, in forked processes, which know all that this one knows."""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, TypeVar

T = TypeVar("T")
_MOST = 4  # processes


def in_processes(make: Callable[[int], T], count: int) -> list[T]:
    """make(0), make(1), ... in order: in forked processes where there are cores and no other thread, else one by one.

    What `make` raises is raised. Where a process is killed all is made again in this one. Python warns of numpy's own
    threads, which wait for work and hold no lock when a process forks.
    """
    workers = min(_cores(), count, _MOST)
    if workers < 2 or threading.active_count() > 1:
        return [make(number) for number in range(count)]
    try:
        with (
            warnings.catch_warnings(),
            ProcessPoolExecutor(workers, get_context("fork"), initializer=_begin, initargs=(make,)) as pool,
        ):
            warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
            return list(pool.map(_made, range(count)))
    except BrokenProcessPool:
        return [make(number) for number in range(count)]


def _cores() -> int:
    """Cores of this process where it can fork safely."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1


_make: Callable[[int], object]


def _begin(make: Callable[[int], object]) -> None:
    """In a new process: who stops the command stops the one that waits for it."""
    global _make
    _make = make
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _made(number: int) -> Any:
    return _make(number)
