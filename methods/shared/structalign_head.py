"""StructAlign's trainable head: frame fusion on the video side, routed low-rank experts on the text side (spec 5)."""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ctvr_bench.features.streams import TextBatch, VideoBatch
from ctvr_bench.methods.shared.base import FeatureSpec
from ctvr_bench.methods.shared.heads import AdaptedVideo, FrameFusion, RoutedExperts
from ctvr_bench.methods.shared.similarity import normalise


class HeadConfig(Protocol):
    """The fields of StructAlignConfig that the head reads."""

    @property
    def heads(self) -> int: ...
    @property
    def rank(self) -> int: ...
    @property
    def experts(self) -> int: ...
    @property
    def top_k(self) -> int: ...
    @property
    def scaling(self) -> float: ...
    @property
    def frame_fusion(self) -> bool: ...
    @property
    def routing(self) -> bool: ...
    @property
    def route_first_task(self) -> bool: ...


class Route(NamedTuple):
    """How captions go through the experts: gates_NE, and the dropout mask before A in training."""

    gates_NE: Tensor
    keep_ND: Tensor | None = None


class StructAlignHead(nn.Module):
    """Frame fusion on the video side, routed low-rank experts with a vector per task on the text side."""

    def __init__(self, config: HeadConfig, spec: FeatureSpec, generator: torch.Generator) -> None:
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
