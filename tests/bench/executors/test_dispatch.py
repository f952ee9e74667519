"""Jobs on workers that come, die, refuse and leave, with a cluster of a few lines in place of Dask's."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from ctvr_bench.bench.executors import dispatch, node
from ctvr_bench.bench.executors.claims import claim_file, claimed
from ctvr_bench.bench.executors.dispatch import Calls, Session
from ctvr_bench.bench.executors.node import Node, Site, libraries_here
from ctvr_bench.bench.executors.order import LongestFirst, Measured
from ctvr_bench.bench.executors.workers import Taken, Workshop
from ctvr_bench.bench.run.jobs import Job
from ctvr_bench.bench.suite.suite import plan
from ctvr_bench.features.errors import InputError
from tests.bench.executors.test_claims import write_claim
from tests.bench.run.test_runner import suite
from tests.stores import small_store

Answer = Callable[[str, Job], Any]
PENDING = object()


class Future:
    def __init__(self) -> None:
        self.status, self._value = "pending", None

    def settle(self, value: Any) -> None:
        self.status, self._value = ("error" if isinstance(value, Exception) else "finished"), value

    def done(self) -> bool:
        return self.status != "pending"

    def result(self, timeout: float) -> Any:
        if isinstance(self._value, Exception):
            raise self._value
        return self._value

    def exception(self, timeout: float) -> Any:
        return self._value

    def add_done_callback(self, call: Callable[..., None]) -> None:
        call(self)

    def cancel(self) -> None:
        self.status = "cancelled"

    release = cancel


class Client:
    """A cluster whose workers answer what a test says; a job is answered when the driver next looks at the workers."""

    def __init__(self, workers: list[str], answer: Answer, greets: dict[str, Any] | None = None) -> None:
        self.status, self.workers, self._answer, self._greets = "running", list(workers), answer, greets or {}
        self.flying: list[tuple[str, Job, Future]] = []
        self.sent: list[tuple[str, str]] = []
        self.most = 0

    def subscribe_topic(self, topic: str, handler: Callable[..., None]) -> None: ...

    def unsubscribe_topic(self, topic: str) -> None: ...

    def nthreads(self) -> dict[str, int]:
        for address, job, future in self.flying[:1]:
            answered = self._answer(address, job)
            if answered is not PENDING:
                future.settle(answered)
        self.flying = [each for each in self.flying if not each[2].done() and each[0] in self.workers]
        return dict.fromkeys(self.workers, 1)

    def submit(self, call: str, *arguments: Any, workers: list[str], **_: Any) -> Future:
        future, (address,) = Future(), workers
        if call == "greet":
            future.settle(self._greets.get(address, Node(address, 1, libraries_here())))
            return future
        job = arguments[2]
        self.sent.append((address, job.label))
        self.flying.append((address, job, future))
        self.most = max(self.most, len(self.flying))
        return future


@cache
def planned() -> tuple[Job, ...]:
    return tuple(plan(suite(Path("nowhere"), "finetune", "lwf", "zero_shot"), small_store()))


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_LOOK", -1.0)
    monkeypatch.setattr(dispatch, "_WAIT", 0.001)


class Driver:
    """A session over a folder, what it made, and what it said."""

    def __init__(self, folder: Path, client: Client, jobs: tuple[Job, ...], costs: dict[str, Measured] | None = None):
        self.said: list[str] = []
        self.lost: dict[str, str] = {}
        self.left = LongestFirst(jobs, costs or {})
        shop: Workshop[Any] = Workshop(
            lambda *_: None,
            small_store().path,
            folder,
            "cpu",
            workers=0,
            threads=1,
            watch=lambda progress: self.said.append(progress.note),
            lost=lambda job, reason: self.lost.setdefault(job.label, reason),
        )
        calls: Any = Calls("greet", "make")  # type: ignore[arg-type]
        site = Site(shop.store, "", folder, "", None, "cpu", 1)
        self.session = Session[Any](client, calls, site, shop, self.left, Counter(), Counter())

    def run(self) -> list[Any]:
        try:
            return list(self.session.run())
        finally:
            self.session.end()


def made(address: str, job: Job) -> Any:
    return 0.1, job.label


def test_a_plan_of_any_length_has_few_jobs_on_their_way(tmp_path: Path) -> None:
    jobs = [replace(job, config=job.config.model_copy(update={"seed": s})) for job in planned() for s in range(50)]
    client = Client(["a", "b", "c"], made)
    assert len(Driver(tmp_path, client, tuple(jobs)).run()) == 150
    assert client.most == 6
    assert {address for address, _ in client.sent} == {"a", "b", "c"}


def test_what_takes_longest_is_handed_out_first_and_an_unknown_row_before_it(tmp_path: Path) -> None:
    finetune, lwf, _ = (job.label for job in planned())
    client = Client(["a"], made)
    Driver(tmp_path, client, planned(), {finetune: Measured(1.0, 0), lwf: Measured(9.0, 0)}).run()
    assert [label for _, label in client.sent] == ["zero_shot", lwf, finetune]


def test_a_worker_with_less_memory_than_a_run_took_is_told_what_to_give(tmp_path: Path) -> None:
    costs = {job.label: Measured(1.0, 600_000_000 * (1 + place)) for place, job in enumerate(planned())}
    greets = {name: Node(name, 1, libraries_here(), limit) for name, limit in {"a": 10**9, "b": 2 * 10**9}.items()}
    driver = Driver(tmp_path, Client(["a", "b", "c"], made, greets), planned(), costs)
    driver.run()
    (line,) = [note for note in driver.said if "--memory-limit" in note]
    assert line == (
        "a: a worker may take 1.0 GB, and runs of this suite took up to 1.8 GB; start it with --memory-limit 3600MB"
    )


def test_a_worker_that_is_gone_costs_its_runs_one_more_try_elsewhere(tmp_path: Path) -> None:
    def dies_once(address: str, job: Job) -> Any:
        if address == "a":
            client.workers.remove("a")
            return PENDING
        return made(address, job)

    client = Client(["a", "b"], dies_once)
    driver = Driver(tmp_path, client, planned())
    assert sorted(driver.run()) == sorted(job.label for job in planned())
    assert not driver.lost
    assert any("its worker on a is gone; tried again" in note for note in driver.said)


def test_a_run_that_kills_every_worker_is_lost_and_the_others_are_made(tmp_path: Path) -> None:
    finetune, *others = planned()

    def kills(address: str, job: Job) -> Any:
        if job is not finetune:
            return made(address, job)
        write_claim(tmp_path / job.config.run_id, pid=2**22 - 1, started="1")  # of a process that is gone
        client.workers = [*(each for each in client.workers if each != address), f"{address}'"]
        return PENDING

    client = Client(["a"], kills)
    driver = Driver(tmp_path, client, planned())
    found = driver.run()
    assert driver.lost == {finetune.label: "its worker was killed 3 times, perhaps for want of memory"}
    assert [label for _, label in client.sent].count(finetune.label) == 3
    assert {job.label for job in others} < set(found)
    assert not claim_file(tmp_path / finetune.config.run_id).exists()


def test_workers_that_leave_in_order_do_not_count_against_a_run(tmp_path: Path) -> None:
    """As at the end of their allocation: the claim was released, so nothing was killed."""
    count = iter(range(5))

    def leaves(address: str, job: Job) -> Any:
        return (None, None) if next(count, None) is not None else made(address, job)

    driver = Driver(tmp_path, Client(["a"], leaves), planned()[:1])
    assert driver.run() == [planned()[0].label]
    assert sum("had to go" in note for note in driver.said) == 5


def test_an_unfit_worker_is_left_out_with_its_reason_once(tmp_path: Path) -> None:
    refused = InputError("node7: misses the store /data/a.h5 (digest 0123)")
    client = Client(["a", "b", "c"], made, {"b": refused, "c": refused})
    driver = Driver(tmp_path, client, planned())
    assert len(driver.run()) == 3
    assert {address for address, _ in client.sent} == {"a"}
    assert driver.said.count(f"left out: {refused}") == 1
    assert any(note == "1 worker on 1 node" for note in driver.said)


def test_where_no_worker_is_fit_the_reason_ends_the_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "PATIENCE", 0.0)
    refused = InputError("node7: misses the store /data/a.h5 (digest 0123)")
    with pytest.raises(InputError, match="no worker can make runs; node7: misses the store"):
        Driver(tmp_path, Client(["a"], made, {"a": refused}), planned()).run()


def test_wrong_input_ends_the_suite_where_two_workers_say_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="too few videos"):
        Driver(tmp_path, Client(["a"], lambda *_: InputError("too few videos")), planned()).run()
    once = iter([InputError("node7: /scratch is full")])
    driver = Driver(tmp_path, Client(["a"], lambda address, job: next(once, made(address, job))), planned())
    assert len(driver.run()) == 3


def test_a_job_that_fails_again_and_again_is_lost_with_its_reason(tmp_path: Path) -> None:
    finetune = planned()[0]
    answer = lambda address, job: MemoryError("of 9 GB") if job is finetune else made(address, job)  # noqa: E731
    driver = Driver(tmp_path, Client(["a"], answer), planned())
    driver.run()
    assert driver.lost == {finetune.label: "given up after 3 tries: MemoryError: of 9 GB"}


def test_when_the_scheduler_is_gone_what_was_on_its_way_waits_again(tmp_path: Path) -> None:
    def goes(address: str, job: Job) -> Any:
        client.status = "closed"
        return PENDING

    client = Client(["a"], goes)
    driver = Driver(tmp_path, client, planned())
    assert driver.run() == []
    assert len(driver.left) == 3


def test_a_run_whose_maker_lives_is_left_to_it(tmp_path: Path) -> None:
    """Its worker is gone for the scheduler, and still at work."""

    def goes(address: str, job: Job) -> Any:
        client.workers = ["b"]
        return PENDING if address == "a" else made(address, job)

    client = Client(["a"], goes)
    driver = Driver(tmp_path, client, planned()[:1])
    with claimed([tmp_path / planned()[0].config.run_id]):
        (found,) = driver.run()
    assert isinstance(found, Taken)
    assert found.job is planned()[0]


def test_only_one_call_of_many_threads_makes_a_job_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where somebody starts workers with several threads."""
    inside, most = [0], [0]

    def makes(*_: Any) -> Iterator[None]:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.005)
        inside[0] -= 1
        return iter(())

    monkeypatch.setattr(node, "make_one", makes)
    monkeypatch.setattr(node, "store_here", lambda site: small_store().path)
    monkeypatch.setattr(node, "set_threads", lambda count: None)
    site = Site(small_store().path, "", tmp_path, "", None, "cpu", 1)
    call = lambda: node.make_there(site, makes, planned()[0], print, bool)  # type: ignore[arg-type]  # noqa: E731
    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
