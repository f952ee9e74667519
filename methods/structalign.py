"""StructAlign: hold text and video to one simplex of category directions, and keep the old model's relations.

X = s * word-frame similarity of the batch (2.2), s fixed. From task 2 on with a teacher's X_ref and pseudo-features:
L_SCL = CE(X) + CE(X')                    L_CRP = 1/2 [KL_T(X, X_ref) + KL_T(X', X_ref')]          (2.3, 2.4)
L_ETF = pull of attention-pooled P1 words and P2 frames to the category's ETF vector, and of pseudo-features  (2.6)
L_proto = CE on pooled pairs together with pseudo-pairs of old categories                                     (2.8)
L = L_SCL + crp L_CRP + lambda L_ETF + proto L_proto,  lambda = etf * stopgrad((L_SCL + crp L_CRP) / L_ETF)   (2.9)
Scores of word-frame and pooled features are fused by row z-scores (2.12).  Equation numbers: the suite's specification.

Every difference between the authors' release and the idea that has a place on frozen features is a field of the Config,
numbered D2, D3, ... as in docs/structalign.md; `structalign_released` sets them as released for MSRVTT.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ctvr_bench.features.streams import PairBatch, PairTable, TextBatch, VideoBatch
from ctvr_bench.methods.shared.base import (
    FeatureSpec,
    Method,
    ParameterGroup,
    Scoring,
    TaskInfo,
    TextEmbedding,
    TrainedConfig,
    VideoEmbedding,
    total_steps,
)
from ctvr_bench.methods.shared.etf import random_projection_etf, simplex_etf
from ctvr_bench.methods.shared.heads import AdaptedVideo, fan_in_uniform, keep_mask
from ctvr_bench.methods.shared.losses import (
    attended_misalignment,
    prototype_contrastive,
    pseudo_alignment,
    relation_preserving,
    symmetric_contrastive,
)
from ctvr_bench.methods.shared.memory import PrototypeBank, captions_alone
from ctvr_bench.methods.shared.ranges import Count, NotNegative, PartOf, Positive, at_most
from ctvr_bench.methods.shared.registry import register
from ctvr_bench.methods.shared.scoring import embed_text, embed_video, same_video
from ctvr_bench.methods.shared.similarity import normalise, pool_frames, pool_words, word_frame_similarity
from ctvr_bench.methods.shared.structalign_head import Route, ShownVideos, StructAlignHead, distinct_videos

TAU = math.exp(4.6)
"""CLIP's temperature, 99.48, as the release fixes it."""


@dataclass(frozen=True)
class StructAlignConfig(TrainedConfig):
    """Weights of the terms, sizes of the modules, and the switches between idea (default) and release.

    crp, etf, proto: term weights; 0 leaves a term out. temperature: T of L_CRP. frame_fusion, routing: the two modules;
    without routing one expert serves all tasks. experts, top_k, scaling (a/r): their sizes. dropout: before A.
    heads: at most so many over frames, as many as divide the features' dimension.
    later_lr, later_gate_lr: factors on lr from the second task on; the second for frame fusion's gates, task vectors.
    proto_scale: similarity scale of L_proto; the release uses tau there and tau / sqrt(batch) elsewhere, the idea one.
    D2 teacher. D3 etf_basis. D4 swap_pseudo: pseudo-features through the other modality's projection. D5 projection.
    D6 stale_gradients: fixed projections and the similarity scale collect gradients for ever and count in the clipped
    norm. D8 bank_route: pass the bank's captions through the router with the task's prototype or with none.
    D9 local_labels: old categories are numbered within their task (ACTNET). D12 schedule. D13 scale_by_batch: scale is
    tau / sqrt(batch). D15 same_video_negatives, same_category_negatives (pseudo-pairs). D16 proto_caption: mean of
    words or the pooled caption; bank_full_batches: the bank leaves out the last incomplete batch. D17 route_first_task.
    """

    scoring: Scoring = "fused"
    lr: NotNegative = 1e-4
    dropout: PartOf = 0.1
    crp: NotNegative = 10.0
    etf: NotNegative = 0.1
    proto: NotNegative = 0.5
    temperature: Positive = 2.0
    frame_fusion: bool = True
    routing: bool = True
    experts: Count = 10
    top_k: Count = 2
    scaling: Positive = 4.0
    heads: Count = 8
    tau: Positive = TAU
    proto_scale: Positive = 17.6
    later_lr: NotNegative = 1.0
    later_gate_lr: NotNegative = 1.0
    teacher: Literal["previous", "zero_shot"] = "previous"
    etf_basis: Literal["simplex", "random_projection"] = "simplex"
    projection: Literal["trained", "fixed_random", "identity"] = "trained"
    swap_pseudo: bool = False
    stale_gradients: bool = False
    bank_route: Literal["task", "none"] = "task"
    local_labels: bool = False
    scale_by_batch: bool = False
    same_video_negatives: bool = False
    same_category_negatives: bool = False
    proto_caption: Literal["words", "pooled"] = "words"
    bank_full_batches: bool = False
    route_first_task: bool = False

    def __post_init__(self) -> None:
        at_most(self.top_k, self.experts, "top_k", "experts")


