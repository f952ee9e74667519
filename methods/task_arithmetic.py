"""Task arithmetic: train every task from the same start, and add up what the weights moved.

tau_t = theta_t - theta_0,   model after t tasks: theta = theta_0 + merge sum_{j<=t} tau_j        Ilharco et al. 2023
Each task starts from theta_0, so that tasks do not see each other; only the running sum is stored. The authors choose
`merge` on validation data; 0.3 to 0.4 is what they find for eight tasks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from ctvr_bench.features.streams import PairTable
from ctvr_bench.methods.finetune import Finetune, FinetuneConfig
from ctvr_bench.methods.shared.base import FeatureSpec, TaskInfo
from ctvr_bench.methods.shared.ranges import NotNegative, Search
from ctvr_bench.methods.shared.registry import register
from ctvr_bench.methods.shared.views import MeanWords
from ctvr_bench.methods.shared.weights import set_weights, weights_of


@dataclass(frozen=True)
class TaskArithmeticConfig(FinetuneConfig):
    """merge: factor on the sum of the tasks' weight changes."""

    lr: NotNegative = 2e-3
    merge: Annotated[NotNegative, Search(0.05, 1.5)] = 0.2


@register()
class TaskArithmetic(MeanWords, Finetune):
    """Fine-tuning of each task from the start, merged by adding weight changes."""

    name = "task_arithmetic"
    paper = "Ilharco et al. 2023, Editing Models with Task Arithmetic"
    source = "the paper's equation"
    idea = "What a task teaches is a direction in weight space; directions of many tasks can be added."
    Config = TaskArithmeticConfig
    config: TaskArithmeticConfig
    start_P: Tensor
    sum_P: Tensor

    def __init__(self, config: TaskArithmeticConfig, spec: FeatureSpec, generator: torch.Generator) -> None:
        super().__init__(config, spec, generator)
        self.register_buffer("start_P", weights_of(self.head).detach())
        self.register_buffer("sum_P", torch.zeros_like(self.start_P))

    def begin_task(self, task: TaskInfo) -> None:
        super().begin_task(task)
        set_weights(self.head, self.start_P)

    @torch.no_grad()
    def end_task(self, data: PairTable, generator: torch.Generator) -> None:
        self.sum_P = self.sum_P + weights_of(self.head) - self.start_P
        set_weights(self.head, self.start_P + self.config.merge * self.sum_P)
