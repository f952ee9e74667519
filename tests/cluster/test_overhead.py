"""`make test-cluster`: what handing out a run costs, and what a second worker brings."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ctvr_bench.bench.executors.cluster import Cluster as Where
from ctvr_bench.bench.executors.cluster import opened
from ctvr_bench.bench.executors.workers import Make, Workshop, run_jobs
from ctvr_bench.bench.run.jobs import Job, Progress, ignore
from ctvr_bench.bench.run.runner import run_together
from ctvr_bench.bench.suite.config import make_suite
from ctvr_bench.bench.suite.plugins import find_method
from ctvr_bench.bench.suite.suite import plan
from tests.bench.run.test_runner import suite
from tests.cluster.nodes import Cluster, half_a_second, nothing
from tests.stores import small_store


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        made.start_scheduler()
        made.start_node("one")
        yield made
    finally:
        made.stop()


def jobs(folder: Path, count: int) -> list[Job]:
    job = plan(suite(folder, "zero_shot"), small_store())[0]
    return [replace(job, config=job.config.model_copy(update={"seed": seed})) for seed in range(count)]


def measured(
    cluster: Cluster, folder: Path, make: Make[str], made: list[Job], workers: int
) -> tuple[int, float, dict[str, float]]:
    """Jobs that were made once so many workers were fit, in which wall time, and CPU time by process."""
    found: list[str] = []
    began: list[tuple[int, float, dict[str, float]]] = []

    def watch(progress: Progress) -> None:
        if progress.note.startswith(f"{workers} worker"):
            began.append((len(found), time.monotonic(), cluster.cpu_seconds()))

    shop = Workshop(make, small_store().path, folder, "cpu", 0, 1, watch, lambda job, reason: f"lost: {reason}")
    with opened(Where(str(cluster.file), None, find_method)) as executor:
        for each in run_jobs(made, shop, executor):
            found.append(each)
            if len(found) == len(made):
                count, start, cpu = began[0]
                spent = {name: now - cpu[name] for name, now in cluster.cpu_seconds().items()}
                answer = len(found) - count, time.monotonic() - start, spent
    assert sorted(found) == sorted(job.config.run_id for job in made)
    return answer


def test_throughput_of_two_workers_is_near_twice_that_of_one(cluster: Cluster, tmp_path: Path) -> None:
    """With runs that take time and no core, so that it is what handing out brings and not what the machine has."""
    shares = []
    for workers in (1, 2):
        if workers == 2:
            cluster.start_node("two")
        count, wall, _ = measured(cluster, tmp_path, half_a_second, jobs(tmp_path, 60 * workers), workers)
        shares.append(0.5 * count / workers / wall)
        print(f"\n{count} runs of 0.5 s, {workers} workers: {wall:.1f} s, {shares[-1]:.1%} of ideal")
    assert shares[1] >= 0.9 * shares[0]


def test_real_runs_go_through_a_cluster_as_fast_as_through_local_processes(cluster: Cluster, tmp_path: Path) -> None:
    """Real runs share a core's caches and units, so what the machine gives to as many local processes is the ideal."""
    if "two" not in cluster.nodes:
        cluster.start_node("two")
    rates: dict[tuple[str, int], float] = {}
    for where, workers in (("local", 1), ("dask", 2), ("local", 2)):
        folder = tmp_path / f"{where}-{workers}"
        given = {"store": small_store().path, "out": folder, "seeds": 24, "ensemble": "off"}
        made = plan(
            make_suite({**given, "methods": [{"name": "finetune", "set": {"epochs": 10}}]}, "test"), small_store()
        )
        ended: list[float] = []
        shop = Workshop(run_together, small_store().path, folder, "cpu", workers, 1, ignore, lambda job, reason: [])
        with opened(Where(str(cluster.file), None, find_method) if where == "dask" else None) as executor:
            for records in run_jobs(made, shop, executor):
                assert [record.status for record in records] == ["done"]
                ended.append(time.monotonic())
        first = 4  # the processes' start is behind the fourth
        rates[where, workers] = (len(ended) - first) / (ended[-1] - ended[first - 1])
        print(f"\n24 runs, {where}, {workers} processes: {1 / rates[where, workers]:.2f} s a run")
    print(f"Dask to local, two processes: {rates['dask', 2] / rates['local', 2]:.1%}; "
          f"two local processes to one: {rates['local', 2] / rates['local', 1]:.2f} times")  # fmt: skip
    assert rates["dask", 2] >= 0.9 * rates["local", 2]


def test_ten_thousand_runs_cost_less_than_twenty_milliseconds_each(cluster: Cluster, tmp_path: Path) -> None:
    """Of the one thread that hands them out, or of the wall where nothing else runs."""
    count, wall, spent = measured(cluster, tmp_path, nothing, jobs(tmp_path, int(os.environ.get("RUNS", "10000"))), 2)
    each = {name: f"{seconds / count * 1e3:.1f}" for name, seconds in spent.items()}
    print(f"\n{count:,} runs of nothing: {wall / count * 1e3:.1f} ms each; milliseconds of CPU: {each}")
    assert min(wall, spent["driver"] + spent["scheduler"]) / count < 0.020
