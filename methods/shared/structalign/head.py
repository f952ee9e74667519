"""StructAlign's trainable head: frame fusion on the video side, routed low-rank experts on the text side (spec 5)."""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ctvr_bench.features.streams import PairBatch, PairTable, TextBatch, VideoBatch
from ctvr_bench.methods.shared.base import FeatureSpec, Scoring
from ctvr_bench.methods.shared.heads import AdaptedVideo, FrameFusion, RoutedExperts
from ctvr_bench.methods.shared.similarity import normalise, pool_frames, word_frame_similarity
from ctvr_bench.methods.shared.structalign.config import StructAlignConfig


class Route(NamedTuple):
    """How captions go through the experts: gates_NE, and the dropout mask before A in training."""

    gates_NE: Tensor
    keep_ND: Tensor | None = None


class StructAlignHead(nn.Module):
    """Frame fusion on the video side, routed low-rank experts with a vector per task on the text side."""

    def __init__(self, config: StructAlignConfig, spec: FeatureSpec, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.fusion = FrameFusion(spec.dim, config.heads)
        self.experts = RoutedExperts(spec.dim, config.rank, config.experts, config.top_k, config.scaling, generator)
        vectors = torch.randn(spec.num_tasks, spec.dim, generator=generator) / math.sqrt(spec.dim)
        self.task_vectors = nn.ParameterList(nn.Parameter(vector) for vector in vectors)

    def route(self, text: TextBatch, shard: int | None, noise_NE: Tensor | None = None) -> Tensor:
        """g_NE of spec 2.10 from sqrt(D) n(caption) + the shard's task vector (None: no vector)."""
        config = self.config
        first_alone = shard == 0 and not config.route_first_task
        if not config.routing or first_alone:
            return self.experts.first_expert(len(text.pooled_ND))
        router_ND = normalise(text.pooled_ND) * math.sqrt(text.pooled_ND.shape[1])
        if shard is not None:
            router_ND = router_ND + self.task_vectors[shard]
        return self.experts.gates(router_ND, noise_NE)

    def text(self, text: TextBatch, route: Route) -> TextBatch:
        tokens_NLD = torch.cat([text.pooled_ND[:, None], text.words_NLD], 1)  # one pass through the caption's experts
        tokens_NLD = tokens_NLD + self.experts(tokens_NLD, *route)
        return TextBatch(tokens_NLD[:, 0], tokens_NLD[:, 1:], text.word_mask_NL)

    def video(self, video: VideoBatch) -> AdaptedVideo:
        return self.fusion(video) if self.config.frame_fusion else AdaptedVideo(*video)


class ShownVideos(NamedTuple):
    """The U distinct videos of N pairs. pair_U: a pair of each; row_N: which each pair shows. None: each its own."""

    pair_U: Tensor | None = None
    row_N: Tensor | None = None

    def of_videos(self, x_N: Tensor) -> Tensor:
        """What pairs have by their video, once for each video."""
        return x_N if self.pair_U is None else x_N[self.pair_U]

    def once(self, video: VideoBatch) -> VideoBatch:
        """The batch's videos, each once."""
        return VideoBatch(*map(self.of_videos, video))

    def of_pairs(self, x: Tensor, axis: int = 0) -> Tensor:
        """What videos have, on this axis, for each pair."""
        return x if self.row_N is None else x.index_select(axis, self.row_N)


def distinct_videos(video_N: Tensor) -> dict[str, Tensor]:
    """The fields of `ShownVideos` as draws of a batch; none if all videos differ, nor on a GPU, which would wait."""
    if video_N.device.type != "cpu":
        return {}
    video_U, row_N = torch.unique(video_N, return_inverse=True)
    if len(video_U) == len(video_N):
        return {}
    pair_U = torch.zeros_like(video_U)
    pair_U[row_N] = torch.arange(len(row_N), device=row_N.device)
    return {"pair_U": pair_U, "row_N": row_N}


def head_similarity(text: TextBatch, video: AdaptedVideo, scoring: Scoring) -> Tensor:
    """Word-frame similarity, also where scoring is fused (2.3); the pooled cosine where scoring is cosine."""
    if scoring == "cosine":
        return normalise(text.pooled_ND) @ pool_frames(video.frames_MFD, video.frame_mask_MF).T
    return word_frame_similarity(text.words_NLD, text.word_mask_NL, video.frames_MFD, video.frame_mask_MF)


class Teacher(nn.Module):
    """An earlier head, frozen, which gives the reference similarities X_ref (2.4)."""

    def __init__(self, head: StructAlignHead, config: StructAlignConfig) -> None:
        super().__init__()
        self.head = copy.deepcopy(head).requires_grad_(False)
        self._config = config

    def with_rows(self, data: PairTable, in_steps: int, shard: int) -> PairTable:
        """The pairs with X_ref of all, where a task's steps make as many similarities; else with adapted frames.

        in_steps: similarities that the steps make. shard: the task by whose vector captions are routed.
        """
        videos = data.all_videos()
        if len(videos.frames_MFD) * len(data) > in_steps:
            frames = [self.head.video(part).frames_MFD for part in data.video_chunks(256)]
            return data.with_rows(video={"teacher_frames_NFD": torch.cat(frames)})
        old_video, texts = self.head.video(videos), data.text_chunks(self._config.batch_size)
        rows = [head_similarity(self._text(text, shard), old_video, self._config.scoring) for text in texts]
        return data.with_rows(pair={"teacher_sim_NN": torch.cat(rows)})

    @torch.no_grad()
    def similarity(self, batch: PairBatch, shown: ShownVideos, shard: int) -> Tensor:
        """X_ref of a batch: kept for the whole task, from the kept frames, or from scratch."""
        if "teacher_sim_NN" in batch.rows:
            return batch.rows["teacher_sim_NN"]
        frames_NFD = batch.rows.get("teacher_frames_NFD")
        if frames_NFD is None:
            video = self.head.video(shown.once(batch.video))
        else:
            video = AdaptedVideo(shown.of_videos(frames_NFD), shown.of_videos(batch.video.frame_mask_MF))
        return shown.of_pairs(head_similarity(self._text(batch.text, shard), video, self._config.scoring), 1)

    def _text(self, text: TextBatch, shard: int) -> TextBatch:
        return self.head.text(text, Route(self.head.route(text, shard)))
