"""How a task is learned: from `begin_task` to `end_task`, batches by index, one optimiser, every term logged."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from ctvr_bench.bench.losses import DivergedError, means_of
from ctvr_bench.features.streams import PairTable
from ctvr_bench.methods.shared.adamw import AdamW
from ctvr_bench.methods.shared.base import Method, ParameterGroup, TaskInfo, TrainedConfig, is_trained, total_steps


@dataclass(frozen=True)
class Epoch:
    """One pass over a task's pairs. epoch: from 1. terms: mean of each loss term over the epoch's steps."""

    epoch: int
    epochs: int
    steps: int
    terms: dict[str, float]


@dataclass(frozen=True)
class Lesson:
    """A task that a run wants its method to be trained on."""

    method: Method
    data: PairTable
    seed: int
    task: int
    on_epoch: Callable[[Epoch], None] = lambda epoch: None


class Taught(NamedTuple):
    """steps made; seconds of this run's share of the time; together: runs in the stack, 1 if it was trained alone.

    alone_because: what went wrong when it was first tried in a stack.
    """

    steps: int
    seconds: float
    together: int
    alone_because: str = ""


Learning = Generator[Lesson, Taught, None]
"""Something that learns, and stops at each lesson until it is told what came of it."""


def generator_for(seed: int, *purpose: str | int) -> torch.Generator:
    """Random numbers for one purpose of one run: the same for every method with that seed, on every machine.

    Because each task has generators of its own, a run that is resumed after a task continues with the same numbers.
    """
    key = "/".join(map(str, (seed, *purpose)))
    number = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little") >> 1
    return torch.Generator().manual_seed(number)


def lessons_of_task(
    method: Method,
    data: PairTable | None,
    task: TaskInfo,
    seed: int,
    *,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    on_taught: Callable[[Taught], None] = lambda taught: None,
    timed: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Learning:
    """A task from `begin_task` to `end_task`, the only sequence there is; hands out the lesson to be taught, if any.

    data: None where the method learns nothing in this task. on_taught: told what the lesson came to, before `end_task`.
    timed: entered around `end_task`, in which a closed form learns.
    """
    if data is None:
        method.task = task
        return
    method.begin_task(task)
    with torch.no_grad():
        method.survey(data)
    if is_trained(type(method)):
        on_taught((yield Lesson(method, data, seed, task.position, on_epoch)))
    with timed():
        method.end_task(data, generator_for(seed, "end", task.position))


def learn_task(
    method: Method, data: PairTable, task: TaskInfo, seed: int, on_epoch: Callable[[Epoch], None] = lambda epoch: None
) -> int:
    """A whole task as a run learns it, from `begin_task` to `end_task`; returns the number of steps."""
    steps, learning, taught = 0, lessons_of_task(method, data, task, seed, on_epoch=on_epoch), None
    while True:
        try:
            lesson = next(learning) if taught is None else learning.send(taught)
        except StopIteration:
            return steps
        taught = teach_alone(lesson)
        steps += taught.steps


def teach_alone(lesson: Lesson) -> Taught:
    """Train one method on one task. Raises DivergedError."""
    start = time.perf_counter()
    steps = train_task(lesson.method, lesson.data, lesson.seed, lesson.task, lesson.on_epoch)
    return Taught(steps, time.perf_counter() - start, 1)


def train_task(
    method: Method, data: PairTable, seed: int, task: int, on_epoch: Callable[[Epoch], None] = lambda epoch: None
) -> int:
    """Minimise the sum of the method's loss terms over the task's pairs; returns the number of steps.

    AdamW with decoupled decay; the gradient's norm is clipped over the parameters that are stepped, no others gather
    any. The order of batches depends on seed and task only, so that methods are compared on the same batches. Raises
    DivergedError.
    """
    config = method.config
    assert isinstance(config, TrainedConfig)
    order, draws = generator_for(seed, "batches", task), generator_for(seed, "draws", task)
    data = view_of(method, data)
    method.train()
    with only_stepped(method) as groups:
        paces = [(group.parameters, pace_of(group, config)) for group in groups]
        optimiser, schedule, total = make_optimiser(paces, method, len(data))
        stepped = [parameter for parameter in method.parameters() if parameter.requires_grad]
        passes = steps_of_passes(total, config, len(data))
        for epoch, steps in enumerate(passes):
            losses: list[dict[str, Tensor]] = []
            for index_N in islice(data.shuffled(config.batch_size, order), steps):
                batch = method.prepare(data.pairs(index_N), draws)
                terms = method.loss(batch)
                optimiser.zero_grad()
                torch.stack(list(terms.values())).sum().backward()
                method.after_backward(batch)
                torch.nn.utils.clip_grad_norm_(stepped, config.clip_norm)
                optimiser.step()
                schedule.step()
                method.after_step(batch)
                losses.append({name: value.detach() for name, value in terms.items()})
            (mean,) = means_of(losses, epoch, task)
            if isinstance(mean, DivergedError):
                raise mean
            on_epoch(Epoch(epoch + 1, len(passes), steps, mean))
        optimiser.zero_grad()
    method.eval()
    return total


@torch.no_grad()
def view_of(method: Method, data: PairTable) -> PairTable:
    """The pairs as the method's steps are given them."""
    return method.view(data)


