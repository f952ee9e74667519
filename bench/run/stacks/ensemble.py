"""Runs that differ in their seed or in numbers of their Config, trained as one stacked model: a leading axis S of runs.

Each run keeps its own order of batches and its own draws, those of the run alone; captions are padded to the longest
of all runs' batches. Gradients, norms and moments are each run's own, so a run learns what it learns alone, up to
the rounding of sums that are made in another order. Numbers in which the Configs differ reach `loss` as tensors.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.functional import pad

from ctvr_bench.bench.losses import DivergedError, means_of
from ctvr_bench.bench.run.jobs import load_tensors
from ctvr_bench.bench.run.stacks.optimiser import StackOptimiser
from ctvr_bench.bench.run.training import (
    Epoch,
    Learning,
    Lesson,
    Taught,
    generator_for,
    steps_of_passes,
    teach_alone,
    view_of,
)
from ctvr_bench.features.streams import PairBatch
from ctvr_bench.methods.shared.base import Method, MethodConfig, TrainedConfig


def learn_in_step(learners: Sequence[Learning]) -> None:
    """Bring all to their end, those that wait at the same task taught together.

    What went wrong in a lesson is raised where its learner waits, and from there if it is not caught.
    """
    waiting: dict[int, Lesson] = {}

    def go_on(learner: int, move: Callable[[], Lesson]) -> None:
        try:
            waiting[learner] = move()
        except StopIteration:
            waiting.pop(learner, None)

    for learner, learning in enumerate(learners):
        go_on(learner, partial(next, learning))
    while waiting:
        next_task = min(lesson.task for lesson in waiting.values())
        group = [learner for learner, lesson in waiting.items() if lesson.task == next_task]
        for learner, taught in zip(group, teach([waiting[learner] for learner in group]), strict=True):
            learning = learners[learner]
            if isinstance(taught, Exception):
                go_on(learner, partial(learning.throw, taught))
            else:
                go_on(learner, partial(learning.send, taught))


def may_stack(method: type[Method]) -> bool:
    """Whether the method says that its runs train together, and has no hook between or after their steps."""
    hooks = ("after_backward", "after_step")
    return method.ensembles and all(getattr(method, hook) is getattr(Method, hook) for hook in hooks)


def teach(lessons: Sequence[Lesson]) -> list[Taught | Exception]:
    """Train each lesson's method, together where that can be done; what went wrong in place of a run that failed.

    Where a stack fails, be it for want of memory, each of its runs is put back to where it was and tried alone.
    """
    failed = ""
    if len(lessons) > 1 and may_stack(type(lessons[0].method)):
        before = [{k: v.detach().clone() for k, v in lesson.method.state_dict().items()} for lesson in lessons]
        stacked = _Ensemble.of(lessons)
        if stacked is not None:
            try:
                return stacked.train()
            except Exception as error:
                failed = f"{type(error).__name__}: {error}".splitlines()[0]
                stacked.let_go()
                for lesson, tensors in zip(lessons, before, strict=True):
                    load_tensors(lesson.method, tensors)
            del stacked
    taught = [_taught_or_failed(lesson) for lesson in lessons]
    return [each._replace(alone_because=failed) if isinstance(each, Taught) else each for each in taught]


def _taught_or_failed(lesson: Lesson) -> Taught | Exception:
    try:
        return teach_alone(lesson)
    except Exception as error:
        return error


class _Loss(nn.Module):
    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, parts: Mapping[str, Any], numbers: Mapping[str, Tensor]) -> dict[str, Tensor]:
        config = self.method.config
        self.method.config = _with_numbers(config, numbers)
        try:
            return self.method.loss(_batch_of(parts))
        finally:
            self.method.config = config


class _Ensemble:
    """Weights of all runs, stacked; the methods' own parameters are views of them while they are trained.

    Raises ValueError for runs that differ in something else than seed and fractional numbers of their Config.
    """

    def __init__(self, lessons: Sequence[Lesson]) -> None:
        self.lessons, first = lessons, lessons[0].method
        self.methods = [lesson.method for lesson in lessons]
        assert isinstance(first.config, TrainedConfig)
        self.config = first.config
        self.views = [view_of(method, lessons[0].data) for method in self.methods]
        self.shared = all(view.shares_features(self.views[0]) for view in self.views)
        stepped = {id(parameter) for group in first.parameter_groups() for parameter in group.parameters}
        self.weights: dict[str, Tensor] = {}
        self.fixed: dict[str, Tensor] = {}
        for name, parameter in first.named_parameters():
            together = torch.stack([method.get_parameter(name).detach() for method in self.methods])
            if id(parameter) in stepped:
                self.weights[name] = together.requires_grad_()
            else:
                self.fixed[name] = together
        for name, _ in first.named_buffers():
            self.fixed[name] = torch.stack([method.get_buffer(name) for method in self.methods])
        like = next(iter(self.weights.values()))
        self.numbers = {name: like.new_tensor(values) for name, values in _differing_numbers(self.methods).items()}
        self.optimiser = StackOptimiser(self.weights, self.methods, len(self.views[0]))
        self._loss = _Loss(first)
        self._begin()

    def _begin(self) -> None:
        """Every run's random numbers from their beginning."""
        self.draws = [generator_for(lesson.seed, "draws", lesson.task) for lesson in self.lessons]
        self.orders = [generator_for(lesson.seed, "batches", lesson.task) for lesson in self.lessons]

    @classmethod
    def of(cls, lessons: Sequence[Lesson]) -> _Ensemble | None:
        """None where the loss cannot be stacked: shapes differ, or it looks at values."""
        try:
            probe = cls(lessons)
            indices = [next(probe.views[0].shuffled(probe.config.batch_size, order)) for order in probe.orders]
            with torch.no_grad():
                probe.losses(probe.batches(indices))
        except Exception:  # what is wrong with a run by itself, it says when it is trained alone
            return None
        probe._begin()
        return probe

    def train(self) -> list[Taught | Exception]:
        """As `bench.run.training.train_task` trains one."""
        start, config = time.perf_counter(), self.config
        parameters = list(self.weights.values())
        self._tie(own=False)
        failed: dict[int, Exception] = {}
        passes = steps_of_passes(self.optimiser.total, config, len(self.views[0]))
        for epoch, steps in enumerate(passes):
            losses: list[dict[str, Tensor]] = []
            orders = [self.views[0].shuffled(config.batch_size, order) for order in self.orders]
            for indices in islice(zip(*orders, strict=True), steps):
                terms = self.losses(self.batches(indices))
                self.optimiser.zero_grad()
                torch.stack(list(terms.values())).sum().backward()
                self._clip(parameters)
                self.optimiser.step()
                losses.append({name: value_S.detach() for name, value_S in terms.items()})
            for s, mean in enumerate(means_of(losses, epoch, self.lessons[0].task)):
                if isinstance(mean, DivergedError):
                    failed.setdefault(s, mean)
                elif s not in failed:
                    self.lessons[s].on_epoch(Epoch(epoch + 1, len(passes), steps, mean))
        self._tie(own=True)
        share = (time.perf_counter() - start) / len(self.lessons)
        return [failed.get(s, Taught(self.optimiser.total, share, len(self.lessons))) for s in range(len(self.lessons))]

    def losses(self, parts: Mapping[str, Any]) -> dict[str, Tensor]:
        """Each term [S] of batches [S, N, ...]."""

        def loss(state: dict[str, Tensor], batch: Mapping[str, Any], numbers: dict[str, Tensor]) -> dict[str, Tensor]:
            terms: dict[str, Tensor] = functional_call(self._loss, state, (batch, numbers))
            return terms

        state = {f"method.{name}": value for name, value in {**self.weights, **self.fixed}.items()}
        terms: dict[str, Tensor] = vmap(loss)(state, parts, self.numbers)
        return terms

    def batches(self, indices: Sequence[Tensor]) -> dict[str, Any]:
        """The parts of each run's prepared batch, stacked. Where runs share features, one gather serves all."""
        together: dict[str, Any] = {}
        if self.shared:
            whole = self.views[0].features(torch.cat(list(indices)))
            together = _mapped(lambda x: x.view(len(indices), -1, *x.shape[1:]), _parts_of(whole))
            given = [_batch_of(_mapped(itemgetter(s), together)) for s in range(len(indices))]
        else:
            given = [view.features(index_N) for view, index_N in zip(self.views, indices, strict=True)]
        prepared = [
            method.prepare(batch.with_rows(**view.rows_of(index_N)), draws)
            for method, batch, view, index_N, draws in zip(
                self.methods, given, self.views, indices, self.draws, strict=True
            )
        ]
        parts = [_parts_of(batch) for batch in prepared]
        stacked = {}
        for name in parts[0]:
            untouched = all(getattr(p, name) is getattr(g, name) for p, g in zip(prepared, given, strict=True))
            kept = self.shared and untouched
            stacked[name] = together[name] if kept else _stacked([mine[name] for mine in parts])
        return stacked

    def _clip(self, parameters: Sequence[Tensor]) -> None:
        """Each run's gradient to the norm that it may have."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        norm_S = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in gradients]).norm(dim=0)
        factor_S = (self.numbers.get("clip_norm", self.config.clip_norm) / (norm_S + 1e-6)).clamp(max=1)
        for gradient in gradients:
            gradient.mul_(factor_S.view(-1, *(1 for _ in gradient.shape[1:])))

    def let_go(self) -> None:
        """The methods own their parameters again, whatever state these are in."""
        self._tie(own=True)

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


def _parts_of(batch: PairBatch) -> dict[str, Any]:
    """A batch as nested tuples and dicts of tensors, which vmap takes apart; those that `_batch_of` puts together."""
    parts = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    return {**parts, "replayed": {name: _parts_of(other) for name, other in batch.replayed.items()}}


def _batch_of(parts: Mapping[str, Any]) -> PairBatch:
    return PairBatch(**{**parts, "replayed": {name: _batch_of(other) for name, other in parts["replayed"].items()}})


def _mapped(function: Callable[[Tensor], Tensor], parts: Any) -> Any:
    """The same nested tuples and dicts with the function of every tensor."""
    if isinstance(parts, Mapping):
        return {name: _mapped(function, part) for name, part in parts.items()}
    if isinstance(parts, tuple):
        return type(parts)(*(_mapped(function, part) for part in parts))
    return function(parts)


def _stacked(parts: Sequence[Any]) -> Any:
    """Nested tuples and dicts of tensors on a new first axis. Raises ValueError where their names differ.

    Tensors whose second axes differ are padded with zeros (False) to the longest.
    """
    first = parts[0]
    if isinstance(first, Mapping):
        if any(part.keys() != first.keys() for part in parts):
            raise ValueError("the runs prepare different draws")
        return {name: _stacked([part[name] for part in parts]) for name in first}
    if isinstance(first, tuple):
        return type(first)(*map(_stacked, zip(*parts, strict=True)))
    tensors: Sequence[Tensor] = parts
    width = max((x.shape[1] for x in tensors if x.dim() > 1), default=0)
    if any(x.dim() > 1 and x.shape[1] < width for x in tensors):
        tensors = [pad(x, (0, 0) * (x.dim() - 2) + (0, width - x.shape[1])) for x in tensors]
    return torch.stack(list(tensors))
