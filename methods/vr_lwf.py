"""VR-LwF: Learning without Forgetting where the old knowledge is asked with replayed sentences, not the new captions.

R = s v' r'  (old model: batch videos, replayed captions r);   C = s v r  (new model)
L = L_contrastive + weight H(R, C),   H as in `lwf`, over the replayed captions of each video       Ding et al. 2022
The paper makes sentences of random words from CLIP's vocabulary; here they are drawn from the store's reference bank,
which holds captions of no task. Both encoders are distilled, the old model is the previous task's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from ctvr_bench.features.streams import PairBatch, PairTable
from ctvr_bench.methods.finetune import Finetune, FinetuneConfig
from ctvr_bench.methods.shared.base import FeatureSpec
from ctvr_bench.methods.shared.losses import distillation, symmetric_contrastive
from ctvr_bench.methods.shared.memory import ReferenceSample, captions_alone
from ctvr_bench.methods.shared.ranges import Count, NotNegative, Positive, Search
from ctvr_bench.methods.shared.registry import register
from ctvr_bench.methods.shared.scoring import embed_text, pair_similarity, same_video
from ctvr_bench.methods.shared.views import KeepsTeacher, teacher_video, with_teacher


@dataclass(frozen=True)
class VRLwFConfig(FinetuneConfig):
    """weight: of the distillation. temperature: T. sentences: reference captions replayed in a step."""

    lr: NotNegative = 7e-4
    weight: Annotated[NotNegative, Search(0.1, 30.0)] = 3.0
    temperature: Annotated[Positive, Search(0.5, 8.0)] = 2.0
    sentences: Count = 128


@register()
class VRLwF(KeepsTeacher, Finetune):
    """Fine-tuning plus distillation of the old model's similarities with reference captions."""

    name = "vr_lwf"
    paper = "Ding et al. 2022, Don't Stop Learning: Towards Continual Learning for the CLIP Model"
    source = "the paper's equation"
    fidelity = "adapted"
    deviations = (
        "replays captions of a reference bank, not sentences of random vocabulary words; pooled features only; "
        "similarities are multiplied by `scale`, not by CLIP's temperature"
    )
    published = "scale=99.484"
    idea = "Similarities of new videos with sentences from everywhere stay near those of the old model."
    needs_reference = True
    Config = VRLwFConfig
    config: VRLwFConfig

    def __init__(self, config: VRLwFConfig, spec: FeatureSpec, generator: torch.Generator) -> None:
        super().__init__(config, spec, generator)
        self.reference = ReferenceSample(spec.reference, self.name)

    def prepare(self, batch: PairBatch, generator: torch.Generator) -> PairBatch:
        sentences_RD = self.reference.captions(self.config.sentences, generator)
        return super().prepare(batch, generator).with_draws(sentences_RD=sentences_RD)

    def view(self, data: PairTable) -> PairTable:
        return with_teacher(super().view(data), self.teacher, self.config, text=False)

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        config, sentences = self.config, captions_alone(batch.draws["sentences_RD"])
        text, video = self.embed_batch(batch)
        sim_NN = pair_similarity(text, video, config)
        replayed = embed_text(self.head.text(sentences), config)
        with torch.no_grad():
            old_video = teacher_video(self.teacher, batch, config)
            old_replayed = embed_text(self.teacher.text(sentences), config)
            old_NR = config.scale * old_video.pooled_MD @ old_replayed.pooled_ND.T
        new_NR = config.scale * video.pooled_MD @ replayed.pooled_ND.T
        return {
            "contrastive": symmetric_contrastive(sim_NN, config.scale, same_video(batch.video_N)),
            "distillation": config.weight * distillation(new_NR, old_NR, config.temperature),
        }