RELEASED = {
    "teacher": "zero_shot",
    "etf_basis": "random_projection",
    "projection": "fixed_random",
    "swap_pseudo": True,
    "stale_gradients": True,
    "bank_route": "none",
    "scale_by_batch": True,
    "same_video_negatives": True,
    "same_category_negatives": True,
    "bank_full_batches": True,
    "proto_scale": TAU,
    "schedule": "cosine_back",
    "later_lr": 0.15,
    "later_gate_lr": 0.5,
    "weight_decay": 0.5,
    "epochs": 20,
    "rank": 64,
    "heads": 12,
}
"""As released for MSRVTT; ACTNET's are later_lr .3, five experts, and local labels beside these."""


@register(name="structalign_released", **RELEASED)
@register()
class StructAlign(Method):
    """ETF alignment, relation preserving and prototype replay over frame fusion and routed experts."""

    name = "structalign"
    paper = "StructAlign, SIGIR 2026 (arXiv 2601.20597)"
    source = (
        "Mysteriousplayer/SIGIR26-StructAlign@f7291b8 trainer/StructAlign.py, trainer/trainer_framework.py, "
        "modules/loss.py, modules/optimization.py, model/StructAlignMoE/adapter.py"
    )
    idea = "Both modalities share a fixed simplex of category directions, and batch relations follow the old model."
    fidelity = "adapted"
    deviations = "modules act on frozen frame, word and caption features, not inside CLIP's layers; losses are exact"
    stores_samples = "mean and radius of each category, both modalities"
    Config = StructAlignConfig
    config: StructAlignConfig
    etf_CD: Tensor
    local_label_C: Tensor
    stale_2DD: Tensor
    stale_scale: Tensor

    def __init__(self, config: StructAlignConfig, spec: FeatureSpec, generator: torch.Generator) -> None:
        super().__init__(config, spec, generator)
        self.head = StructAlignHead(config, spec, generator)
        self.teacher = copy.deepcopy(self.head).requires_grad_(False)
        make_basis = simplex_etf if config.etf_basis == "simplex" else random_projection_etf
        self.register_buffer("etf_CD", make_basis(spec.num_categories, spec.dim, generator))
        self.register_buffer("local_label_C", torch.zeros(spec.num_categories, dtype=torch.int64))
        self.projections = nn.ParameterList(self._projection(generator) for _ in ("text", "video"))
        self.bank = PrototypeBank(spec.num_categories, spec.dim)
        if config.stale_gradients:
            self.log_scale = nn.Parameter(torch.zeros(()))  # of the factor 1 on the similarity scale
            self.register_buffer("stale_2DD", torch.zeros(2, spec.dim, spec.dim))
            self.register_buffer("stale_scale", torch.zeros(()))

    def _projection(self, generator: torch.Generator) -> nn.Parameter:
        dim, kind = self.spec.dim, self.config.projection
        weight = nn.Parameter(torch.eye(dim)) if kind == "identity" else fan_in_uniform((dim, dim), generator)
        weight.requires_grad_(kind == "trained" or (kind == "fixed_random" and self.config.stale_gradients))
        return weight

    @property
    def uses_shards(self) -> bool:
        return self.config.routing

    @property
    def remembers(self) -> bool:
        """Whether there are old categories: the terms against forgetting begin with the second task."""
        return self.task.position > 0

    @property
    def distils(self) -> bool:
        """Whether the teacher is asked: in L_CRP, its only use."""
        return self.remembers and self.config.crp != 0

    def parameter_groups(self) -> list[ParameterGroup]:
        rate, gate_rate = (self.config.later_lr, self.config.later_gate_lr) if self.remembers else (1.0, 1.0)
        gates = [self.head.fusion.alpha, *self.head.task_vectors]
        mine = {id(parameter) for parameter in gates}
        trained = [parameter for parameter in self.head.parameters() if id(parameter) not in mine]
        trained += self.projections if self.config.projection == "trained" else ()
        stale = [parameter for parameter, _ in self._stale]
        return [ParameterGroup(trained, rate), ParameterGroup(gates, gate_rate), ParameterGroup(stale, rate=0.0)]

    @property
    def _stale(self) -> list[tuple[nn.Parameter, Tensor]]:
        """D6: what is never stepped and counts in the clipped norm, each with the gradient it has gathered."""
        if not self.config.stale_gradients:
            return []
        fixed = zip(self.projections, self.stale_2DD, strict=True) if self.config.projection == "fixed_random" else ()
        return [(self.log_scale, self.stale_scale), *fixed]

    def _scaled(self, scale: float) -> float | Tensor:
        """The similarity scale; with stale gradients one through which its own gradient flows."""
        return scale * self.log_scale.exp() if self.config.stale_gradients else scale

    def begin_task(self, task: TaskInfo) -> None:
        super().begin_task(task)
        if task.position == 1 and self.config.routing:
            self.head.experts.copy_first_to_all()
        if self.config.teacher == "previous":
            self.teacher.load_state_dict(self.head.state_dict())
        for label, category in enumerate(task.categories):
            self.local_label_C[category] = label

    def view(self, data: PairTable) -> PairTable:
        """With X_ref of all pairs where the steps would make as many similarities; else with the teacher's frames."""
        if not self.distils:
            return data
        videos, in_steps = data.all_videos(), total_steps(self, len(data)) * self.config.batch_size**2
        if len(videos.frames_MFD) * len(data) > in_steps:
            frames = [self.teacher.video(part).frames_MFD for part in data.video_chunks(256)]
            return data.with_rows(video={"teacher_frames_NFD": torch.cat(frames)})
        old_video, texts = self.teacher.video(videos), data.text_chunks(self.config.batch_size)
        sim_PV = torch.cat([self._similarity(self._teacher_text(text), old_video) for text in texts])
        return data.with_rows(pair={"teacher_sim_NN": sim_PV})

    def prepare(self, batch: PairBatch, generator: torch.Generator) -> PairBatch:
        config, device, size = self.config, batch.category_N.device, len(batch)
        draws = distinct_videos(batch.video_N)
        if config.dropout:
            draws["keep_ND"] = keep_mask(size, self.spec.dim, config.dropout, generator).to(device)
        if config.routing and (self.remembers or config.route_first_task):
            draws["noise_NE"] = torch.randn(size, config.experts, generator=generator).to(device)
        if self.remembers:
            for use, count in (("proto", size), ("etf", 2 * size)):
                text_PD, video_PD, category_P = self.bank.draw(count, generator)
                draws |= {f"{use}_text_PD": text_PD, f"{use}_video_PD": video_PD, f"{use}_category_P": category_P}
        return batch.with_draws(**draws)

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        config, draws, position = self.config, batch.draws, self.task.position
        fixed = config.tau / math.sqrt(len(batch)) if config.scale_by_batch else config.scale
        scale = self._scaled(fixed)
        gates_NE = self.head.route(batch.text, position, draws.get("noise_NE"))
        text = self.head.text(batch.text, Route(gates_NE, draws.get("keep_ND")))
        shown = ShownVideos(draws.get("pair_U"), draws.get("row_N"))
        video = self.head.video(shown.once(batch.video))
        sim_NN = shown.of_pairs(self._similarity(text, video), 1)
        same_NN = None if config.same_video_negatives else same_video(batch.video_N)
        terms = {"scl": symmetric_contrastive(sim_NN, scale, same_NN)}
        if self.distils:
            old_NN = self._teacher_similarity(batch, shown)
            terms["crp"] = config.crp * relation_preserving(scale * sim_NN, fixed * old_NN, config.temperature)
        if config.etf:
            base = torch.stack(list(terms.values())).sum()
            etf = self._etf_term(batch, text, video, shown)
            terms["etf"] = config.etf * (base / etf).detach() * etf
        if self.remembers and config.proto:
            terms["proto"] = config.proto * self._proto_term(batch, text, video, shown)
        return terms

    def after_backward(self, batch: PairBatch) -> None:
        """D6: gradients of what is not stepped are never cleared; they gather from step to step."""
        for weight, gathered in self._stale:
            if weight.grad is not None:
                weight.grad += gathered

    def after_step(self, batch: PairBatch) -> None:
        for weight, gathered in self._stale:
            if weight.grad is not None:
                gathered.copy_(weight.grad)

    @torch.no_grad()
    def _teacher_similarity(self, batch: PairBatch, shown: ShownVideos) -> Tensor:
        """X_ref, kept for the whole task where that is cheap; else from the teacher's kept frames, or from scratch."""
        if "teacher_sim_NN" in batch.rows:
            return batch.rows["teacher_sim_NN"]
        frames_NFD = batch.rows.get("teacher_frames_NFD")
        if frames_NFD is None:
            video = self.teacher.video(shown.once(batch.video))
        else:
            video = AdaptedVideo(shown.of_videos(frames_NFD), shown.of_videos(batch.video.frame_mask_MF))
        return shown.of_pairs(self._similarity(self._teacher_text(batch.text), video), 1)

    def _teacher_text(self, text: TextBatch) -> TextBatch:
        return self.teacher.text(text, Route(self.teacher.route(text, self.task.position - 1)))

    def _similarity(self, text: TextBatch, video: AdaptedVideo) -> Tensor:
        """Word-frame similarity, also where scoring is fused (2.3); the pooled cosine where scoring is cosine."""
        if self.config.scoring == "cosine":
            return normalise(text.pooled_ND) @ pool_frames(video.frames_MFD, video.frame_mask_MF).T
        return word_frame_similarity(text.words_NLD, text.word_mask_NL, video.frames_MFD, video.frame_mask_MF)

    def _etf_term(self, batch: PairBatch, text: TextBatch, video: AdaptedVideo, shown: ShownVideos) -> Tensor:
        """L_real, and L_pseudo once there are old categories (2.6)."""
        etf_ND = self.etf_CD[batch.category_N]
        to_etf = (self.projections[0], self.projections[1])
        text_N = attended_misalignment(*text[1:], etf_ND, to_etf[0])
        video_U = attended_misalignment(*video[:2], shown.of_videos(etf_ND), to_etf[1])
        term = text_N.mean() + shown.of_pairs(video_U).mean()
        if not self.remembers:
            return term
        category_P = batch.draws["etf_category_P"]
        label_P = self.local_label_C[category_P] if self.config.local_labels else category_P
        text_PD, video_PD = batch.draws["etf_text_PD"], batch.draws["etf_video_PD"]
        return term + pseudo_alignment(text_PD, video_PD, self.etf_CD[label_P], *to_etf, self.config.swap_pseudo)

    def _proto_term(self, batch: PairBatch, text: TextBatch, video: AdaptedVideo, shown: ShownVideos) -> Tensor:
        """L_proto (2.8) over the pooled batch and as many pseudo-pairs."""
        config, draws = self.config, batch.draws
        group_N, group_P = batch.video_N, draws["proto_category_P"]
        same_batch = torch.zeros_like(same_video(group_N)) if config.same_video_negatives else same_video(group_N)
        same_pseudo = same_video(group_P)
        same_pseudo = torch.zeros_like(same_pseudo) if config.same_category_negatives else same_pseudo
        text_ND, video_ND = self._pooled_caption(text), shown.of_pairs(pool_frames(*video[:2]))
        mask = torch.block_diag(same_batch, same_pseudo).bool()
        return prototype_contrastive(
            text_ND, video_ND, draws["proto_text_PD"], draws["proto_video_PD"], self._scaled(config.proto_scale), mask
        )

    def _pooled_caption(self, text: TextBatch) -> Tensor:
        words = self.config.proto_caption == "words"
        return pool_words(text.words_NLD, text.word_mask_NL) if words else normalise(text.pooled_ND)

    @torch.no_grad()
    def end_task(self, data: PairTable, generator: torch.Generator) -> None:
        """Category means and radii of the finished task enter the bank (2.7)."""
        shard = self.task.position if self.config.bank_route == "task" else None
        video_VD = torch.cat([pool_frames(*self.head.video(video)[:2]) for video in data.video_chunks(256)])
        features = []
        for index_N in data.chunks(self.config.batch_size):
            if self.config.bank_full_batches and len(index_N) < min(self.config.batch_size, len(data)):
                continue
            text, (index, position) = data.text(index_N), data.positions(index_N)
            adapted = self.head.text(text, Route(self.head.route(text, shard)))
            features.append((self._pooled_caption(adapted), video_VD[position], data.category_P[index]))
        text_ND, video_ND, category_N = (torch.cat(parts) for parts in zip(*features, strict=True))
        self.bank.update(text_ND, video_ND, category_N)

    def encode_text(self, text: TextBatch, shard: int) -> TextEmbedding:
        text = captions_alone(text.pooled_ND) if self.config.scoring == "cosine" else text
        return embed_text(self.head.text(text, Route(self.head.route(text, shard))), self.config)

    def encode_video(self, video: VideoBatch) -> VideoEmbedding:
        return embed_video(self.head.video(video), self.config)
