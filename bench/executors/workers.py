"""Runs side by side in processes of their own, each with a fixed number of threads, none made by two at a time.

The longest are handed out first, so that no core waits at the end for a run that began late.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch

from ctvr_bench.bench.evaluation.search import set_search_threads
from ctvr_bench.bench.executors.cards import places, take_card
from ctvr_bench.bench.executors.claims import Owner, claimed, owner_of
from ctvr_bench.bench.executors.order import LongestFirst, measured_costs
from ctvr_bench.bench.run.jobs import Job, Progress, Watch
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.store import FeatureStore, open_store
from ctvr_bench.features.streams import Stream, StreamOptions, make_stream

Made = TypeVar("Made")
Make = Callable[[Job, FeatureStore, Stream, Path, str, Watch], Made]
"""bench.run.runner.run_together and its like: what is made of a job, in a folder, on a device, watched.

One that finds the job done takes it as it is: another process may have made it.
"""

_SECONDS = 0.2  # between two looks at the progress of the workers
_PATIENCE = 1.0  # seconds between two looks at a run that another process makes
_TRIES = 2  # of a run whose process is killed
_reports: multiprocessing.Queue[Progress | int] | None = None


@dataclass(frozen=True)
class Taken:
    """A job that somebody else makes."""

    job: Job
    owner: Owner


@dataclass(frozen=True)
class Workshop(Generic[Made]):
    """How jobs are made, and where.

    workers: processes; 0 is one for each core, or for each card on CUDA; 1 is this process.
    lost: what to record of a job whose process was killed as often as it was tried.
    """

    make: Make[Made]
    store: Path
    directory: Path
    device: str
    workers: int
    threads: int
    watch: Watch
    lost: Callable[[Job, str], Made]

    def say(self, job: Job, note: str) -> None:
        """Tell a person something about a job."""
        self.tell(f"{_named(job)}: {note}")

    def tell(self, note: str) -> None:
        """Tell a person something."""
        self.watch(Progress("", 0, 0, note=note))

    def give_up(self, job: Job, reason: str) -> Made | Taken:
        """Record a job as lost, unless somebody else has taken it up meanwhile."""
        with claimed([self.directory / each.config.run_id for each in job.group]) as owner:
            return self.lost(job, reason) if owner is None else Taken(job, owner)


class Executor(Protocol):
    """Who makes jobs, where that is not a pool of this machine: the seam for an engine (bench.executors.cluster)."""

    def attempts(self, jobs: Sequence[Job], shop: Workshop[Made]) -> Iterator[Made | Taken]:
        """What is made of each job, as they finish, each once; a job that somebody else makes is Taken."""
        ...


def run_jobs(jobs: Sequence[Job], shop: Workshop[Made], executor: Executor | None = None) -> Iterator[Made]:
    """What is made of each job, as they finish. executor: None is a pool of processes on this machine.

    A job that another process makes is left to it: the others come first, then this waits, and takes the job over
    where that process ends without having finished it. A job whose process is killed is tried again from its last
    finished task, by itself. On Ctrl-C the workers stop; what they have finished is on disk, and the same suite goes on
    from there.
    """
    left, told = list(jobs), set[str]()
    while left:
        taken: list[Taken] = []
        attempts: Callable[..., Iterator[Made | Taken]] = executor.attempts if executor else _attempts
        for made in attempts(left, shop):
            if isinstance(made, Taken):
                taken.append(made)
            else:
                yield made
        for each in taken:
            if each.job.config.run_id not in told:
                told.add(each.job.config.run_id)
                shop.say(each.job, f"{each.owner} makes this run; waiting for it")
        left = [each.job for each in taken]
        while left and not (free := [job for job in left if not _is_owned(job, shop.directory)]):
            time.sleep(_PATIENCE)
        if left:
            later = [job for job in left if job not in free]
            yield from run_jobs(free, shop, executor)
            left = later


def _is_owned(job: Job, directory: Path) -> bool:
    return any(owner_of(directory / each.config.run_id) is not None for each in job.group)


def _attempts(jobs: Sequence[Job], shop: Workshop[Made]) -> Iterator[Made | Taken]:
    workers = min(shop.workers or places(shop.device), len(jobs))
    if workers <= 1:
        yield from _here(jobs, shop)
        return
    tries: Counter[str] = Counter()
    batches = [(list(jobs), workers)]
    while batches:
        batch, size = batches.pop(0)
        began: set[int] = set()
        finished: set[int] = set()
        try:
            for number, made in _in_pool(batch, shop, size, began):
                finished.add(number)
                yield made
        except BrokenProcessPool as error:
            rest = [job for number, job in enumerate(batch) if number not in finished | began]
            killed = [batch[number] for number in sorted(began - finished)]
            if not killed:
                raise InputError(
                    "worker processes are killed before they begin, perhaps for want of memory; use fewer --jobs"
                ) from error
            if rest:
                batches.append((rest, min(size, len(rest))))
            for job in killed:
                tries[job.config.run_id] += 1
                if tries[job.config.run_id] < _TRIES:
                    shop.say(job, "its process, or one beside it, was killed, perhaps for want of memory; tried again")
                    batches.append(([job], 1))
                else:
                    yield shop.give_up(job, f"its process was killed {_TRIES} times, perhaps for want of memory")


def _here(jobs: Sequence[Job], shop: Workshop[Made]) -> Iterator[Made | Taken]:
    before = torch.get_num_threads()
    set_threads(shop.threads)
    try:
        for job in jobs:
            yield make_one(shop.make, job, shop.store, shop.directory, shop.device, shop.watch)
    finally:
        set_threads(before)


def _in_pool(
    jobs: Sequence[Job], shop: Workshop[Made], workers: int, began: set[int]
) -> Iterator[tuple[int, Made | Taken]]:
    """Numbers of jobs with what was made of them; `began` gets those that were taken up. Raises BrokenProcessPool."""
    context = multiprocessing.get_context("spawn")
    reports: multiprocessing.Queue[Progress | int] = context.Queue()
    turn = context.Value("i", 0)
    pool = ProcessPoolExecutor(workers, context, _start_worker, (reports, shop.threads, shop.device, turn))
    numbers = {job.config.run_id: number for number, job in enumerate(jobs)}
    waiting = LongestFirst(jobs, measured_costs(shop.directory, jobs))
    pending: dict[Future[tuple[float, Made | Taken]], Job] = {}

    def hand_out() -> None:
        job = waiting.take()
        number = numbers[job.config.run_id]
        future = pool.submit(_run_there, number, shop.make, job, shop.store, shop.directory, shop.device)
        pending[future] = job

    try:
        for _ in range(workers):
            hand_out()
        while pending:
            done, _ = wait(pending, timeout=_SECONDS, return_when=FIRST_COMPLETED)
            for report in _drain(reports):
                if isinstance(report, int):
                    began.add(report)
                else:
                    shop.watch(report)
            for future in sorted(done, key=lambda each: each.exception() is not None):  # a killed one comes last
                job = pending.pop(future)
                seconds, made = future.result()
                if not isinstance(made, Taken):
                    waiting.learn(job, seconds)
                yield numbers[job.config.run_id], made
                if len(waiting):
                    hand_out()
    except BaseException:
        for process in list((pool._processes or {}).values()):
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _run_there(
    number: int, make: Make[Made], job: Job, store: Path, directory: Path, device: str
) -> tuple[float, Made | Taken]:
    """Seconds that a job took, and what was made of it."""
    assert _reports is not None
    _reports.put(number)
    start = time.perf_counter()
    made = make_one(make, job, store, directory, device, _reports.put)
    return time.perf_counter() - start, made


def make_one(make: Make[Made], job: Job, store_path: Path, directory: Path, device: str, watch: Watch) -> Made | Taken:
    """What is made of a job, here and now, unless somebody else makes it."""
    store = _opened(store_path)
    stream = make_stream(store, job.config.stream, StreamOptions(**job.config.options))
    with claimed([directory / each.config.run_id for each in job.group]) as owner:
        if owner is not None:
            return Taken(job, owner)
        return make(job, store, stream, directory / job.config.run_id, device, watch)


def _opened(path: Path) -> FeatureStore:
    """The store of a file, opened once for as long as the file stays what it is."""
    try:
        state = path.stat()
    except OSError:
        return open_store(path)  # says what is wrong
    return _opened_as(path, state.st_ino, state.st_size, state.st_mtime_ns)


@lru_cache(1)
def _opened_as(path: Path, *_: int) -> FeatureStore:
    return open_store(path)


def _named(job: Job) -> str:
    seeds = ", ".join(str(each.config.seed) for each in job.group)
    return f"{job.label} (order {job.config.options['order']}, seed {seeds})"


def _start_worker(
    reports: multiprocessing.Queue[Progress | int], threads: int, device: str, turn: Synchronized[int]
) -> None:
    """What a process of a pool does first. turn: how many of them have begun."""
    global _reports
    _reports = reports
    set_threads(threads)
    with turn.get_lock():
        worker, turn.value = turn.value, turn.value + 1
    take_card(device, worker)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A suite that is killed takes its workers along: what they write is whole or not there."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def set_threads(count: int) -> None:
    """How many threads this process computes with."""
    torch.set_num_threads(count)
    set_search_threads(count)


def _drain(reports: multiprocessing.Queue[Any]) -> Iterator[Progress | int]:
    while True:
        try:
            yield reports.get_nowait()
        except queue.Empty:
            return
