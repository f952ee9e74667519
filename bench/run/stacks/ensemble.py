"""Runs that differ in their seed or in numbers of their Config, trained as one stacked model: a leading axis S of runs.

Each run keeps its own order of batches and its own draws, those of the run alone; captions are padded to the longest
of all runs' batches. Gradients, norms and moments are each run's own, so a run learns what it learns alone, up to
the rounding of sums that are made in another order. Numbers in which the Configs differ reach `loss` as tensors.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.functional import pad

from ctvr_bench.bench.run.stacks.optimiser import StackOptimiser
from ctvr_bench.bench.run.training import (
    DivergedError,
    Epoch,
    FrozenRows,
    diverged,
    generator_for,
    steps_of_passes,
    train_task,
)
from ctvr_bench.features.streams import PairBatch, PairTable
from ctvr_bench.methods.shared.base import Method, MethodConfig, TrainedConfig
from ctvr_bench.methods.shared.memory import batch_of, pair_items

_DRAW = "draw."


@dataclass(frozen=True)
class Lesson:
    """A task that a run wants its method to be trained on."""

    method: Method
    data: PairTable
    seed: int
    task: int
    on_epoch: Callable[[Epoch], None] = lambda epoch: None


class Taught(NamedTuple):
    """steps made; seconds of this run's share of the time; together: runs in the stack, 1 if it was trained alone."""

    steps: int
    seconds: float
    together: int


class Learner(Protocol):
    """Something that learns a stream, stopping at every task that is to be trained."""

    def advance(self, taught: Taught | Exception | None = None) -> Lesson | None:
        """Go on to the next task to be trained, with what became of the last; None at the end."""


def learn_in_step(learners: Sequence[Learner]) -> None:
    """Bring all to their end, those that wait at the same task taught together."""
    waiting = {learner: lesson for learner in learners if (lesson := learner.advance()) is not None}
    while waiting:
        next_task = min(lesson.task for lesson in waiting.values())
        group = [learner for learner, lesson in waiting.items() if lesson.task == next_task]
        for learner, taught in zip(group, teach([waiting.pop(learner) for learner in group]), strict=True):
            lesson = learner.advance(taught)
            if lesson is not None:
                waiting[learner] = lesson


def go_on(learning: Generator[Lesson, Taught, Any], taught: Taught | Exception | None) -> Lesson:
    """The next lesson of a learner that is written as a generator. Raises StopIteration with what it returns."""
    if isinstance(taught, Exception):
        return learning.throw(taught)
    return next(learning) if taught is None else learning.send(taught)


def may_stack(method: type[Method]) -> bool:
    """Whether the method says that its runs train together, and has no hook between or after their steps."""
    hooks = ("after_backward", "after_step")
    return method.ensembles and all(getattr(method, hook) is getattr(Method, hook) for hook in hooks)


def teach(lessons: Sequence[Lesson]) -> list[Taught | Exception]:
    """Train each lesson's method, together where that can be done; what went wrong in place of a run that failed."""
    if len(lessons) > 1 and may_stack(type(lessons[0].method)):
        stacked = _Stack.of(lessons)
        if stacked is not None:
            return stacked.train()
    return [_alone(lesson) for lesson in lessons]


def _alone(lesson: Lesson) -> Taught | Exception:
    start = time.perf_counter()
    try:
        steps = train_task(lesson.method, lesson.data, lesson.seed, lesson.task, lesson.on_epoch)
    except Exception as error:
        return error
    return Taught(steps, time.perf_counter() - start, 1)


class _Loss(nn.Module):
    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Tensor]) -> dict[str, Tensor]:
        draws = {name.removeprefix(_DRAW): value for name, value in tensors.items() if name.startswith(_DRAW)}
        batch = batch_of(tensors, tensors["category_N"].device).with_draws(**draws)
        config = self.method.config
        self.method.config = _with_numbers(config, numbers)
        try:
            return self.method.loss(batch)
        finally:
            self.method.config = config


