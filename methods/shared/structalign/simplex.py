"""StructAlign's simplex: a direction for each category, to which both modalities and pseudo-features are pulled."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ctvr_bench.features.streams import PairBatch, TextBatch
from ctvr_bench.methods.shared.base import FeatureSpec
from ctvr_bench.methods.shared.etf import random_projection_etf, simplex_etf
from ctvr_bench.methods.shared.heads import AdaptedVideo, fan_in_uniform
from ctvr_bench.methods.shared.losses import attended_misalignment, pseudo_alignment
from ctvr_bench.methods.shared.structalign.config import StructAlignConfig
from ctvr_bench.methods.shared.structalign.head import ShownVideos


class Simplex(nn.Module):
    """The directions etf_CD, the projections P1 of captions and P2 of videos, and each category's place in its task."""

    etf_CD: Tensor
    local_label_C: Tensor

    def __init__(self, config: StructAlignConfig, spec: FeatureSpec, generator: torch.Generator) -> None:
        super().__init__()
        self._config = config
        make_basis = simplex_etf if config.etf_basis == "simplex" else random_projection_etf
        self.register_buffer("etf_CD", make_basis(spec.num_categories, spec.dim, generator))
        self.register_buffer("local_label_C", torch.zeros(spec.num_categories, dtype=torch.int64))
        self.projections = nn.ParameterList(_projection(config, spec.dim, generator) for _ in ("text", "video"))

    def number(self, categories: Sequence[int]) -> None:
        """Number the categories of a task that begins."""
        for label, category in enumerate(categories):
            self.local_label_C[category] = label

    def pull(self, batch: PairBatch, text: TextBatch, video: AdaptedVideo, shown: ShownVideos) -> Tensor:
        """L_real of the adapted batch, and L_pseudo where it holds pseudo-features of old categories."""
        etf_ND, to_text, to_video = self.etf_CD[batch.category_N], *self.projections
        text_N = attended_misalignment(*text[1:], etf_ND, to_text)
        video_U = attended_misalignment(*video[:2], shown.of_videos(etf_ND), to_video)
        term = text_N.mean() + shown.of_pairs(video_U).mean()
        category_P = batch.draws.get("etf_category_P")
        if category_P is None:
            return term
        label_P = self.local_label_C[category_P] if self._config.local_labels else category_P
        pseudo = batch.draws["etf_text_PD"], batch.draws["etf_video_PD"]
        return term + pseudo_alignment(*pseudo, self.etf_CD[label_P], to_text, to_video, self._config.swap_pseudo)


def _projection(config: StructAlignConfig, dim: int, generator: torch.Generator) -> nn.Parameter:
    kind = config.projection
    weight = nn.Parameter(torch.eye(dim)) if kind == "identity" else fan_in_uniform((dim, dim), generator)
    weight.requires_grad_(kind == "trained" or (kind == "fixed_random" and config.stale_gradients))
    return weight
