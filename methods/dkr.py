"""DKR: the old model's similarities are kept where they were right, and put right where they were wrong.

L = L_contrastive + weight [ KL(new | target) + KL(new' | target') ],   the target of a row of scaled similarities:
    the old row       where the old model ranks a right answer first,
    the new row       where only the new model does (which asks nothing of it),
    the right answers where neither does.                                          Cui et al. 2024, AAAI
Captions of one video in a batch are all right answers. The old model is the previous task's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from ctvr_bench.features.streams import PairBatch, PairTable
from ctvr_bench.methods.finetune import Finetune, FinetuneConfig
from ctvr_bench.methods.shared.losses import kl_divergence, symmetric_contrastive
from ctvr_bench.methods.shared.ranges import NotNegative, Positive, Search
from ctvr_bench.methods.shared.registry import register
from ctvr_bench.methods.shared.scoring import pair_similarity, same_video
from ctvr_bench.methods.shared.views import KeepsTeacher, teacher_text, teacher_video, with_teacher


@dataclass(frozen=True)
class DKRConfig(FinetuneConfig):
    """weight: of the rectified distillation. temperature: similarities are divided by it before the softmax."""

    weight: Annotated[NotNegative, Search(0.1, 30.0)] = 1.0
    temperature: Annotated[Positive, Search(0.1, 10.0)] = 1.0


@register()
class DKR(KeepsTeacher, Finetune):
    """Fine-tuning plus distillation of the old model's similarities after their mistakes were put right."""

    name = "dkr"
    paper = "Cui et al. 2024, Continual Vision-Language Retrieval via Dynamic Knowledge Rectification"
    source = "the paper's abstract; no equation was read and no official code found"
    fidelity = "adapted"
    deviations = (
        "the three cases are the abstract's; the divergence, `weight` and `temperature` are this suite's, after mod_x, "
        "since only the abstract could be read; captions of one video are all right answers"
    )
    idea = "Wrong knowledge is not worth keeping: filter it, and put the truth in its place."
    Config = DKRConfig
    config: DKRConfig

    def view(self, data: PairTable) -> PairTable:
        return with_teacher(super().view(data), self.teacher, self.config)

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        config, same_NN = self.config, same_video(batch.video_N)
        new_NN = config.scale * pair_similarity(*self.embed_batch(batch), config)
        with torch.no_grad():
            old = teacher_text(self.teacher, batch, config), teacher_video(self.teacher, batch, config)
            old_NN = config.scale * pair_similarity(*old, config)
        ways = ((new_NN, old_NN), (new_NN.T, old_NN.T))
        kept = [kl_divergence(new, rectified(old, new.detach(), same_NN), config.temperature) for new, old in ways]
        return {
            "contrastive": symmetric_contrastive(new_NN, 1.0, same_NN),
            "rectified": config.weight * torch.stack(kept).sum(),
        }


def rectified(old_NN: Tensor, new_NN: Tensor, same_NN: Tensor) -> Tensor:
    """Target logits of each row: the old one's, the new one's, or those of the right answers alone."""
    old_right_N1, new_right_N1 = (same_NN.gather(1, x_NN.argmax(1, keepdim=True)) for x_NN in (old_NN, new_NN))
    truth_NN = torch.zeros_like(old_NN).masked_fill(~same_NN, torch.finfo(old_NN.dtype).min / 2)
    return torch.where(old_right_N1, old_NN, torch.where(new_right_N1, new_NN, truth_NN))
