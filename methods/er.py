"""Experience replay: stored pairs of earlier tasks join every batch.

L = L_contrastive(batch + replayed pairs), so that stored and current pairs are negatives of each other (Chaudhry et al.
2019, tiny memories). A reservoir (Vitter 1985) keeps `buffer` pairs, uniform over all pairs seen; it is filled as the
stream runs, with each batch of a task's first epoch once it was trained on, or when a task ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from ctvr_bench.features.streams import PairBatch, PairTable
from ctvr_bench.methods.finetune import Finetune, FinetuneConfig
from ctvr_bench.methods.shared.base import FeatureSpec, TaskInfo
from ctvr_bench.methods.shared.memory import Reservoir, batch_of, pair_items
from ctvr_bench.methods.shared.ranges import Count, NotNegative, Search
from ctvr_bench.methods.shared.registry import register
from ctvr_bench.methods.shared.views import MeanWords


@dataclass(frozen=True)
class ERConfig(FinetuneConfig):
    """buffer: pairs kept. replay: pairs drawn into every batch (None: as many as the batch holds).

    filled: when pairs are offered to the buffer. With `stream` a task is rehearsed while it is learned, as the authors
        do; with `task_end` only earlier tasks are.
    """

    lr: NotNegative = 7e-4
    buffer: Count = 320
    replay: Annotated[Count | None, Search(8, 256)] = None
    filled: Literal["task_end", "stream"] = "stream"


@register()
class ER(MeanWords, Finetune):
    """Fine-tuning on the current batch together with pairs drawn from a reservoir."""

    name = "er"
    paper = "Chaudhry et al. 2019, On Tiny Episodic Memories in Continual Learning"
    source = "aimagelab/mammoth@e75a491 models/er.py"
    fidelity = "adapted"
    deviations = "a pair is offered to the buffer once, in its task's first epoch, there in every epoch"
    idea = "Rehearse a small uniform sample of everything seen."
    stores_samples = "features of `buffer` training pairs"
    ensembles = False  # measured: stacking replayed pairs takes what it saves
    Config = ERConfig
    config: ERConfig

    def __init__(self, config: ERConfig, spec: FeatureSpec, generator: torch.Generator) -> None:
        super().__init__(config, spec, generator)
        self.memory = Reservoir(config.buffer)
        self.offered = 0  # of the current task's pairs; a task begins with none

    def begin_task(self, task: TaskInfo) -> None:
        super().begin_task(task)
        self.offered = 0

    def prepare(self, batch: PairBatch, generator: torch.Generator) -> PairBatch:
        joined = batch
        if len(self.memory):
            joined = _append(batch, self.memory.draw(self.config.replay or len(batch), generator))
        seed = torch.randint(2**62, (), generator=generator)
        return super().prepare(joined, generator).with_replayed(own=batch.with_draws(seed=seed))

    def after_step(self, batch: PairBatch) -> None:
        own = batch.replayed["own"]
        if self.config.filled == "stream" and self.offered < self.task.num_pairs:
            self.memory.add(pair_items(own), torch.Generator().manual_seed(int(own.draws["seed"])))
            self.offered += len(own)

    def end_task(self, data: PairTable, generator: torch.Generator) -> None:
        if self.config.filled == "task_end":
            for index_N in data.shuffled(256, generator):
                self.memory.add(pair_items(data.pairs(index_N)), generator)


def _append(batch: PairBatch, items: dict[str, Tensor]) -> PairBatch:
    joined = {}
    for name, current in pair_items(batch).items():
        first, second = current, items[name].to(current.device)
        if name in ("words_NLD", "word_mask_NL"):
            width = max(first.shape[1], second.shape[1])
            first, second = (_pad(x, width) for x in (first, second))
        joined[name] = torch.cat([first, second])
    return batch_of(joined, batch.category_N.device).with_draws(**batch.draws)


def _pad(x_NL: Tensor, width: int) -> Tensor:
    extra = x_NL.new_zeros(x_NL.shape[0], width - x_NL.shape[1], *x_NL.shape[2:])
    return torch.cat([x_NL, extra], 1)
