"""RanPAC: adapters learn the first task and are held; then regression on many random features, in closed form.

Session 1: residual adapters as `finetune`'s are trained by its loss on the first task's pairs, and held from then on.
phi(t) = relu(LN(t) R),  R random [D, M];   W = (G + lambda 1)^-1 C,   G = sum phi' phi,  C = sum phi' (v - mean of v)
t, v the adapted unit caption and mean frame, sums over all pairs ever seen; a query is n(t + phi(t) W).
lambda, anew in each task: with W fitted to four fifths of the task's videos alone, that power of ten whose phi(t) W is
nearest in squares to v - mean of v on the last fifth.                               McDonnell et al. 2023, NeurIPS
The choice needs no M x M matrix: with K = phi phi' of the n fitted pairs, W = phi' (K + lambda 1)^-1 V.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from ctvr_bench.features.streams import PairTable, TextBatch, VideoBatch
from ctvr_bench.methods.shared.adamw import AdamW
from ctvr_bench.methods.shared.base import FeatureSpec, MethodConfig
from ctvr_bench.methods.shared.heads import AdaptedVideo, ResidualHead
from ctvr_bench.methods.shared.losses import symmetric_contrastive
from ctvr_bench.methods.shared.ranges import Count, NotNegative, Positive, Search, Some, at_most
from ctvr_bench.methods.shared.registry import register
from ctvr_bench.methods.shared.regression import RandomFeatureMap, Sums
from ctvr_bench.methods.shared.scoring import embed_text, embed_video, pair_similarity, same_video
from ctvr_bench.methods.shared.similarity import normalise


@dataclass(frozen=True)
class RanPACConfig(MethodConfig):
    """features: M; G and its factor take M x M numbers of eight bytes each. lowest, highest: powers of ten for lambda.

    choose_on: pairs of a task at most on which lambda is chosen.
    first_session: passes over the first task in which adapters of width `rank` are trained (0: none), in batches of
    `batch_size`, at peak learning rate `adapter_lr` falling to zero, similarities multiplied by `scale`.
    """

    features: Count = 10000
    lowest: Annotated[int, Field(ge=-30, le=30)] = -8
    highest: Annotated[int, Field(ge=-30, le=30)] = 8
    choose_on: Annotated[int, Field(ge=2)] = 2000
    first_session: Annotated[Some, Search(0, 40, "linear")] = 5
    rank: Count = 32
    batch_size: Count = 48
    adapter_lr: Annotated[NotNegative, Search(3e-5, 1e-2)] = 2.6e-4
    scale: Positive = 17.6

    def __post_init__(self) -> None:
        at_most(self.lowest, self.highest, "lowest", "highest")


@register()
class RanPAC(RandomFeatureMap):
    """Adapters of the first session, and regression from captions to videos over many random features."""

    name = "ranpac"
    paper = "McDonnell et al. 2023, RanPAC: Random Projections and Pre-trained Models for Continual Learning"
    source = "RanPAC/RanPAC@012927f RanPAC.py"
    fidelity = "adapted"
    deviations = (
        "a caption is mapped to its video, there a picture to its class, and the map is added to the caption; held out "
        "are videos with all their captions, there pairs; adapters are trained by AdamW, there by SGD, and by the "
        "contrastive loss; no lambda is below what float64 tells from zero in G"
    )
    published = "first_session=20"
    idea = "Adapt once, then let least squares in a wide random space do the rest."
    stores_samples = "sums of products of random features over all pairs"
    Config = RanPACConfig
    config: RanPACConfig

    def __init__(self, config: RanPACConfig, spec: FeatureSpec, generator: torch.Generator) -> None:
        super().__init__(config, spec, config.features, generator)
        self.head = ResidualHead(spec.dim, config.rank, generator, pooled_only=config.scoring == "cosine")
        self.sums = Sums(config.features, spec.dim, spec.num_categories)

    def adapted_text(self, text: TextBatch) -> TextBatch:
        return self.head.text(text)

    def adapted_video(self, video: VideoBatch) -> AdaptedVideo:
        return self.head.scored_video(video)

    @torch.no_grad()
    def end_task(self, data: PairTable, generator: torch.Generator) -> None:
        if self.task.position == 0:
            self._first_session(data, generator)
        for batch in map(data.pairs, data.chunks(256)):
            text_ND = self.adapted_text(batch.text).pooled_ND
            random_NM, video_ND = self.random_features(text_ND), self.targets(batch.video)
            self.sums.add(random_NM, normalise(text_ND), video_ND, batch.category_N)
        ridge = max(self._ridge(data, generator), self.sums.gram_MM.trace().item() * self.config.features * 2e-16)
        mean_D = self.sums.video_CD.sum(0) / self.sums.count_C.sum()
        self.map_MD.copy_(self.sums.solve(ridge, mean_D))

    def _ridge(self, data: PairTable, generator: torch.Generator) -> float:
        """The lambda of least squared error on a fifth of this task's videos."""
        batch = data.pairs(torch.randperm(len(data), generator=generator)[: self.config.choose_on])
        video_N = batch.video_N
        order_V = video_N.unique()[torch.randperm(len(video_N.unique()), generator=generator).to(video_N.device)]
        held_N = torch.isin(video_N, order_V[: math.ceil(len(order_V) / 5)])
        x_NM = self.random_features(self.adapted_text(batch.text).pooled_ND).double()
        v_ND = self.targets(batch.video).double()
        grid = [10.0**power for power in range(self.config.lowest, self.config.highest + 1)]
        if held_N.all():  # a single video leaves nothing to fit
            return grid[-1]
        return min(zip(held_out_errors(x_NM, v_ND, held_N, grid), grid, strict=True))[1]

    @torch.enable_grad()
    def _first_session(self, data: PairTable, generator: torch.Generator) -> None:
        """Train the adapters on the first task's pairs by fine-tuning's loss."""
        config = self.config
        optimiser = AdamW(self.head.parameters(), lr=config.adapter_lr)
        steps = max(config.first_session * math.ceil(len(data) / config.batch_size), 1)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        for _ in range(config.first_session):
            for batch in map(data.pairs, data.shuffled(config.batch_size, generator)):
                text = embed_text(self.adapted_text(batch.text), config)
                sim_NN = pair_similarity(text, embed_video(self.adapted_video(batch.video), config), config)
                optimiser.zero_grad()
                symmetric_contrastive(sim_NN, config.scale, same_video(batch.video_N)).backward()
                optimiser.step()
                schedule.step()


def held_out_errors(x_NM: Tensor, v_ND: Tensor, held_N: Tensor, ridges: list[float]) -> list[float]:
    """Squared error, on held-out pairs, of ridge regression on the others (videos less their mean) for each lambda."""
    mean_D = v_ND[~held_N].mean(0)
    fitted_KM = x_NM[~held_N]
    size_K, basis_KK = torch.linalg.eigh(fitted_KM @ fitted_KM.T)
    across_HK, turned_KD = x_NM[held_N] @ fitted_KM.T @ basis_KK, basis_KK.T @ (v_ND[~held_N] - mean_D)
    predicted = (across_HK / (size_K.clamp(min=0) + ridge) @ turned_KD for ridge in ridges)
    return [float((each_HD - (v_ND[held_N] - mean_D)).square().sum()) for each_HD in predicted]
