"""Cumulative training: at every task, train on the pairs of all tasks so far.

L = finetune's, over the union of the tasks seen; the head goes on from where the last task left it. What a method could
reach that forgets nothing because it keeps everything; unlike `joint` it does not know the future.
"""

from __future__ import annotations

from dataclasses import dataclass

from ctvr_bench.methods.finetune import Finetune, FinetuneConfig
from ctvr_bench.methods.shared.ranges import NotNegative
from ctvr_bench.methods.shared.registry import register
from ctvr_bench.methods.shared.views import MeanWords


@dataclass(frozen=True)
class CumulativeConfig(FinetuneConfig):
    """Fields of TrainedConfig; the rate is the one at which this method itself was best."""

    lr: NotNegative = 7e-4


@register()
class Cumulative(MeanWords, Finetune):
    """Fine-tuning on every pair seen so far, again at each task."""

    name = "cumulative"
    paper = "rehearsal of everything, the replay upper bound of continual learning (Lopez-Paz & Ranzato 2017)"
    source = "the definition"
    idea = "Keep all data and train on all of it whenever a task arrives."
    stores_samples = "the training pairs of all tasks seen"
    sees = "seen"
    Config = CumulativeConfig
