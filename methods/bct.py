"""BCT: new captions must also find their videos in the gallery as the old model stored it.

L = L_contrastive + weight CE(s t v_old'),   v_old from the model before the task; from the second task on
The influence loss of backward-compatible training: the old model's classifier, here its videos, judges new features.
Other captions of a video are no negatives of it.                                 Shen et al. 2020, CVPR (2003.11942)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from ctvr_bench.features.streams import PairBatch
from ctvr_bench.methods.finetune import Finetune, FinetuneConfig
from ctvr_bench.methods.shared.losses import row_cross_entropy, symmetric_contrastive
from ctvr_bench.methods.shared.ranges import NotNegative, Search
from ctvr_bench.methods.shared.registry import register
from ctvr_bench.methods.shared.scoring import pair_similarity, same_video
from ctvr_bench.methods.shared.views import KeepsLaterTeacher, teacher_video


@dataclass(frozen=True)
class BCTConfig(FinetuneConfig):
    """weight: of the influence loss."""

    weight: Annotated[NotNegative, Search(0.05, 20.0)] = 1.0


@register()
class BCT(KeepsLaterTeacher, Finetune):
    """Fine-tuning plus the contrast of new captions with the old model's videos."""

    name = "bct"
    paper = "Shen et al. 2020, Towards Backward-Compatible Representation Learning"
    source = "YantaoShen/openBCT@69e798c main.py"
    fidelity = "adapted"
    deviations = "the old classifier's rows are the old model's videos of the batch, there the old task's class weights"
    idea = "A new query is good if it is right in the gallery that is already there."
    control = "video_frozen"
    asks_text = False
    Config = BCTConfig
    config: BCTConfig

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        config, same_NN = self.config, same_video(batch.video_N)
        text, video = self.embed_batch(batch)
        terms = {"contrastive": symmetric_contrastive(pair_similarity(text, video, config), config.scale, same_NN)}
        if self.task.position > 0:
            old_NN = config.scale * pair_similarity(text, teacher_video(self.teacher, batch, config), config)
            terms["influence"] = config.weight * row_cross_entropy(old_NN, same_NN).mean()
        return terms
