"""What stays as it is while a task is learned, made once a task in place of in every step (`Method.view`)."""

from __future__ import annotations

import copy
from typing import ClassVar

import torch
from torch import Tensor

from ctvr_bench.features.streams import PairBatch, PairTable
from ctvr_bench.methods.shared.base import FeatureSpec, Method, MethodConfig, TaskInfo, TextEmbedding, VideoEmbedding
from ctvr_bench.methods.shared.heads import ResidualHead
from ctvr_bench.methods.shared.scoring import embed_text, embed_video

_TEXT, _VIDEO = "teacher_text_ND", "teacher_video_ND"
_CHUNK = 256


class MeanWords(Method):
    """Stands before the base of a method that knows a caption's words by their mean alone where no word is scored.

    Its steps then have that mean as a caption's only word. `prepare`, `loss` and `embed_batch` may look at nothing else
    of the words, also in what is derived from such a method.
    """

    def view(self, data: PairTable) -> PairTable:
        data = super().view(data)
        return data.with_mean_words() if self.config.scoring == "cosine" else data


class KeepsTeacher(MeanWords):
    """Stands before the base of a method with a residual head; keeps that head as it was before the task, frozen."""

    head: ResidualHead

    def __init__(self, config: MethodConfig, spec: FeatureSpec, generator: torch.Generator) -> None:
        super().__init__(config, spec, generator)
        self.teacher = copy.deepcopy(self.head).requires_grad_(False)

    def begin_task(self, task: TaskInfo) -> None:
        super().begin_task(task)
        self.teacher.load_state_dict(self.head.state_dict())


class KeepsLaterTeacher(KeepsTeacher):
    """One that asks its teacher from the second task on. asks_text: whether about captions, and not videos alone."""

    asks_text: ClassVar[bool] = True

    def view(self, data: PairTable) -> PairTable:
        data = super().view(data)
        return with_teacher(data, self.teacher, self.config, text=self.asks_text) if self.task.position > 0 else data


def with_teacher(
    data: PairTable, teacher: ResidualHead, config: MethodConfig, *, text: bool = True, video: bool = True
) -> PairTable:
    """The pairs with a frozen teacher's embeddings as rows; without any where words are compared."""
    if config.scoring != "cosine":
        return data
    caption_rows: dict[str, Tensor] = {}
    video_rows: dict[str, Tensor] = {}
    if text:
        captions = [embed_text(teacher.text(part), config).pooled_ND for part in data.text_chunks(_CHUNK)]
        caption_rows[_TEXT] = torch.cat(captions)
    if video:
        videos = [embed_video(teacher.scored_video(part), config).pooled_MD for part in data.video_chunks(_CHUNK)]
        video_rows[_VIDEO] = torch.cat(videos)
    return data.with_rows(caption=caption_rows, video=video_rows)


@torch.no_grad()
def teacher_text(teacher: ResidualHead, batch: PairBatch, config: MethodConfig) -> TextEmbedding:
    """The teacher's captions of a batch, without gradient."""
    if _TEXT in batch.rows:
        return TextEmbedding(batch.rows[_TEXT])
    return embed_text(teacher.text(batch.text), config)


@torch.no_grad()
def teacher_video(teacher: ResidualHead, batch: PairBatch, config: MethodConfig) -> VideoEmbedding:
    """The teacher's videos of a batch, without gradient."""
    if _VIDEO in batch.rows:
        return VideoEmbedding(batch.rows[_VIDEO])
    return embed_video(teacher.scored_video(batch.video), config)
