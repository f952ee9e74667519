"""Runs side by side in processes of their own, each with a fixed number of threads."""

from __future__ import annotations

import multiprocessing
import os
import queue
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

import torch

from bench.records import RunRecord
from bench.runner import Job, Progress, Watch, run_job
from bench.search import set_search_threads
from features.store import open_store
from features.streams import StreamOptions, make_stream

_SECONDS = 0.2  # between two looks at the progress of the workers
_reports: multiprocessing.Queue[Progress] | None = None


def run_jobs(
    jobs: Sequence[Job], store: Path, directory: Path, device: str, workers: int, threads: int, watch: Watch
) -> Iterator[RunRecord]:
    """Records as the runs finish. workers: processes; 0 is one for each core, or one on CUDA; 1 is this process.

    On Ctrl-C the workers stop; what they have finished is on disk, and the same suite goes on from there.
    """
    workers = min(workers or (1 if device != "cpu" else len(os.sched_getaffinity(0))), len(jobs))
    if workers <= 1:
        yield from _run_here(jobs, store, directory, device, threads, watch)
        return
    context = multiprocessing.get_context("spawn")
    reports: multiprocessing.Queue[Progress] = context.Queue()
    pool = ProcessPoolExecutor(workers, context, _start_worker, (reports, threads))
    try:
        pending: set[Future[RunRecord]] = {pool.submit(_run_there, job, store, directory, device) for job in jobs}
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
    jobs: Sequence[Job], store: Path, directory: Path, device: str, threads: int, watch: Watch
) -> Iterator[RunRecord]:
    before = torch.get_num_threads()
    _set_threads(threads)
    try:
        for job in jobs:
            yield _run(job, store, directory, device, watch)
    finally:
        _set_threads(before)


def _run_there(job: Job, store: Path, directory: Path, device: str) -> RunRecord:
    assert _reports is not None
    return _run(job, store, directory, device, _reports.put)


def _run(job: Job, store_path: Path, directory: Path, device: str, watch: Watch) -> RunRecord:
    store = open_store(store_path)
    stream = make_stream(store, job.config.stream, StreamOptions(**job.config.options))
    return run_job(job, store, stream, directory / job.config.run_id, device, watch)


def _start_worker(reports: multiprocessing.Queue[Progress], threads: int) -> None:
    global _reports
    _reports = reports
    _set_threads(threads)


def _set_threads(count: int) -> None:
    torch.set_num_threads(count)
    set_search_threads(count)


def _drain(reports: multiprocessing.Queue[Any]) -> Iterator[Progress]:
    while True:
        try:
            yield reports.get_nowait()
        except queue.Empty:
            return
