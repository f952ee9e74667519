"""Jobs handed out to the workers of a cluster, which come and go.

The driver says which worker makes which job. It looks at the cluster every second, asks each new worker whether it sees
what the suite needs (bench.executors.node), and hands it two jobs, one to make and one to wait, so that a plan of any
length takes the memory of a few. What a worker that is gone was making is handed to another; the claim that lies beside
a run tells whether its maker was killed, which counts against the run, or stopped in order.

Nothing is imported of the cluster's engine here: it comes as a client, which submits and tells who is there.
"""

from __future__ import annotations

import queue
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic

from ctvr_bench.bench.executors.claims import is_left_behind, owner_of
from ctvr_bench.bench.executors.node import Node, Site, libraries_here
from ctvr_bench.bench.executors.order import LongestFirst, memory_limit
from ctvr_bench.bench.executors.workers import Made, Taken, Workshop
from ctvr_bench.bench.run.jobs import Job, Progress
from ctvr_bench.bench.run.training import Epoch
from ctvr_bench.features.errors import InputError

_LOOK = 1.0  # seconds between two looks at the workers
_WAIT = 0.2  # seconds to wait for news
_ANSWER = 15.0  # seconds for a worker to hand over what it made
PATIENCE = 120.0
"""Seconds that a scheduler may be gone, or all workers unfit."""
_AHEAD = 2  # jobs of a worker: one that it makes, one that waits there
_TRIES = 3  # of a run whose worker dies
_RETURNS = 30  # of a run, for whatever reason, before it counts as lost
_REFUSALS = 2  # of a job by workers that call its input wrong, after which it is


@dataclass(frozen=True)
class Calls:
    """What is called on workers: `greet(site)` says who one is, `make(mark, make, job, topic)` makes a job there,
    for the site of this mark, which it has looked at."""

    greet: Callable[..., Node]
    make: Callable[..., tuple[float | None, Any]]


@dataclass
class _Worker:
    """A worker as the driver knows it. asked: until it has answered whether it is fit. busy: its jobs, in order."""

    asked: Any
    node: Node | None = None
    busy: list[_Flight] = field(default_factory=list)


@dataclass(frozen=True)
class _Flight:
    """A job on its way through a worker."""

    job: Job
    future: Any


