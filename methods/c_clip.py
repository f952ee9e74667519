"""C-CLIP: a low-rank map per task, merged into the model when the task ends, and contrast with the old features.

x W + a x A'B',  W = 1 + what was merged;   after each task  W <- W + merge a (B A)',  B = 0 and A drawn anew
L = L_contrastive + L_ckc,  L_ckc = CE + CE' of s n(P z) z_old' over the 2N captions and videos of the batch, from the
second task on: P a linear map per modality that starts as the identity in each task, z_old without the task's A, B.
                                                                                     Liu et al. 2025, ICLR (C-CLIP)
One W, A, B for captions and words, one for frames; a = lora_alpha / rank. Other captions of the same video are no
negatives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from ctvr_bench.features.streams import PairBatch, PairTable, TextBatch, VideoBatch
from ctvr_bench.methods.shared.base import FeatureSpec, Method, TextEmbedding, TrainedConfig, VideoEmbedding
from ctvr_bench.methods.shared.heads import AdaptedVideo, fan_in_uniform, keep_mask, masked_mean, mean_alone
from ctvr_bench.methods.shared.losses import symmetric_contrastive
from ctvr_bench.methods.shared.memory import captions_alone
from ctvr_bench.methods.shared.ranges import Count, NotNegative, Positive, Search, Share
from ctvr_bench.methods.shared.registry import register
from ctvr_bench.methods.shared.scoring import embed_text, embed_video, pair_similarity, same_video
from ctvr_bench.methods.shared.similarity import normalise


@dataclass(frozen=True)
class CCLIPConfig(TrainedConfig):
    """rank: of A and B, scaled by lora_alpha / rank. merge: share of a task's map that stays. ckc: weight of L_ckc."""

    lr: NotNegative = 2e-3
    rank: Count = 16
    lora_alpha: Positive = 32.0
    merge: Annotated[Share, Search(0.0, 1.0, "linear")] = 0.25
    ckc: Annotated[NotNegative, Search(0.1, 10.0)] = 1.0


