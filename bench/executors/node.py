"""The far side of a cluster: a worker process looks whether it sees what the suite needs, and makes jobs.

Nothing here belongs to one engine: it is what any that starts Python processes on other machines has to do.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import torch

from ctvr_bench.bench.executors.workers import Made, Make, Taken, make_one, set_threads
from ctvr_bench.bench.records.code import digests_of
from ctvr_bench.bench.run.jobs import Job, Progress, Watch
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.store import open_store
from ctvr_bench.features.verification import check_content
from ctvr_bench.methods.shared.registry import Entry

_BETWEEN = 1.0  # seconds between two signs of progress
_LIBRARIES = ("torch", "numpy", "faiss-cpu", "h5py", "scipy")
_at_work = threading.Lock()
_checked: set[tuple[Path, str]] = set()


@dataclass(frozen=True)
class Site:
    """What every worker must see.

    store, directory: absolute paths that all nodes share. digest: the store's. mark: the driver's claim in
    `directory`, by which a node knows the folder from one of its own at the same path. stage: folder of a node's own
    disk for a copy of the store. code: digests of the suite's files by path. outside: digests of methods of installed
    packages, by the name under which `find` finds them.
    """

    store: Path
    digest: str
    directory: Path
    mark: str
    stage: Path | None
    device: str
    threads: int
    code: Mapping[str, str] = field(default_factory=dict)
    outside: Mapping[str, str] = field(default_factory=dict)
    find: Callable[[str], Entry] | None = None


@dataclass(frozen=True)
class Node:
    """Where a worker process runs, with which libraries, and how many bytes it may take; None: no limit is known."""

    host: str
    process: int
    libraries: Mapping[str, str]
    memory: int | None = None


class LeavingError(BaseException):
    """The worker must go; what its run has finished is saved. No Exception: a run that fails is something else."""


def look_around(site: Site) -> Node:
    """Who this worker is. Raises InputError in one line where it misses something that the suite needs."""
    host = socket.gethostname()
    if not (site.directory / site.mark).is_file():
        raise InputError(f"{host}: does not see the suite's folder {site.directory}; results need a folder that is "
                         "the same on all nodes, name one with --out")  # fmt: skip
    if other := sorted(path for path, digest in _code_here(site.code).items() if digest != site.code[path]):
        raise InputError(f"{host}: has another version of the suite ({', '.join(other[:3])}); install the same one")
    for name, digest in site.outside.items():
        if site.find is None or site.find(name).code != digest:
            raise InputError(f"{host}: has another version of the package that brings {name}; install the same one")
    if site.device == "cuda" and not torch.cuda.is_available():
        raise InputError(f"{host}: has no GPU that torch can see; start workers where one is, or use --device cpu")
    store_here(site)
    return Node(host, os.getpid(), libraries_here())


def libraries_here() -> dict[str, str]:
    """Versions of what the last bits of a run depend on."""
    return {name: metadata.version(name) for name in _LIBRARIES}


def store_here(site: Site) -> Path:
    """The store as this node sees it, checked once by each process. Raises InputError where it is not here."""
    path = site.store if site.stage is None else _staged(site, site.stage)
    if (path, site.digest) in _checked:
        return path
    if not path.is_file():
        raise InputError(f"{socket.gethostname()}: misses the store {path} (digest {site.digest[:16]}); make it "
                         "visible under this path on every node")  # fmt: skip
    store = open_store(path)
    if store.digest != site.digest:
        raise InputError(f"{socket.gethostname()}: {path} is another store (digest {store.digest[:16]}) than the "
                         f"suite's (digest {site.digest[:16]}); copy that one there")  # fmt: skip
    check_content(store)
    _checked.add((path, site.digest))
    return path


def make_there(site: Site, make: Make[Made], job: Job, watch: Watch, leaving: Callable[[], bool]) -> Made | Taken:
    """What is made of a job here, one at a time in a process.

    leaving: whether this worker must go; then the run stops where it begins to learn a task after the present one, all
    before it being saved, with LeavingError.
    """
    with _at_work:
        set_threads(site.threads)
        return make_one(make, job, store_here(site), site.directory, site.device, _Watch(watch, leaving))


def is_at_work() -> bool:
    """Whether this process makes a job."""
    return _at_work.locked()


class _Watch:
    """Passes on progress, not more often than a person can read, and ends a run whose worker must go."""

    def __init__(self, tell: Watch, leaving: Callable[[], bool]) -> None:
        self._tell, self._leaving = tell, leaving
        self._told = 0.0
        self._last_task: int | None = None

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.note or now - self._told > _BETWEEN:
            self._told = now
            self._tell(progress)
        if progress.note or not self._leaving():
            return
        if self._last_task is None:
            self._last_task = progress.task
        elif progress.epoch is not None and progress.task > self._last_task:
            raise LeavingError(f"{progress.label}: stopped after task {self._last_task}")


def _code_here(paths: Mapping[str, str]) -> dict[str, str]:
    """The digests of these files as this node has them; empty of one that it has not."""
    found: dict[str, str] = {}
    for path in paths:
        try:
            found[path] = digests_of([path])[path]
        except (OSError, KeyError):
            found[path] = ""
    return found


def _staged(site: Site, stage: Path) -> Path:
    """A copy of the store on the node's own disk, made by the first of its processes that asks."""
    path = stage / f"{site.digest[:16]}.h5"
    try:
        stage.mkdir(parents=True, exist_ok=True)
        with (stage / f".{path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.is_file() and site.store.is_file():
                partial = path.with_name(f".{path.name}.partial")
                shutil.copyfile(site.store, partial)
                with partial.open("rb+") as done:
                    os.fsync(done.fileno())
                partial.replace(path)
    except OSError as error:
        raise InputError(f"{socket.gethostname()}: {stage}: the store cannot be copied there "
                         f"({error.strerror or error}); name another folder with --stage")  from error  # fmt: skip
    return path if path.is_file() else site.store
