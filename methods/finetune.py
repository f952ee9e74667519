"""Sequential fine-tuning: train the head on each task in turn, with nothing against forgetting.

L = CE(s S) + CE(s S'), S the similarity of the batch's captions and videos, both directions summed (CLIP4Clip as CTVR
trains it). Other captions of the same video are not negatives; the release lets them be (spec D15).
The lower bound of a continual method, and the base of those that add a term to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ctvr_bench.features.streams import PairBatch, TextBatch, VideoBatch
from ctvr_bench.methods.shared.base import FeatureSpec, Method, TextEmbedding, TrainedConfig, VideoEmbedding
from ctvr_bench.methods.shared.heads import ResidualHead, keep_mask
from ctvr_bench.methods.shared.losses import symmetric_contrastive
from ctvr_bench.methods.shared.registry import register
from ctvr_bench.methods.shared.scoring import embed_text, embed_video, pair_similarity, same_video
from ctvr_bench.methods.shared.views import MeanWords


@dataclass(frozen=True)
class FinetuneConfig(TrainedConfig):
    """Fields of TrainedConfig, no others."""


class Finetune(Method):
    """Residual adapters trained by the contrastive loss of the current task."""

    name = "finetune"
    paper = "Luo et al. 2022, CLIP4Clip (mean pooling), trained task after task"
    source = "JasonCodeMaker/CTVR@72b7652 modules/loss.py; ArrowLuo/CLIP4Clip@508ffa3 modules/modeling.py"
    fidelity = "adapted"
    deviations = (
        "similarities are multiplied by `scale`, in CTVR's release by a fixed 99.48, in CLIP4Clip's by a learned number"
    )
    published = "scale=99.484"
    idea = "Keep training on whatever task is current."
    ensembles = True
    Config: ClassVar[type[TrainedConfig]] = FinetuneConfig
    config: TrainedConfig

    def __init__(self, config: TrainedConfig, spec: FeatureSpec, generator: torch.Generator) -> None:
        super().__init__(config, spec, generator)
        self.head = ResidualHead(spec.dim, config.rank, generator, pooled_only=config.scoring == "cosine")

    def prepare(self, batch: PairBatch, generator: torch.Generator) -> PairBatch:
        config = self.config
        if not config.dropout:
            return batch
        masks = (keep_mask(len(batch), config.rank, config.dropout, generator) for _ in range(2))
        return batch.with_draws(keep_text_NR=next(masks), keep_video_NR=next(masks))

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        text, video = self.embed_batch(batch)
        sim_NN = pair_similarity(text, video, self.config)
        return {"contrastive": symmetric_contrastive(sim_NN, self.config.scale, same_video(batch.video_N))}

    def embed_batch(self, batch: PairBatch) -> tuple[TextEmbedding, VideoEmbedding]:
        """Both sides of a prepared batch, dropout included."""
        text = self.head.text(batch.text, batch.draws.get("keep_text_NR"))
        video = self.head.scored_video(batch.video, batch.draws.get("keep_video_NR"))
        return embed_text(text, self.config), embed_video(video, self.config)

    def encode_text(self, text: TextBatch, shard: int) -> TextEmbedding:
        return embed_text(self.head.text(text), self.config)

    def encode_video(self, video: VideoBatch) -> VideoEmbedding:
        return embed_video(self.head.scored_video(video), self.config)


@register()
class FinetuneOnMeans(MeanWords, Finetune):
    """Fine-tuning as runs of `finetune` do it."""
