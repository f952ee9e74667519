"""The training loop of one task: batches by index, one optimiser, one schedule, every term logged."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import islice

import torch
from torch import Tensor

from ctvr_bench.features.streams import PairTable
from ctvr_bench.methods.shared.base import Method, TaskInfo, TrainedConfig

_CHUNK = 256


class DivergedError(RuntimeError):
    """A loss stopped being finite."""


@dataclass(frozen=True)
class Epoch:
    """One pass over a task's pairs. epoch: from 1. terms: mean of each loss term over the epoch's steps."""

    epoch: int
    epochs: int
    steps: int
    terms: dict[str, float]


def generator_for(seed: int, *purpose: str | int) -> torch.Generator:
    """Random numbers for one purpose of one run: the same for every method with that seed, on every machine.

    Because each task has generators of its own, a run that is resumed after a task continues with the same numbers.
    """
    key = "/".join(map(str, (seed, *purpose)))
    number = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little") >> 1
    return torch.Generator().manual_seed(number)


def learn_task(
    method: Method, data: PairTable, task: TaskInfo, seed: int, on_epoch: Callable[[Epoch], None] = lambda epoch: None
) -> int:
    """A whole task as a run learns it, from `begin_task` to `end_task`; returns the number of steps."""
    if not (method.is_trained or method.closed_form):
        method.task = task
        return 0
    method.begin_task(task)
    steps = 0
    if method.closed_form:
        method.fit_task(data, generator_for(seed, "fit", task.position))
    else:
        steps = train_task(method, data, seed, task.position, on_epoch)
    method.end_task(data, generator_for(seed, "end", task.position))
    return steps


class FrozenRows:
    """What a method says stays as it is while it learns a task, made once for each caption, each video or both."""

    def __init__(self, method: Method, data: PairTable) -> None:
        config, every_video = method.config, data.all_videos()
        assert isinstance(config, TrainedConfig)
        self._data = data
        self._captions = _rows(method.frozen_text(data.text(index)) for index in data.chunks(_CHUNK))
        self._pairs: dict[str, Tensor] = {}
        in_steps = total_steps(method, len(data)) * config.batch_size**2
        if len(every_video.frames_MFD) * len(data) <= in_steps:  # as many similarities as the steps would make
            found = method.frozen_pairs(map(data.text, data.chunks(config.batch_size)), every_video)
            self._pairs = {name: rows_PV.detach() for name, rows_PV in found.items()}
        self._videos = {} if self._pairs else _rows(map(method.frozen_video, data.video_chunks(_CHUNK)))

    def of(self, index_N: Tensor) -> dict[str, Tensor]:
        """The rows of these pairs, by name."""
        if not (self._captions or self._videos or self._pairs):
            return {}
        index, position = self._data.positions(index_N)
        captions = {name: rows[index] for name, rows in self._captions.items()}
        videos = {name: rows[position] for name, rows in self._videos.items()}
        return captions | videos | {name: rows_PV[index][:, position] for name, rows_PV in self._pairs.items()}


def _rows(parts: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
    found: dict[str, list[Tensor]] = {}
    for part in parts:
        if not part:
            return {}
        for name, rows in part.items():
            found.setdefault(name, []).append(rows.detach())
    return {name: torch.cat(rows) for name, rows in found.items()}


def train_task(
    method: Method, data: PairTable, seed: int, task: int, on_epoch: Callable[[Epoch], None] = lambda epoch: None
) -> int:
    """Minimise the sum of the method's loss terms over the task's pairs; returns the number of steps.

    AdamW with decoupled decay; the gradient's norm is clipped over all of the method's parameters. The order of batches
    depends on seed and task only, so that methods are compared on the same batches. Raises DivergedError.
    """
    config = method.config
    assert isinstance(config, TrainedConfig)
    optimiser, schedule, total = make_optimiser(method.optimised_parameters(), method, config, len(data))
    order, draws = generator_for(seed, "batches", task), generator_for(seed, "draws", task)
    data = data.with_mean_words() if method.averages_words else data
    frozen = FrozenRows(method, data)
    method.train()
    passes = steps_of_passes(total, config, len(data))
    for epoch, steps in enumerate(passes):
        sums: dict[str, Tensor] = {}
        for index_N in islice(data.shuffled(config.batch_size, order), steps):
            batch = method.prepare(data.pairs(index_N).with_draws(**frozen.of(index_N)), draws)
            terms = method.loss(batch)
            optimiser.zero_grad()
            torch.stack(list(terms.values())).sum().backward()
            method.after_backward()
            torch.nn.utils.clip_grad_norm_(method.parameters(), config.clip_norm)
            optimiser.step()
            schedule.step()
            method.after_step(batch)
            for name, value in terms.items():
                sums[name] = sums.get(name, value.new_zeros(())) + value.detach()
        means = {name: float(value) / steps for name, value in sums.items()}
        if not all(map(math.isfinite, means.values())):
            raise diverged(epoch, task, means)
        on_epoch(Epoch(epoch + 1, len(passes), steps, means))
    method.eval()
    return total


def make_optimiser(
    parameters: Iterable[Tensor], method: Method, config: TrainedConfig, pairs: int
) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR, int]:
    """What a task of so many pairs is trained with, the method's own parameters or a stack of them, and its steps."""
    total = total_steps(method, pairs)
    optimiser = torch.optim.AdamW(
        list(parameters), lr=method.learning_rate(), weight_decay=config.weight_decay, fused=True
    )
    factor = partial(learning_rate_factor, total=total, config=config)
    return optimiser, torch.optim.lr_scheduler.LambdaLR(optimiser, factor), total


def total_steps(method: Method, pairs: int) -> int:
    """Steps of a task of so many pairs. A method that sees all tasks at once makes those of all of them."""
    config = method.config
    assert isinstance(config, TrainedConfig)
    if config.steps:
        return config.steps * (method.spec.num_tasks if method.sees == "all" else 1)
    return config.epochs * math.ceil(pairs / config.batch_size)


def steps_of_passes(total: int, config: TrainedConfig, pairs: int) -> list[int]:
    """How the steps of a task fall on passes over its pairs; the last pass may be cut short.

    >>> steps_of_passes(5, TrainedConfig(batch_size=32), 64)
    [2, 2, 1]
    """
    whole = math.ceil(pairs / config.batch_size)
    return [min(whole, total - made) for made in range(0, total, whole)]


def diverged(epoch: int, task: int, means: dict[str, float]) -> DivergedError:
    """What to raise where the mean terms of an epoch of a task (both from 0) are not finite."""
    return DivergedError(f"loss is not finite in epoch {epoch + 1} of task {task + 1}: {means}; lower the lr")


def learning_rate_factor(step: int, total: int, config: TrainedConfig) -> float:
    """Share of the peak learning rate at a step (from 0) of `total`: linear warm-up, then the schedule.

    cosine: 1/2 (1 + cos(pi p)), p = progress after warm-up. cosine_back: 1/2 (1 + cos(2 pi p)), the release's schedule,
    which climbs back to the peak (spec D12). constant: 1.
    """
    warm = max(1, round(config.warmup * total)) if config.warmup else 0
    if step < warm:
        return (step + 1) / warm
    progress = (step - warm) / max(1, total - warm)
    turns = {"constant": 0.0, "cosine": 1.0, "cosine_back": 2.0}[config.schedule]
    return 0.5 * (1 + math.cos(math.pi * turns * progress))
