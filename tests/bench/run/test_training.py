from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch

from ctvr_bench.bench.losses import DivergedError
from ctvr_bench.bench.run.training import (
    Epoch,
    generator_for,
    learning_rate_factor,
    train_task,
)
from ctvr_bench.features.streams import PairBatch, PairTable
from ctvr_bench.methods.shared.base import TaskInfo, TrainedConfig, total_steps
from ctvr_bench.methods.shared.registry import find_method
from tests.learning import make, train_pairs
from tests.stores import small_store, small_stream

Prepare = Callable[[PairBatch, torch.Generator], PairBatch]


def factors(total: int, **values: object) -> list[float]:
    config = TrainedConfig(**values)
    return [learning_rate_factor(step, total, config) for step in range(total)]


def test_cosine_warms_up_and_falls_to_zero() -> None:
    values = factors(1000, schedule="cosine", warmup=0.1)
    assert values[:2] == [0.01, 0.02]
    assert values[100] == 1.0
    assert values[550] == pytest.approx(0.5)
    assert values[-1] < 1e-5


def test_the_released_schedule_climbs_back() -> None:
    values = factors(1000, schedule="cosine_back", warmup=0.0)
    assert values[500] == pytest.approx(0.0, abs=1e-12)
    assert values[250] == pytest.approx(0.5)
    assert values[-1] == pytest.approx(0.5 * (1 + math.cos(2 * math.pi * 0.999)))


def test_later_tasks_may_begin_without_warming_up() -> None:
    config = TrainedConfig(schedule="constant", warmup=0.1, later_warmup=0.0)
    assert [learning_rate_factor(0, 100, config, task) for task in (0, 1, 2)] == [0.1, 1.0, 1.0]
    assert learning_rate_factor(0, 100, TrainedConfig(schedule="constant", warmup=0.1), 1) == 0.1


@pytest.mark.parametrize("task", [0, 1])
def test_the_first_step_is_adams_with_the_configs_epsilon_and_warm_up(task: int) -> None:
    """Adam's first step is g / (|g| + epsilon) times the rate; with a large epsilon the gradient's size is seen."""
    values = {
        "weight_decay": 0.0,
        "warmup": 0.5,
        "later_warmup": 0.0,
        "schedule": "constant",
        "dropout": 0.0,
        "lr": 1e-2,
    }
    method = make("finetune", epochs=1, batch_size=1000, epsilon=0.5, clip_norm=1e3, **values)
    data = train_pairs(0)
    method.begin_task(TaskInfo(task, len(data), (0, 1)))
    before = [parameter.detach().clone() for parameter in method.parameters()]
    batch = method.prepare(data.pairs(torch.arange(len(data))), generator_for(0, "draws", task))
    torch.stack(list(method.loss(batch).values())).sum().backward()
    slopes = [parameter.grad for parameter in method.parameters()]
    train_task(method, data, 0, task)
    for old, slope, new in zip(before, slopes, method.parameters(), strict=True):
        if slope is not None:
            torch.testing.assert_close(new, old - 1e-2 * slope / (slope.abs() + 0.5), rtol=1e-4, atol=1e-7)


def test_constant_stays() -> None:
    assert set(factors(50, schedule="constant", warmup=0.0)) == {1.0}


def test_generators_differ_by_purpose_and_repeat() -> None:
    def draw(*key: str | int) -> float:
        return torch.rand(1, generator=generator_for(0, *key)).item()

    assert draw("batches", 1) == draw("batches", 1)
    assert len({draw("batches", 1), draw("batches", 2), draw("draws", 1), draw("init")}) == 4


def test_every_epoch_is_logged_with_the_mean_of_each_term() -> None:
    method = make("lwf", epochs=3)
    data = PairTable(small_store(), small_stream().tasks[0].train)
    method.begin_task(TaskInfo(0, len(data), (0, 1)))
    epochs: list[Epoch] = []
    steps = train_task(method, data, 0, 0, epochs.append)
    assert steps == 3 * math.ceil(len(data) / 32)
    assert [epoch.epoch for epoch in epochs] == [1, 2, 3]
    assert set(epochs[0].terms) == {"contrastive", "distillation"}
    assert epochs[-1].terms["contrastive"] < epochs[0].terms["contrastive"]


