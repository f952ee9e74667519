"""The parts of `make gpu`: each returns plain numbers, and nothing here knows what they should be."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from ctvr_bench.bench.gate.baseline import read_baseline
from ctvr_bench.bench.gate.gate import check
from ctvr_bench.bench.gate.measure import measure, suite_of
from ctvr_bench.bench.records.environment import wait_for
from ctvr_bench.bench.run.jobs import feature_spec
from ctvr_bench.bench.run.protocol import Evaluator
from ctvr_bench.bench.run.stacks.ensemble import Lesson, teach
from ctvr_bench.bench.run.training import generator_for, view_of
from ctvr_bench.features.streams import PairTable, make_stream
from ctvr_bench.methods.shared.base import Method, TaskInfo, is_trained
from ctvr_bench.methods.shared.registry import find_method
from tests.device import taken_through
from tests.speed.test_speed import msrvtt_sized, world_sized

BASELINE = Path(__file__).resolve().parents[2] / "results/baselines/gate.json"


def agreement(name: str, device: str) -> dict[str, Any]:
    """Share of a method's ranks after two small tasks that are those of the CPU; the error where there is one."""
    try:
        found = taken_through(name, device, "cosine")
    except Exception as error:
        return {"fault": f"{type(error).__name__}: {error}".splitlines()[0]}
    pairs = [
        (one, other)
        for expected, stage in zip(taken_through(name, "cpu", "cosine"), found, strict=True)
        for key, ranks in expected.items()
        for one, other in zip(ranks, stage[key], strict=True)
    ]
    return {"same_ranks": sum(one == other for one, other in pairs) / len(pairs)}


def gate(device: str) -> dict[str, str]:
    """Verdict on each row of the gate's suite made on the device, against the CPU's baseline within its tolerances."""
    recorded = read_baseline(BASELINE)
    config = suite_of(BASELINE, recorded, jobs=1).model_copy(update={"device": device})
    return {row.label: row.verdict for row in check(recorded, measure(config)).rows}


def step(name: str, device: str) -> dict[str, float]:
    """Milliseconds of a training step at 512-d in the second task, 32 pairs: median of 20, each waited for."""
    method, data = _second_task(name, device)
    groups = [parameter for group in method.parameter_groups() for parameter in group.parameters]
    optimiser = torch.optim.AdamW(groups, lr=1e-4, fused=True)
    draws, batches = generator_for(0, "draws"), itertools.cycle(list(data.shuffled(32, generator_for(0, "order"))))

    def one() -> None:
        terms = method.loss(method.prepare(data.pairs(next(batches)), draws))
        optimiser.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(groups, 1.0)
        optimiser.step()

    return {"ms": 1e3 * median(seconds(one, device, rounds=20, warm=5))}


def stack(runs: int, device: str) -> dict[str, float]:
    """Seconds of an epoch of finetune on a world's first task: so many seeds as one stack, and one by one."""
    store = world_sized()
    stream, entry = make_stream(store), find_method("finetune")
    data, spec = PairTable(store, stream.tasks[0].train, device), feature_spec(store, stream)
    lessons = []
    for seed in range(runs):
        method = entry.method(entry.config({"epochs": 1}), spec, generator_for(seed, "init")).to(device)
        method.begin_task(TaskInfo(0, len(data), stream.tasks[0].categories))
        lessons.append(Lesson(method, data, seed, 0))
    together = min(seconds(lambda: teach(lessons), device, rounds=2, warm=1))
    alone = min(seconds(lambda: [teach([lesson]) for lesson in lessons], device, rounds=1, warm=0))
    return {"together_s": together, "alone_s": alone, "times_faster": alone / together}


def evaluation(name: str, device: str) -> dict[str, float]:
    """Seconds of the last evaluation of MSRVTT-10's size, fused scores, after all tasks were evaluated once."""
    store = msrvtt_sized()
    tasks, entry = make_stream(store).tasks, find_method(name)
    spec = feature_spec(store, make_stream(store))
    method = entry.method(entry.config({"scoring": "fused"}), spec, generator_for(0, "init")).to(device).eval()
    test = PairTable(store, np.concatenate([task.test for task in tasks]), device)
    evaluator = Evaluator(test, [len(task.test) for task in tasks])
    took = [
        seconds(lambda task=task: _finish(evaluator, method, task), device, rounds=1, warm=0)[0]  # type: ignore[misc]
        for task in tasks
    ]
    return {"all_s": sum(took), "last_s": took[-1]}


def seconds(what: Callable[[], object], device: str, rounds: int, warm: int) -> Sequence[float]:
    """How long each of the rounds took, the device waited for on both sides."""
    took = []
    for _ in range(warm + rounds):
        wait_for(device)
        start = time.perf_counter()
        what()
        wait_for(device)
        took.append(time.perf_counter() - start)
    return took[warm:]


def trained_methods(names: Sequence[str]) -> list[str]:
    return [name for name in names if is_trained(find_method(name).method)]


def _second_task(name: str, device: str) -> tuple[Method, PairTable]:
    store = msrvtt_sized()
    stream, entry = make_stream(store), find_method(name)
    method = entry.method(entry.config(), feature_spec(store, stream), generator_for(0, "init")).to(device)
    first, second = (PairTable(store, task.train, device) for task in stream.tasks[:2])
    method.begin_task(TaskInfo(0, len(first), stream.tasks[0].categories))
    method.end_task(first, generator_for(0, "end", 0))
    method.begin_task(TaskInfo(1, len(second), stream.tasks[1].categories))
    return method, view_of(method, second)


def _finish(evaluator: Evaluator, method: Method, task: Any) -> None:
    method.task = TaskInfo(task.index, 0, task.categories)
    evaluator.finish_task(method)
