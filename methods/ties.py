"""TIES merging: train every task from the same start; trim what each moved little, elect signs, average who agrees.

tau_t = theta_t - theta_0;   trim: keep the `keep` share of largest |tau_t|, others 0
elect: sign_p = sign( sum_t tau_tp );   merge: tau_p = mean of the tau_tp that are not 0 and have that sign
model after t tasks: theta = theta_0 + merge tau                                            Yadav et al. 2023, NeurIPS
Trimmed vectors of all tasks are stored, since signs must be elected anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from ctvr_bench.features.streams import PairTable
from ctvr_bench.methods.finetune import Finetune, FinetuneConfig
from ctvr_bench.methods.shared.base import FeatureSpec, TaskInfo
from ctvr_bench.methods.shared.ranges import NotNegative, Search, Share
from ctvr_bench.methods.shared.registry import register
from ctvr_bench.methods.shared.views import MeanWords
from ctvr_bench.methods.shared.weights import set_weights, weights_of


@dataclass(frozen=True)
class TIESConfig(FinetuneConfig):
    """keep: share of a task's weight changes that is not trimmed. merge: factor on the merged change."""

    lr: NotNegative = 7e-4
    keep: Annotated[Share, Search(0.02, 1.0)] = 0.5
    merge: Annotated[NotNegative, Search(0.1, 3.0)] = 1.0


@register()
class TIES(MeanWords, Finetune):
    """Fine-tuning of each task from the start, merged by trimming, sign election and disjoint means."""

    name = "ties"
    paper = "Yadav et al. 2023, TIES-Merging: Resolving Interference When Merging Models"
    source = "the paper's equations"
    published = "keep=0.2"
    idea = "Merging hurts where tasks disagree about a sign or merely drift: drop the drift, let the majority decide."
    ensembles = False  # trimming is a step: rounding may move a weight across it (scores differ by 1e-4)
    Config = TIESConfig
    config: TIESConfig
    start_P: Tensor
    trimmed_TP: Tensor

    def __init__(self, config: TIESConfig, spec: FeatureSpec, generator: torch.Generator) -> None:
        super().__init__(config, spec, generator)
        self.register_buffer("start_P", weights_of(self.head).detach())
        self.register_buffer("trimmed_TP", torch.zeros(spec.num_tasks, len(self.start_P)))

    def begin_task(self, task: TaskInfo) -> None:
        super().begin_task(task)
        set_weights(self.head, self.start_P)

    @torch.no_grad()
    def end_task(self, data: PairTable, generator: torch.Generator) -> None:
        self.trimmed_TP[self.task.position] = trim(weights_of(self.head) - self.start_P, self.config.keep)
        set_weights(self.head, self.start_P + self.config.merge * elect_and_average(self.trimmed_TP))


def trim(change_P: Tensor, keep: float) -> Tensor:
    """The `keep` share of entries that are largest in size, the others 0."""
    kept = change_P.abs().topk(max(1, round(keep * len(change_P)))).indices
    return torch.zeros_like(change_P).index_copy(0, kept, change_P[kept])


def elect_and_average(trimmed_TP: Tensor) -> Tensor:
    """change_P: the mean of those entries of each column that have the sign of the column's sum; 0 without any."""
    agrees_TP = trimmed_TP.sign() == trimmed_TP.sum(0).sign()
    return (trimmed_TP * agrees_TP).sum(0) / agrees_TP.sum(0).clamp(min=1)
