"""d-Simplex-HOC: a classifier that never moves, and features that agree with their own past more than with others'.

L_A = L_contrastive + mean of -log softmax_c(s z.e_c) over captions and videos,   e a fixed simplex of all categories
L_HOC = mean_i [ -mu z_i.z_old_i + log sum_k e^{mu z_k.z_old_i} ],   k over pairs of other categories,   likewise
L = lambda L_A + (1 - lambda) L_HOC;   L_A alone in the first task.           Biondi et al. 2024, CVPR (2405.02581)
A fixed classifier has a place for every category before it comes, so that features of all tasks share one geometry;
higher-order compatibility (HOC) holds them to the model before the task.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ctvr_bench.features.streams import PairBatch
from ctvr_bench.methods.finetune import Finetune, FinetuneConfig
from ctvr_bench.methods.shared.base import FeatureSpec
from ctvr_bench.methods.shared.etf import simplex_etf
from ctvr_bench.methods.shared.losses import symmetric_contrastive
from ctvr_bench.methods.shared.ranges import NotNegative, Positive, Search, Share
from ctvr_bench.methods.shared.registry import register
from ctvr_bench.methods.shared.scoring import pair_similarity, same_video
from ctvr_bench.methods.shared.views import KeepsLaterTeacher, teacher_text, teacher_video


@dataclass(frozen=True)
class DSimplexHOCConfig(FinetuneConfig):
    """learning: lambda, the share of L_A. mu: scale of similarities in L_HOC. classifier: weight of the simplex in L_A.

    scoring: pooled features alone, since those are classified and held.
    """

    lr: NotNegative = 1e-4
    scoring: Literal["cosine"] = "cosine"
    learning: Annotated[Share, Search(0.0, 1.0, "linear")] = 0.9
    mu: Annotated[Positive, Search(1.0, 100.0)] = 10.0
    classifier: Annotated[NotNegative, Search(0.1, 10.0)] = 1.0


@register()
class DSimplexHOC(KeepsLaterTeacher, Finetune):
    """Contrastive training beside a fixed simplex classifier, most of it agreement with the old model."""

    name = "d_simplex_hoc"
    paper = "Biondi et al. 2024, Stationary Representations: Optimally Approximating Compatibility"
    source = "miccunifi/iamcl2r@18495ac src/iamcl2r/methods/hoc.py, src/iamcl2r/train.py"
    fidelity = "adapted"
    deviations = (
        "the contrastive loss is added to L_A, since categories alone do not tell videos apart; the classifier sees "
        "scaled cosines and has a vertex for each category of the stream; in L_HOC entries of the same category are "
        "left out, where the authors' code leaves a constant in their place; without rehearsal"
    )
    published = "learning=0.1"
    idea = "Keep the targets fixed from the start, and old and new models agree because they learn the same ones."
    control = "video_frozen"
    Config = DSimplexHOCConfig
    config: DSimplexHOCConfig
    simplex_CD: Tensor

    def __init__(self, config: DSimplexHOCConfig, spec: FeatureSpec, generator: torch.Generator) -> None:
        super().__init__(config, spec, generator)
        self.register_buffer("simplex_CD", simplex_etf(spec.num_categories, spec.dim, generator))

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        config, category_N = self.config, batch.category_N
        text, video = self.embed_batch(batch)
        contrast = symmetric_contrastive(pair_similarity(text, video, config), config.scale, same_video(batch.video_N))
        classified = [cross_entropy(config.scale * z @ self.simplex_CD.T, category_N) for z in (text[0], video[0])]
        share = config.learning if self.task.position > 0 else 1.0
        terms = {
            "contrastive": share * contrast,
            "classifier": share * config.classifier * torch.stack(classified).mean(),
        }
        if self.task.position > 0:
            old_text, old_video = teacher_text(self.teacher, batch, config), teacher_video(self.teacher, batch, config)
            sides = ((text[0], old_text[0]), (video[0], old_video[0]))
            agreement = [higher_order_compatibility(new, old, category_N, config.mu) for new, old in sides]
            terms["compatibility"] = (1 - share) * torch.stack(agreement).mean()
        return terms


def higher_order_compatibility(new_ND: Tensor, old_ND: Tensor, category_N: Tensor, mu: float) -> Tensor:
    """L_HOC of unit features; a pair whose batch holds no other category has its own similarity alone."""
    sim_NN = mu * old_ND @ new_ND.T
    other_NN = category_N[:, None] != category_N
    others_N = sim_NN.masked_fill(~other_NN, torch.finfo(sim_NN.dtype).min / 2).logsumexp(1)
    return (torch.where(other_NN.any(1), others_N, 0.0) - sim_NN.diagonal()).mean()