@register()
class CCLIP(Method):
    """Mergeable linear low-rank adapters with contrastive knowledge consolidation."""

    name = "c_clip"
    paper = "Liu et al. 2025, C-CLIP: Multimodal Continual Learning for Vision-Language Model"
    source = "the paper's equations; no official code was found"
    fidelity = "adapted"
    deviations = (
        "one low-rank map per modality after the frozen encoders instead of in each of their layers; a linear projector"
    )
    published = "merge=0.5"
    idea = "Learn a task in a low-rank map, keep part of it, and contrast new features with the old ones."
    Config = CCLIPConfig
    config: CCLIPConfig

    def __init__(self, config: CCLIPConfig, spec: FeatureSpec, generator: torch.Generator) -> None:
        super().__init__(config, spec, generator)
        self.text_map = MergedLowRank(config, spec.dim, generator)
        self.video_map = MergedLowRank(config, spec.dim, generator)
        self.text_projector = nn.Parameter(torch.eye(spec.dim))
        self.video_projector = nn.Parameter(torch.eye(spec.dim))

    def view(self, data: PairTable) -> PairTable:
        if self.task.position == 0:
            return data
        text_ND = torch.cat([self._text(part, old=True).pooled_ND for part in data.text_chunks(256)])
        video_ND = torch.cat([self._video(part, old=True).pooled_MD for part in data.video_chunks(256)])
        return data.with_rows(caption={"old_text_ND": text_ND}, video={"old_video_ND": video_ND})

    def prepare(self, batch: PairBatch, generator: torch.Generator) -> PairBatch:
        config = self.config
        masks = (keep_mask(len(batch), config.rank, config.dropout, generator) for _ in range(2))
        return batch.with_draws(keep_text_NR=next(masks), keep_video_NR=next(masks))

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        config, draws, same_NN = self.config, batch.draws, same_video(batch.video_N)
        text, video = self._text(batch.text, draws["keep_text_NR"]), self._video(batch.video, draws["keep_video_NR"])
        terms = {"contrastive": symmetric_contrastive(pair_similarity(text, video, config), config.scale, same_NN)}
        if self.task.position > 0:
            new_KD = torch.cat([text.pooled_ND @ self.text_projector.T, video.pooled_MD @ self.video_projector.T])
            same_KK = torch.block_diag(same_NN, same_NN).bool()
            sim_KK = normalise(new_KD) @ self._old(batch).T
            terms["ckc"] = config.ckc * symmetric_contrastive(sim_KK, config.scale, same_KK)
        return terms

    @torch.no_grad()
    def _old(self, batch: PairBatch) -> Tensor:
        """z_old [2N, D] of the batch's captions and videos, kept for the whole task or made here."""
        if "old_text_ND" in batch.rows:
            return torch.cat([batch.rows["old_text_ND"], batch.rows["old_video_ND"]])
        text, video = self._text(batch.text, old=True), self._video(batch.video, old=True)
        return torch.cat([text.pooled_ND, video.pooled_MD])

    @torch.no_grad()
    def end_task(self, data: PairTable, generator: torch.Generator) -> None:
        for low_rank in (self.text_map, self.video_map):
            low_rank.merge(self.config.merge, generator)
        for projector in (self.text_projector, self.video_projector):
            projector.copy_(torch.eye(self.spec.dim))

    def encode_text(self, text: TextBatch, shard: int) -> TextEmbedding:
        return self._text(text)

    def encode_video(self, video: VideoBatch) -> VideoEmbedding:
        return self._video(video)

    def _text(self, text: TextBatch, keep_NR: Tensor | None = None, old: bool = False) -> TextEmbedding:
        pooled_ND = self.text_map(text.pooled_ND, keep_NR, old)
        if self.config.scoring == "cosine":
            return embed_text(captions_alone(pooled_ND), self.config)
        words_NLD = self.text_map(text.words_NLD, keep_NR, old)
        return embed_text(TextBatch(pooled_ND, words_NLD, text.word_mask_NL), self.config)

    def _video(self, video: VideoBatch, keep_MR: Tensor | None = None, old: bool = False) -> VideoEmbedding:
        if self.config.scoring == "cosine":  # the map is linear: that of the mean frame is the mean of all frames'
            mean_MD = self.video_map(masked_mean(*video), keep_MR, old)
            return embed_video(mean_alone(mean_MD, video.frame_mask_MF), self.config)
        frames_MFD = self.video_map(video.frames_MFD, keep_MR, old)
        return embed_video(AdaptedVideo(frames_MFD, video.frame_mask_MF), self.config)


class MergedLowRank(nn.Module):
    """x + x merged' + scaling (x A') B', B zero at first; `merged_DD` is what finished tasks left."""

    merged_DD: Tensor

    def __init__(self, config: CCLIPConfig, dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self.scaling = config.lora_alpha / config.rank
        self.down_RD = fan_in_uniform((config.rank, dim), generator)
        self.up_DR = nn.Parameter(torch.zeros(dim, config.rank))
        self.register_buffer("merged_DD", torch.zeros(dim, dim))

    def forward(self, x: Tensor, keep_NR: Tensor | None = None, old: bool = False) -> Tensor:
        """x [N, D] or [N, L, D]; keep_NR: dropout mask of the low-rank map; old: as when the task began."""
        before = x + x @ self.merged_DD.T
        if old:
            return before
        hidden = x @ self.down_RD.T
        if keep_NR is not None:
            hidden = hidden * (keep_NR if x.dim() == 2 else keep_NR[:, None])
        return before + self.scaling * hidden @ self.up_DR.T

    def merge(self, share: float, generator: torch.Generator) -> None:
        self.merged_DD = self.merged_DD + share * self.scaling * self.up_DR @ self.down_RD
        self.up_DR.zero_()
        self.down_RD.copy_(fan_in_uniform(tuple(self.down_RD.shape), generator))
