"""Experience replay: stored pairs of earlier tasks join every batch.

L = L_contrastive(batch + replayed pairs), so that stored and current pairs are negatives of each other (Chaudhry et al.
2019, tiny memories). A reservoir (Vitter 1985) keeps `buffer` pairs, uniform over all pairs seen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from features.streams import PairBatch, PairTable, TextBatch, VideoBatch
from methods.base import FeatureSpec
from methods.finetune import Finetune, FinetuneConfig
from methods.memory import Reservoir
from methods.registry import register

_FIELDS = ("pooled_ND", "words_NLD", "word_mask_NL", "frames_MFD", "frame_mask_MF", "category_N", "video_N")


@dataclass(frozen=True)
class ERConfig(FinetuneConfig):
    """buffer: pairs kept. replay: pairs drawn into every batch (None: as many as the batch holds)."""

    buffer: int = 320
    replay: int | None = None


@register()
class ER(Finetune):
    """Fine-tuning on the current batch together with pairs drawn from a reservoir."""

    name = "er"
    paper = "Chaudhry et al. 2019, On Tiny Episodic Memories in Continual Learning"
    idea = "Rehearse a small uniform sample of everything seen."
    stores_samples = "features of `buffer` training pairs"
    Config = ERConfig
    config: ERConfig

    def __init__(self, config: ERConfig, spec: FeatureSpec, generator: torch.Generator) -> None:
        super().__init__(config, spec, generator)
        self.memory = Reservoir(config.buffer)

    def prepare(self, batch: PairBatch, generator: torch.Generator) -> PairBatch:
        if len(self.memory):
            count = self.config.replay or len(batch)
            batch = _append(batch, self.memory.draw(count, generator))
        return super().prepare(batch, generator)

    def end_task(self, data: PairTable, generator: torch.Generator) -> None:
        for index_N in data.shuffled(256, generator):
            self.memory.add(_items(data.pairs(index_N)), generator)


def _items(batch: PairBatch) -> dict[str, Tensor]:
    values = (*batch.text, *batch.video, batch.category_N, batch.video_N)
    return dict(zip(_FIELDS, values, strict=True))


def _append(batch: PairBatch, items: dict[str, Tensor]) -> PairBatch:
    joined = {}
    for name, current in _items(batch).items():
        first, second = current, items[name].to(current.device)
        if name in ("words_NLD", "word_mask_NL"):
            width = max(first.shape[1], second.shape[1])
            first, second = (_pad(x, width) for x in (first, second))
        joined[name] = torch.cat([first, second])
    return replace(
        batch,
        text=TextBatch(*(joined[name] for name in _FIELDS[:3])),
        video=VideoBatch(*(joined[name] for name in _FIELDS[3:5])),
        category_N=joined["category_N"],
        video_N=joined["video_N"],
    )


def _pad(x_NL: Tensor, width: int) -> Tensor:
    extra = x_NL.new_zeros(x_NL.shape[0], width - x_NL.shape[1], *x_NL.shape[2:])
    return torch.cat([x_NL, extra], 1)
