"""Which runs of a suite are trained together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ctvr_bench.bench.run.jobs import Job
from ctvr_bench.bench.run.stacks import planning as stacks
from ctvr_bench.bench.run.stacks.planning import together
from ctvr_bench.bench.suite.suite import MethodChoice, plan
from tests.bench.run.test_runner import suite
from tests.stores import small_store


def jobs_of(*methods: str | dict[str, Any], **values: Any) -> list[Job]:
    choices = tuple(MethodChoice.model_validate(method) for method in methods)
    return plan(suite(Path("nowhere"), **values).model_copy(update={"methods": choices}), small_store())


def sizes(jobs: list[Job], device: str = "cpu", cores: int = 1) -> list[int]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stacks, "cores", lambda: cores)
        units = together(jobs, jobs, device)
    kept = [job.config.run_id for unit in units for job in unit.group]
    assert sorted(kept) == sorted(job.config.run_id for job in jobs)
    return [len(unit.group) for unit in units]


def rates(*values: float) -> list[str | dict[str, Any]]:
    return [{"name": "finetune", "set": {"lr": value}} for value in values]


@pytest.mark.parametrize(
    ("seeds", "device", "cores", "expected"),
    [
        (4, "cpu", 1, [1, 1, 1, 1]),
        (5, "cpu", 1, [5]),
        (12, "cpu", 1, [6, 6]),
        (10, "cpu", 1, [10]),
        (5, "cpu", 2, [1] * 5),
        (10, "cpu", 2, [5, 5]),
        (24, "cpu", 2, [6] * 4),
        (10, "cpu", 4, [1] * 10),
        (10, "cuda", 4, [10]),
        (3, "cuda", 1, [3]),
        (1, "cuda", 1, [1]),
    ],
)
def test_stacks_are_large_while_no_core_waits_for_another(
    seeds: int, device: str, cores: int, expected: list[int]
) -> None:
    assert sizes(jobs_of("finetune", seeds=seeds), device, cores) == expected


def test_a_suite_that_was_cut_off_goes_on_with_the_same_stacks() -> None:
    jobs = jobs_of("finetune", "er", seeds=10)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stacks, "cores", lambda: 2)
        planned = [unit.group for unit in together(jobs, jobs, "cpu")]
        left = [unit.group for unit in together(jobs, jobs[3:12], "cpu")]
        assert together(jobs, [], "cpu") == []
    seeds = [[job.config.seed for job in group] for group in left if group[0].entry.name == "finetune"]
    whole = [[job.config.seed for job in group] for group in planned if group[0].entry.name == "finetune"]
    assert seeds == [kept for group in whole if (kept := [seed for seed in group if seed > 2])]
    assert [len(group) for group in left if group[0].entry.name == "er"] == [1, 1]


def test_runs_whose_configs_differ_in_fractional_numbers_are_one_stack() -> None:
    assert sizes(jobs_of(*rates(1e-4, 1e-3, 1e-2), seeds=2)) == [6]


def test_runs_that_differ_in_anything_else_are_not() -> None:
    other = {"name": "finetune", "set": {"batch_size": 8, "lr": 1e-2}}
    assert sizes(jobs_of("finetune", other, "lwf", seeds=5)) == [5, 5, 5]
    assert sizes(jobs_of("finetune", seeds=5, orders=2)) == [5, 5]


def test_a_method_with_a_hook_between_steps_and_a_run_that_picks_its_epoch_are_alone() -> None:
    assert sizes(jobs_of("er", "structalign", seeds=5)) == [1] * 10
    assert sizes(jobs_of("finetune", seeds=5, selection="test-oracle")) == [1] * 5
