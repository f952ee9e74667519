"""Regression from captions to videos over random features (ridge, ranpac), from sums that do not know pairs' order.

Axes: N captions, M random features, D feature dimensions, C categories.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ctvr_bench.features.streams import TextBatch, VideoBatch
from ctvr_bench.methods.shared.base import FeatureSpec, Method, MethodConfig, TextEmbedding, VideoEmbedding
from ctvr_bench.methods.shared.heads import AdaptedVideo, layer_norm, norm
from ctvr_bench.methods.shared.scoring import embed_text, embed_video


class RandomFeatureMap(Method):
    """A query is n(t + |t| phi(t) W), phi(t) = relu(LN(t) R), R random [D, M]; W zero until `end_task` sets it."""

    projection_DM: Tensor

    def __init__(self, config: MethodConfig, spec: FeatureSpec, features: int, generator: torch.Generator) -> None:
        super().__init__(config, spec, generator)
        self.map_MD = nn.Parameter(torch.zeros(features, spec.dim))
        projection_DM = torch.randn(spec.dim, features, generator=generator) / spec.dim**0.5
        self.register_buffer("projection_DM", projection_DM)

    def adapted_text(self, text: TextBatch) -> TextBatch:
        """Captions as regression is given them."""
        return text

    def adapted_video(self, video: VideoBatch) -> AdaptedVideo:
        """Videos as regression and galleries have them."""
        return AdaptedVideo(*video)

    def random_features(self, caption_ND: Tensor) -> Tensor:
        """phi [N, M] of adapted captions."""
        return functional.relu(layer_norm(caption_ND) @ self.projection_DM)

    def targets(self, video: VideoBatch) -> Tensor:
        """Unit mean frames [N, D] of adapted videos."""
        return embed_video(self.adapted_video(video), MethodConfig()).pooled_MD

    def encode_text(self, text: TextBatch, shard: int) -> TextEmbedding:
        text = self.adapted_text(text)
        shift_ND = self.random_features(text.pooled_ND) @ self.map_MD
        return embed_text(text._replace(pooled_ND=text.pooled_ND + norm(text.pooled_ND) * shift_ND), self.config)

    def encode_video(self, video: VideoBatch) -> VideoEmbedding:
        return embed_video(self.adapted_video(video), self.config)


class Choice(NamedTuple):
    """s, and d(s)."""

    share: float
    distinctness: float


class Sums(nn.Module):
    """Sums over pairs of random features x [M], captions t [D] and videos v [D], some for each category; float64."""

    gram_MM: Tensor
    random_text_MD: Tensor
    random_video_MD: Tensor
    text_DD: Tensor
    video_DD: Tensor
    text_video: Tensor
    random_CM: Tensor
    text_CD: Tensor
    video_CD: Tensor
    count_C: Tensor

    def __init__(self, rows: int, dim: int, num_categories: int) -> None:
        super().__init__()
        shapes: dict[str, tuple[int, ...]] = {"gram_MM": (rows, rows), "text_video": ()}
        shapes |= {f"{side}_DD": (dim, dim) for side in ("text", "video")}
        shapes |= {f"random_{side}_MD": (rows, dim) for side in ("text", "video")}
        shapes |= {f"{side}_CD": (num_categories, dim) for side in ("text", "video")}
        for name, shape in {**shapes, "random_CM": (num_categories, rows), "count_C": (num_categories,)}.items():
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))

    def add(self, x_NM: Tensor, text_ND: Tensor, video_ND: Tensor, category_N: Tensor) -> None:
        x, text, video = x_NM.double(), text_ND.double(), video_ND.double()
        member_CN = functional.one_hot(category_N, len(self.count_C)).T.double()
        self.gram_MM += x.T @ x
        self.random_text_MD += x.T @ text
        self.random_video_MD += x.T @ video
        self.text_DD += text.T @ text
        self.video_DD += video.T @ video
        self.text_video += (text * video).sum()
        self.random_CM += member_CN @ x
        self.text_CD += member_CN @ text
        self.video_CD += member_CN @ video
        self.count_C += member_CN.sum(1)

    def solve(self, ridge: float, video_D: Tensor, more: Sums | None = None) -> Tensor:
        """map_MD that minimises sum |x map - (v - video_D)|^2 + ridge |map|^2 over these pairs and those of `more`."""
        parts = [self] if more is None else [self, more]
        cross_MD = torch.stack([p.random_video_MD - p.random_CM.sum(0)[:, None] * video_D for p in parts]).sum(0)
        gram_MM = self.gram_MM.clone() if more is None else self.gram_MM + more.gram_MM
        gram_MM.diagonal().add_(ridge)  # in place: of ten thousand features it fills most of a gigabyte
        return torch.cholesky_solve(cross_MD, torch.linalg.cholesky(gram_MM))

    def spread_within(self, more: Sums) -> Tensor:
        """Covariance [D, D] of videos about the mean of their category, of these pairs and those of `more` together."""
        video_CD, count_C = self.video_CD + more.video_CD, self.count_C + more.count_C
        about_DD = self.video_DD + more.video_DD - video_CD.T @ (video_CD / count_C.clamp(min=1)[:, None])
        return about_DD / count_C.sum()

    def best_share(self, map_MD: Tensor, spread_DD: Tensor) -> Choice:
        """The s in 0..100 of largest d(s) = (a + b s) / sqrt(c + 2 e s + f s^2), which is where it turns.

        spread_DD: covariance of the videos among which a query's own is to stand out.
        """
        mean_CD = self.video_CD / self.count_C.clamp(min=1)[:, None]
        spread_MD = map_MD @ spread_DD
        a = self.text_video - (self.text_CD * mean_CD).sum()
        b = (map_MD * (self.random_video_MD - self.random_CM.T @ mean_CD)).sum()
        c, e = (self.text_DD * spread_DD).sum(), (spread_MD * self.random_text_MD).sum()
        f = (spread_MD * (self.gram_MM @ map_MD)).sum()
        turn = ((b * c - a * e) / (a * f - b * e)).nan_to_num(0.0).clamp(0, 100)
        shares = torch.stack([torch.zeros_like(a), turn, torch.full_like(a, 100)])
        distinct = ((a + b * shares) / (c + 2 * e * shares + f * shares.square()).clamp(min=1e-30).sqrt()).tolist()
        # by more than rounding: where each category has one video held out, nothing can stand out, and nothing is added
        best = max(range(len(distinct)), key=lambda place: distinct[place] - 1e-9 * (place > 0))
        return Choice(float(shares[best]), distinct[best])
