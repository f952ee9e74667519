"""What a worker of a cluster looks for before it makes a run, and how it leaves."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ctvr_bench.bench.executors import node
from ctvr_bench.bench.executors.claims import owner_of
from ctvr_bench.bench.executors.node import LeavingError, Site, look_around, make_there
from ctvr_bench.bench.executors.order import measured_costs
from ctvr_bench.bench.records.record import read_record
from ctvr_bench.bench.run.jobs import Progress
from ctvr_bench.bench.run.runner import run_together
from ctvr_bench.bench.suite.folders import same_ranks
from ctvr_bench.bench.suite.suite import plan, run_suite
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.whole import digest_of_file
from tests.bench.run.test_runner import suite
from tests.stores import small_store


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr(node, "_checked", set())
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/.driver-1").write_bytes(b"")
    (job,) = plan(suite(tmp_path, "finetune"), small_store())
    return Site(
        small_store().path, small_store().digest, tmp_path / "runs", ".driver-1", None, "cpu", 1, dict(job.made_by)
    )  # fmt: skip


def test_a_worker_that_sees_everything_says_who_it_is(site: Site) -> None:
    assert look_around(site).libraries["torch"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda site: {"store": Path("/nowhere/a.h5")}, r"misses the store /nowhere/a.h5 \(digest [0-9a-f]{16}\)"),
        (lambda site: {"digest": "0" * 64}, r"is another store .* than the suite's \(digest 0{16}\)"),
        (lambda site: {"mark": ".driver-2"}, "does not see the suite's folder"),
        (lambda site: {"code": {**site.code, "bench/metrics.py": "1"}}, r"another version of the suite"),
        (lambda site: {"code": {**site.code, "bench/new.py": "1"}}, r"another version of the suite \(bench/new.py\)"),
        (lambda site: {"device": "cuda"}, "no GPU"),
    ],
    ids=["no store", "another store", "another folder", "other code", "older code", "no card"],
)  # fmt: skip
def test_what_a_worker_misses_is_one_line(site: Site, change: Callable[..., dict[str, object]], reason: str) -> None:
    with pytest.raises(InputError, match=reason) as raised:
        look_around(replace(site, **change(site)))  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)


def test_a_staged_store_is_copied_once_and_serves_without_the_shared_one(site: Site, tmp_path: Path) -> None:
    shared = shutil.copy(small_store().path, tmp_path / "shared.h5")
    staged = replace(site, store=shared, stage=tmp_path / "disk")
    copy = node.store_here(staged)
    assert copy.parent == tmp_path / "disk"
    assert digest_of_file(copy) == digest_of_file(shared)
    shared.unlink()
    node._checked.clear()
    assert node.store_here(staged) == copy
    copy.unlink()
    node._checked.clear()
    with pytest.raises(InputError, match=f"misses the store {shared}"):
        node.store_here(staged)


def test_a_worker_that_must_go_stops_when_a_task_is_saved_and_another_ends_with_the_same_bits(
    site: Site, tmp_path: Path
) -> None:
    config = suite(tmp_path, "finetune", name="runs")
    (job,) = plan(config, small_store())
    told: list[Progress] = []
    with pytest.raises(LeavingError, match="stopped after task 1"):
        make_there(site, run_together, job, told.append, lambda: True)
    folder = site.directory / job.config.run_id
    assert read_record(folder).status == "running"
    assert (folder / "state/progress-0.json").is_file()
    assert owner_of(folder) is None
    (whole,) = run_suite(suite(tmp_path / "whole", "finetune"))
    (ended,) = make_there(site, run_together, job, told.append, lambda: False)  # type: ignore[misc]
    assert same_ranks(folder, tmp_path / "whole/default" / whole.run_id)
    assert ended.files["metrics.json"] == whole.files["metrics.json"]
    cost = measured_costs(site.directory, [job])[job.label]
    assert cost.seconds > 0
    assert cost.memory == ended.cost.peak_memory_bytes > 0
    assert measured_costs(tmp_path, [job]) == {}
