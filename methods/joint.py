"""Joint training: all tasks at once, with as many passes over every pair as fine-tuning makes.

The usual upper bound, and the reference of intransigence. It is trained before the first evaluation and does not change
after it.
"""

from __future__ import annotations

from dataclasses import dataclass

from ctvr_bench.methods.finetune import Finetune, FinetuneConfig
from ctvr_bench.methods.shared.ranges import NotNegative
from ctvr_bench.methods.shared.registry import register
from ctvr_bench.methods.shared.views import MeanWords


@dataclass(frozen=True)
class JointConfig(FinetuneConfig):
    """Fields of TrainedConfig; the rate is the one at which this method itself was best."""

    lr: NotNegative = 2e-3


@register()
class Joint(MeanWords, Finetune):
    """Fine-tuning that sees the training pairs of every task from the start."""

    name = "joint"
    paper = "the multi-task upper bound of continual learning (Lopez-Paz & Ranzato 2017)"
    source = "the definition"
    idea = "Train on all tasks together; what a continual method could reach without forgetting."
    stores_samples = "the training pairs of all tasks"
    sees = "all"
    Config = JointConfig
