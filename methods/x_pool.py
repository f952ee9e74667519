"""X-Pool: every caption pools a video's frames for itself, by attention; the gallery depends on the query.

a_f = softmax_f( (W_q LN(t)) . (W_k k_f) / sqrt(D) ),   video as caption t sees it: video + sum_f (a_f - 1/F) u_f,
t and frames from the residual adapters of `finetune`; score = cosine.  L = finetune's on these scores
                                                                                     Gorti et al. 2022, CVPR
k_f = LN(frame), as the authors' keys and values, and u_f the same at unit length. With keys = unit both are the frame
at unit length, and logits smaller by sqrt(D). W_k = 1 at first as in the authors' code; W_q = 0 to start from mean
pooling. W_k' W_q LN(t) is made with the caption: scoring a stored gallery of frames needs no weight. Where words are
scored, which compares the frames as they are, LN leaves their mean over dimensions in them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from ctvr_bench.features.streams import PairBatch, TextBatch, VideoBatch
from ctvr_bench.methods.finetune import Finetune, FinetuneConfig
from ctvr_bench.methods.shared.base import FeatureSpec, TextEmbedding, VideoEmbedding
from ctvr_bench.methods.shared.heads import AdaptedVideo, layer_norm
from ctvr_bench.methods.shared.ranges import NotNegative
from ctvr_bench.methods.shared.registry import register
from ctvr_bench.methods.shared.scoring import embed_video
from ctvr_bench.methods.shared.similarity import normalise


@dataclass(frozen=True)
class XPoolConfig(FinetuneConfig):
    """keys: what a caption's attention looks at. dropout: in the residual adapters. Word-frame scores do not pool."""

    lr: NotNegative = 6e-4
    keys: Literal["unit", "layer_norm"] = "layer_norm"


@register()
class XPool(Finetune):
    """Fine-tuning with caption-conditioned attention over frames."""

    name = "x_pool"
    paper = "Gorti et al. 2022, X-Pool: Cross-Modal Language-Video Attention for Text-Video Retrieval"
    source = "layer6ai-labs/xpool@bc88718 modules/transformer.py"
    fidelity = "adapted"
    deviations = (
        "attention is even at first and shifts the mean frame, there both are compared as they are; no output layers"
    )
    idea = "A caption tells about part of a video: let it pick the frames it is about."
    Config = XPoolConfig
    config: XPoolConfig

    def __init__(self, config: XPoolConfig, spec: FeatureSpec, generator: torch.Generator) -> None:
        super().__init__(config, spec, generator)
        self.query_DD = nn.Parameter(torch.zeros(spec.dim, spec.dim))
        self.key_DD = nn.Parameter(torch.eye(spec.dim))

    def embed_batch(self, batch: PairBatch) -> tuple[TextEmbedding, VideoEmbedding]:
        text, _ = super().embed_batch(batch)
        adapted = self.head.video_frames(batch.video, batch.draws.get("keep_video_NR"))
        return self._attending(text), self._with_frames(adapted)

    def encode_text(self, text: TextBatch, shard: int) -> TextEmbedding:
        return self._attending(super().encode_text(text, shard))

    def encode_video(self, video: VideoBatch) -> VideoEmbedding:
        return self._with_frames(self.head.video_frames(video))

    def _attending(self, text: TextEmbedding) -> TextEmbedding:
        query_ND = layer_norm(text.pooled_ND) @ self.query_DD.T / math.sqrt(self.spec.dim)
        if self.config.keys == "layer_norm":  # LN(f) = sqrt(D) n(f - mean of f): the gallery keeps the unit vector
            query_ND = query_ND * math.sqrt(self.spec.dim)
        return text._replace(attend_ND=query_ND @ self.key_DD)

    def _with_frames(self, video: AdaptedVideo) -> VideoEmbedding:
        normed = self.config.keys == "layer_norm" and self.config.scoring == "cosine"
        frames_MFD = normalise(layer_norm(video.frames_MFD) if normed else video.frames_MFD)
        frames_MFD = frames_MFD * video.frame_mask_MF[..., None]
        return VideoEmbedding(embed_video(video, self.config).pooled_MD, frames_MFD, video.frame_mask_MF)
