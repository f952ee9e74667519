"""`make test-cluster`: what handing out a run costs, and what a second worker brings."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ctvr_bench.bench.executors.cluster import Cluster as Where
from ctvr_bench.bench.executors.cluster import opened
from ctvr_bench.bench.executors.workers import Make, Workshop, run_jobs
from ctvr_bench.bench.run.jobs import Job, ignore
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


def seconds_of(cluster: Cluster, folder: Path, make: Make[str], made: list[Job]) -> tuple[float, float]:
    """Wall time, and CPU time of the driver, of all these jobs but the first, which the workers begin with."""
    shop = Workshop(make, small_store().path, folder, "cpu", 0, 1, ignore, lambda job, reason: f"lost: {reason}")
    found, start, cpu = [], 0.0, 0.0
    with opened(Where(str(cluster.file), None, find_method)) as executor:
        for each in run_jobs(made, shop, executor):
            found.append(each)
            if len(found) == 1:
                start, cpu = time.monotonic(), time.process_time()
    wall, spent = time.monotonic() - start, time.process_time() - cpu
    assert sorted(found) == sorted(job.config.run_id for job in made)
    return wall, spent


def test_throughput_of_two_workers_is_near_twice_that_of_one(cluster: Cluster, tmp_path: Path) -> None:
    made = jobs(tmp_path, 61)
    one, _ = seconds_of(cluster, tmp_path, half_a_second, made)
    cluster.start_node("two")
    two, _ = seconds_of(cluster, tmp_path, half_a_second, [*made, *jobs(tmp_path, 121)[61:]])
    print(f"\n60 runs of 0.5 s: one worker {one:.1f} s, of ideal {30 / one:.1%}; 120: two workers {two:.1f} s, "
          f"of ideal {30 / two:.1%}; two over one {2 * one / two:.2f}")  # fmt: skip
    assert 30 / two >= 0.9


def test_ten_thousand_runs_cost_less_than_twenty_milliseconds_each(cluster: Cluster, tmp_path: Path) -> None:
    count = 10_000
    wall, spent = seconds_of(cluster, tmp_path, nothing, jobs(tmp_path, count))
    print(f"\n{count:,} runs of nothing: {wall / count * 1e3:.1f} ms each, of which the driver's CPU "
          f"{spent / count * 1e3:.1f} ms")  # fmt: skip
    assert wall / count < 0.020
