"""Which GPU a worker takes; torch's two functions are stood in for, since no machine of the tests has two."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ctvr_bench.bench.executors import cluster
from ctvr_bench.bench.executors.cards import places, take_card
from ctvr_bench.bench.executors.workers import Workshop, run_jobs
from ctvr_bench.bench.records.environment import cores
from ctvr_bench.bench.run.jobs import Job, ignore
from ctvr_bench.bench.suite.suite import plan
from tests.bench.executors.dying import TwoCards, says_its_card
from tests.bench.run.test_runner import suite
from tests.stores import small_store


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A machine with three cards; those that were made the current one."""
    current: list[int] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    return current


def test_as_many_runs_at_once_as_cards_or_as_cores_and_one_on_a_device_that_cannot_be_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert places("cpu") == cores()
    for cards, expected in ((0, 1), (1, 1), (8, 8)):
        monkeypatch.setattr(torch.cuda, "device_count", lambda cards=cards: cards)
        assert places("cuda") == expected
        assert places("cpu") == cores()


def test_workers_go_round_the_cards(taken: list[int]) -> None:
    for worker in range(5):
        take_card("cuda", worker)
    assert taken == [0, 1, 2, 0, 1]
    take_card("cpu", 5)
    assert taken == [0, 1, 2, 0, 1], "runs on the CPU take no card"


def test_a_single_card_needs_no_choice(taken: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    take_card("cuda", 4)
    assert taken == []


def test_runs_of_a_pool_are_shared_out_to_the_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In real processes: each run says which card was the current one where it was made."""
    jobs = plan(suite(tmp_path, "finetune", "lwf", seeds=2), small_store())
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)

    def never(job: Job, reason: str) -> int:
        raise AssertionError(reason)

    place = (small_store().path, tmp_path, TwoCards("cuda"))
    shop = Workshop(says_its_card, *place, workers=0, threads=1, watch=ignore, lost=never)
    assert set(run_jobs(jobs, shop)) == {0, 1}


def test_a_worker_of_this_machines_own_cluster_takes_a_card_and_others_were_given_theirs(
    taken: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    distributed = pytest.importorskip("distributed", reason="needs the extra `cluster`")
    worker = SimpleNamespace(name=4, status=None)
    monkeypatch.setattr(distributed, "get_worker", lambda: worker)
    monkeypatch.setattr(cluster, "make_there", lambda *_: "made")
    monkeypatch.setitem(cluster._sites, "mark", SimpleNamespace(device="cuda"))
    (job,) = plan(suite(Path("nowhere"), "zero_shot"), small_store())
    for name in (4, "tcp://node:1234"):
        worker.name = name
        assert cluster._make("mark", says_its_card, job, "topic")[1] == "made"
    assert taken == [1]
