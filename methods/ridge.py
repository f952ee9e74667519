"""Ridge regression in closed form: from a caption to what its video adds to it, over random features.

phi(t) = relu(LN(t) R / sqrt(D)),  R random [D, M];   W = (G + lambda 1)^-1 C,   G = sum phi' phi,  C = sum phi' (v - t)
t, v unit caption and mean frame; a query is n(t + phi(t) W). G and C are sums over all pairs ever seen: the solution is
that of all data at once, whatever the order of the tasks.                    after McDonnell et al. 2023 (RanPAC)
lambda: the one of a grid with the least squared error on held-out pairs, W fitted without them; a fifth of the videos
is held out for this choice and then used as well. Both parts keep their own sums, so this does not depend on the order
either. Videos stay as they are: galleries never change. Words are left alone: word-frame scores are zero-shot's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from features.streams import PairTable, TextBatch, VideoBatch
from methods.base import FeatureSpec, Method, MethodConfig, TextEmbedding, VideoEmbedding
from methods.heads import AdaptedVideo, layer_norm, masked_mean, norm
from methods.registry import register
from methods.scoring import embed_text, embed_video
from methods.similarity import normalise


@dataclass(frozen=True)
class RidgeConfig(MethodConfig):
    """features: M. hold_out: every how many-th video is held out. lowest, highest: powers of ten in lambda's grid."""

    features: int = 2000
    hold_out: int = 5
    lowest: int = 0
    highest: int = 6


@register()
class Ridge(Method):
    """Closed-form regression from captions to videos, with sums that need no replay."""

    name = "ridge"
    paper = "McDonnell et al. 2023, RanPAC: Random Projections and Pre-trained Models for Continual Learning"
    idea = "Least squares forgets nothing: its sums over all data are small, and adding to them is learning."
    closed_form = True
    stores_samples = "sums of products of features over all pairs, [M, M] and [M, D], twice"
    Config = RidgeConfig
    config: RidgeConfig
    projection_DM: Tensor

    def __init__(self, config: RidgeConfig, spec: FeatureSpec, generator: torch.Generator) -> None:
        super().__init__(config, spec, generator)
        self.map_MD = nn.Parameter(torch.zeros(config.features, spec.dim))
        projection_DM = torch.randn(spec.dim, config.features, generator=generator) / spec.dim**0.5
        self.register_buffer("projection_DM", projection_DM)
        self.fitted = Sums(config.features, spec.dim)
        self.held_out = Sums(config.features, spec.dim)

    @torch.no_grad()
    def fit_task(self, data: PairTable, generator: torch.Generator) -> None:
        for index_N in data.chunks(256):
            batch = data.pairs(index_N)
            random_NM = self._random_features(batch.text.pooled_ND)
            missing_ND = normalise(masked_mean(*batch.video)) - normalise(batch.text.pooled_ND)
            held_N = batch.video_N % self.config.hold_out == 0
            self.held_out.add(random_NM[held_N], missing_ND[held_N])
            self.fitted.add(random_NM[~held_N], missing_ND[~held_N])
        grid = [10.0**power for power in range(self.config.lowest, self.config.highest + 1)]
        errors = [float(self.held_out.squared_error(self.fitted.solve(ridge))) for ridge in grid]
        best = grid[errors.index(min(errors))]
        self.map_MD.copy_(self.fitted.solve(best, self.held_out))

    def encode_text(self, text: TextBatch, shard: int) -> TextEmbedding:
        shift_ND = self._random_features(text.pooled_ND) @ self.map_MD
        return embed_text(text._replace(pooled_ND=text.pooled_ND + norm(text.pooled_ND) * shift_ND), self.config)

    def encode_video(self, video: VideoBatch) -> VideoEmbedding:
        return embed_video(AdaptedVideo(*video), self.config)

    def _random_features(self, caption_ND: Tensor) -> Tensor:
        return functional.relu(layer_norm(caption_ND) @ self.projection_DM)


class Sums(nn.Module):
    """Gram and cross sums of pairs of rows x [M] and y [D], in float64, and the number sum |y|^2."""

    gram_MM: Tensor
    cross_MD: Tensor
    square: Tensor

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.register_buffer("gram_MM", torch.zeros(rows, rows, dtype=torch.float64))
        self.register_buffer("cross_MD", torch.zeros(rows, columns, dtype=torch.float64))
        self.register_buffer("square", torch.zeros((), dtype=torch.float64))

    def add(self, x_NM: Tensor, y_ND: Tensor) -> None:
        x_NM, y_ND = x_NM.double(), y_ND.double()
        self.gram_MM += x_NM.T @ x_NM
        self.cross_MD += x_NM.T @ y_ND
        self.square += y_ND.square().sum()

    def solve(self, ridge: float, more: Sums | None = None) -> Tensor:
        """map_MD that minimises |x map - y|^2 + ridge |map|^2 over these pairs and those of `more`."""
        gram_MM = self.gram_MM + (0 if more is None else more.gram_MM)
        cross_MD = self.cross_MD + (0 if more is None else more.cross_MD)
        ridge_MM = ridge * torch.eye(len(gram_MM), dtype=gram_MM.dtype, device=gram_MM.device)
        return torch.cholesky_solve(cross_MD, torch.linalg.cholesky(gram_MM + ridge_MM))

    def squared_error(self, map_MD: Tensor) -> Tensor:
        """sum |x map - y|^2 over these pairs, from the sums alone."""
        return self.square - 2 * (map_MD * self.cross_MD).sum() + (map_MD * (self.gram_MM @ map_MD)).sum()
