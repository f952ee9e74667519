"""Which runs are trained together: those of a method that differ in their seed or in numbers of its Config."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

from ctvr_bench.bench.records.environment import cores
from ctvr_bench.bench.run.jobs import Job
from ctvr_bench.bench.run.stacks.ensemble import may_stack

LARGEST = 10
"""Runs of one stack at most: more are no faster."""
FEWEST = {"cpu": 5, "cuda": 2}
"""Runs from which on a stack is worth its while: see results/PERFORMANCE.md."""
SPEED = 1.5
"""Runs that a stack finishes in the time of one; 1.1 to 2.3 were measured."""


def together(jobs: Sequence[Job], missing: Sequence[Job], device: str) -> list[Job]:
    """The missing ones of these jobs, those that train as one stack beside each other.

    Stacks are as large as they may be without a core of the machine waiting for another. They are those of all jobs, so
    that a suite that was cut off goes on with the same ones. The number of workers does not count, so that no number
    depends on it.
    """
    wanted = {job.config.run_id for job in missing}
    left = ([job for job in unit.group if job.config.run_id in wanted] for unit in _planned(jobs, device))
    return [_stack(group) for group in left if group]


def _planned(jobs: Sequence[Job], device: str) -> list[Job]:
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        groups.setdefault(_alike(job), []).append(job)
    plans = [
        [unit for group in groups.values() for unit in _stacks(group, largest, FEWEST[device])]
        for largest in range(LARGEST, 0, -1)
    ]
    return min(plans, key=lambda units: _duration(units, cores() if device == "cpu" else 1))


def _duration(units: Sequence[Job], workers: int) -> float:
    """Until the last worker is done, the longest first, in times that one run takes."""
    busy = [0.0] * workers
    for size in sorted((len(unit.group) for unit in units), reverse=True):
        busy[busy.index(min(busy))] += size / (SPEED if size > 1 else 1)
    return round(max(busy), 6)


def _alike(job: Job) -> str:
    """The same for runs that may be trained together: whose Configs differ in fractional numbers alone."""
    if not may_stack(job.entry.method) or job.config.selection != "last":
        return job.config.run_id
    fixed = {field: value for field, value in job.config.config.items() if not isinstance(value, float)}
    return job.config.model_copy(update={"seed": 0, "config": fixed}).run_id


def _stacks(group: Sequence[Job], largest: int, fewest: int) -> list[Job]:
    """Equal parts of at most so many; a part that is too small in single jobs."""
    count = -(-len(group) // largest)
    bounds = [len(group) * part // count for part in range(count + 1)]
    parts = [group[first:last] for first, last in itertools.pairwise(bounds)]
    units: list[Job] = []
    for part in parts:
        units += [_stack(part)] if len(part) >= max(2, fewest) else part
    return units


def _stack(group: Sequence[Job]) -> Job:
    """The first job with the others beside it."""
    return replace(group[0], beside=tuple(replace(job, beside=()) for job in group[1:]))
