"""BC-Aligner: galleries stay as they are, and a query is led back to each by linear maps learned with the head.

z of the head that is trained, z_old of that before the task, B_k a linear map [D, D] of task k, the identity at first:
L = L_contrastive + weight mean over captions and videos of L_align(z, z_old),   from the second task on
L_align = | e |^2 with e = z_old - B_k z                                                            alignment = single
        = mean of | e |^2, | B_(k-1) e |^2, ..., | B_1 ... B_(k-1) e |^2                             alignment = multi
A query q for the gallery of task j:   n(B_(j+1) ... B_k q).                            Hu et al. 2022, KDD (2206.03040)
Maps of earlier tasks are fixed: the error that a query brings to the oldest gallery is what `multi` holds small.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ctvr_bench.features.streams import PairBatch, TextBatch
from ctvr_bench.methods.finetune import Finetune, FinetuneConfig
from ctvr_bench.methods.shared.base import FeatureSpec, ParameterGroup, TextEmbedding
from ctvr_bench.methods.shared.losses import symmetric_contrastive
from ctvr_bench.methods.shared.ranges import NotNegative, Search
from ctvr_bench.methods.shared.registry import register
from ctvr_bench.methods.shared.scoring import pair_similarity, same_video
from ctvr_bench.methods.shared.similarity import normalise
from ctvr_bench.methods.shared.views import KeepsLaterTeacher, teacher_text, teacher_video


@dataclass(frozen=True)
class BCAlignerConfig(FinetuneConfig):
    """weight: of the alignment. alignment: to the task before alone, or through all maps to every earlier one.

    map_rate: factor on lr for the maps. scoring: pooled features alone, since the maps are of these.
    """

    scoring: Literal["cosine"] = "cosine"
    weight: Annotated[NotNegative, Search(0.5, 500.0)] = 16.0
    alignment: Literal["multi", "single"] = "multi"
    map_rate: Annotated[NotNegative, Search(0.1, 10.0)] = 1.0


@register()
class BCAligner(KeepsLaterTeacher, Finetune):
    """Fine-tuning with a linear map back to the space of each earlier task."""

    name = "bc_aligner"
    paper = "Hu et al. 2022, Learning Backward Compatible Embeddings"
    source = "snap-stanford/bc-emb@867f1c8 embevolve/intended_task/embgen_strategy/joint_mloss.py"
    fidelity = "adapted"
    deviations = (
        "features have unit length, so that squares are summed over dimensions where theirs are averaged; maps start "
        "at the identity, theirs at random; queries are mapped and normalised again, there all that a consumer reads"
    )
    idea = "The encoder may move freely if it learns the way back as it goes."
    stores_samples = "a linear map per task"
    control = "video_frozen"
    Config = BCAlignerConfig
    config: BCAlignerConfig

    def __init__(self, config: BCAlignerConfig, spec: FeatureSpec, generator: torch.Generator) -> None:
        super().__init__(config, spec, generator)
        self.maps = nn.ParameterList(torch.eye(spec.dim) for _ in range(spec.num_tasks - 1))  # that of task k at k - 1

    @property
    def uses_shards(self) -> bool:
        return True

    def parameter_groups(self) -> list[ParameterGroup]:
        head = ParameterGroup(list(self.head.parameters()))
        if self.task.position < 1:
            return [head]
        return [head, ParameterGroup([self.maps[self.task.position - 1]], self.config.map_rate, decay=0.0)]

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        config, same_NN = self.config, same_video(batch.video_N)
        text, video = self.embed_batch(batch)
        terms = {"contrastive": symmetric_contrastive(pair_similarity(text, video, config), config.scale, same_NN)}
        if self.task.position > 0:
            old_text, old_video = teacher_text(self.teacher, batch, config), teacher_video(self.teacher, batch, config)
            aligned = self._misaligned(text.pooled_ND, old_text.pooled_ND)
            aligned = aligned + self._misaligned(video.pooled_MD, old_video.pooled_MD)
            terms["alignment"] = config.weight * aligned / 2
        return terms

    def encode_text(self, text: TextBatch, shard: int) -> TextEmbedding:
        query_ND = super().encode_text(text, shard).pooled_ND
        for position in range(self.task.position, shard, -1):
            query_ND = functional.linear(query_ND, self.maps[position - 1])
        return TextEmbedding(normalise(query_ND) if shard < self.task.position else query_ND)

    def _misaligned(self, new_ND: Tensor, old_ND: Tensor) -> Tensor:
        """L_align, averaged over rows."""
        last = self.task.position - 1
        apart_ND = old_ND - functional.linear(new_ND, self.maps[last])
        errors = [apart_ND.square().sum(-1).mean()]
        for earlier in range(last - 1, -1, -1) if self.config.alignment == "multi" else ():
            apart_ND = functional.linear(apart_ND, self.maps[earlier])
            errors.append(apart_ND.square().sum(-1).mean())
        return torch.stack(errors).mean()