class Session(Generic[Made]):
    """Jobs handed out while one connection lasts."""

    def __init__(
        self,
        client: Any,
        calls: Calls,
        site: Site,
        shop: Workshop[Made],
        left: LongestFirst,
        deaths: Counter[str],
        returns: Counter[str],
    ) -> None:
        self._client, self._calls, self._site, self._shop, self._left = client, calls, site, shop, left
        self._deaths, self._returns = deaths, returns
        self._refusals: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._workers: dict[str, _Worker] = {}
        self._unfit: dict[str, str] = {}
        self._news: queue.Queue[None] = queue.Queue()
        self._reports: queue.Queue[dict[str, Any]] = queue.Queue()
        self._topic = f"ctvr-{uuid.uuid4().hex}"
        self._looked = self._fit_at = -1e9
        self._told = ""
        self._libraries = libraries_here()
        self._odd, self._small = set[str](), set[str]()
        client.subscribe_topic(self._topic, lambda event: self._reports.put(event[1]["progress"]))

    def run(self) -> Iterator[Made | Taken]:
        """Until every job is made or the scheduler is gone; then those in flight wait again."""
        self._fit_at = time.monotonic()
        while self._left or self._in_flight:
            if not self._is_connected:
                break
            if time.monotonic() - self._looked > _LOOK:
                yield from self._look()
            yield from self._hand_out()
            with suppress(queue.Empty):
                self._news.get(timeout=_WAIT)
            self._pass_on_reports()
            yield from self._collect()
        self._pass_on_reports()

    def end(self) -> None:
        """Give back what is in flight; the cluster drops what has not begun."""
        for worker in self._workers.values():
            for flight in worker.busy:
                self._left.give_back(flight.job)
                with suppress(Exception):
                    flight.future.cancel()
        self._workers.clear()
        with suppress(Exception):
            self._client.unsubscribe_topic(self._topic)

    @property
    def _is_connected(self) -> bool:
        return bool(self._client.status == "running")

    @property
    def _in_flight(self) -> bool:
        return any(worker.busy for worker in self._workers.values())

    def _look(self) -> Iterator[Made | Taken]:
        """See which workers came and which are gone."""
        self._looked = time.monotonic()
        try:
            there = set(self._client.nthreads())
        except OSError:
            return  # the connection breaks meanwhile
        for address in there - self._workers.keys() - self._unfit.keys():
            asked = self._submit(address, f"ctvr-greet-{uuid.uuid4().hex}", self._calls.greet, self._site)
            if asked is not None:
                self._workers[address] = _Worker(asked)
        for address in self._workers.keys() - there:
            worker = self._workers.pop(address)
            host = worker.node.host if worker.node else address
            for place, flight in enumerate(worker.busy):
                flight.future.cancel()
                why = f"its worker on {host} is gone" if place == 0 else ""
                yield from self._returned(flight.job, why)
        self._say_who_is_there()

    def _say_who_is_there(self) -> None:
        nodes = [worker.node for worker in self._workers.values() if worker.node]
        text = f"{_count(len(nodes), 'worker')} on {_count(len({node.host for node in nodes}), 'node')}"
        if nodes and text != self._told:
            self._shop.tell(text)
            self._told = text
        now = time.monotonic()
        if nodes or not self._unfit:
            self._fit_at = now
        elif now - self._fit_at > PATIENCE:
            raise InputError(f"no worker can make runs; {sorted(self._unfit.values())[0]}")
        if not self._workers and not self._unfit and not self._told:
            self._told = "no worker yet; waiting for some to join"
            self._shop.tell(self._told)

    def _hand_out(self) -> Iterator[Made | Taken]:
        """Give every worker what it can take."""
        fit = [(address, worker) for address, worker in self._workers.items() if worker.node]
        for depth in range(1, _AHEAD + 1):
            if depth > 1 and len(self._left) <= len(fit):
                return  # the last ones wait for whoever is free first
            for address, worker in fit:
                if len(worker.busy) < depth and self._left:
                    job = self._left.take()
                    run_id = job.config.run_id
                    if self._returns[run_id] and any(map(is_left_behind, self._folders(job))):
                        self._deaths[run_id] += 1
                    if self._deaths[run_id] >= _TRIES:
                        yield self._shop.give_up(
                            job, f"its worker was killed {_TRIES} times, perhaps for want of memory"
                        )
                    else:
                        self._send(address, worker, job)

    def _folders(self, job: Job) -> list[Path]:
        return [self._shop.directory / each.config.run_id for each in job.group]

    def _send(self, address: str, worker: _Worker, job: Job) -> None:
        key = f"ctvr-{job.config.run_id}-{uuid.uuid4().hex[:8]}"
        future = self._submit(address, key, self._calls.make, self._site.mark, self._shop.make, job, self._topic)
        if future is None:
            self._left.give_back(job)
        else:
            worker.busy.append(_Flight(job, future))

    def _submit(self, address: str, key: str, call: Callable[..., Any], *arguments: Any) -> Any:
        """The future of a call on one worker; None where the connection is gone."""
        where = {"workers": [address], "allow_other_workers": False}
        try:
            future = self._client.submit(call, *arguments, key=key, **where, pure=False, retries=0)
        except Exception:
            if self._is_connected:
                raise
            return None
        future.add_done_callback(lambda _: self._news.put(None))
        return future

    def _collect(self) -> Iterator[Made | Taken]:
        """What has been made since, and who has answered."""
        for address, worker in list(self._workers.items()):
            if worker.node is None and worker.asked.done():
                self._welcome(address, worker)
            for flight in [each for each in worker.busy if each.future.done()]:
                worker.busy.remove(flight)
                yield from self._made(flight)

    def _welcome(self, address: str, worker: _Worker) -> None:
        try:
            node: Node = worker.asked.result(timeout=_ANSWER)
        except Exception as error:  # whatever keeps a worker from answering is its own affair, and said
            self._workers.pop(address)
            if worker.asked.status == "error":
                words = str(error) if isinstance(error, InputError) else f"{address}: {type(error).__name__}: {error}"
                if words not in self._unfit.values():
                    self._shop.tell(f"left out: {words}")
                self._unfit[address] = words
            return
        worker.node = node
        other = [f"{name} {version}" for name, version in node.libraries.items() if self._libraries[name] != version]
        if other and node.host not in self._odd:
            self._odd.add(node.host)
            self._shop.tell(f"{node.host}: has {', '.join(other)}, unlike here; last bits may differ")
        if node.memory is not None and node.memory < self._left.memory and node.host not in self._small:
            self._small.add(node.host)
            self._shop.tell(
                f"{node.host}: a worker may take {node.memory / 1e9:.1f} GB, and runs of this suite took up to "
                f"{self._left.memory / 1e9:.1f} GB; start it with --memory-limit {memory_limit(self._left.memory)}"
            )
        self._say_who_is_there()

    def _made(self, flight: _Flight) -> Iterator[Made | Taken]:
        job, future = flight.job, flight.future
        if future.status == "finished":
            try:
                seconds, made = future.result(timeout=_ANSWER)
            except Exception as error:  # its worker died with the result; what it made is on the disk
                yield from self._returned(job, f"its result was lost ({type(error).__name__})")
                return
            finally:
                future.release()
            if seconds is None:
                yield from self._returned(job, "its worker had to go")
                return
            self._left.learn(job, seconds)
            yield made
            return
        if future.status != "error":
            yield from self._returned(job, "it was cancelled" if self._is_connected else "")
            return
        raised = future.exception(timeout=_ANSWER)
        if isinstance(raised, InputError):
            self._refusals[job.config.run_id] += 1
            if self._refusals[job.config.run_id] >= _REFUSALS:
                raise raised
            yield from self._returned(job, str(raised))
        else:
            self._failures[job.config.run_id] += 1
            yield from self._returned(job, f"{type(raised).__name__}: {raised}")

    def _returned(self, job: Job, why: str) -> Iterator[Made | Taken]:
        """A job that was not made: it waits again, is left to its maker, or counts as lost. why: empty says nothing."""
        run_id = job.config.run_id
        self._returns[run_id] += 1
        owner = next(filter(None, map(owner_of, self._folders(job))), None)
        if self._failures[run_id] >= _TRIES or self._returns[run_id] >= _RETURNS:
            yield self._shop.give_up(job, f"given up after {self._returns[run_id]} tries: {why}")
        elif owner is not None:
            yield Taken(job, owner)
        else:
            if why:
                self._shop.say(job, f"{why}; tried again from its last finished task")
            self._left.give_back(job)

    def _pass_on_reports(self) -> None:
        while True:
            try:
                report = self._reports.get_nowait()
            except queue.Empty:
                return
            epoch = report.pop("epoch")
            self._shop.watch(Progress(**report, epoch=epoch and Epoch(**epoch)))


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