class _Stack:
    """Weights of all runs, stacked; the methods' own parameters are views of them while they are trained.

    Raises ValueError for runs that differ in something else than seed and fractional numbers of their Config.
    """

    def __init__(self, lessons: Sequence[Lesson]) -> None:
        self.lessons, first = lessons, lessons[0].method
        self.methods = [lesson.method for lesson in lessons]
        assert isinstance(first.config, TrainedConfig)
        data = lessons[0].data
        self.config, self.data = first.config, data.with_mean_words() if first.averages_words else data
        optimised = {id(parameter) for parameter in first.optimised_parameters()}
        self.weights: dict[str, Tensor] = {}
        self.fixed: dict[str, Tensor] = {}
        for name, parameter in first.named_parameters():
            stacked = torch.stack([method.get_parameter(name).detach() for method in self.methods])
            if id(parameter) in optimised:
                self.weights[name] = stacked.requires_grad_()
            else:
                self.fixed[name] = stacked
        for name, _ in first.named_buffers():
            self.fixed[name] = torch.stack([method.get_buffer(name) for method in self.methods])
        like = next(iter(self.weights.values()))
        self.numbers = {name: like.new_tensor(values) for name, values in _differing_numbers(self.methods).items()}
        self.frozen = [FrozenRows(method, self.data) for method in self.methods]
        self._loss = _Loss(first)
        self._begin()

    def _begin(self) -> None:
        """Every run's random numbers from their beginning."""
        self.draws = [generator_for(lesson.seed, "draws", lesson.task) for lesson in self.lessons]
        self.orders = [generator_for(lesson.seed, "batches", lesson.task) for lesson in self.lessons]

    @classmethod
    def of(cls, lessons: Sequence[Lesson]) -> _Stack | None:
        """None where the loss cannot be stacked: shapes differ, or it looks at values."""
        try:
            probe = cls(lessons)
            indices = [next(probe.data.shuffled(probe.config.batch_size, order)) for order in probe.orders]
            with torch.no_grad():
                probe.losses(probe.batches(indices))
        except (RuntimeError, ValueError, TypeError):
            return None
        probe._begin()
        return probe

    def train(self) -> list[Taught | Exception]:
        """As `bench.run.training.train_task` trains one."""
        start, config = time.perf_counter(), self.config
        parameters = list(self.weights.values())
        optimiser = StackOptimiser(parameters, self.methods, len(self.data))
        self._tie(own=False)
        failed: dict[int, Exception] = {}
        passes = steps_of_passes(optimiser.total, config, len(self.data))
        for epoch, steps in enumerate(passes):
            sums: dict[str, Tensor] = {}
            orders = [self.data.shuffled(config.batch_size, order) for order in self.orders]
            for indices in islice(zip(*orders, strict=True), steps):
                terms = self.losses(self.batches(indices))
                optimiser.zero_grad()
                torch.stack(list(terms.values())).sum().backward()
                self._clip(parameters)
                optimiser.step()
                for name, value_S in terms.items():
                    sums[name] = sums.get(name, torch.zeros_like(value_S)) + value_S.detach()
            self._end_epoch(epoch, passes, sums, failed)
        self._tie(own=True)
        share = (time.perf_counter() - start) / len(self.lessons)
        return [failed.get(s, Taught(optimiser.total, share, len(self.lessons))) for s in range(len(self.lessons))]

    def losses(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each term [S] of batches [S, N, ...]."""

        def loss(state: dict[str, Tensor], batch: dict[str, Tensor], numbers: dict[str, Tensor]) -> dict[str, Tensor]:
            terms: dict[str, Tensor] = functional_call(self._loss, state, (batch, numbers))
            return terms

        state = {f"method.{name}": value for name, value in {**self.weights, **self.fixed}.items()}
        terms: dict[str, Tensor] = vmap(loss)(state, dict(tensors), self.numbers)
        return terms

    def batches(self, indices: Sequence[Tensor]) -> dict[str, Tensor]:
        """The prepared batch of each seed, stacked. One gather serves all; what `prepare` put in is stacked after."""
        every = pair_items(self.data.pairs(torch.cat(list(indices))))
        whole = {name: value.view(len(indices), -1, *value.shape[1:]) for name, value in every.items()}
        given = [{name: value[s] for name, value in whole.items()} for s in range(len(indices))]
        prepared = [self._prepare(s, items, indices[s]) for s, items in enumerate(given)]
        items = [pair_items(batch) for batch in prepared]
        kept = all(mine[name] is items[s][name] for s, mine in enumerate(given) for name in mine)
        stacked = whole if kept else {name: _stack([each[name] for each in items]) for name in whole}
        if any(batch.draws.keys() != prepared[0].draws.keys() for batch in prepared):
            raise ValueError("the runs prepare different draws")
        draws = {_DRAW + name: _stack([batch.draws[name] for batch in prepared]) for name in prepared[0].draws}
        return stacked | draws

    def _prepare(self, s: int, items: dict[str, Tensor], index_N: Tensor) -> PairBatch:
        batch = batch_of(items, items["category_N"].device).with_draws(**self.frozen[s].of(index_N))
        return self.methods[s].prepare(batch, self.draws[s])

    def _clip(self, parameters: Sequence[Tensor]) -> None:
        """Each run's gradient to the norm that it may have."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        norm_S = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in gradients]).norm(dim=0)
        factor_S = (self.numbers.get("clip_norm", self.config.clip_norm) / (norm_S + 1e-6)).clamp(max=1)
        for gradient in gradients:
            gradient.mul_(factor_S.view(-1, *(1 for _ in gradient.shape[1:])))

    def _end_epoch(
        self, epoch: int, passes: Sequence[int], sums: dict[str, Tensor], failed: dict[int, Exception]
    ) -> None:
        for s, lesson in enumerate(self.lessons):
            if s in failed:
                continue
            means = {name: float(value_S[s]) / passes[epoch] for name, value_S in sums.items()}
            try:
                if not all(map(math.isfinite, means.values())):
                    raise diverged(epoch, lesson.task, means)
                lesson.on_epoch(Epoch(epoch + 1, len(passes), passes[epoch], means))
            except DivergedError as error:
                failed[s] = error

    def _tie(self, *, own: bool) -> None:
        """Let the methods' parameters be views of the stack, and so what it has learned; or own them again."""
        for s, method in enumerate(self.methods):
            method.train(not own)
            for name, stacked in self.weights.items():
                method.get_parameter(name).data = stacked.data[s].clone() if own else stacked.data[s]


def _differing_numbers(methods: Sequence[Method]) -> dict[str, list[float]]:
    """Fractional numbers in which the Configs differ, of every method. Raises ValueError for any other difference."""
    first = methods[0].config
    found = {}
    for field in dataclasses.fields(first):
        values = [getattr(method.config, field.name) for method in methods]
        if any(value != values[0] for value in values):
            if not all(isinstance(value, float) for value in values):
                raise ValueError(f"the runs differ in {field.name}, which is no fractional number")
            found[field.name] = values
    if found and any(_plain_attributes(method) != _plain_attributes(methods[0]) for method in methods):
        raise ValueError("the runs' modules keep different values")
    return found


def _plain_attributes(method: Method) -> dict[tuple[str, str], object]:
    """What the modules keep beside tensors: a number taken from the Config there would be the first run's for all."""
    return {
        (path, name): value
        for path, module in method.named_modules()
        for name, value in vars(module).items()
        if (path, name) != ("", "config")
        and (isinstance(value, (bool, int, float, str)) or dataclasses.is_dataclass(value))
    }


def _with_numbers(config: MethodConfig, numbers: Mapping[str, Tensor]) -> MethodConfig:
    """The Config with these tensors in place of numbers, unchecked."""
    changed = copy.copy(config)
    for name, value in numbers.items():
        object.__setattr__(changed, name, value)
    return changed


def _stack(parts: Sequence[Tensor]) -> Tensor:
    """The parts on a new first axis; where their second axes differ, padded with zeros (False) to the longest."""
    width = max((part.shape[1] for part in parts if part.dim() > 1), default=0)
    if any(part.dim() > 1 and part.shape[1] < width for part in parts):
        parts = [pad(part, (0, 0) * (part.dim() - 2) + (0, width - part.shape[1])) for part in parts]
    return torch.stack(list(parts))
