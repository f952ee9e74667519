"""An adapter of its own for every task, taken by the gallery's task: isolation of parameters.

Task t trains a new residual head from the identity, L = finetune's; the heads of earlier tasks never change. The
gallery of task j keeps videos of head j, and queries are compared with it through head j (never their own task's, which
nobody knows). So the own-gallery score of a finished task stays the same bit for bit (BWF is 0); what can be lost is
that scores of different heads, never trained against each other, do not compare.
                        Houlsby et al. 2019 (adapters); Rusu et al. 2016 (a column per task, here without connections)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from ctvr_bench.features.streams import PairTable, TextBatch, VideoBatch
from ctvr_bench.methods.finetune import Finetune, FinetuneConfig
from ctvr_bench.methods.shared.base import FeatureSpec, TaskInfo, TextEmbedding, VideoEmbedding
from ctvr_bench.methods.shared.ranges import Count, NotNegative
from ctvr_bench.methods.shared.registry import register
from ctvr_bench.methods.shared.views import MeanWords
from ctvr_bench.methods.shared.weights import set_weights, swapped_weights, weights_of


@dataclass(frozen=True)
class AdapterPerTaskConfig(FinetuneConfig):
    """rank: width of each task's adapters."""

    lr: NotNegative = 7e-4
    rank: Count = 64


@register()
class AdapterPerTask(MeanWords, Finetune):
    """One residual head per task; galleries and the queries that ask them go through their task's head."""

    name = "adapter_per_task"
    paper = "Houlsby et al. 2019, Parameter-Efficient Transfer Learning; one adapter per task (Rusu et al. 2016)"
    source = "the definition"
    idea = "Nothing can be forgotten that nothing else may touch."
    ensembles = False  # measured: little faster, and it rounds further from the run alone than others
    Config = AdapterPerTaskConfig
    config: AdapterPerTaskConfig
    adapters_TP: Tensor

    def __init__(self, config: AdapterPerTaskConfig, spec: FeatureSpec, generator: torch.Generator) -> None:
        super().__init__(config, spec, generator)
        self.register_buffer("adapters_TP", weights_of(self.head).detach().repeat(spec.num_tasks, 1))

    @property
    def uses_shards(self) -> bool:
        return True

    def begin_task(self, task: TaskInfo) -> None:
        super().begin_task(task)
        set_weights(self.head, self.adapters_TP[task.position])

    def end_task(self, data: PairTable, generator: torch.Generator) -> None:
        self.adapters_TP[self.task.position] = weights_of(self.head).detach()

    def encode_text(self, text: TextBatch, shard: int) -> TextEmbedding:
        with self._adapter(shard):
            return super().encode_text(text, shard)

    def encode_gallery(self, video: VideoBatch, shard: int) -> VideoEmbedding:
        with self._adapter(shard):
            return super().encode_video(video)

    @contextmanager
    def _adapter(self, shard: int) -> Iterator[None]:
        """The head of an earlier task; the newest one is in place anyway."""
        if not 0 <= shard < self.task.position:
            yield
            return
        with swapped_weights(self.head, self.adapters_TP[shard]):
            yield
