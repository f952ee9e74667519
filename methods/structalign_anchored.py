"""StructAlign's simplex where frozen features are: categories anchored at their own means, drawn apart a little.

x~ = n(x - mu of the modality), mu frozen; m_c the mean of frozen x~ of category c over both modalities, fixed once met
(A) p_c = n((1 - r) m_c + r e_pi(c)),   L_A = 1/2 sum over modalities of the category mean of -log softmax(s x~ . p_c)
    over the categories seen. No projection: both modalities are pulled to one place in the space that is searched.
(B) e is a simplex in the reference bank's first C-1 directions; pi assigns each new category a free vertex so that the
    sum of m_c . e_pi(c) is largest (Hungarian). basis = random and assignment = order are StructAlign's.
(C) L_C = 1/2 sum over modalities of the category mean of | mean(x - x_frozen) - g e_pi(c) |^2: only what adaptation
    adds goes to the simplex, so that what CLIP knows inside a category stays.
L = L_contrastive + lambda_A L_A + lambda_C L_C,   lambda = k stopgrad(|grad L_contrastive| / |grad L_.|), gradients
with respect to the unit features.
With `video_tasks` the same is trained while the video side, and so every stored gallery, is held. r = 0 and g = 0 leave
the simplex out and the pull in: what is left of an effect there is not the simplex's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from ctvr_bench.features.errors import InputError
from ctvr_bench.features.streams import PairBatch, PairTable, VideoBatch
from ctvr_bench.methods.finetune import Finetune, FinetuneConfig
from ctvr_bench.methods.shared.base import FeatureSpec, ParameterGroup
from ctvr_bench.methods.shared.heads import AdaptedVideo
from ctvr_bench.methods.shared.losses import symmetric_contrastive
from ctvr_bench.methods.shared.ranges import NotNegative, Search, Share, Some
from ctvr_bench.methods.shared.registry import register
from ctvr_bench.methods.shared.scoring import embed_video, same_video
from ctvr_bench.methods.shared.sides import sides_trained
from ctvr_bench.methods.shared.similarity import normalise
from ctvr_bench.methods.shared.structalign.anchors import Anchors, Assignment, Basis, balanced
from ctvr_bench.methods.shared.views import MeanWords


@dataclass(frozen=True)
class StructAlignAnchoredConfig(FinetuneConfig):
    """anchor, residual: k of (A) and of (C), their gradient's share of the contrastive one's; 0 leaves the term out.

    vertex_share: r. shift: g. basis, assignment: (B). video_tasks: tasks in which the video side learns (None: all).
    scoring: pooled features alone, since those are anchored.
    """

    scoring: Literal["cosine"] = "cosine"
    anchor: Annotated[NotNegative, Search(0.0, 0.6, "linear")] = 0.2
    vertex_share: Annotated[Share, Search(0.0, 1.0, "linear")] = 0.2
    basis: Basis = "reference"
    assignment: Assignment = "hungarian"
    residual: Annotated[NotNegative, Search(0.0, 0.6, "linear")] = 0.0
    shift: Annotated[NotNegative, Search(0.0, 0.5, "linear")] = 0.1
    video_tasks: Some | None = None


@register()
class StructAlignAnchored(MeanWords, Finetune):
    """Fine-tuning plus pulls of both modalities to anchors between category means and a simplex."""

    name = "structalign_anchored"
    paper = "this suite's, after StructAlign (SIGIR 2026, arXiv 2601.20597)"
    source = "this suite's equations; StructAlign's idea, none of its code"
    fidelity = "adapted"
    deviations = (
        "no projections, pseudo-features, relations or replayed prototypes; anchors lie at frozen category means; "
        "terms are weighed by their gradients, StructAlign's by values; residual adapters and pooled features alone"
    )
    idea = "A simplex can only hold modalities together if it stands where the encoder has put the categories."
    stores_samples = "the mean of each category"
    needs_reference = True
    Config = StructAlignAnchoredConfig
    config: StructAlignAnchoredConfig

    def __init__(self, config: StructAlignAnchoredConfig, spec: FeatureSpec, generator: torch.Generator) -> None:
        super().__init__(config, spec, generator)
        if spec.reference is None:
            raise InputError(f"{self.name} learns with a bank of reference features and got none; use a store with one")
        self.anchors = Anchors(spec.reference, spec.num_categories, config.basis, generator)
        self.pulls = {"anchor": config.anchor > 0, "residual": config.residual > 0}  # a stack's weights are no numbers

    def survey(self, data: PairTable) -> None:
        video_VD = torch.cat([frozen_video(videos) for videos in data.video_chunks(256)])
        self.anchors.meet(
            normalise(data.pooled_PD), video_VD[data.video_position_P], data.category_P, self.config.assignment
        )

    def parameter_groups(self) -> list[ParameterGroup]:
        return sides_trained(self.head, self.task.position, self.config.video_tasks)

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        config, anchors, category_N = self.config, self.anchors, batch.category_N
        text, video = self.embed_batch(batch)
        same_NN, frozen = same_video(batch.video_N), (normalise(batch.text.pooled_ND), frozen_video(batch.video))

        def contrast(text_ND: Tensor, video_ND: Tensor) -> Tensor:
            return symmetric_contrastive(text_ND @ video_ND.T, config.scale, same_NN)

        def anchored(text_ND: Tensor, video_ND: Tensor) -> Tensor:
            return anchors.anchored(text_ND, video_ND, category_N, config.vertex_share, config.scale)

        def residual(text_ND: Tensor, video_ND: Tensor) -> Tensor:
            return anchors.residual((text_ND - frozen[0], video_ND - frozen[1]), category_N, config.shift)

        features = text.pooled_ND, video.pooled_MD
        terms = {"contrastive": contrast(*features)}
        if self.pulls["anchor"]:
            terms["anchor"] = balanced(config.anchor, anchored, contrast, *features)
        if self.pulls["residual"]:
            terms["residual"] = balanced(config.residual, residual, contrast, *features)
        return terms


def frozen_video(video: VideoBatch) -> Tensor:
    """Unit videos as the encoder gives them."""
    return embed_video(AdaptedVideo(*video), StructAlignAnchoredConfig()).pooled_MD
