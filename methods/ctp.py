"""CTP: contrast with a slow copy of the model that both old and new weights feed, and keep the batch's topology.

L = L_contrastive + L_momentum + L_topology
L_momentum = CE of picking the slow model's video for a caption, and its caption for a video, among batch and queue
slow <- m slow + (1 - m) theta,                         m = 0.995 in the first task
slow <- m slow + (1 - m) (theta + theta_old) / 2,       m = 0.9 later, from theta_old at the task's start
L_topology = KL of the batch's similarities, caption to video, video to caption, caption to caption, video to video
(a sample with itself left out), from those of theta_old; from the second task on.         Zhu et al. 2023, ICCV
Every term is the sum of both directions; the authors halve all of them. Queued pairs of the same video are no
negatives.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from ctvr_bench.features.streams import PairBatch, PairTable
from ctvr_bench.methods.finetune import Finetune, FinetuneConfig
from ctvr_bench.methods.shared.base import FeatureSpec, TaskInfo, TextEmbedding, VideoEmbedding
from ctvr_bench.methods.shared.heads import ResidualHead
from ctvr_bench.methods.shared.losses import (
    kl_divergence,
    queue_contrastive,
    symmetric_contrastive,
    topology_preserving,
)
from ctvr_bench.methods.shared.ranges import Count, NotNegative, Search, Share
from ctvr_bench.methods.shared.registry import register
from ctvr_bench.methods.shared.scoring import embed_text, embed_video, pair_similarity, same_video
from ctvr_bench.methods.shared.views import MeanWords, teacher_text, teacher_video, with_teacher
from ctvr_bench.methods.shared.weights import set_weights, weights_of


@dataclass(frozen=True)
class CTPConfig(FinetuneConfig):
    """first_momentum, momentum: m in the first task and later. queue: keys kept of each modality."""

    lr: NotNegative = 7e-4
    first_momentum: Share = 0.995
    momentum: Annotated[Share, Search(0.5, 1.0, "linear")] = 0.9
    queue: Count = 1024


@register()
class CTP(MeanWords, Finetune):
    """Fine-tuning plus contrast with a compatible momentum model and topology preservation."""

    name = "ctp"
    paper = "Zhu et al. 2023, CTP: Towards Vision-Language Continual Pretraining"
    source = "KevinLight831/CTP@7baab57 models/clip_pretrain.py"
    fidelity = "adapted"
    deviations = (
        "a head over frozen features in place of both encoders; without the masked language modelling terms; both"
        " directions of a term are summed, there averaged"
    )
    idea = "A slow model that remembers the old weights gives the keys; distances within a batch stay as they were."
    stores_samples = "a queue of `queue` embeddings of recent pairs"
    Config = CTPConfig
    config: CTPConfig
    text_queue_QD: Tensor
    video_queue_QD: Tensor
    queue_video_Q: Tensor
    queued: Tensor

    def __init__(self, config: CTPConfig, spec: FeatureSpec, generator: torch.Generator) -> None:
        super().__init__(config, spec, generator)
        self.teacher = copy.deepcopy(self.head).requires_grad_(False)
        self.teacher_slow = copy.deepcopy(self.head).requires_grad_(False)
        self.register_buffer("text_queue_QD", torch.zeros(config.queue, spec.dim))
        self.register_buffer("video_queue_QD", torch.zeros(config.queue, spec.dim))
        self.register_buffer("queue_video_Q", torch.full((config.queue,), -1))
        self.register_buffer("queued", torch.zeros((), dtype=torch.int64))

    def begin_task(self, task: TaskInfo) -> None:
        super().begin_task(task)
        self.teacher.load_state_dict(self.head.state_dict())
        self.teacher_slow.load_state_dict(self.head.state_dict())

    def view(self, data: PairTable) -> PairTable:
        data = super().view(data)
        return with_teacher(data, self.teacher, self.config) if self.task.position > 0 else data

    @torch.no_grad()
    def prepare(self, batch: PairBatch, generator: torch.Generator) -> PairBatch:
        text, video = self._embed_with(self.teacher_slow, batch)
        keys = {"key_text_ND": text.pooled_ND, "key_video_ND": video.pooled_MD}
        return super().prepare(batch, generator).with_draws(**keys)

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        config, same_NN = self.config, same_video(batch.video_N)
        text, video = self.embed_batch(batch)
        logits_NN = config.scale * pair_similarity(text, video, config)
        terms = {
            "contrastive": symmetric_contrastive(logits_NN, 1.0, same_NN),
            "momentum": self._momentum_term(batch, text.pooled_ND, video.pooled_MD),
        }
        if self.task.position > 0:
            old_text, old_video = teacher_text(self.teacher, batch, config), teacher_video(self.teacher, batch, config)
            old_NN = config.scale * pair_similarity(old_text, old_video, config)
            itself_NN = torch.eye(len(batch), dtype=torch.bool, device=same_NN.device)
            terms["topology"] = (
                kl_divergence(logits_NN, old_NN, 1.0)
                + kl_divergence(logits_NN.T, old_NN.T, 1.0)
                + topology_preserving(text.pooled_ND, old_text.pooled_ND, config.scale, itself_NN)
                + topology_preserving(video.pooled_MD, old_video.pooled_MD, config.scale, same_NN)
            )
        return terms

    @torch.no_grad()
    def after_step(self, batch: PairBatch) -> None:
        config, slow_P, new_P = self.config, weights_of(self.teacher_slow), weights_of(self.head)
        momentum = config.momentum if self.task.position > 0 else config.first_momentum
        mixed_P = (new_P + weights_of(self.teacher)) / 2 if self.task.position > 0 else new_P
        set_weights(self.teacher_slow, momentum * slow_P + (1 - momentum) * mixed_P)
        slot_N = (self.queued + torch.arange(len(batch), device=self.queued.device)) % config.queue
        self.text_queue_QD[slot_N] = batch.draws["key_text_ND"]
        self.video_queue_QD[slot_N] = batch.draws["key_video_ND"]
        self.queue_video_Q[slot_N] = batch.video_N
        self.queued += len(batch)

    def _momentum_term(self, batch: PairBatch, text_ND: Tensor, video_ND: Tensor) -> Tensor:
        empty_Q = self.queue_video_Q < 0
        queue_same_NQ = (batch.video_N[:, None] == self.queue_video_Q) | empty_Q
        excluded_NK = torch.cat([same_video(batch.video_N), queue_same_NQ], 1)
        scale, keys = self.config.scale, batch.draws
        to_video = queue_contrastive(text_ND, keys["key_video_ND"], self.video_queue_QD, scale, excluded_NK)
        return to_video + queue_contrastive(video_ND, keys["key_text_ND"], self.text_queue_QD, scale, excluded_NK)

    def _embed_with(self, head: ResidualHead, batch: PairBatch) -> tuple[TextEmbedding, VideoEmbedding]:
        return embed_text(head.text(batch.text), self.config), embed_video(head.scored_video(batch.video), self.config)
