"""RACT: a new caption must prefer its stored video to every other, stored or new.

L = L_contrastive + weight mean_i -log e^{s t_i.u_i} / ( e^{s t_i.u_i} + sum_k e^{s t_i.u_k} + sum_k e^{s t_i.v_k} )
v videos of the new model, u of the model before the task, as galleries store them; each sum over the `negatives` other
videos nearest to the caption. From the second task on. New negatives are what `bct` lacks: in a gallery that is filled
up again bit by bit, old and new videos stand beside each other.                  Zhang et al. 2022, ICLR (2201.09724)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from ctvr_bench.features.streams import PairBatch
from ctvr_bench.methods.finetune import Finetune, FinetuneConfig
from ctvr_bench.methods.shared.losses import symmetric_contrastive
from ctvr_bench.methods.shared.ranges import Count, NotNegative, Search
from ctvr_bench.methods.shared.registry import register
from ctvr_bench.methods.shared.scoring import pair_similarity, same_video
from ctvr_bench.methods.shared.views import KeepsLaterTeacher, teacher_video


@dataclass(frozen=True)
class RACTConfig(FinetuneConfig):
    """weight: of the compatibility term. negatives: nearest other videos of a caption, as many stored as new."""

    lr: NotNegative = 7e-4
    weight: Annotated[NotNegative, Search(0.01, 20.0)] = 0.05
    negatives: Count = 10


@register()
class RACT(KeepsLaterTeacher, Finetune):
    """Fine-tuning plus the contrast of new captions with their old videos among old and new ones."""

    name = "ract"
    paper = "Zhang et al. 2022, Hot-Refresh Model Upgrades with Regression-Alleviating Compatible Training"
    source = "TencentARC/OpenCompatible@6eb5499 model/loss.py"
    fidelity = "adapted"
    deviations = (
        "captions are compared with videos, there pictures with pictures; negatives are videos of other pairs, there "
        "pictures of another class; similarities are multiplied by `scale`, there by 1 / 0.01"
    )
    published = "weight=1.0, scale=100.0"
    idea = "While galleries are refilled, no new video may push a stored right answer down."
    control = "video_frozen"
    asks_text = False
    Config = RACTConfig
    config: RACTConfig

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        config, same_NN = self.config, same_video(batch.video_N)
        text, video = self.embed_batch(batch)
        new_NN = config.scale * pair_similarity(text, video, config)
        terms = {"contrastive": symmetric_contrastive(new_NN, 1.0, same_NN)}
        if self.task.position > 0:
            old_NN = config.scale * pair_similarity(text, teacher_video(self.teacher, batch, config), config)
            terms["compatible"] = config.weight * regression_alleviating(old_NN, new_NN, same_NN, config.negatives)
        return terms


def regression_alleviating(old_NN: Tensor, new_NN: Tensor, same_NN: Tensor, negatives: int) -> Tensor:
    """Mean of -log softmax of the old positive among itself and the largest other logits of both, scalar >= 0.

    Logits of captions (rows) with old and with new videos; no video for which `same_NN` is True is a negative.
    """
    count, lowest = min(negatives, len(old_NN)), torch.finfo(old_NN.dtype).min / 2
    rivals = [x_NN.masked_fill(same_NN, lowest).topk(count, dim=1).values for x_NN in (old_NN, new_NN)]
    all_NK = torch.cat([old_NN.diagonal()[:, None], *rivals], 1)
    return -all_NK.log_softmax(1)[:, 0].mean()
