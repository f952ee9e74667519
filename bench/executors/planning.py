"""Which runs are trained together: neighbours in the list of a method's seeds, in blocks of a fixed size.

The last bits of a run depend on the runs beside it. So who is beside whom follows from the list alone, never from the
machine's cores, other rows, or where an earlier try was cut off; and a run's identity names the runs beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ctvr_bench.bench.run.jobs import Job
from ctvr_bench.bench.run.stacks.ensemble import may_stack
from ctvr_bench.bench.run.stacks.optimiser import ALIKE

BLOCK = {"cpu": 5, "cuda": 10}
"""Runs of one stack: on a CPU more are hardly faster, and stacks of five can be shared out over the cores."""
FEWEST = {"cpu": 5, "cuda": 2}
"""Runs from which on a stack is worth its while: see results/PERFORMANCE.md. The rest of a list is trained alone."""


def in_stacks(jobs: Sequence[Job], device: str, *, sweep: bool = False) -> list[Job]:
    """The same jobs, those that are trained as one stack saying so in their identity.

    sweep: runs whose Configs differ in fractional numbers share stacks too, as the candidates of a search do. Without
    it only seeds of one row do, so that another row changes nothing.
    """
    lists: dict[str, list[Job]] = {}
    for job in jobs:
        lists.setdefault(_alike(job, sweep), []).append(job)
    stack_of: dict[str, tuple[str, ...]] = {}
    for alike in lists.values():
        for first in range(0, len(alike), BLOCK[device]):
            block = tuple(job.config.run_id for job in alike[first : first + BLOCK[device]])
            if len(block) >= FEWEST[device]:
                stack_of |= dict.fromkeys(block, block)
    return [_trained_in(job, stack_of.get(job.config.run_id, ())) for job in jobs]


def units(jobs: Sequence[Job]) -> list[Job]:
    """What is trained at once: each single run, and each stack as its first job with the others beside it."""
    groups: dict[tuple[str, ...], list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.config.stack or (job.config.run_id,), []).append(job)
    return [replace(first, beside=tuple(others)) for first, *others in groups.values()]


def _trained_in(job: Job, stack: tuple[str, ...]) -> Job:
    return replace(job, config=job.config.model_copy(update={"stack": stack}))


def _alike(job: Job, sweep: bool) -> str:
    """The same for runs that may be trained together."""
    if not may_stack(job.entry.method) or job.config.selection != "last":
        return job.config.run_id
    given = job.config.config
    fixed = {
        field: value for field, value in given.items() if not (sweep and isinstance(value, float) and field != ALIKE)
    }
    return job.config.model_copy(update={"seed": 0, "config": fixed}).run_id
