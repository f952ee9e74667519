"""Averaged GEM: a step may not raise the loss on a sample of the past.

g the gradient of the batch's loss, m that of as many pairs drawn from a reservoir; if g . m < 0 then
g <- g - (g . m) / (m . m) m,   so that g . m = 0                                        Chaudhry et al. 2019, ICLR
The projection comes before the gradient's norm is clipped. Stored pairs are asked for a direction only; they are never
trained on.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ctvr_bench.features.streams import PairBatch, PairTable
from ctvr_bench.methods.finetune import Finetune, FinetuneConfig
from ctvr_bench.methods.shared.base import FeatureSpec
from ctvr_bench.methods.shared.memory import Reservoir, batch_of, pair_items
from ctvr_bench.methods.shared.ranges import Count
from ctvr_bench.methods.shared.registry import register
from ctvr_bench.methods.shared.views import MeanWords
from ctvr_bench.methods.shared.weights import gradient_of, set_gradient


@dataclass(frozen=True)
class AGEMConfig(FinetuneConfig):
    """buffer: pairs kept."""

    buffer: Count = 320


@register()
class AGEM(MeanWords, Finetune):
    """Fine-tuning with gradients projected on the half space in which the memory's loss does not rise."""

    name = "agem"
    paper = "Chaudhry et al. 2019, Efficient Lifelong Learning with A-GEM"
    source = "aimagelab/mammoth@e75a491 models/agem.py"
    fidelity = "adapted"
    deviations = "the memory is a uniform sample of all pairs seen, the authors' an equal share of each task"
    idea = "Follow the new task's gradient as far as it does not point against the old tasks' one."
    stores_samples = "features of `buffer` training pairs"
    Config = AGEMConfig
    config: AGEMConfig

    def __init__(self, config: AGEMConfig, spec: FeatureSpec, generator: torch.Generator) -> None:
        super().__init__(config, spec, generator)
        self.memory = Reservoir(config.buffer)

    def prepare(self, batch: PairBatch, generator: torch.Generator) -> PairBatch:
        prepared = super().prepare(batch, generator)
        if len(self.memory):
            drawn = batch_of(self.memory.draw(len(batch), generator), batch.category_N.device)
            prepared = prepared.with_draws(memory_gradient_P=self._gradient(super().prepare(drawn, generator)))
        return prepared

    def _gradient(self, batch: PairBatch) -> Tensor:
        with torch.enable_grad():
            loss = torch.stack(list(self.loss(batch).values())).sum()
            parts = torch.autograd.grad(loss, list(self.head.parameters()), materialize_grads=True)
        return torch.cat([part.reshape(-1) for part in parts])

    @torch.no_grad()
    def after_backward(self, batch: PairBatch) -> None:
        if "memory_gradient_P" in batch.draws:
            set_gradient(self.head, projected(gradient_of(self.head), batch.draws["memory_gradient_P"]))

    def end_task(self, data: PairTable, generator: torch.Generator) -> None:
        for index_N in data.shuffled(256, generator):
            self.memory.add(pair_items(data.pairs(index_N)), generator)


def projected(gradient_P: Tensor, memory_P: Tensor) -> Tensor:
    """The nearest vector to `gradient_P` whose inner product with `memory_P` is not negative."""
    against = (gradient_P @ memory_P).clamp(max=0)
    return gradient_P - against / (memory_P @ memory_P).clamp(min=1e-30) * memory_P
