"""Ridge regression in closed form: from a caption to its video, over random features, added to the caption itself.

phi(t) = relu(LN(t) R),  R random [D, M];   W = (G + lambda 1)^-1 C,   G = sum phi' phi,  C = sum phi' (v - mean of v)
t, v unit caption and mean frame; a query is n(t + s phi(t) W), zero-shot as long as nothing was learned. All sums run
over all pairs ever seen: the solution is that of all data at once, whatever the order of the tasks.
                                                                        after McDonnell et al. 2023, NeurIPS (RanPAC)
lambda and s: for each lambda of a grid, W is fitted without every fifth video, and s maximises on those videos
    d(s) = sum q . (v - mean of v in its category) / sqrt( sum |q|^2 ),   q = t + s phi(t) W
how far a query's own video stands out among those of its category. The best are kept and W is fitted again to all
videos. d comes from sums as well, so that even this choice knows no order.
Why not the least error of t + phi(t) W against v: it unlearns the directions of t in which few training videos happen
not to differ, and on 32 videos a task in 512 dimensions it scored far below zero-shot. Words are left alone: word-frame
scores are zero-shot's. Galleries never change, unless with `first_session`: residual adapters as `finetune`'s learn the
first task, are held from then on, and all above is done on what they give (the order of tasks then matters).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from ctvr_bench.features.streams import PairTable, TextBatch, VideoBatch
from ctvr_bench.methods.shared.base import FeatureSpec, Method, MethodConfig, TextEmbedding, VideoEmbedding
from ctvr_bench.methods.shared.heads import AdaptedVideo, ResidualHead, layer_norm, norm
from ctvr_bench.methods.shared.losses import symmetric_contrastive
from ctvr_bench.methods.shared.ranges import Count, NotNegative, Positive, Some, at_most
from ctvr_bench.methods.shared.registry import register
from ctvr_bench.methods.shared.regression import Sums
from ctvr_bench.methods.shared.scoring import embed_text, embed_video, pair_similarity, same_video
from ctvr_bench.methods.shared.similarity import normalise


@dataclass(frozen=True)
class RidgeConfig(MethodConfig):
    """features: M. hold_out: every how many-th video is held out. lowest, highest: powers of ten in lambda's grid.

    first_session: passes over the first task in which adapters of width `rank` are trained (0: none), in batches of
    `batch_size`, at peak learning rate `adapter_lr` falling to zero, similarities multiplied by `scale`.
    """

    features: Count = 2000
    hold_out: Annotated[int, Field(ge=2)] = 5
    lowest: Annotated[int, Field(ge=-30, le=30)] = 0
    highest: Annotated[int, Field(ge=-30, le=30)] = 6
    first_session: Some = 0
    rank: Count = 32
    batch_size: Count = 32
    adapter_lr: NotNegative = 2e-3
    scale: Positive = 17.6

    def __post_init__(self) -> None:
        at_most(self.lowest, self.highest, "lowest", "highest")


@register()
class Ridge(Method):
    """Closed-form regression from captions to videos, with sums that need no replay."""

    name = "ridge"
    paper = "McDonnell et al. 2023, RanPAC: Random Projections and Pre-trained Models for Continual Learning"
    source = "RanPAC/RanPAC@012927f RanPAC.py"
    fidelity = "adapted"
    deviations = (
        "a caption is mapped to its video, there a picture to its class; the map is added to the caption; "
        "strength and share are those that let held-out videos stand out, there of least error; no adapters "
        "learn in the first session (`first_session`)"
    )
    published = "features=10000, lowest=-8, highest=8, first_session=20"
    idea = "Least squares forgets nothing: its sums over all data are small, and adding to them is learning."
    stores_samples = "sums of products of features over all pairs"
    Config = RidgeConfig
    config: RidgeConfig
    projection_DM: Tensor

    def __init__(self, config: RidgeConfig, spec: FeatureSpec, generator: torch.Generator) -> None:
        super().__init__(config, spec, generator)
        self.map_MD = nn.Parameter(torch.zeros(config.features, spec.dim))
        projection_DM = torch.randn(spec.dim, config.features, generator=generator) / spec.dim**0.5
        self.register_buffer("projection_DM", projection_DM)
        self.fitted = Sums(config.features, spec.dim, spec.num_categories)
        self.held_out = Sums(config.features, spec.dim, spec.num_categories)
        if config.first_session:
            self.head = ResidualHead(spec.dim, config.rank, generator, pooled_only=config.scoring == "cosine")

    @torch.no_grad()
    def end_task(self, data: PairTable, generator: torch.Generator) -> None:
        if self.config.first_session and self.task.position == 0:
            self._adapt(data, generator)
        for index_N in data.chunks(256):
            batch = data.pairs(index_N)
            caption_ND = self._text(batch.text).pooled_ND
            random_NM, text_ND = self._random_features(caption_ND), normalise(caption_ND)
            video_ND = embed_video(self._video(batch.video), MethodConfig()).pooled_MD
            held_N = batch.video_N % self.config.hold_out == 0
            for sums, mine_N in ((self.held_out, held_N), (self.fitted, ~held_N)):
                sums.add(random_NM[mine_N], text_ND[mine_N], video_ND[mine_N], batch.category_N[mine_N])
        count = self.fitted.count_C.sum() + self.held_out.count_C.sum()
        video_D = (self.fitted.video_CD.sum(0) + self.held_out.video_CD.sum(0)) / count
        grid = [10.0**power for power in range(self.config.lowest, self.config.highest + 1)]
        choices = [self.held_out.best_share(self.fitted.solve(ridge, video_D)) for ridge in grid]
        best = max(range(len(grid)), key=lambda i: choices[i].distinctness)
        self.map_MD.copy_(choices[best].share * self.fitted.solve(grid[best], video_D, self.held_out))

    def encode_text(self, text: TextBatch, shard: int) -> TextEmbedding:
        text = self._text(text)
        shift_ND = self._random_features(text.pooled_ND) @ self.map_MD
        return embed_text(text._replace(pooled_ND=text.pooled_ND + norm(text.pooled_ND) * shift_ND), self.config)

    def encode_video(self, video: VideoBatch) -> VideoEmbedding:
        return embed_video(self._video(video), self.config)

    def _text(self, text: TextBatch) -> TextBatch:
        return self.head.text(text) if self.config.first_session else text

    def _video(self, video: VideoBatch) -> AdaptedVideo:
        return self.head.scored_video(video) if self.config.first_session else AdaptedVideo(*video)

    @torch.enable_grad()
    def _adapt(self, data: PairTable, generator: torch.Generator) -> None:
        """Train the adapters on the first session's pairs by fine-tuning's loss."""
        config = self.config
        optimiser = torch.optim.AdamW(self.head.parameters(), lr=config.adapter_lr)
        steps = config.first_session * math.ceil(len(data) / config.batch_size)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        for _ in range(config.first_session):
            for index_N in data.shuffled(config.batch_size, generator):
                batch = data.pairs(index_N)
                text, video = embed_text(self._text(batch.text), config), embed_video(self._video(batch.video), config)
                sim_NN = pair_similarity(text, video, config)
                optimiser.zero_grad()
                symmetric_contrastive(sim_NN, config.scale, same_video(batch.video_N)).backward()
                optimiser.step()
                schedule.step()

    def _random_features(self, caption_ND: Tensor) -> Tensor:
        return functional.relu(layer_norm(caption_ND) @ self.projection_DM)
