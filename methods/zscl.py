"""ZSCL: keep the zero-shot similarities of unrelated captions and frames, and average the weights along the way.

R = s u' r'  (frozen encoder: reference frames u, reference captions r);   C = s u r (student_student) or s u r'
L = L_contrastive + weight [ H(R, C) + H(R', C') ],   H as in `lwf`                       Zheng et al. 2023, ICCV
theta_avg <- (k theta_avg + theta) / (k + 1) every `average_every` steps and after the last, from the weights at the
task's start (k = 1); theta_avg becomes the model when the task ends.
The authors average a tenth as often; their tasks have about ten times the steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from ctvr_bench.features.streams import PairBatch, PairTable
from ctvr_bench.methods.finetune import Finetune, FinetuneConfig
from ctvr_bench.methods.shared.base import FeatureSpec, TaskInfo
from ctvr_bench.methods.shared.losses import similarity_distillation
from ctvr_bench.methods.shared.memory import ReferenceSample, captions_alone, frames_alone
from ctvr_bench.methods.shared.ranges import Count, NotNegative, Positive, Search, Some
from ctvr_bench.methods.shared.registry import register
from ctvr_bench.methods.shared.scoring import embed_text, embed_video
from ctvr_bench.methods.shared.similarity import normalise
from ctvr_bench.methods.shared.views import MeanWords
from ctvr_bench.methods.shared.weights import set_weights, weights_of


@dataclass(frozen=True)
class ZSCLConfig(FinetuneConfig):
    """weight: of the distillation. temperature: T. references: captions, and as many frames, drawn in a step.

    variant: whose captions the student's frames are compared with; student_teacher_text is the authors' and the CTVR
    release's, in which the captions' side is not held. average_every: steps between two averages (0: none).
    """

    lr: NotNegative = 7e-4
    weight: Annotated[NotNegative, Search(0.1, 30.0)] = 1.0
    temperature: Annotated[Positive, Search(0.5, 8.0)] = 2.0
    references: Count = 128
    variant: Literal["student_student", "student_teacher_text"] = "student_student"
    average_every: Some = 10


@register()
class ZSCL(MeanWords, Finetune):
    """Fine-tuning plus distillation of zero-shot similarities on a reference bank, weights averaged over steps."""

    name = "zscl"
    paper = "Zheng et al. 2023, Preventing Zero-Shot Transfer Degradation in Continual Learning of VLMs"
    source = "Thunderbeee/ZSCL@b96e714 mtil/src/models/finetune.py; JasonCodeMaker/CTVR@72b7652 modules/loss.py"
    fidelity = "adapted"
    deviations = (
        "the reference set is the store's bank of unpaired features, without words; both encoders are held; "
        "similarities are multiplied by `scale`, in CTVR's release by 99.48; weights are averaged more often"
    )
    published = "variant=student_teacher_text, average_every=100, scale=99.484"
    idea = "Hold the space of the frozen encoder where no task looks, and average the weights over training."
    needs_reference = True
    Config = ZSCLConfig
    config: ZSCLConfig
    average_P: Tensor
    averaged: Tensor
    steps: Tensor

    def __init__(self, config: ZSCLConfig, spec: FeatureSpec, generator: torch.Generator) -> None:
        super().__init__(config, spec, generator)
        self.reference = ReferenceSample(spec.reference, self.name)
        self.register_buffer("average_P", weights_of(self.head).detach())
        self.register_buffer("averaged", torch.ones(()))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))  # of an epoch picked before the last

    def begin_task(self, task: TaskInfo) -> None:
        super().begin_task(task)
        self.steps = torch.zeros_like(self.steps)
        self.average_P = weights_of(self.head).detach()
        self.averaged = torch.ones_like(self.averaged)

    def prepare(self, batch: PairBatch, generator: torch.Generator) -> PairBatch:
        count = self.config.references
        return (
            super()
            .prepare(batch, generator)
            .with_draws(
                reference_text_RD=self.reference.captions(count, generator),
                reference_frame_RD=self.reference.frames(count, generator),
            )
        )

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        config = self.config
        text_RD, frame_RD = batch.draws["reference_text_RD"], batch.draws["reference_frame_RD"]
        text = embed_text(self.head.text(captions_alone(text_RD)), config)
        video = embed_video(self.head.scored_video(frames_alone(frame_RD)), config)
        kept = similarity_distillation(
            text.pooled_ND,
            video.pooled_MD,
            normalise(text_RD),
            normalise(frame_RD),
            config.scale,
            config.temperature,
            config.variant,
        )
        return {**super().loss(batch), "distillation": config.weight * kept}

    @torch.no_grad()
    def after_step(self, batch: PairBatch) -> None:
        self.steps = self.steps + 1
        if self.config.average_every and self.steps % self.config.average_every == 0:
            self._average()

    @torch.no_grad()
    def end_task(self, data: PairTable, generator: torch.Generator) -> None:
        if self.config.average_every:
            if self.steps % self.config.average_every:
                self._average()
            set_weights(self.head, self.average_P)

    def _average(self) -> None:
        self.average_P = (self.averaged * self.average_P + weights_of(self.head)) / (self.averaged + 1)
        self.averaged = self.averaged + 1
