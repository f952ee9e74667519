"""MoE-Adapters: a fixed set of adapters, a router for every task, and experts that freeze once a task relied on them.

x + |x| sum_e g_e E_e(x),   g = softmax over the top-k of n(query) R_t (+ noise in training), 0 elsewhere
E_e a low-rank adapter, R_t task t's router, query the pooled caption or mean frame, one set of experts per modality.
After a task its most used experts are frozen; its router is never trained again. A gallery of task j, and the queries
that ask it, are routed by R_j.  L = L_contrastive                                            Yu et al. 2024, CVPR
The authors choose the router for an unknown image with autoencoders; here the gallery's task says which (DESIGN 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from ctvr_bench.features.streams import PairBatch, PairTable, TextBatch, VideoBatch
from ctvr_bench.methods.shared.base import (
    FeatureSpec,
    Method,
    ParameterGroup,
    TaskInfo,
    TextEmbedding,
    TrainedConfig,
    VideoEmbedding,
)
from ctvr_bench.methods.shared.experts import Experts
from ctvr_bench.methods.shared.heads import (
    AdaptedVideo,
    keep_mask,
    masked_mean,
    mean_alone,
)
from ctvr_bench.methods.shared.losses import symmetric_contrastive
from ctvr_bench.methods.shared.memory import captions_alone
from ctvr_bench.methods.shared.ranges import Count, NotNegative, Search, Some, at_most
from ctvr_bench.methods.shared.registry import register
from ctvr_bench.methods.shared.scoring import embed_text, embed_video, pair_similarity, same_video


@dataclass(frozen=True)
class MoEAdaptersConfig(TrainedConfig):
    """experts: per modality. rank: of each. top_k: experts used for a sample. freeze: experts frozen after a task.

    freeze_among: the task's most used of those still open, or of all as the authors' two, so that one frozen before may
    be named again. noise: standard deviation added to the router's logits in training. activation: inside experts.
    """

    lr: NotNegative = 6e-4
    rank: Count = 64
    experts: Count = 10
    top_k: Count = 2
    freeze: Some = 1
    freeze_among: Literal["open", "all"] = "open"
    noise: Annotated[NotNegative, Search(0.0, 1.5, "linear")] = 0.7
    activation: Literal["gelu", "relu"] = "gelu"

    def __post_init__(self) -> None:
        at_most(self.top_k, self.experts, "top_k", "experts")


@register()
class MoEAdapters(Method):
    """Experts on both sides, routed by the task of the gallery."""

    name = "moe_adapters"
    paper = "Yu et al. 2024, Boosting Continual Learning of Vision-Language Models via Mixture-of-Experts Adapters"
    source = "JiazuoYu/MoE-Adapters4CL@4572d97 mtil/src/models/finetune.py, mtil/clip/adapter.py, mtil/clip/model.py"
    fidelity = "adapted"
    deviations = (
        "the gallery's task names the router, there autoencoders guess it (DDAS); the noise of routing is fixed, "
        "there learned; experts see layer-normed features and are added in full, there to a tenth; the most used "
        "open expert is frozen, there the two most used of all (`freeze_among`)"
    )
    published = "freeze=2, freeze_among=all, activation=relu"
    idea = "Tasks share experts through routers of their own; experts that a task used most are left to it."
    Config = MoEAdaptersConfig
    config: MoEAdaptersConfig

    def __init__(self, config: MoEAdaptersConfig, spec: FeatureSpec, generator: torch.Generator) -> None:
        super().__init__(config, spec, generator)
        self.text_experts = Experts(config, spec, generator)
        self.video_experts = Experts(config, spec, generator)

    @property
    def uses_shards(self) -> bool:
        return True

    def begin_task(self, task: TaskInfo) -> None:
        super().begin_task(task)
        if task.position > 0:
            self.text_experts.freeze(self.config.freeze, self.config.freeze_among)
            self.video_experts.freeze(self.config.freeze, self.config.freeze_among)

    def parameter_groups(self) -> list[ParameterGroup]:
        current = max(self.task.position, 0)
        return [ParameterGroup([*self.text_experts.trained_in(current), *self.video_experts.trained_in(current)])]

    def prepare(self, batch: PairBatch, generator: torch.Generator) -> PairBatch:
        config = self.config
        draws: dict[str, Tensor] = {}
        for side in ("text", "video"):
            noise_NE = config.noise * torch.randn(len(batch), config.experts, generator=generator)
            keep_NR = keep_mask(len(batch), config.rank, config.dropout, generator)
            draws |= {f"{side}_noise_NE": noise_NE, f"{side}_keep_NR": keep_NR}
        return batch.with_draws(**draws)

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        task, draws = self.task.position, batch.draws
        text = self._text(batch.text, task, draws["text_noise_NE"], draws["text_keep_NR"])
        video = self._video(batch.video, task, draws["video_noise_NE"], draws["video_keep_NR"])
        sim_NN = pair_similarity(text, video, self.config)
        return {"contrastive": symmetric_contrastive(sim_NN, self.config.scale, same_video(batch.video_N))}

    @torch.no_grad()
    def end_task(self, data: PairTable, generator: torch.Generator) -> None:
        batches = [data.pairs(index_N) for index_N in data.chunks(256)]
        self.text_experts.count_uses(torch.cat([batch.text.pooled_ND for batch in batches]), self.task.position)
        self.video_experts.count_uses(torch.cat([masked_mean(*batch.video) for batch in batches]), self.task.position)

    def encode_text(self, text: TextBatch, shard: int) -> TextEmbedding:
        return self._text(text, shard)

    def encode_video(self, video: VideoBatch) -> VideoEmbedding:
        return self._video(video, max(self.task.position, 0))

    def encode_gallery(self, video: VideoBatch, shard: int) -> VideoEmbedding:
        return self._video(video, shard)

    def _text(
        self, text: TextBatch, task: int, noise: Tensor | None = None, keep: Tensor | None = None
    ) -> TextEmbedding:
        gates_NE = self.text_experts.gates(text.pooled_ND, task, noise)
        pooled_ND = self.text_experts(text.pooled_ND[:, None], gates_NE, keep)[:, 0]
        if self.config.scoring == "cosine":
            return embed_text(captions_alone(pooled_ND), self.config)
        words_NLD = self.text_experts(text.words_NLD, gates_NE, keep)
        return embed_text(TextBatch(pooled_ND, words_NLD, text.word_mask_NL), self.config)

    def _video(
        self, video: VideoBatch, task: int, noise: Tensor | None = None, keep: Tensor | None = None
    ) -> VideoEmbedding:
        frames_MFD, mask_MF = video
        gates_ME = self.video_experts.gates(masked_mean(*video), task, noise)
        if self.config.scoring == "cosine":
            mean_MD = self.video_experts.mean(frames_MFD, mask_MF, gates_ME, keep)
            return embed_video(mean_alone(mean_MD, mask_MF), self.config)
        adapted_MFD = self.video_experts(frames_MFD, gates_ME, keep) * mask_MF[..., None]
        return embed_video(AdaptedVideo(adapted_MFD, mask_MF), self.config)
