"""WiSE-FT: after each task, go only part of the way from the old weights to the new ones.

theta <- (1 - a) theta_old + a theta_new,  theta_old the weights before the task        Wortsman et al. 2022, CVPR
The paper interpolates once, from zero-shot; along a stream each task starts from the last interpolation, so that a = 0
stays zero-shot and a = 1 is fine-tuning, both bit for bit. A sweep over a is one curve from stability to plasticity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from ctvr_bench.features.streams import PairTable
from ctvr_bench.methods.finetune import Finetune, FinetuneConfig
from ctvr_bench.methods.shared.base import FeatureSpec, TaskInfo
from ctvr_bench.methods.shared.ranges import Search, Share
from ctvr_bench.methods.shared.registry import register
from ctvr_bench.methods.shared.views import MeanWords
from ctvr_bench.methods.shared.weights import set_weights, weights_of


@dataclass(frozen=True)
class WiseFTConfig(FinetuneConfig):
    """mix: a, the share of the way that is gone; 0 is zero-shot, 1 is fine-tuning."""

    mix: Annotated[Share, Search(0.0, 1.0, "linear")] = 0.75


@register()
class WiseFT(MeanWords, Finetune):
    """Fine-tuning, then interpolation of weights with those before the task."""

    name = "wise_ft"
    paper = "Wortsman et al. 2022, Robust fine-tuning of zero-shot models"
    source = "the paper's equation"
    fidelity = "adapted"
    deviations = "weights are mixed after every task with those before it; the paper mixes once, with zero-shot"
    published = "mix=0.5"
    idea = "Between the weights before and after a task lies a better trade-off than at either end."
    Config = WiseFTConfig
    config: WiseFTConfig
    before_P: Tensor

    def __init__(self, config: WiseFTConfig, spec: FeatureSpec, generator: torch.Generator) -> None:
        super().__init__(config, spec, generator)
        self.register_buffer("before_P", weights_of(self.head).detach())

    def begin_task(self, task: TaskInfo) -> None:
        super().begin_task(task)
        self.before_P = weights_of(self.head).detach()

    def end_task(self, data: PairTable, generator: torch.Generator) -> None:
        mix = self.config.mix
        set_weights(self.head, (1 - mix) * self.before_P + mix * weights_of(self.head))
