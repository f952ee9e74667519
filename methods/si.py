"""Synaptic Intelligence: the share of the loss's fall that each weight brought about is its importance.

L = L_contrastive + strength sum_p W_p (theta_p - theta*_p)^2,   theta* the weights after the last task
w_p = - sum_steps g_p (theta_p after - before the step),   g the gradient of L_contrastive alone, before clipping
W <- W + max(w, 0) / ((theta - theta*)^2 + damping)   after each task                      Zenke et al. 2017, ICML
The steps are the optimiser's real ones, so momentum, clipping and weight decay are in them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from ctvr_bench.features.streams import PairBatch, PairTable
from ctvr_bench.methods.finetune import Finetune, FinetuneConfig
from ctvr_bench.methods.shared.base import FeatureSpec, TaskInfo
from ctvr_bench.methods.shared.ranges import NotNegative, Positive, Search
from ctvr_bench.methods.shared.registry import register
from ctvr_bench.methods.shared.views import MeanWords
from ctvr_bench.methods.shared.weights import gradient_of, weights_of


@dataclass(frozen=True)
class SIConfig(FinetuneConfig):
    """strength: c. damping: xi, in squared weights.

    The authors' 0.1 and 0.1 do nothing here: weights move by about 0.01 in a task, and xi must not drown that squared.
    """

    lr: NotNegative = 2e-3
    strength: Annotated[NotNegative, Search(0.01, 100.0)] = 1.0
    damping: Annotated[Positive, Search(1e-5, 1e-1)] = 1e-3


@register()
class SI(MeanWords, Finetune):
    """Fine-tuning with a quadratic penalty weighted by path integrals of the gradient."""

    name = "si"
    paper = "Zenke et al. 2017, Continual Learning Through Synaptic Intelligence"
    source = "the paper's equations"
    published = "strength=0.1, damping=0.1"
    idea = "While training, each weight keeps account of how much it lowered the loss."
    Config = SIConfig
    config: SIConfig

    def __init__(self, config: SIConfig, spec: FeatureSpec, generator: torch.Generator) -> None:
        super().__init__(config, spec, generator)
        self.path = PathIntegral(weights_of(self.head).detach())

    def begin_task(self, task: TaskInfo) -> None:
        super().begin_task(task)
        self.path.begin(weights_of(self.head).detach())

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        moved_P = weights_of(self.head) - self.path.anchor_P
        penalty = self.config.strength * (self.path.importance_P * moved_P.square()).sum()
        return {**super().loss(batch), "penalty": penalty}

    @torch.no_grad()
    def after_backward(self, batch: PairBatch) -> None:
        """The penalty's gradient is known in closed form and taken out of what backward left."""
        moved_P = weights_of(self.head) - self.path.anchor_P
        penalty_P = 2 * self.config.strength * self.path.importance_P * moved_P
        self.gradient_P = gradient_of(self.head) - penalty_P

    @torch.no_grad()
    def after_step(self, batch: PairBatch) -> None:
        self.path.step(self.gradient_P, weights_of(self.head))
        del self.gradient_P

    def end_task(self, data: PairTable, generator: torch.Generator) -> None:
        self.path.end(weights_of(self.head).detach(), self.config.damping)


class PathIntegral(nn.Module):
    """w_P of the current task, and the importance_P and anchor_P (theta*) that finished tasks left."""

    path_P: Tensor
    last_P: Tensor
    anchor_P: Tensor
    importance_P: Tensor

    def __init__(self, weights_P: Tensor) -> None:
        super().__init__()
        self.register_buffer("path_P", torch.zeros_like(weights_P))
        self.register_buffer("last_P", weights_P.clone())
        self.register_buffer("anchor_P", weights_P.clone())
        self.register_buffer("importance_P", torch.zeros_like(weights_P))

    def begin(self, weights_P: Tensor) -> None:
        self.path_P = torch.zeros_like(self.path_P)
        self.last_P = weights_P

    def step(self, gradient_P: Tensor, weights_P: Tensor) -> None:
        """gradient_P: before the step; weights_P: after it."""
        self.path_P = self.path_P - gradient_P * (weights_P - self.last_P)
        self.last_P = weights_P

    def end(self, weights_P: Tensor, damping: float) -> None:
        moved_P = weights_P - self.anchor_P
        self.importance_P = self.importance_P + self.path_P.clamp(min=0) / (moved_P.square() + damping)
        self.anchor_P = weights_P
