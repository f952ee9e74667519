"""In which order runs are handed out: the longest first, by what runs like them took, and what memory that was."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from ctvr_bench.bench.records.record import read_record
from ctvr_bench.bench.run.jobs import Job
from ctvr_bench.features.errors import InputError

_LOOKED_AT = 20  # earlier runs of a method
_LATEST = 0.3  # how much the latest run's time counts beside those before


class Measured(NamedTuple):
    """What a run took: seconds, and bytes of its process at most."""

    seconds: float
    memory: int


class LongestFirst:
    """Jobs that wait. costs: what a run of a row took so far, by label; rows that are not there come first.

    memory: bytes of a process that any of these rows took; 0 where none is known.
    """

    def __init__(self, jobs: Iterable[Job], costs: Mapping[str, Measured]) -> None:
        self._waiting: dict[str, deque[Job]] = defaultdict(deque)
        self._seconds = {label: cost.seconds for label, cost in costs.items()}
        self.memory = max((cost.memory for cost in costs.values()), default=0)
        for job in jobs:
            self._waiting[job.label].append(job)

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def take(self) -> Job:
        """The job that is expected to take longest; of equal ones that of the earliest row. Raises IndexError."""
        label = max((label for label, jobs in self._waiting.items() if jobs), key=self._expected, default=None)
        if label is None:
            raise IndexError("no job waits")
        return self._waiting[label].popleft()

    def give_back(self, job: Job) -> None:
        """Put a job back that was taken, before the others of its row."""
        self._waiting[job.label].appendleft(job)

    def learn(self, job: Job, seconds: float) -> None:
        """Take down what a job took."""
        mine = seconds / len(job.group)
        before = self._seconds.get(job.label, mine)
        self._seconds[job.label] = before + _LATEST * (mine - before)

    def _expected(self, label: str) -> float:
        return self._seconds.get(label, math.inf) * len(self._waiting[label][0].group)


def memory_limit(memory: int) -> str:
    """What `dask worker --memory-limit` should say where a run takes so many bytes at most: twice that.

    >>> memory_limit(612_000_000)
    '1300MB'
    """
    return f"{-(-2 * memory // 100_000_000)}00MB"


def measured_costs(directory: Path, jobs: Iterable[Job]) -> dict[str, Measured]:
    """Mean seconds and most memory of a run by label, from some finished runs of the folder; others are left out."""
    found: dict[str, Measured] = {}
    by_method: dict[str, dict[str, list[Measured]]] = {}
    for job in jobs:
        method = job.config.method
        if method not in by_method:
            by_method[method] = _costs_of(directory, method)
        if costs := by_method[method].get(job.label):
            found[job.label] = Measured(fmean(cost.seconds for cost in costs), max(cost.memory for cost in costs))
    return found


def _costs_of(directory: Path, method: str) -> dict[str, list[Measured]]:
    """What finished runs of a method took, by label."""
    found: dict[str, list[Measured]] = defaultdict(list)
    for path in islice(directory.glob(f"{method}-o*/run.json"), _LOOKED_AT):
        try:
            record = read_record(path.parent)
        except InputError:
            continue  # whoever shows the run says what is wrong with it; here it only has no say in the order
        if record.status == "done" and record.cost is not None:
            found[record.label].append(Measured(record.cost.seconds, record.cost.peak_memory_bytes))
    return found
