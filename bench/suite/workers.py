"""Runs side by side in processes of their own, each with a fixed number of threads."""

from __future__ import annotations

import multiprocessing
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any, TypeVar

import torch

from ctvr_bench.bench.records.environment import cores
from ctvr_bench.bench.run.jobs import Job, Progress, Watch
from ctvr_bench.bench.run.search import set_search_threads
from ctvr_bench.features.store import FeatureStore, open_store
from ctvr_bench.features.streams import Stream, StreamOptions, make_stream

Made = TypeVar("Made")
Make = Callable[[Job, FeatureStore, Stream, Path, str, Watch], Made]
"""bench.run.runner.run_together and its like: what is made of a job, in a folder, on a device, watched."""

_SECONDS = 0.2  # between two looks at the progress of the workers
_reports: multiprocessing.Queue[Progress] | None = None


def run_jobs(
    make: Make[Made],
    jobs: Sequence[Job],
    store: Path,
    directory: Path,
    device: str,
    workers: int,
    threads: int,
    watch: Watch,
) -> Iterator[Made]:
    """What `make` makes of each job, as they finish.

    workers: processes; 0 is one for each core, or one on CUDA; 1 is this process.
    On Ctrl-C the workers stop; what they have finished is on disk, and the same suite goes on from there.
    """
    workers = min(workers or (1 if device != "cpu" else cores()), len(jobs))
    if workers <= 1:
        yield from _run_here(make, jobs, store, directory, device, threads, watch)
        return
    context = multiprocessing.get_context("spawn")
    reports: multiprocessing.Queue[Progress] = context.Queue()
    pool = ProcessPoolExecutor(workers, context, _start_worker, (reports, threads))
    try:
        pending: set[Future[Made]] = {pool.submit(_run_there, make, job, store, directory, device) for job in jobs}
        while pending:
            done, pending = wait(pending, timeout=_SECONDS, return_when=FIRST_COMPLETED)
            for progress in _drain(reports):
                watch(progress)
            for future in done:
                yield future.result()
    except BaseException:
        for process in list((pool._processes or {}).values()):
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _run_here(
    make: Make[Made], jobs: Sequence[Job], store: Path, directory: Path, device: str, threads: int, watch: Watch
) -> Iterator[Made]:
    before = torch.get_num_threads()
    _set_threads(threads)
    try:
        for job in jobs:
            yield _run(make, job, store, directory, device, watch)
    finally:
        _set_threads(before)


def _run_there(make: Make[Made], job: Job, store: Path, directory: Path, device: str) -> Made:
    assert _reports is not None
    return _run(make, job, store, directory, device, _reports.put)


def _run(make: Make[Made], job: Job, store_path: Path, directory: Path, device: str, watch: Watch) -> Made:
    store = open_store(store_path)
    stream = make_stream(store, job.config.stream, StreamOptions(**job.config.options))
    return make(job, store, stream, directory / job.config.run_id, device, watch)


def _start_worker(reports: multiprocessing.Queue[Progress], threads: int) -> None:
    global _reports
    _reports = reports
    _set_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A suite that is killed takes its workers along: what they write is whole or not there."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _set_threads(count: int) -> None:
    torch.set_num_threads(count)
    set_search_threads(count)


def _drain(reports: multiprocessing.Queue[Any]) -> Iterator[Progress]:
    while True:
        try:
            yield reports.get_nowait()
        except queue.Empty:
            return