@contextmanager
def only_stepped(method: Method) -> Iterator[list[ParameterGroup]]:
    """The method's parameter groups; within it no other parameter gathers a gradient."""
    groups = method.parameter_groups()
    stepped = {id(parameter) for group in groups for parameter in group.parameters}
    others = [p for p in method.parameters() if p.requires_grad and id(p) not in stepped]
    for parameter in others:
        parameter.requires_grad_(False)
    try:
        yield groups
    finally:
        for parameter in others:
            parameter.requires_grad_(True)


class Pace(NamedTuple):
    """How a group of parameters is stepped: peak learning rate, decoupled decay."""

    lr: float
    decay: float


def pace_of(group: ParameterGroup, config: TrainedConfig) -> Pace:
    """The group's factors with the Config's numbers."""
    return Pace(config.lr * group.rate, config.weight_decay if group.decay is None else group.decay)


def make_optimiser(
    groups: Iterable[tuple[Sequence[Tensor], Pace]], method: Method, pairs: int
) -> tuple[AdamW, torch.optim.lr_scheduler.LambdaLR, int]:
    """What a task of so many pairs is trained with, and its steps."""
    config, total = method.config, total_steps(method, pairs)
    assert isinstance(config, TrainedConfig)
    settings = [{"params": list(stepped), "lr": lr, "weight_decay": decay} for stepped, (lr, decay) in groups]
    optimiser = AdamW(settings, eps=config.epsilon, fused=True)
    factor = partial(learning_rate_factor, total=total, config=config, task=method.task.position)
    return optimiser, torch.optim.lr_scheduler.LambdaLR(optimiser, factor), total


def steps_of_passes(total: int, config: TrainedConfig, pairs: int) -> list[int]:
    """How the steps of a task fall on passes over its pairs; the last pass may be cut short.

    >>> steps_of_passes(5, TrainedConfig(batch_size=32), 64)
    [2, 2, 1]
    """
    whole = math.ceil(pairs / config.batch_size)
    return [min(whole, total - made) for made in range(0, total, whole)]


def learning_rate_factor(step: int, total: int, config: TrainedConfig, task: int = 0) -> float:
    """Share of the peak learning rate at a step (from 0) of `total` of a task (from 0): warm-up, then the schedule.

    cosine: 1/2 (1 + cos(pi p)), p = progress after warm-up. cosine_back: 1/2 (1 + cos(2 pi p)), the release's schedule,
    which climbs back to the peak (spec D12). constant: 1.
    """
    share = config.later_warmup if task and config.later_warmup is not None else config.warmup
    warm = max(1, round(share * total)) if share else 0
    if step < warm:
        return (step + 1) / warm
    progress = (step - warm) / max(1, total - warm)
    turns = {"constant": 0.0, "cosine": 1.0, "cosine_back": 2.0}[config.schedule]
    return 0.5 * (1 + math.cos(math.pi * turns * progress))
