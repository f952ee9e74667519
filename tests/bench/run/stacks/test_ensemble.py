"""Seeds trained as one stack against the same seeds trained alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ctvr_bench.bench.authoring.tryout import in_double
from ctvr_bench.bench.executors import planning
from ctvr_bench.bench.losses import DivergedError
from ctvr_bench.bench.records.record import RankTable
from ctvr_bench.bench.run.stacks import ensemble
from ctvr_bench.bench.run.stacks.ensemble import may_stack, teach
from ctvr_bench.bench.run.training import Epoch, Lesson, Taught, teach_alone
from ctvr_bench.bench.suite.suite import run_suite
from ctvr_bench.methods.finetune import Finetune
from ctvr_bench.methods.shared.base import Method, TaskInfo
from ctvr_bench.methods.shared.registry import find_method, known_methods
from tests.bench.run.test_runner import suite
from tests.learning import embeddings, make, small_spec, train_pairs
from tests.stores import small_stream

STACKED = [name for name, entry in known_methods().items() if may_stack(entry.method)]


@pytest.mark.parametrize("numbers", [False, True])
@pytest.mark.parametrize("name", STACKED)
def test_a_run_learns_in_a_stack_what_it_learns_alone(name: str, numbers: bool) -> None:
    """In float64, where rounding leaves room to see that nothing else differs: batches, draws, norms, decay.

    numbers: the runs differ in every fractional number of the Config too, but epsilon: rates, warm-up, clipping.
    """
    default = asdict(find_method(name).config())
    scaled = [field for field, value in default.items() if numbers and isinstance(value, float) and field != "epsilon"]
    runs = [{field: default[field] * (1 - 0.1 * s) for field in scaled} for s in range(2)]
    alone, together = ([make(name, s, epochs=2, **runs[s]).double() for s in range(2)] for _ in range(2))
    for task in (0, 1):
        assert all(result.together == 1 for result in learn(alone, task, stacked=False))
        assert all(result.together == 2 for result in learn(together, task, stacked=True))
    for first, second in zip(alone, together, strict=True):
        for (key, value), other in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
            torch.testing.assert_close(other, value, rtol=1e-9, atol=1e-11, msg=lambda m, key=key: f"{key}: {m}")
    assert not torch.allclose(*(weights(method) for method in together))


def test_a_stack_makes_the_steps_of_a_run_alone() -> None:
    alone, together = ([make("lwf", s, steps=5).double() for s in range(2)] for _ in range(2))
    assert [result.steps for result in learn(alone, 0, stacked=False)] == [5, 5]
    assert [result.steps for result in learn(together, 0, stacked=True)] == [5, 5]
    for first, second in zip(alone, together, strict=True):
        torch.testing.assert_close(weights(second), weights(first), rtol=1e-9, atol=1e-11)


def learn(methods: Sequence[Method], task: int, *, stacked: bool) -> list[Any]:
    data = in_double(train_pairs(task))
    for method in methods:
        method.begin_task(TaskInfo(task, len(data), small_stream().tasks[task].categories))
    lessons = [Lesson(method, data, seed, task) for seed, method in enumerate(methods)]
    results = teach(lessons) if stacked else [teach([lesson])[0] for lesson in lessons]
    for seed, method in enumerate(methods):
        method.end_task(data, torch.Generator().manual_seed(seed))
    return results


def weights(method: Method) -> torch.Tensor:
    return torch.cat([value.detach().flatten() for value in method.parameters()])


def test_in_float32_embeddings_agree_to_rounding() -> None:
    alone, together = ([make("finetune", seed) for seed in range(2)] for _ in range(2))
    data = train_pairs(0)
    for methods, stacked in ((alone, False), (together, True)):
        for method in methods:
            method.begin_task(TaskInfo(0, len(data), (0, 1)))
        lessons = [Lesson(method, data, seed, 0) for seed, method in enumerate(methods)]
        _ = teach(lessons) if stacked else [teach([lesson]) for lesson in lessons]
    for first, second in zip(alone, together, strict=True):
        for before, now in zip(embeddings(first), embeddings(second), strict=True):
            torch.testing.assert_close(now, before, rtol=0, atol=1e-5)


def test_a_method_with_a_hook_after_a_step_is_trained_alone() -> None:
    assert may_stack(Finetune)
    assert not any(
        may_stack(find_method(name).method) for name in ("agem", "si", "packnet", "structalign", "zero_shot")
    )


class Looks(Finetune):
    """A loss that looks at a value, which no stack can follow."""

    def loss(self, batch: Any) -> dict[str, torch.Tensor]:
        terms = super().loss(batch)
        return terms if terms["contrastive"].item() > 0 else {}


def test_a_loss_that_looks_at_values_is_trained_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    methods = [make("finetune", seed) for seed in range(2)]
    for method in methods:
        method.__class__ = Looks
    data = train_pairs(0)
    for method in methods:
        method.begin_task(TaskInfo(0, len(data), (0, 1)))
    results = teach([Lesson(method, data, seed, 0) for seed, method in enumerate(methods)])
    assert [result.together for result in results if isinstance(result, Taught)] == [1, 1]


class Keeps(Finetune):
    """A number of the Config kept elsewhere, where a stack would take the first run's for all."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.weight = 2 * self.config.scale

    def loss(self, batch: Any) -> dict[str, torch.Tensor]:
        return {name: self.weight * term for name, term in super().loss(batch).items()}


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (Finetune, [{"batch_size": 8}, {"batch_size": 16}]),
        (Finetune, [{"schedule": "cosine"}, {"schedule": "constant"}]),
        (Finetune, [{"dropout": 0.0}, {"dropout": 0.3}]),
        (Finetune, [{"epsilon": 1e-8}, {"epsilon": 1e-6}]),
        (Keeps, [{"scale": 10.0}, {"scale": 20.0}]),
    ],
)
def test_runs_that_differ_in_something_that_a_stack_cannot_follow_are_trained_alone(
    kind: type[Method], values: list[dict[str, Any]]
) -> None:
    entry, data = find_method("finetune"), train_pairs(0)
    lessons = []
    for given in values:
        method = kind(entry.config({"epochs": 1, **given}), small_spec(), torch.Generator().manual_seed(0))
        method.begin_task(TaskInfo(0, len(data), (0, 1)))
        lessons.append(Lesson(method, data, 0, 0))
    assert [result.together for result in teach(lessons) if isinstance(result, Taught)] == [1, 1]


