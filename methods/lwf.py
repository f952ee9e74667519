"""Learning without Forgetting: the new model keeps the old model's similarities on the new task's batches.

L = L_contrastive + weight [ H(R, C) + H(R', C') ],   H(R, C) = -T^2 mean_rows sum softmax(R/T) log softmax(C/T)
R = s v' t'  (old video, old text);  C = s v t (student_student) or s v t' (student_teacher_text, the CTVR release, in
which only the video side is distilled).                                     Li & Hoiem 2016; spec section 4
The old model is the previous task's; in the first task that is the frozen encoder, as in the release.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from ctvr_bench.features.streams import PairBatch, PairTable
from ctvr_bench.methods.finetune import Finetune, FinetuneConfig
from ctvr_bench.methods.shared.base import TaskInfo
from ctvr_bench.methods.shared.losses import distillation, symmetric_contrastive
from ctvr_bench.methods.shared.ranges import NotNegative, Positive, Search
from ctvr_bench.methods.shared.registry import register
from ctvr_bench.methods.shared.scoring import pair_similarity, same_video
from ctvr_bench.methods.shared.views import KeepsTeacher, teacher_text, teacher_video, with_teacher


@dataclass(frozen=True)
class LwFConfig(FinetuneConfig):
    """weight: of the distillation. temperature: T. variant: whose captions the student is compared with.

    teacher: the previous task's model, or the frozen encoder throughout (the release).
    """

    weight: Annotated[NotNegative, Search(0.1, 30.0)] = 1.0
    temperature: Annotated[Positive, Search(0.5, 8.0)] = 2.0
    variant: Literal["student_student", "student_teacher_text"] = "student_student"
    teacher: Literal["previous", "zero_shot"] = "previous"


@register()
class LwF(KeepsTeacher, Finetune):
    """Fine-tuning plus distillation of the old model's batch similarities."""

    name = "lwf"
    paper = "Li & Hoiem 2016, Learning without Forgetting; CTVR 2025 for retrieval"
    source = "JasonCodeMaker/CTVR@72b7652 modules/loss.py"
    fidelity = "adapted"
    deviations = (
        "similarities are multiplied by `scale`, in CTVR's release by 99.48; both sides are distilled from the "
        "task before, there the video side from the frozen encoder"
    )
    published = "variant=student_teacher_text, teacher=zero_shot, scale=99.484"
    idea = "On new data, similarities stay near those of the model before the task."
    Config = LwFConfig
    config: LwFConfig

    def begin_task(self, task: TaskInfo) -> None:
        if self.config.teacher == "previous":
            super().begin_task(task)
        else:
            Finetune.begin_task(self, task)

    def view(self, data: PairTable) -> PairTable:
        return with_teacher(super().view(data), self.teacher, self.config)

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        config = self.config
        text, video = self.embed_batch(batch)
        with torch.no_grad():
            old_text = teacher_text(self.teacher, batch, config)
            old_video = teacher_video(self.teacher, batch, config)
            old_NN = config.scale * pair_similarity(old_text, old_video, config)
        sim_NN = config.scale * pair_similarity(text, video, config)
        compared = old_text if config.variant == "student_teacher_text" else text
        new_NN = config.scale * pair_similarity(compared, video, config)
        kept = distillation(new_NN, old_NN, config.temperature) + distillation(new_NN.T, old_NN.T, config.temperature)
        return {
            "contrastive": symmetric_contrastive(sim_NN, 1.0, same_video(batch.video_N)),
            "distillation": config.weight * kept,
        }
