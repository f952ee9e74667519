"""PROOF: every task adds a linear projection of each modality, the sum of all is used, and attention fuses it.

P x = x + |x| sum_b P_b n(x),   P_b of task b, zero at first, fixed when its task ends; captions and videos have theirs
x^ = P x after attention to itself, to the projected prototypes of the categories met (mean frozen video), and to
     `context` learned tokens of every task so far, those of earlier tasks fixed; one attention for both modalities
L = L_contrastive(P t, P v) + L_contrastive(t^, v^) + CE(s v^.P p_c) over the categories met
Queries are t^, galleries v^.                                                  Zhou et al. 2025, TPAMI (2305.19270)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ctvr_bench.features.streams import PairBatch, PairTable, TextBatch, VideoBatch
from ctvr_bench.methods.shared.base import (
    FeatureSpec,
    Method,
    ParameterGroup,
    TextEmbedding,
    TrainedConfig,
    VideoEmbedding,
)
from ctvr_bench.methods.shared.heads import AttentionBlock, Prompts, layer_norm, masked_mean, norm, uniform
from ctvr_bench.methods.shared.losses import symmetric_contrastive
from ctvr_bench.methods.shared.memory import category_means
from ctvr_bench.methods.shared.ranges import Count, NotNegative
from ctvr_bench.methods.shared.registry import register
from ctvr_bench.methods.shared.scoring import same_video
from ctvr_bench.methods.shared.similarity import normalise


@dataclass(frozen=True)
class ProofConfig(TrainedConfig):
    """context: tokens that a task adds. width, heads: of the attention. rank, dropout: not used.

    scoring: pooled features alone, since those are projected.
    """

    scoring: Literal["cosine"] = "cosine"
    lr: NotNegative = 1e-4
    context: Count = 3
    width: Count = 128
    heads: Count = 4

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"heads must divide width, {self.width}; got {self.heads}")


@register()
class Proof(Method):
    """Growing projections of frozen features, fused with category prototypes and context tokens."""

    name = "proof"
    paper = "Zhou et al. 2025, Learning without Forgetting for Vision-Language Models"
    source = "zhoudw-zdw/PROOF@0bb2052 models/proof.py, utils/inc_net.py"
    fidelity = "adapted"
    deviations = (
        "a caption is matched with its video, there a picture with its class; the frozen feature is part of the sum "
        "and new projections start at zero, there at random with the frozen score added; old projections of both "
        "modalities are fixed, in the code those of pictures alone; captions and videos attend alone, there a picture "
        "with all class names; the fused feature is scored alone, there with the others; without stored pictures"
    )
    idea = "What a task learned stays as a projection that no later task touches; later ones add to it."
    stores_samples = "the mean frozen video of each category"
    Config = ProofConfig
    config: ProofConfig
    prototype_CD: Tensor
    met_C: Tensor

    def __init__(self, config: ProofConfig, spec: FeatureSpec, generator: torch.Generator) -> None:
        super().__init__(config, spec, generator)
        dim, tasks = spec.dim, spec.num_tasks
        self.text_maps = nn.ParameterList(torch.zeros(dim, dim) for _ in range(tasks))
        self.video_maps = nn.ParameterList(torch.zeros(dim, dim) for _ in range(tasks))
        self.context = nn.ParameterList(uniform((config.context, dim), 1.0, generator) for _ in range(tasks))
        self.fusion = AttentionBlock(dim, config.width, config.heads, generator)
        self.register_buffer("prototype_CD", torch.zeros(spec.num_categories, dim))
        self.register_buffer("met_C", torch.zeros(spec.num_categories, dtype=torch.bool))

    def parameter_groups(self) -> list[ParameterGroup]:
        own = (each[self.task.position] for each in (self.text_maps, self.video_maps, self.context))
        return [ParameterGroup([*own, *self.fusion.parameters()])]

    def survey(self, data: PairTable) -> None:
        """Prototypes of the categories that were not met before."""
        frozen_VD = torch.cat([normalise(masked_mean(*videos)) for videos in data.video_chunks(256)])
        mean_CD, present_C = category_means(frozen_VD[data.video_position_P], data.category_P, len(self.met_C))
        new_C = present_C & ~self.met_C
        self.prototype_CD.copy_(torch.where(new_C[:, None], mean_CD, self.prototype_CD))
        self.met_C.logical_or_(new_C)

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        scale, same_NN = self.config.scale, same_video(batch.video_N)
        text_ND = projected(batch.text.pooled_ND, self._upto(self.text_maps))
        video_ND = projected(masked_mean(*batch.video), self._upto(self.video_maps))
        prototype_CD = self._prototypes()
        beside_KD = self._beside(prototype_CD)
        fused_text_ND, fused_video_ND = (normalise(self._fuse(x_ND, beside_KD)) for x_ND in (text_ND, video_ND))
        category_C = torch.arange(len(self.met_C), device=self.met_C.device)
        logits_NC = scale * fused_video_ND @ normalise(prototype_CD).T
        rival_NC = self.met_C | (category_C == batch.category_N[:, None])
        logits_NC = logits_NC.masked_fill(~rival_NC, torch.finfo(logits_NC.dtype).min / 2)
        return {
            "contrastive": symmetric_contrastive(normalise(text_ND) @ normalise(video_ND).T, scale, same_NN),
            "fused": symmetric_contrastive(fused_text_ND @ fused_video_ND.T, scale, same_NN),
            "prototype": functional.cross_entropy(logits_NC, batch.category_N),
        }

    def encode_text(self, text: TextBatch, shard: int) -> TextEmbedding:
        return TextEmbedding(self._alone(projected(text.pooled_ND, self._upto(self.text_maps))))

    def encode_video(self, video: VideoBatch) -> VideoEmbedding:
        return VideoEmbedding(self._alone(projected(masked_mean(*video), self._upto(self.video_maps))))

    def _upto(self, of_tasks: nn.ParameterList) -> list[Tensor]:
        """Those of the tasks so far."""
        return list(of_tasks[: self.task.position + 1])

    def _prototypes(self) -> Tensor:
        return projected(self.prototype_CD, self._upto(self.video_maps))

    def _beside(self, prototype_CD: Tensor) -> Tensor:
        """The tokens that every row attends to: prototypes of the categories met, and context."""
        return torch.cat([layer_norm(prototype_CD[self.met_C]), *self._upto(self.context)])

    def _alone(self, x_ND: Tensor) -> Tensor:
        """Unit x^ of each projected row."""
        return normalise(self._fuse(x_ND, self._beside(self._prototypes())))

    def _fuse(self, x_ND: Tensor, beside_KD: Tensor) -> Tensor:
        """x^ of each row, alone with prototypes and context."""
        alone_N1 = torch.ones(len(x_ND), 1, dtype=torch.bool, device=x_ND.device)
        fused_N1D: Tensor = self.fusion(x_ND[:, None], alone_N1, Prompts.shared(beside_KD, len(x_ND)))
        return fused_N1D[:, 0]


def projected(x_ND: Tensor, maps: list[Tensor]) -> Tensor:
    """P x of each row: the feature, and what every task's projection adds to it in its length."""
    if not maps:
        return x_ND
    return x_ND + norm(x_ND) * functional.linear(normalise(x_ND), torch.stack(maps).sum(0))
