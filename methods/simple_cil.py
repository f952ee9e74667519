"""SimpleCIL: means of frozen features, nothing trained; a caption's nearest category says what its videos look like.

p_c = n(sum of t),  u_c = n(sum of v) over all pairs ever seen of category c;  t, v unit caption and mean frame
c(t) = argmax_c t . p_c over the categories learned,   a query is n(t + weight u_c(t))       Zhou et al. 2024, IJCV
c(t) is the authors' classifier; that it leads to videos is ours. It tells how much of retrieval is to find the
category, for two sums a category. Words are left alone, galleries never change, and no order of tasks matters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional

from ctvr_bench.features.streams import PairTable, TextBatch, VideoBatch
from ctvr_bench.methods.shared.base import FeatureSpec, Method, MethodConfig, TextEmbedding, VideoEmbedding
from ctvr_bench.methods.shared.heads import AdaptedVideo, norm
from ctvr_bench.methods.shared.ranges import NotNegative, Search
from ctvr_bench.methods.shared.registry import register
from ctvr_bench.methods.shared.scoring import embed_text, embed_video
from ctvr_bench.methods.shared.similarity import normalise


@dataclass(frozen=True)
class SimpleCILConfig(MethodConfig):
    """weight: of the category's mean video beside the caption."""

    weight: Annotated[NotNegative, Search(0.01, 10.0)] = 0.3


@register()
class SimpleCIL(Method):
    """The caption with the mean video of the category whose mean caption is nearest."""

    name = "simple_cil"
    paper = "Zhou et al. 2024, Revisiting Class-Incremental Learning with Pre-Trained Models (SimpleCIL)"
    source = "LAMDA-CL/LAMDA-PILOT@5240714 models/simplecil.py"
    fidelity = "adapted"
    deviations = (
        "a caption is classified, there a picture; the class leads to videos by its mean video, there it is the answer"
    )
    idea = "Before anything is trained: what do class means of frozen features give?"
    stores_samples = "sums of captions and of videos of each category"
    Config = SimpleCILConfig
    config: SimpleCILConfig
    text_CD: Tensor
    video_CD: Tensor

    def __init__(self, config: SimpleCILConfig, spec: FeatureSpec, generator: torch.Generator) -> None:
        super().__init__(config, spec, generator)
        self.register_buffer("text_CD", torch.zeros(spec.num_categories, spec.dim, dtype=torch.float64))
        self.register_buffer("video_CD", torch.zeros(spec.num_categories, spec.dim, dtype=torch.float64))

    @torch.no_grad()
    def end_task(self, data: PairTable, generator: torch.Generator) -> None:
        for batch in map(data.pairs, data.chunks(256)):
            video_MD = embed_video(AdaptedVideo(*batch.video), MethodConfig()).pooled_MD
            member_CN = functional.one_hot(batch.category_N, len(self.text_CD)).T.double()
            self.text_CD += member_CN @ normalise(batch.text.pooled_ND).double()
            self.video_CD += member_CN @ video_MD.double()

    def encode_text(self, text: TextBatch, shard: int) -> TextEmbedding:
        learned = self.text_CD.any(1)
        if not learned.any():
            return embed_text(text, self.config)
        match_NC = text.pooled_ND @ normalise(self.text_CD[learned]).to(text.pooled_ND).T
        video_ND = normalise(self.video_CD[learned]).to(text.pooled_ND)[match_NC.argmax(1)]
        shifted_ND = text.pooled_ND + self.config.weight * norm(text.pooled_ND) * video_ND
        return embed_text(text._replace(pooled_ND=shifted_ND), self.config)

    def encode_video(self, video: VideoBatch) -> VideoEmbedding:
        return embed_video(AdaptedVideo(*video), self.config)
