"""Memory Aware Synapses: weights to which the output is sensitive are held; no labels needed.

L = L_contrastive + strength sum_p W_p (theta_p - theta*_p)^2,   theta* the weights after the last task
G = 1/N sum_i | d ||f(x_i)||^2 / d theta |   after each task
W <- keep W + (1 - keep) G  (G after the first task),  or W <- W + G                    Aljundi et al. 2018, ECCV
f is what the head gives before it is brought to unit length, caption and video each in lengths of the frozen feature,
so that the encoder's scale does not matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from ctvr_bench.features.streams import PairBatch, PairTable
from ctvr_bench.methods.finetune import Finetune, FinetuneConfig
from ctvr_bench.methods.shared.base import FeatureSpec
from ctvr_bench.methods.shared.heads import masked_mean, norm
from ctvr_bench.methods.shared.ranges import NotNegative, Search, Share
from ctvr_bench.methods.shared.registry import register
from ctvr_bench.methods.shared.views import MeanWords
from ctvr_bench.methods.shared.weights import gradient_rows, weights_of


@dataclass(frozen=True)
class MASConfig(FinetuneConfig):
    """strength: lambda; the authors' 1 does nothing here, where weights move by about 0.01 in a task.

    over_tasks: a running mean of importance, or its sum as in the authors' code. keep: alpha, the share of the old
    importance when a task is added to the mean.
    """

    lr: NotNegative = 2e-3
    strength: Annotated[NotNegative, Search(1.0, 1e4)] = 100.0
    over_tasks: Literal["mean", "sum"] = "mean"
    keep: Share = 0.5


@register()
class MAS(MeanWords, Finetune):
    """Fine-tuning with a quadratic penalty weighted by the sensitivity of the output's length."""

    name = "mas"
    paper = "Aljundi et al. 2018, Memory Aware Synapses: Learning what (not) to forget"
    source = "rahafaljundi/MAS-Memory-Aware-Synapses@c3e6a85 MAS_to_be_published/MAS_utils/MAS_based_Training.py"
    fidelity = "adapted"
    deviations = (
        "importance is a running mean over tasks, the authors sum it (`over_tasks`); lengths are in units of the "
        "frozen feature's"
    )
    published = "over_tasks=sum, strength=1.0"
    idea = "A weight is as important as the output is sensitive to it, whatever the loss."
    Config = MASConfig
    config: MASConfig
    anchor_P: Tensor
    importance_P: Tensor

    def __init__(self, config: MASConfig, spec: FeatureSpec, generator: torch.Generator) -> None:
        super().__init__(config, spec, generator)
        self.register_buffer("anchor_P", weights_of(self.head).detach())
        self.register_buffer("importance_P", torch.zeros_like(self.anchor_P))

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        moved_P = weights_of(self.head) - self.anchor_P
        penalty = self.config.strength * (self.importance_P * moved_P.square()).sum()
        return {**super().loss(batch), "penalty": penalty}

    def end_task(self, data: PairTable, generator: torch.Generator) -> None:
        total_P = torch.zeros_like(self.importance_P)
        for index_N in data.shuffled(self.config.batch_size, generator):
            total_P += sensitivity(self._squared_lengths(data.pairs(index_N)), self.head)
        if self.config.over_tasks == "sum":
            self.importance_P = self.importance_P + total_P / len(data)
        else:
            keep = self.config.keep if self.task.position > 0 else 0.0
            self.importance_P = keep * self.importance_P + (1 - keep) * total_P / len(data)
        self.anchor_P = weights_of(self.head).detach()

    def _squared_lengths(self, batch: PairBatch) -> Tensor:
        """||caption||^2 + ||video||^2 of each pair, in squared lengths of the frozen features."""
        caption_ND = self.head.text(batch.text).pooled_ND / norm(batch.text.pooled_ND).clamp(min=1e-8)
        frames_NFD, mask_NF, shift_ND = self.head.video_frames(batch.video)
        mean_ND = masked_mean(frames_NFD, mask_NF)
        video_ND = mean_ND if shift_ND is None else mean_ND + norm(mean_ND) * shift_ND
        video_ND = video_ND / norm(masked_mean(*batch.video)).clamp(min=1e-8)
        return caption_ND.square().sum(-1) + video_ND.square().sum(-1)


def sensitivity(value_N: Tensor, module: nn.Module) -> Tensor:
    """sum_i | d value_i / d theta |, [P]."""
    return gradient_rows(value_N, module).abs().sum(0)
