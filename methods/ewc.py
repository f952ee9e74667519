"""Elastic Weight Consolidation (online): weights that mattered for old tasks are held by springs.

L = L_contrastive + strength/2 sum_p F_p (theta_p - theta*_p)^2,   theta* the weights after the last task
F <- gamma F + 1/N sum_i ( d l_i / d theta )^2      after each task, over its N pairs  Kirkpatrick 2017, Schwarz 2018
l_i = -log softmax(s S)_ii, the row cross-entropy of caption i among the videos of its batch. The Fisher is the
empirical one: the label is the observed pair, gradients are per pair, without dropout, in batches of the training size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from ctvr_bench.features.streams import PairBatch, PairTable
from ctvr_bench.methods.finetune import Finetune, FinetuneConfig
from ctvr_bench.methods.shared.base import FeatureSpec
from ctvr_bench.methods.shared.losses import row_cross_entropy
from ctvr_bench.methods.shared.ranges import NotNegative, Search, Share
from ctvr_bench.methods.shared.registry import register
from ctvr_bench.methods.shared.scoring import pair_similarity, same_video
from ctvr_bench.methods.shared.views import MeanWords
from ctvr_bench.methods.shared.weights import gradient_rows, weights_of


@dataclass(frozen=True)
class EWCConfig(FinetuneConfig):
    """strength: lambda. gamma: what stays of the old importance when a task is added."""

    strength: Annotated[NotNegative, Search(1.0, 1e4)] = 100.0
    gamma: Share = 1.0


@register()
class EWC(MeanWords, Finetune):
    """Fine-tuning with a quadratic penalty weighted by the Fisher information of earlier tasks."""

    name = "ewc"
    paper = "Kirkpatrick et al. 2017, Overcoming catastrophic forgetting; Schwarz et al. 2018 (online)"
    source = "the papers' equations"
    idea = "Move where the old losses are flat: each weight is held as firmly as old tasks need it."
    Config = EWCConfig
    config: EWCConfig
    anchor_P: Tensor
    importance_P: Tensor

    def __init__(self, config: EWCConfig, spec: FeatureSpec, generator: torch.Generator) -> None:
        super().__init__(config, spec, generator)
        self.register_buffer("anchor_P", weights_of(self.head).detach())
        self.register_buffer("importance_P", torch.zeros_like(self.anchor_P))

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        moved_P = weights_of(self.head) - self.anchor_P
        penalty = self.config.strength / 2 * (self.importance_P * moved_P.square()).sum()
        return {**super().loss(batch), "penalty": penalty}

    def end_task(self, data: PairTable, generator: torch.Generator) -> None:
        squares_P = torch.zeros_like(self.importance_P)
        for index_N in data.shuffled(self.config.batch_size, generator):
            squares_P += squared_gradients(self._pair_losses(data.pairs(index_N)), self.head)
        self.importance_P = self.config.gamma * self.importance_P + squares_P / len(data)
        self.anchor_P = weights_of(self.head).detach()

    def _pair_losses(self, batch: PairBatch) -> Tensor:
        text, video = self.embed_batch(batch)
        logits_NN = self.config.scale * pair_similarity(text, video, self.config)
        return row_cross_entropy(logits_NN, same_video(batch.video_N))


def squared_gradients(loss_N: Tensor, module: nn.Module) -> Tensor:
    """sum_i (d loss_i / d theta)^2, [P]: the diagonal of the empirical Fisher information of N losses, not averaged."""
    return gradient_rows(loss_N, module).square().sum(0)