def test_a_seed_that_diverges_leaves_the_others_as_they_are() -> None:
    results, states, epochs = [], [], []
    for broken in (False, True):
        methods, data = [make("finetune", seed, epochs=2) for seed in range(3)], train_pairs(0)
        for method in methods:
            method.begin_task(TaskInfo(0, len(data), (0, 1)))
        if broken:
            methods[1].head.caption.up.data[0, 0] = float("nan")
        seen: list[Epoch] = []
        results = teach([Lesson(method, data, seed, 0, seen.append) for seed, method in enumerate(methods)])
        states.append(weights(methods[2]))
        epochs.append(len(seen))
    assert torch.equal(*states)
    assert epochs == [6, 4]
    assert isinstance(results[1], DivergedError)
    assert "in step 1 of epoch 1 of task 1: contrastive nan;" in str(results[1])


def test_records_say_how_a_run_was_trained_and_ranks_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in (planning.BLOCK, planning.FEWEST):
        monkeypatch.setitem(key, "cpu", 3)
    off = run_suite(suite(tmp_path / "off", "finetune", "er", seeds=3, ensemble="off"))
    auto = run_suite(suite(tmp_path / "auto", "finetune", "er", seeds=3))
    assert [record.run_id for record in off[3:]] == [record.run_id for record in auto[3:]]
    assert not {record.run_id for record in off[:3]} & {record.run_id for record in auto}
    assert [record.together for record in off] == [1] * 6
    assert [record.together for record in auto] == [3] * 3 + [1] * 3
    for alone, stacked in zip(off, auto, strict=True):
        first = RankTable.load(tmp_path / "off/default" / alone.run_id / "ranks.h5")
        second = RankTable.load(tmp_path / "auto/default" / stacked.run_id / "ranks.h5")
        differ = np.mean([np.mean(first.ranks[key] != second.ranks[key]) for key in first.ranks])
        assert differ < 0.01


def fail_at_batch(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stack, not a run alone, fails at its nth batch, the one by which it is tried not counted."""
    original, seen = ensemble._Ensemble.losses, []

    def losses(self: Any, parts: Any) -> Any:
        seen.append(1)
        if len(seen) == number + 1:
            raise RuntimeError("planted: out of memory")
        return original(self, parts)

    monkeypatch.setattr(ensemble._Ensemble, "losses", losses)


def test_runs_of_a_stack_that_fails_are_tried_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    alone, together = ([make("finetune", seed, epochs=2) for seed in range(3)] for _ in range(2))
    data = train_pairs(0)
    for method in (*alone, *together):
        method.begin_task(TaskInfo(0, len(data), (0, 1)))
    for seed, method in enumerate(alone):
        teach([Lesson(method, data, seed, 0)])
    fail_at_batch(3, monkeypatch)

    def fails_for_one(lesson: Lesson) -> Taught:
        if lesson.seed == 1:
            raise ValueError("planted for one")
        return teach_alone(lesson)

    monkeypatch.setattr(ensemble, "teach_alone", fails_for_one)
    first, second, third = teach([Lesson(method, data, seed, 0) for seed, method in enumerate(together)])
    assert isinstance(second, ValueError)
    for result, seed in ((first, 0), (third, 2)):
        assert isinstance(result, Taught)
        assert (result.together, result.alone_because) == (1, "RuntimeError: planted: out of memory")
        assert torch.equal(weights(alone[seed]), weights(together[seed]))


def test_a_suite_goes_on_where_a_stack_fails_and_the_records_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in (planning.BLOCK, planning.FEWEST):
        monkeypatch.setitem(key, "cpu", 2)
    fail_at_batch(2, monkeypatch)
    told: list[str] = []
    records = run_suite(suite(tmp_path, "finetune", seeds=2), lambda progress: told.append(progress.note))
    assert [record.status for record in records] == ["done", "done"]
    assert [record.together for record in records] == [2, 2]  # from the second task on
    for record in records:
        assert record.remarks == [
            "task 1 was learned alone, since its stack failed (RuntimeError: planted: out of memory)"
        ]
        log = (tmp_path / "default" / record.run_id / "training.jsonl").read_text().splitlines()
        assert len(log) == 3
    assert sum(record.remarks[0] in note for note in told for record in records[:1]) == 2
