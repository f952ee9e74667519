"""Mod-X: keep the off-diagonal part of the old model's similarity matrix, where the old model was right.

L = L_contrastive + weight [ KL(R, C) + KL(R', C') ],   R = softmax of rows of r v' t' (old),  C of r v t (new)
KL sums over a batch's rows. A row of R whose largest entry is not its own pair is replaced by the row of C, so that it
pulls nowhere. r is `relation_scale`: at 1, raw cosines as the authors take them, rows are nearly even and all
off-diagonal entries weigh alike; at the contrastive loss's scale the nearest neighbours weigh most.
                                                                                         Ni et al. 2023, ICML
Captions of one video in a batch are all right answers. The old model is the previous task's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

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
class ModXConfig(FinetuneConfig):
    """weight: of the off-diagonal term. relation_scale: r, what cosines in it are multiplied with (None: as scale).

    reduction: over the rows of a batch.
    """

    lr: NotNegative = 7e-4
    weight: Annotated[NotNegative, Search(0.5, 500.0)] = 20.0
    relation_scale: Positive | None = 1.0
    reduction: Literal["mean", "sum"] = "sum"


@register()
class ModX(KeepsTeacher, Finetune):
    """Fine-tuning plus the old model's rows of batch similarities, only the rows it got right."""

    name = "mod_x"
    paper = "Ni et al. 2023, Continual Vision-Language Representation Learning with Off-Diagonal Information"
    source = "ZixuanNi/Mod-X@a6a2f6c ModX_Training/continue_train_model.py"
    fidelity = "adapted"
    deviations = "captions of one video are all right answers, there each has its own alone"
    idea = "How a pair relates to all others is knowledge too; keep it wherever the old model ranked its pair first."
    Config = ModXConfig
    config: ModXConfig

    def view(self, data: PairTable) -> PairTable:
        return with_teacher(super().view(data), self.teacher, self.config)

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        config, same_NN = self.config, same_video(batch.video_N)
        text, video = self.embed_batch(batch)
        sim_NN = pair_similarity(text, video, config)
        relation_scale = config.scale if config.relation_scale is None else config.relation_scale
        with torch.no_grad():
            old_text = teacher_text(self.teacher, batch, config)
            old_video = teacher_video(self.teacher, batch, config)
            old_NN = relation_scale * pair_similarity(old_text, old_video, config)
        new_NN = relation_scale * sim_NN
        kept = off_diagonal(new_NN, old_NN, same_NN) + off_diagonal(new_NN.T, old_NN.T, same_NN)
        weight = config.weight * (len(batch) if config.reduction == "sum" else 1)
        contrastive = symmetric_contrastive(config.scale * sim_NN, 1.0, same_NN)
        return {"contrastive": contrastive, "off_diagonal": weight * kept}


def off_diagonal(new_NN: Tensor, old_NN: Tensor, same_NN: Tensor) -> Tensor:
    """KL of the new rows of logits from the old ones that rank a right answer first; the other rows count 0."""
    right_N1 = same_NN.gather(1, old_NN.argmax(1, keepdim=True))
    return kl_divergence(new_NN, torch.where(right_N1, old_NN, new_NN.detach()), 1.0)
