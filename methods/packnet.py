"""PackNet: tasks share one network's weights out among themselves; what a task keeps is frozen.

A task trains the weights that are still free, beside the frozen ones. Part of the way (`prune_at`) it keeps the largest
of them, tensor by tensor, frees the rest (set to 0), and trains on what it kept. Kept weights never change again. Task
j's network is what tasks 1..j keep, everything else 0; its gallery and the queries that ask it go through that network.
L = finetune's                                                                      Mallya & Lazebnik 2018, CVPR
With a share p freed each time, task t is left (1 - p) p^(t-1) of the weights: later tasks learn little.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from ctvr_bench.features.streams import PairBatch, PairTable, TextBatch, VideoBatch
from ctvr_bench.methods.finetune import Finetune, FinetuneConfig
from ctvr_bench.methods.shared.base import FeatureSpec, TaskInfo, TextEmbedding, VideoEmbedding, total_steps
from ctvr_bench.methods.shared.ranges import NotNegative, PartOf, Search, Share
from ctvr_bench.methods.shared.registry import register
from ctvr_bench.methods.shared.views import MeanWords
from ctvr_bench.methods.shared.weights import gradient_of, set_gradient, set_weights, swapped_weights, weights_of

FREE = torch.iinfo(torch.int16).max
"""The owner of a weight that no task has kept; above any task's position."""


@dataclass(frozen=True)
class PackNetConfig(FinetuneConfig):
    """prune: share of its weights that a task gives back. prune_at: share of its steps after which it does.

    prune_last: whether the stream's last task gives weights back too, for tasks that will not come.
    """

    lr: NotNegative = 7e-4
    prune: Annotated[PartOf, Search(0.0, 0.95, "linear")] = 0.7
    prune_at: Share = 0.5
    prune_last: bool = True


@register()
class PackNet(MeanWords, Finetune):
    """Fine-tuning of disjoint sets of weights, found by pruning."""

    name = "packnet"
    paper = "Mallya & Lazebnik 2018, PackNet: Adding Multiple Tasks to a Single Network by Iterative Pruning"
    source = "arunmallya/packnet@7b6032c src/prune.py, src/scripts/run_sequence.sh"
    fidelity = "adapted"
    deviations = (
        "pruning and retraining share a task's epochs, there ten are added to twenty; the last task is pruned too"
        " (`prune_last`)"
    )
    published = "prune=0.75, epochs=30, prune_at=0.667, prune_last=false"
    idea = "A task needs only some of the weights: prune, freeze what is left, give the rest to the next task."
    Config = PackNetConfig
    config: PackNetConfig
    owner_P: Tensor
    kept_P: Tensor
    pruned: Tensor

    def __init__(self, config: PackNetConfig, spec: FeatureSpec, generator: torch.Generator) -> None:
        super().__init__(config, spec, generator)
        weights_P = weights_of(self.head).detach()
        self.register_buffer("owner_P", torch.full_like(weights_P, FREE, dtype=torch.int16))
        self.register_buffer("kept_P", torch.zeros_like(weights_P))
        self.register_buffer("pruned", torch.ones((), dtype=torch.bool))

    @property
    def uses_shards(self) -> bool:
        return True

    def begin_task(self, task: TaskInfo) -> None:
        super().begin_task(task)
        self.steps = 0
        self.owner_P = torch.where(self.owner_P == FREE, torch.full_like(self.owner_P, task.position), self.owner_P)
        is_last = task.position + 1 == self.spec.num_tasks
        self.pruned = torch.full_like(self.pruned, is_last and not self.config.prune_last)

    def after_backward(self, batch: PairBatch) -> None:
        set_gradient(self.head, gradient_of(self.head) * (self.owner_P == self.task.position))

    @torch.no_grad()
    def after_step(self, batch: PairBatch) -> None:
        """Weight decay and momentum move frozen weights too; they are put back."""
        config = self.config
        set_weights(self.head, torch.where(self.owner_P == self.task.position, weights_of(self.head), self.kept_P))
        self.steps += 1
        total = total_steps(self, self.task.num_pairs)
        if not self.pruned and self.steps == max(1, round(config.prune_at * total)):
            self._prune()

    @torch.no_grad()
    def end_task(self, data: PairTable, generator: torch.Generator) -> None:
        if not self.pruned:
            self._prune()
        self.kept_P = torch.where(self.owner_P == FREE, 0.0, weights_of(self.head))

    def encode_text(self, text: TextBatch, shard: int) -> TextEmbedding:
        with self._network(shard):
            return super().encode_text(text, shard)

    def encode_gallery(self, video: VideoBatch, shard: int) -> VideoEmbedding:
        with self._network(shard):
            return super().encode_video(video)

    @contextmanager
    def _network(self, shard: int) -> Iterator[None]:
        """What tasks up to `shard` own; before the first task nothing, the identity."""
        with swapped_weights(self.head, weights_of(self.head).detach() * (self.owner_P <= shard)):
            yield

    def _prune(self) -> None:
        """Free the smallest of the task's own weights, in every tensor of the head."""
        sizes = [parameter.numel() for parameter in self.head.parameters()]
        weights_P = weights_of(self.head)
        for weights, owner in zip(weights_P.split(sizes), self.owner_P.split(sizes), strict=True):
            smallest_first = (owner == self.task.position).nonzero().squeeze(1)
            smallest_first = smallest_first[weights[smallest_first].abs().argsort(stable=True)]
            freed = smallest_first[: round(self.config.prune * len(smallest_first))]
            owner[freed], weights[freed] = FREE, 0.0
        set_weights(self.head, weights_P)
        self.pruned = torch.ones_like(self.pruned)
