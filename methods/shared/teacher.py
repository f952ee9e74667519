"""A frozen earlier model's embeddings, made once a task where they are single vectors, and in the step otherwise."""

from __future__ import annotations

import torch
from torch import Tensor

from ctvr_bench.features.streams import PairBatch, TextBatch, VideoBatch
from ctvr_bench.methods.shared.base import MethodConfig, TextEmbedding, VideoEmbedding
from ctvr_bench.methods.shared.heads import ResidualHead
from ctvr_bench.methods.shared.scoring import embed_text, embed_video

_TEXT, _VIDEO = "teacher_text_ND", "teacher_video_ND"


@torch.no_grad()
def frozen_text(teacher: ResidualHead, text: TextBatch, config: MethodConfig) -> dict[str, Tensor]:
    """What a method with this teacher returns from `Method.frozen_text`; nothing where words are compared."""
    return {_TEXT: embed_text(teacher.text(text), config).pooled_ND} if config.scoring == "cosine" else {}


@torch.no_grad()
def frozen_video(teacher: ResidualHead, video: VideoBatch, config: MethodConfig) -> dict[str, Tensor]:
    """The same for `Method.frozen_video`."""
    if config.scoring != "cosine":
        return {}
    return {_VIDEO: embed_video(teacher.scored_video(video), config).pooled_MD}


@torch.no_grad()
def teacher_text(teacher: ResidualHead, batch: PairBatch, config: MethodConfig) -> TextEmbedding:
    """The teacher's captions of a batch, without gradient."""
    if _TEXT in batch.draws:
        return TextEmbedding(batch.draws[_TEXT])
    return embed_text(teacher.text(batch.text), config)


@torch.no_grad()
def teacher_video(teacher: ResidualHead, batch: PairBatch, config: MethodConfig) -> VideoEmbedding:
    """The teacher's videos of a batch, without gradient."""
    if _VIDEO in batch.draws:
        return VideoEmbedding(batch.draws[_VIDEO])
    return embed_video(teacher.scored_video(batch.video), config)
