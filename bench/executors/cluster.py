"""Jobs made by the workers of a Dask cluster, as bench.executors.dispatch hands them out.

The only file that imports dask or distributed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ctvr_bench.bench.executors.cards import places, take_card
from ctvr_bench.bench.executors.claims import claim_file, claimed, is_left_behind
from ctvr_bench.bench.executors.dispatch import PATIENCE, Calls, Session
from ctvr_bench.bench.executors.node import LeavingError, Node, Site, is_at_work, look_around, make_there
from ctvr_bench.bench.executors.order import LongestFirst, measured_costs
from ctvr_bench.bench.executors.workers import Made, Make, Taken, Workshop
from ctvr_bench.bench.run.jobs import Job, Progress
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.store import open_store
from ctvr_bench.methods.shared.registry import Entry

_CONNECT = 10.0  # seconds of one try to reach a scheduler
_AGAIN = 1.0  # between two of them
_sites: dict[str, Site] = {}
"""On a worker: what it has looked at, by mark."""
_START = 60.0  # seconds for a scheduler to answer


@dataclass(frozen=True)
class Cluster:
    """Which cluster. scheduler: an address or a scheduler file; None: a cluster of this machine's own.

    stage: folder of each node's own disk to which the store is copied once. find: finds methods by name, on workers
    too, where those of installed packages must be what they are here.
    """

    scheduler: str | None
    stage: Path | None
    find: Callable[[str], Entry]


@contextmanager
def opened(cluster: Cluster | None) -> Iterator[DaskExecutor | None]:
    """The executor for this cluster while the block lasts; None for none. Raises InputError without Dask."""
    if cluster is None:
        yield None
        return
    try:
        import distributed  # noqa: F401
    except ImportError as error:
        raise InputError("executor 'dask' needs Dask; install it with: pip install 'ctvr-bench[cluster]'") from error
    for name in [name for name in logging.root.manager.loggerDict if name.split(".")[0] == "distributed"]:
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what a person must know is said in our words
    executor = DaskExecutor(cluster)
    try:
        yield executor
    finally:
        executor.close()


class DaskExecutor:
    """Makes jobs on a Dask cluster; connects when the first are to be made."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._own: Any = None
        self._client: Any = None
        self._was_connected = False
        self._deaths: Counter[str] = Counter()
        self._returns: Counter[str] = Counter()

    def attempts(self, jobs: Sequence[Job], shop: Workshop[Made]) -> Iterator[Made | Taken]:
        """What is made of each job, as they finish, each once (bench.executors.workers.Executor)."""
        for path in shop.directory.glob(".driver-*.claim"):
            if is_left_behind(shop.directory / path.name[1:].removesuffix(".claim")):
                path.unlink(missing_ok=True)  # of a command that was killed
        me = shop.directory / f"driver-{uuid.uuid4().hex}"
        site = self._site(jobs, shop, claim_file(me).name)
        left = LongestFirst(jobs, measured_costs(shop.directory, jobs))
        with claimed([me]):
            while left:
                self._connect(shop)
                session = Session(self._client, Calls(_greet, _make), site, shop, left, self._deaths, self._returns)
                try:
                    yield from session.run()
                finally:
                    session.end()
                if left:
                    shop.tell(f"the scheduler is gone; waiting up to {PATIENCE:.0f} s for it")
                    self._disconnect()

    def close(self) -> None:
        """Leave the cluster; one of this machine's own ends."""
        self._disconnect()
        if self._own is not None:
            with suppress(Exception):
                self._own.close(timeout=10)
            self._own = None

    def _site(self, jobs: Sequence[Job], shop: Workshop[Made], mark: str) -> Site:
        code = {path: digest for job in jobs for path, digest in job.made_by.items()}
        outside = {job.entry.name: job.entry.code for job in jobs if job.entry.code and type(job.entry) is Entry}
        return Site(
            shop.store.resolve(),
            open_store(shop.store).digest,
            shop.directory.resolve(),
            mark,
            self._cluster.stage and self._cluster.stage.absolute(),
            shop.device,
            shop.threads,
            code,
            outside,
            self._cluster.find,
        )

    def _connect(self, shop: Workshop[Made]) -> None:
        """A client of the cluster. Raises InputError where no scheduler answers for a while."""
        import distributed

        if self._client is not None:
            return
        name = self._cluster.scheduler
        if name is None:
            self._own = self._own or _own_cluster(shop)
            self._client = distributed.Client(self._own, set_as_default=False)
            return
        deadline = time.monotonic() + (PATIENCE if self._was_connected else _START)
        while self._client is None:
            try:
                self._client = distributed.Client(_address(name), timeout=_CONNECT, set_as_default=False)
            except (OSError, ValueError, TypeError) as error:
                if time.monotonic() > deadline or isinstance(error, TypeError):
                    raise InputError(
                        f"{name}: no Dask scheduler answers there ({error}); start one with "
                        "'dask scheduler --scheduler-file FILE'; what is finished is kept, the same command goes on"
                    ) from error
                time.sleep(_AGAIN)
        self._was_connected = True

    def _disconnect(self) -> None:
        if self._client is not None:
            with suppress(Exception):
                self._client.close(timeout=5)
            self._client = None


def _greet(site: Site) -> Node:
    """On a worker: who it is, from now on staying until its task is saved when it must go."""
    from distributed import WorkerPlugin, get_worker

    node = look_around(site)
    _sites[site.mark] = site
    worker = get_worker()

    class _Stay(WorkerPlugin):
        async def teardown(self, worker: Any) -> None:
            while is_at_work():
                await asyncio.sleep(_AGAIN / 5)

    worker.loop.add_callback(worker.plugin_add, plugin=_Stay(), name="ctvr-stay")
    return replace(node, memory=worker.memory_manager.memory_limit)


def _make(mark: str, make: Make[Made], job: Job, topic: str) -> tuple[float | None, Made | Taken | None]:
    """On a worker: the seconds that a job took and what was made of it; twice None where the worker must go."""
    from distributed import get_worker
    from distributed.core import Status

    worker, start = get_worker(), time.monotonic()

    def report(progress: Progress) -> None:
        worker.log_event(topic, {"progress": asdict(progress)})

    def leaving() -> bool:
        return worker.status in (Status.closing_gracefully, Status.closing, Status.closed)

    if isinstance(worker.name, int):  # of this machine's own cluster; others are given their card as they start
        take_card(_sites[mark].device, worker.name)
    try:
        made = make_there(_sites[mark], make, job, report, leaving)
    except LeavingError:
        return None, None
    return time.monotonic() - start, made


def _own_cluster(shop: Workshop[Made]) -> Any:
    """Workers on this machine, one for each core or card, as many as the suite's `jobs` say otherwise."""
    import dask
    import distributed

    memory = {f"distributed.worker.memory.{name}": False for name in ("target", "spill", "pause", "terminate")}
    dask.config.set({**memory, "distributed.worker.profile.enabled": False})
    return distributed.LocalCluster(
        n_workers=shop.workers or places(shop.device),
        threads_per_worker=1,
        dashboard_address=":0",
        memory_limit=None,
        silence_logs=logging.CRITICAL,
    )


def _address(scheduler: str) -> str:
    """The address that was given, or that stands in the file now. Raises OSError or ValueError where there is none."""
    if not (scheduler.endswith(".json") or Path(scheduler).is_file()):
        return scheduler
    try:
        return str(json.loads(Path(scheduler).read_text(encoding="utf-8"))["address"])
    except (KeyError, TypeError) as error:
        raise ValueError("it is no scheduler file") from error
