"""`make test-cluster`: a suite is left with the same bits whoever is killed: worker, node, scheduler or driver."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import distributed
import pytest

from ctvr_bench.bench.executors.claims import Owner, owner_of
from ctvr_bench.bench.records.record import finished_record, read_record
from ctvr_bench.bench.suite.folders import same_ranks, standing_of
from tests.cluster.nodes import ENVIRONMENT, Cluster, wait_for
from tests.commands import ROOT
from tests.stores import small_store

RUN = [str(ROOT / "run_benchmark.py"), "run", "--seeds", "5", "--json"]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    try:
        made.start_scheduler()
        yield made
    finally:
        made.stop()


def started(cwd: Path, store: Path, methods: str, out: Path, *options: object) -> subprocess.Popen[str]:
    line = [sys.executable, *RUN, "--store", store, "--methods", methods, "--out", out, *options]
    return subprocess.Popen(
        [str(word) for word in line], cwd=cwd, env=ENVIRONMENT, text=True, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )  # fmt: skip


def makers(folder: Path, *, saved: bool = True) -> list[Owner]:
    """Who makes runs of the folder that have (saved) a state to go on from."""
    names = {path.parent.parent.name for path in folder.glob("*/state/progress-*.json")}
    names |= set() if saved else {path.name[1:].removesuffix(".claim") for path in folder.glob(".*.claim")}
    names -= {name for name in names if name.startswith("driver-")}
    return [owner for name in sorted(names) if (owner := owner_of(folder / name))]


def finished(folder: Path) -> dict[str, float]:
    """When each run that has ended did."""
    folders = [path.parent for path in folder.glob("*/run.json")]
    return {each.name: (each / "run.json").stat().st_mtime for each in folders if finished_record(each)}


def assert_same_bits(folder: Path, reference: Path) -> None:
    records = [read_record(path.parent) for path in sorted(reference.glob("*/run.json"))]
    assert records
    for record in records:
        other = folder / record.run_id
        assert read_record(other).files["metrics.json"] == record.files["metrics.json"], record.run_id
        assert same_ranks(reference / record.run_id, other)
        assert not (other / "state").exists()
    assert not [path.name for path in folder.iterdir() if path.name.endswith((".claim", ".partial"))]


def test_whoever_is_killed_the_bits_are_those_of_a_suite_left_alone(cluster: Cluster, tmp_path: Path) -> None:
    methods = "finetune[epochs=30],er[epochs=30],zero_shot"
    (tmp_path / "shared").mkdir()
    store = shutil.copy(small_store().path, tmp_path / "shared/store.h5")
    alone = started(tmp_path, store, methods, tmp_path / "alone", "--jobs", "2")
    for name in ("one", "two"):
        cluster.start_node(name)
    hidden = f'mount -t tmpfs none {tmp_path / "shared"} && exec "$@"'
    cluster.start_node("without", before=("unshare", "--mount", "bash", "-c", hidden, "bash"))
    _, words = alone.communicate()
    assert alone.returncode == 0, words
    dask = ("--executor", "dask", "--scheduler", cluster.file)
    folder = tmp_path / "killed/default"
    driver = started(tmp_path, store, methods, tmp_path / "killed", *dask)

    victim = wait_for(lambda: makers(folder))[0]
    os.kill(victim.pid, signal.SIGKILL)  # a worker: its nanny starts another
    victim = wait_for(lambda: [each for each in makers(folder) if each.pid != victim.pid])[0]
    lost = cluster.node_of(victim.pid)
    cluster.kill(lost)
    cluster.start_node("three")
    wait_for(lambda: [each for each in makers(folder) if each.pid != victim.pid])
    cluster.kill("scheduler")
    for name in [name for name in cluster.nodes if name != "without"]:
        cluster.kill(name)
    cluster.start_scheduler()
    for name in ("four", "five"):
        cluster.start_node(name)
    before = wait_for(lambda: makers(folder) and finished(folder))
    driver.kill()
    _, said = driver.communicate()
    again = started(tmp_path, store, methods, tmp_path / "killed", *dask)
    wait_for(lambda: makers(folder, saved=False) or again.poll() is not None)
    standing = standing_of(folder)
    _, more = again.communicate()
    assert again.returncode == 0, said + more
    assert standing.total == 11
    assert_same_bits(folder, tmp_path / "alone/default")
    assert f"left out: {socket.gethostname()}: misses the store {store} (digest {small_store().digest[:16]})" in said
    assert "the scheduler is gone; waiting" in said
    assert "Traceback" not in said + more
    now = finished(folder)
    assert {name: now[name] for name in before} == before, "something finished was repeated"
    print(f"\nfinished before the driver was killed: {len(before)} of 11\n{said}{more}")


def leave(dask_worker: Any) -> None:
    """What a worker does by itself at the end of its --lifetime."""
    dask_worker.loop.add_callback(dask_worker.close_gracefully)


def test_a_worker_whose_time_is_up_hands_its_run_on(cluster: Cluster, tmp_path: Path) -> None:
    """As at the end of its lifetime, then by SIGTERM."""
    methods, store = "er[epochs=60]", small_store().path
    cluster.start_node("first")
    alone = started(tmp_path, store, methods, tmp_path / "alone", "--seeds", "1", "--jobs", "1")
    _, words = alone.communicate()
    assert alone.returncode == 0, words
    folder = tmp_path / "left/default"
    dask = ("--executor", "dask", "--scheduler", cluster.file)
    driver = started(tmp_path, store, methods, tmp_path / "left", "--seeds", "1", *dask)
    wait_for(lambda: makers(folder, saved=False))
    cluster.start_node("second")
    with distributed.Client(json.loads(cluster.file.read_text())["address"], set_as_default=False) as client:
        first = [
            address for address, name in client.run(lambda dask_worker: dask_worker.name).items() if name == "first"
        ]
        client.run(leave, workers=first)
    wait_for(lambda: cluster.nodes["first"].poll() is not None)
    assert finished(folder) or list(folder.glob("*/state/progress-*.json")), "it left without saving its task"
    cluster.start_node("third")
    wait_for(lambda: makers(folder) or finished(folder))
    os.kill(cluster.nodes["second"].pid, signal.SIGTERM)
    _, said = driver.communicate()
    assert driver.returncode == 0, said
    assert "Traceback" not in said
    assert_same_bits(folder, tmp_path / "alone/default")
    print(f"\n{said}")