def test_steps_are_made_whatever_the_size_of_a_task_and_cut_the_last_pass_short() -> None:
    data = PairTable(small_store(), small_stream().tasks[0].train)
    whole = math.ceil(len(data) / 32)
    method = make("finetune", steps=2 * whole + 1, schedule="constant", warmup=0.0)
    epochs: list[Epoch] = []
    method.begin_task(TaskInfo(0, len(data), (0, 1)))
    assert train_task(method, data, 0, 0, epochs.append) == 2 * whole + 1
    assert [epoch.steps for epoch in epochs] == [whole, whole, 1]
    same = make("finetune", epochs=2, schedule="constant", warmup=0.0)
    same.begin_task(TaskInfo(0, len(data), (0, 1)))
    again: list[Epoch] = []
    train_task(same, data, 0, 0, again.append)
    assert [epoch.terms for epoch in again] == [epoch.terms for epoch in epochs[:2]]


def test_a_method_that_sees_all_tasks_makes_the_steps_of_all() -> None:
    joint = make("joint", steps=7)
    assert total_steps(joint, 10) == 7 * joint.spec.num_tasks
    assert total_steps(make("finetune", steps=7), 10_000) == 7


def test_batches_depend_on_seed_and_task_and_not_on_the_method() -> None:
    first = batches_of("finetune", seed=0, task=0)
    assert sorted({row for batch in first for row in batch}) == list(range(len(small_pairs())))
    assert batches_of("attention_head", seed=0, task=0) == first
    assert batches_of("finetune", seed=0, task=1) != first
    assert batches_of("finetune", seed=1, task=0) != first


def small_pairs() -> PairTable:
    return PairTable(small_store(), small_stream().tasks[0].train)


def batches_of(name: str, seed: int, task: int) -> list[list[int]]:
    """Rows of every batch of a task; the pairs are those of the first task whatever its number."""
    method, data, batches = make(name, epochs=1), small_pairs(), []
    for learned in range(task + 1):
        method.begin_task(TaskInfo(learned, len(data), (0, 1)))
    pairs = data.pairs
    data.pairs = lambda index: (batches.append(index.tolist()), pairs(index))[1]
    train_task(method, data, seed, task)
    return batches


def test_a_loss_that_is_not_finite_stops_the_run_and_names_its_first_step_and_terms() -> None:
    method = make("finetune", batch_size=4)
    data = PairTable(small_store(), small_stream().tasks[0].train)
    data.pooled_PD[3] = float("inf")
    step = [3 in index_N.tolist() for index_N in data.shuffled(4, generator_for(0, "batches", 0))].index(True) + 1
    assert step > 1
    method.begin_task(TaskInfo(0, len(data), (0, 1)))
    with pytest.raises(DivergedError, match=f"in step {step} of epoch 1 of task 1: contrastive nan; lower the lr"):
        train_task(method, data, 0, 0)


def test_the_gradient_is_clipped_before_the_step() -> None:
    norms = []
    method = make("finetune", clip_norm=1e-3)
    method.after_step = lambda batch: norms.append(
        torch.stack([p.grad.norm() for p in method.parameters() if p.grad is not None]).norm().item()
    )
    data = PairTable(small_store(), small_stream().tasks[0].train)
    method.begin_task(TaskInfo(0, len(data), (0, 1)))
    train_task(method, data, 0, 0)
    assert max(norms) == pytest.approx(1e-3, rel=1e-3)
    assert find_method("finetune").config().clip_norm == 1.0


def test_two_epochs_are_those_of_a_plain_loop() -> None:
    method = make("finetune", scoring="word_frame", epochs=2, batch_size=16, lr=1e-2, dropout=0.0, clip_norm=0.5)
    twin, data, config = copy.deepcopy(method), train_pairs(0), method.config
    train_task(method, data, 0, 0)
    weights = list(twin.parameters())
    adam = torch.optim.AdamW(weights, lr=1e-2, weight_decay=config.weight_decay)
    order, draws, total = generator_for(0, "batches", 0), generator_for(0, "draws", 0), 2 * 3
    for step, index_N in enumerate([index_N for _ in range(2) for index_N in data.shuffled(16, order)]):
        loss = torch.stack(list(twin.loss(twin.prepare(data.pairs(index_N), draws)).values())).sum()
        slopes = torch.autograd.grad(loss, weights, allow_unused=True)
        length = torch.stack([slope.square().sum() for slope in slopes if slope is not None]).sum().sqrt()
        for weight, slope in zip(weights, slopes, strict=True):
            weight.grad = None if slope is None else slope * min(1.0, 0.5 / float(length + 1e-6))
        adam.param_groups[0]["lr"] = 1e-2 * learning_rate_factor(step, total, config)
        adam.step()
    for found, expected in zip(method.parameters(), weights, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
