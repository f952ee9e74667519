"""FrameFusionMoE: frame fusion, experts routed with a vector per task, and negatives from earlier tasks.

Video: two gated attention blocks over frames (spec 5.1). Caption: low-rank experts, router input = caption + p_t (5.2);
gallery j is asked with p_j (1.4). With stored video embeddings m of earlier tasks:
L = (1 - gamma) L_contrastive + gamma L_ct,
L_ct = -mean_i log [ e^(s t_i.v_i) / ( sum_k e^(s t_i.v_k) + sum_m e^(s t_i.m) ) ]               CTVR 2025, SIGIR
The release takes its negatives from the stored galleries, that is from TEST videos (D14), one batch after the other;
here the training videos of a finished task are stored and drawn at random. Other captions of the same video are no
negatives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from ctvr_bench.features.sent import sent
from ctvr_bench.features.streams import PairBatch, PairTable, TextBatch, VideoBatch
from ctvr_bench.methods.shared.base import FeatureSpec, Method, TaskInfo, TextEmbedding, TrainedConfig, VideoEmbedding
from ctvr_bench.methods.shared.heads import keep_mask
from ctvr_bench.methods.shared.losses import cross_task_contrastive
from ctvr_bench.methods.shared.memory import captions_alone
from ctvr_bench.methods.shared.ranges import Count, NotNegative, PartOf, Positive, Search, Share, at_most
from ctvr_bench.methods.shared.registry import register
from ctvr_bench.methods.shared.scoring import embed_text, embed_video, same_video
from ctvr_bench.methods.shared.structalign.config import StructAlignConfig
from ctvr_bench.methods.shared.structalign.head import Route, ShownVideos, StructAlignHead, distinct_videos


@dataclass(frozen=True)
class FrameFusionMoEConfig(TrainedConfig):
    """gamma: share of the cross-task loss. experts, top_k, rank: text experts; lora_alpha / rank scales their output.

    heads: at most so many in the attention over frames, as many as divide the features' dimension.
    dropout: before the experts' common map A.
    """

    lr: NotNegative = 1e-4
    dropout: PartOf = 0.1
    rank: Count = 64
    lora_alpha: Positive = 256.0
    experts: Count = 10
    top_k: Count = 2
    heads: Count = 8
    gamma: Annotated[Share, Search(0.0, 1.0, "linear")] = 0.6

    def __post_init__(self) -> None:
        at_most(self.top_k, self.experts, "top_k", "experts")


@register()
class FrameFusionMoE(Method):
    """Frame fusion and task-aware experts, trained against stored videos of earlier tasks."""

    name = "frame_fusion_moe"
    paper = "CTVR 2025, Continual Text-to-Video Retrieval with Frame Fusion and Task-Aware Routing"
    source = "JasonCodeMaker/CTVR@72b7652 trainer/framefusionMoE.py, modules/loss.py"
    fidelity = "adapted"
    deviations = (
        "modules act on frozen features, not inside CLIP; negatives are training videos, not test videos; "
        "similarities are multiplied by `scale`, there by 99.48"
    )
    published = "scale=99.484"
    idea = "Route captions by task, and keep new captions away from old videos."
    stores_samples = "one embedding of every training video"
    Config = FrameFusionMoEConfig
    config: FrameFusionMoEConfig
    negatives_MD: Tensor

    def __init__(self, config: FrameFusionMoEConfig, spec: FeatureSpec, generator: torch.Generator) -> None:
        super().__init__(config, spec, generator)
        same = {name: getattr(config, name) for name in ("rank", "experts", "top_k", "heads")}
        modules = StructAlignConfig(scaling=config.lora_alpha / config.rank, **same)  # StructAlign builds on them
        self.head = StructAlignHead(modules, spec, generator)
        self.register_buffer("negatives_MD", torch.zeros(0, spec.dim))

    @property
    def uses_shards(self) -> bool:
        return True

    def begin_task(self, task: TaskInfo) -> None:
        super().begin_task(task)
        if task.position == 1:
            self.head.experts.copy_first_to_all()

    def prepare(self, batch: PairBatch, generator: torch.Generator) -> PairBatch:
        config, size = self.config, len(batch)
        draws = {"keep_ND": keep_mask(size, self.spec.dim, config.dropout, generator)}
        draws |= distinct_videos(batch.video_N)
        if self.task.position > 0:
            draws["noise_NE"] = torch.randn(size, config.experts, generator=generator)
        if len(self.negatives_MD):
            index_M = torch.randint(len(self.negatives_MD), (config.batch_size,), generator=generator)
            draws["negatives_MD"] = self.negatives_MD[sent(index_M, self.negatives_MD.device)]
        return batch.with_draws(**draws)

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        config, draws = self.config, batch.draws
        gates_NE = self.head.route(batch.text, self.task.position, draws.get("noise_NE"))
        captions = captions_alone(batch.text.pooled_ND)  # its loss compares pooled features, whatever the scoring
        text = embed_text(self.head.text(captions, Route(gates_NE, draws["keep_ND"])), config)
        shown = ShownVideos(draws.get("pair_U"), draws.get("row_N"))
        video = embed_video(self.head.video(shown.once(batch.video)), config)
        negatives_MD = draws.get("negatives_MD", self.negatives_MD[:0])
        same_NN = same_video(batch.video_N)
        pooled = text.pooled_ND, shown.of_pairs(video.pooled_MD)
        return {"cross_task": cross_task_contrastive(*pooled, negatives_MD, config.scale, config.gamma, same_NN)}

    @torch.no_grad()
    def end_task(self, data: PairTable, generator: torch.Generator) -> None:
        """One pair of each of the task's videos is looked at."""
        first_pair = {video: pair for pair, video in reversed(list(enumerate(data.video_P.tolist())))}
        chunks = torch.tensor(sorted(first_pair.values())).split(256)
        stored = [self.encode_video(data.video(index_M)).pooled_MD for index_M in chunks]
        self.negatives_MD = torch.cat([self.negatives_MD, *stored])

    def encode_text(self, text: TextBatch, shard: int) -> TextEmbedding:
        text = captions_alone(text.pooled_ND) if self.config.scoring == "cosine" else text
        return embed_text(self.head.text(text, Route(self.head.route(text, shard))), self.config)

    def encode_video(self, video: VideoBatch) -> VideoEmbedding:
        return embed_video(self.head.video(video), self.config)
