"""Which runs of a suite are trained together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ctvr_bench.bench.executors.planning import in_stacks, units
from ctvr_bench.bench.run.jobs import Job
from ctvr_bench.bench.suite.config import MethodChoice
from ctvr_bench.bench.suite.suite import plan
from tests.bench.run.test_runner import suite
from tests.stores import small_store


def jobs_of(*methods: str | dict[str, Any], sweep: bool = False, **values: Any) -> list[Job]:
    choices = tuple(MethodChoice.model_validate(method) for method in methods)
    config = suite(Path("nowhere"), **values).model_copy(update={"methods": choices})
    return plan(config, small_store(), sweep=sweep)


def sizes(jobs: list[Job]) -> list[int]:
    planned = units(jobs)
    kept = [job.config.run_id for unit in planned for job in unit.group]
    assert sorted(kept) == sorted(job.config.run_id for job in jobs)
    return [len(unit.group) for unit in planned]


def rates(*values: float) -> list[str | dict[str, Any]]:
    return [{"name": "finetune", "set": {"lr": value}} for value in values]


@pytest.mark.parametrize(
    ("seeds", "device", "expected"),
    [
        (4, "cpu", [1, 1, 1, 1]),
        (5, "cpu", [5]),
        (7, "cpu", [5, 1, 1]),
        (10, "cpu", [5, 5]),
        (12, "cuda", [10, 2]),
        (11, "cuda", [10, 1]),
        (3, "cuda", [3]),
    ],
)
def test_the_seeds_of_a_row_are_stacked_in_blocks(seeds: int, device: str, expected: list[int]) -> None:
    alone = jobs_of("finetune", seeds=seeds, ensemble="off")
    assert sizes(alone) == [1] * seeds
    assert sizes(in_stacks(alone, device)) == expected


def test_a_runs_identity_names_the_runs_beside_it() -> None:
    alone, five, seven = (
        jobs_of("finetune", **given) for given in ({"seeds": 5, "ensemble": "off"}, {"seeds": 5}, {"seeds": 7})
    )
    ids = tuple(job.config.run_id for job in alone)
    assert {job.config.stack for job in five} == {ids}
    assert not {job.config.run_id for job in five} & set(ids)
    assert [job.config.run_id for job in seven[:5]] == [job.config.run_id for job in five]


def test_neither_another_row_nor_more_workers_nor_cores_change_an_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """One row, and another that differs in a rate, which a stack could follow."""

    def ids(*methods: str | dict[str, Any], **values: Any) -> list[str]:
        return [job.config.run_id for job in jobs_of(*methods, seeds=5, **values)]

    found = []
    for cores in ({0}, {0, 1}, set(range(64))):
        monkeypatch.setattr("os.sched_getaffinity", lambda pid, cores=cores: cores, raising=False)
        found += [ids("finetune"), ids("finetune", *rates(0.5), "lwf")[:5], ids("er", "finetune", jobs=3)[5:]]
    assert all(each == found[0] for each in found)


def test_the_candidates_of_a_search_share_stacks() -> None:
    candidates = rates(1e-4, 1e-3, 1e-2, 1e-1)
    assert sizes(jobs_of(*candidates, seeds=3, sweep=True)) == [5, 5, 1, 1]
    assert sizes(jobs_of(*candidates, seeds=3)) == [1] * 12


def test_runs_that_differ_in_anything_else_are_not_one_stack() -> None:
    other = {"name": "finetune", "set": {"batch_size": 8, "lr": 1e-2}}
    assert sizes(jobs_of("finetune", other, "lwf", seeds=5, sweep=True)) == [5, 5, 5]
    epsilons = [{"name": "finetune", "set": {"epsilon": value}} for value in (1e-8, 1e-6)]
    assert sizes(jobs_of(*epsilons, seeds=5, sweep=True)) == [5, 5]
    assert sizes(jobs_of("finetune", seeds=5, orders=2)) == [5, 5]


def test_a_method_with_a_hook_between_steps_and_a_run_that_picks_its_epoch_are_alone() -> None:
    assert sizes(jobs_of("er", "structalign", seeds=5)) == [1] * 10
    assert sizes(jobs_of("finetune", seeds=5, selection="test-oracle")) == [1] * 5
