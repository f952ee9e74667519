"""MoE-Adapters: a fixed set of adapters, a router for every task, and experts that freeze once a task relied on them.

x + |x| sum_e g_e E_e(x),   g = softmax over the top-k of n(query) R_t (+ noise in training), 0 elsewhere
E_e a low-rank adapter, R_t task t's router, query the pooled caption or mean frame, one set of experts per modality.
After a task its most used experts are frozen; its router is never trained again. A gallery of task j, and the queries
that ask it, are routed by R_j.  L = L_contrastive                                            Yu et al. 2024, CVPR
The authors choose the router for an unknown image with autoencoders; here the gallery's task says which (DESIGN 4).
"""

from __future__ import annotations

import math
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
    TaskInfo,
    TextEmbedding,
    TrainedConfig,
    VideoEmbedding,
)
from ctvr_bench.methods.shared.heads import (
    MASKED,
    AdaptedVideo,
    LowRank,
    fan_in_uniform,
    keep_mask,
    layer_norm,
    masked_mean,
    mean_alone,
    norm,
)
from ctvr_bench.methods.shared.losses import symmetric_contrastive
from ctvr_bench.methods.shared.memory import captions_alone
from ctvr_bench.methods.shared.ranges import Count, NotNegative, Some, at_most
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
    noise: NotNegative = 0.7
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
        config, device = self.config, batch.category_N.device
        draws: dict[str, Tensor] = {}
        for side in ("text", "video"):
            noise_NE = config.noise * torch.randn(len(batch), config.experts, generator=generator)
            keep_NR = keep_mask(len(batch), config.rank, config.dropout, generator)
            draws |= {f"{side}_noise_NE": noise_NE.to(device), f"{side}_keep_NR": keep_NR.to(device)}
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


class Experts(nn.Module):
    """E low-rank adapters, a router [E, D] for each task, which experts are frozen, and how often each was used."""

    frozen_E: Tensor
    uses_E: Tensor

    def __init__(self, config: MoEAdaptersConfig, spec: FeatureSpec, generator: torch.Generator) -> None:
        super().__init__()
        self.top_k = config.top_k
        self.activation = functional.gelu if config.activation == "gelu" else functional.relu
        self.experts = nn.ModuleList(LowRank(spec.dim, config.rank, 1, generator) for _ in range(config.experts))
        shape = (config.experts, spec.dim)
        self.routers = nn.ParameterList(fan_in_uniform(shape, generator) for _ in range(spec.num_tasks))
        self.register_buffer("frozen_E", torch.zeros(config.experts, dtype=torch.bool))
        self.register_buffer("uses_E", torch.zeros(config.experts))

    def gates(self, query_ND: Tensor, task: int, noise_NE: Tensor | None = None) -> Tensor:
        logits_NE = layer_norm(query_ND) @ self.routers[task].T
        if noise_NE is not None:
            logits_NE = logits_NE + noise_NE
        least_N1 = logits_NE.topk(self.top_k, dim=-1).values[..., -1:]
        return torch.where(logits_NE >= least_N1, logits_NE, MASKED).softmax(-1)

    def forward(self, x_NLD: Tensor, gates_NE: Tensor, keep_NR: Tensor | None = None) -> Tensor:
        """Tokens with the chosen experts' residuals added."""
        return x_NLD + norm(x_NLD) * self._up(self._active(x_NLD, gates_NE, keep_NR))

    def mean(self, x_NLD: Tensor, mask_NL: Tensor, gates_NE: Tensor, keep_NR: Tensor | None = None) -> Tensor:
        """The mean [N, D] of `forward` over real tokens: the way up is linear, so that it takes one row a sample."""
        active_NLH = self._active(x_NLD, gates_NE, keep_NR)
        return masked_mean(x_NLD, mask_NL) + self._up(masked_mean(norm(x_NLD) * active_NLH, mask_NL))

    def _active(self, x_NLD: Tensor, gates_NE: Tensor, keep_NR: Tensor | None) -> Tensor:
        """All experts' hidden units times their gates, [N, L, E R]."""
        down_HD = torch.cat([expert.down[0] for expert in self.adapters])
        active_NLH: Tensor = self.activation(functional.linear(layer_norm(x_NLD), down_HD))
        gates_NER = gates_NE[:, :, None].expand(-1, -1, len(down_HD) // len(self.experts))
        gates_NER = gates_NER if keep_NR is None else gates_NER * keep_NR[:, None]
        return active_NLH * gates_NER.flatten(1)[:, None]

    def _up(self, active: Tensor) -> Tensor:
        up_DH = torch.cat([expert.up for expert in self.adapters], 1)
        shift: Tensor = functional.linear(active, up_DH) / math.sqrt(len(up_DH))
        return shift

    @property
    def adapters(self) -> list[LowRank]:
        """The experts, by their type."""
        return [expert for expert in self.experts if isinstance(expert, LowRank)]

    @torch.no_grad()
    def count_uses(self, query_ND: Tensor, task: int) -> None:
        self.uses_E = (self.gates(query_ND, task) > 0).float().mean(0)

    def freeze(self, count: int, among: Literal["open", "all"]) -> None:
        """Freeze the `count` experts that the last task used most, of those not frozen yet or of all."""
        uses_E = self.uses_E.masked_fill(self.frozen_E, -1.0) if among == "open" else self.uses_E
        most = uses_E.topk(min(count, len(uses_E))).indices
        self.frozen_E = self.frozen_E.clone()
        self.frozen_E[most[uses_E[most] > 0]] = True

    def trained_in(self, task: int) -> list[nn.Parameter]:
        """The task's router and what is not frozen."""
        pairs = zip(self.experts, self.frozen_E.tolist(), strict=True)
        return [self.routers[task], *(p for expert, frozen in pairs if not frozen for p in expert.parameters())]
