"""Ridge regression in closed form: from a caption to its video, over random features, added to the caption itself.

phi(t) = relu(LN(t) R),  R random [D, M];   W = (G + lambda 1)^-1 C,   G = sum phi' phi,  C = sum phi' (v - mean of v)
t, v unit caption and mean frame; a query is n(t + s phi(t) W), zero-shot as long as nothing was learned. All sums run
over all pairs ever seen: the solution is that of all data at once, whatever the order of the tasks.
                                                                        after McDonnell et al. 2023, NeurIPS (RanPAC)
lambda and s: for each lambda of a grid, W is fitted without every fifth video, and s maximises on those videos
    d(s) = sum q . (v - mean of v in its category) / sqrt( sum q' S q ),   q = t + s phi(t) W
S the covariance of all videos about the means of their categories: how far a query's own video stands out among those
of its category, by how far these spread. The best are kept and W is fitted again to all videos. d comes from sums as
well, so that even this choice knows no order. (By |q| in place of the spread, shares were chosen that raised the wrong
videos as much: 7.3 R@1 on simulated MSRVTT-10 where zero-shot has 21.4.)
Why not the least error of t + phi(t) W against v: it unlearns the directions of t in which few training videos happen
not to differ, and on 32 videos a task in 512 dimensions it scored far below zero-shot. Words are left alone: word-frame
scores are zero-shot's, and galleries never change. This is the small one: few features, no adapters, nothing trained;
`ranpac` is the whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field

from ctvr_bench.features.streams import PairTable
from ctvr_bench.methods.shared.base import FeatureSpec, MethodConfig
from ctvr_bench.methods.shared.ranges import Count, Search, at_most
from ctvr_bench.methods.shared.registry import register
from ctvr_bench.methods.shared.regression import RandomFeatureMap, Sums
from ctvr_bench.methods.shared.similarity import normalise


@dataclass(frozen=True)
class RidgeConfig(MethodConfig):
    """features: M. hold_out: every how many-th video is held out. lowest, highest: powers of ten in lambda's grid."""

    features: Annotated[Count, Search(500, 4000)] = 2000
    hold_out: Annotated[int, Field(ge=2)] = 5
    lowest: Annotated[int, Field(ge=-30, le=30)] = 0
    highest: Annotated[int, Field(ge=-30, le=30)] = 6

    def __post_init__(self) -> None:
        at_most(self.lowest, self.highest, "lowest", "highest")


@register()
class Ridge(RandomFeatureMap):
    """Closed-form regression from captions to videos, with sums that need no replay."""

    name = "ridge"
    paper = "McDonnell et al. 2023, RanPAC: Random Projections and Pre-trained Models for Continual Learning"
    source = "RanPAC/RanPAC@012927f RanPAC.py"
    fidelity = "adapted"
    deviations = (
        "a caption is mapped to its video, there a picture to its class; the map is added to the caption; "
        "strength and share are those that let held-out videos stand out, there of least error; no adapters "
        "learn in the first session, and fewer features (ranpac is the whole)"
    )
    published = "features=10000, lowest=-8, highest=8"
    idea = "Least squares forgets nothing: its sums over all data are small, and adding to them is learning."
    stores_samples = "sums of products of features over all pairs"
    Config = RidgeConfig
    config: RidgeConfig

    def __init__(self, config: RidgeConfig, spec: FeatureSpec, generator: torch.Generator) -> None:
        super().__init__(config, spec, config.features, generator)
        self.fitted = Sums(config.features, spec.dim, spec.num_categories)
        self.held_out = Sums(config.features, spec.dim, spec.num_categories)

    @torch.no_grad()
    def end_task(self, data: PairTable, generator: torch.Generator) -> None:
        for batch in map(data.pairs, data.chunks(256)):
            random_NM, text_ND = self.random_features(batch.text.pooled_ND), normalise(batch.text.pooled_ND)
            video_ND, held_N = self.targets(batch.video), batch.video_N % self.config.hold_out == 0
            for sums, mine_N in ((self.held_out, held_N), (self.fitted, ~held_N)):
                sums.add(random_NM[mine_N], text_ND[mine_N], video_ND[mine_N], batch.category_N[mine_N])
        count = self.fitted.count_C.sum() + self.held_out.count_C.sum()
        video_D = (self.fitted.video_CD.sum(0) + self.held_out.video_CD.sum(0)) / count
        grid = [10.0**power for power in range(self.config.lowest, self.config.highest + 1)]
        spread_DD = self.held_out.spread_within(self.fitted)
        choices = [self.held_out.best_share(self.fitted.solve(ridge, video_D), spread_DD) for ridge in grid]
        best = max(range(len(grid)), key=lambda i: choices[i].distinctness)
        self.map_MD.copy_(choices[best].share * self.fitted.solve(grid[best], video_D, self.held_out))
