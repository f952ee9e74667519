"""Best-in-TIME: tasks start from a running average of the weights, which is deployed too; rates fall over tasks.

theta_t is trained from avg_{t-1};   avg_t = (1 - w) avg_{t-1} + w theta_t,   avg_{-1} the weights before any task
average = exponential: w = `weight`. uniform: w = 1 / (t + 2), so that avg is the mean of the start and of all theta.
Task t (from 0) of T steps with lr over sqrt(t + 1) (over_tasks = rsqrt), times (1 + cos(pi t / T)) / 2 (cosine), or as
it is (constant).             Dziadzio et al. 2025, CVPR (the average); Roth et al. 2024, NeurIPS (rates over tasks)
At a constant rate and exponential weight this is `wise_ft` with mix = weight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from ctvr_bench.features.streams import PairTable
from ctvr_bench.methods.finetune import Finetune, FinetuneConfig
from ctvr_bench.methods.shared.base import FeatureSpec, ParameterGroup
from ctvr_bench.methods.shared.ranges import Among, NotNegative, Search, Share
from ctvr_bench.methods.shared.registry import register
from ctvr_bench.methods.shared.views import MeanWords
from ctvr_bench.methods.shared.weights import set_weights, weights_of


@dataclass(frozen=True)
class BestInTimeConfig(FinetuneConfig):
    """average, weight: how a task's weights enter the average. over_tasks: how lr falls from task to task."""

    lr: NotNegative = 2e-3
    average: Literal["exponential", "uniform"] = "exponential"
    weight: Annotated[Share, Search(0.0, 1.0, "linear")] = 0.5
    over_tasks: Annotated[Literal["rsqrt", "cosine", "constant"], Among(("rsqrt", "cosine", "constant"))] = "rsqrt"


@register()
class BestInTime(MeanWords, Finetune):
    """Fine-tuning from, and deployed as, a running average of the tasks' weights."""

    name = "best_in_time"
    paper = "Dziadzio et al. 2025, How to Merge Your Multimodal Models Over Time?"
    source = "pseudope/fomo_in_flux@8f419c8 continual_lib/ema_paint.py, merge.py"
    fidelity = "adapted"
    deviations = (
        "no replay of pretraining and earlier pairs; only the papers' abstracts and a fork's code could be read, so "
        "that `weight` is that code's for two states where none is given, and `over_tasks` names plain schedules"
    )
    idea = "The average of all models so far is both the best place to start from and the best model to serve."
    Config = BestInTimeConfig
    config: BestInTimeConfig
    average_P: Tensor

    def __init__(self, config: BestInTimeConfig, spec: FeatureSpec, generator: torch.Generator) -> None:
        super().__init__(config, spec, generator)
        self.register_buffer("average_P", weights_of(self.head).detach())

    def parameter_groups(self) -> list[ParameterGroup]:
        task = max(self.task.position, 0)
        cosine = (1 + math.cos(math.pi * task / self.spec.num_tasks)) / 2
        rate = {"rsqrt": 1 / math.sqrt(task + 1), "cosine": cosine, "constant": 1.0}[self.config.over_tasks]
        return [ParameterGroup(list(self.head.parameters()), rate)]

    def end_task(self, data: PairTable, generator: torch.Generator) -> None:
        weight = 1 / (self.task.position + 2) if self.config.average == "uniform" else self.config.weight
        self.average_P = (1 - weight) * self.average_P + weight * weights_of(self.head).detach()
        set_weights(self.head, self.average_P)
