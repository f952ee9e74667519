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

import math

import torch
from torch import Tensor

from ctvr_bench.features.streams import PairBatch, PairTable, TextBatch, VideoBatch
from ctvr_bench.methods.shared.base import (
    FeatureSpec,
    Method,
    ParameterGroup,
    TaskInfo,
    TextEmbedding,
    VideoEmbedding,
    total_steps,
)
from ctvr_bench.methods.shared.heads import AdaptedVideo, keep_mask
from ctvr_bench.methods.shared.losses import (
    prototype_contrastive,
    relation_preserving,
    symmetric_contrastive,
)
from ctvr_bench.methods.shared.memory import PrototypeBank, captions_alone
from ctvr_bench.methods.shared.registry import register
from ctvr_bench.methods.shared.scoring import embed_text, embed_video, same_video
from ctvr_bench.methods.shared.similarity import normalise, pool_frames, pool_words
from ctvr_bench.methods.shared.structalign.config import RELEASED, StructAlignConfig
from ctvr_bench.methods.shared.structalign.head import (
    Route,
    ShownVideos,
    StructAlignHead,
    Teacher,
    distinct_videos,
    head_similarity,
)
from ctvr_bench.methods.shared.structalign.release import StaleGradients
from ctvr_bench.methods.shared.structalign.simplex import Simplex


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

    def __init__(self, config: StructAlignConfig, spec: FeatureSpec, generator: torch.Generator) -> None:
        super().__init__(config, spec, generator)
        self.head = StructAlignHead(config, spec, generator)
        self.teacher = Teacher(self.head, config)
        self.simplex = Simplex(config, spec, generator)
        self.bank = PrototypeBank(spec.num_categories, spec.dim)
        fixed = self.simplex.projections if config.projection == "fixed_random" else ()
        self.stale = StaleGradients(fixed, config.stale_gradients)

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
        trained += self.simplex.projections if self.config.projection == "trained" else ()
        stale = ParameterGroup(self.stale.weights, rate=0.0)
        return [ParameterGroup(trained, rate), ParameterGroup(gates, gate_rate), stale]

    def begin_task(self, task: TaskInfo) -> None:
        super().begin_task(task)
        if task.position == 1 and self.config.routing:
            self.head.experts.copy_first_to_all()
        if self.config.teacher == "previous":
            self.teacher.head.load_state_dict(self.head.state_dict())
        self.simplex.number(task.categories)

    def view(self, data: PairTable) -> PairTable:
        """With what the teacher gives where it is asked."""
        if not self.distils:
            return data
        in_steps = total_steps(self, len(data)) * self.config.batch_size**2
        return self.teacher.with_rows(data, in_steps, self.task.position - 1)

    def prepare(self, batch: PairBatch, generator: torch.Generator) -> PairBatch:
        config, size = self.config, len(batch)
        draws = distinct_videos(batch.video_N)
        if config.dropout:
            draws["keep_ND"] = keep_mask(size, self.spec.dim, config.dropout, generator)
        if config.routing and (self.remembers or config.route_first_task):
            draws["noise_NE"] = torch.randn(size, config.experts, generator=generator)
        if self.remembers:
            for use, count in (("proto", size), ("etf", 2 * size)):
                text_PD, video_PD, category_P = self.bank.draw(count, generator)
                draws |= {f"{use}_text_PD": text_PD, f"{use}_video_PD": video_PD, f"{use}_category_P": category_P}
        return batch.with_draws(**draws)

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        config, draws, position = self.config, batch.draws, self.task.position
        fixed = config.tau / math.sqrt(len(batch)) if config.scale_by_batch else config.scale
        scale = self.stale.scaled(fixed)
        gates_NE = self.head.route(batch.text, position, draws.get("noise_NE"))
        text = self.head.text(batch.text, Route(gates_NE, draws.get("keep_ND")))
        shown = ShownVideos(draws.get("pair_U"), draws.get("row_N"))
        video = self.head.video(shown.once(batch.video))
        sim_NN = shown.of_pairs(head_similarity(text, video, config.scoring), 1)
        same_NN = None if config.same_video_negatives else same_video(batch.video_N)
        terms = {"scl": symmetric_contrastive(sim_NN, scale, same_NN)}
        if self.distils:
            old_NN = self.teacher.similarity(batch, shown, position - 1)
            terms["crp"] = config.crp * relation_preserving(scale * sim_NN, fixed * old_NN, config.temperature)
        if config.etf:
            base = torch.stack(list(terms.values())).sum()
            etf = self.simplex.pull(batch, text, video, shown)
            terms["etf"] = config.etf * (base / etf).detach() * etf
        if self.remembers and config.proto:
            terms["proto"] = config.proto * self._proto_term(batch, text, video, shown)
        return terms

    def after_backward(self, batch: PairBatch) -> None:
        self.stale.add_what_gathered()

    def after_step(self, batch: PairBatch) -> None:
        self.stale.gather()

    def _proto_term(self, batch: PairBatch, text: TextBatch, video: AdaptedVideo, shown: ShownVideos) -> Tensor:
        """L_proto (2.8) over the pooled batch and as many pseudo-pairs."""
        config, draws = self.config, batch.draws
        text_ND, video_ND = self._pooled_caption(text), shown.of_pairs(pool_frames(*video[:2]))
        pseudo, scale = (draws["proto_text_PD"], draws["proto_video_PD"]), self.stale.scaled(config.proto_scale)
        return prototype_contrastive(text_ND, video_ND, *pseudo, scale, self._same(batch))

    def _same(self, batch: PairBatch) -> Tensor:
        """Which pairs and pseudo-pairs are no negatives of each other, [N + P, N + P]."""
        same_NN, same_PP = same_video(batch.video_N), same_video(batch.draws["proto_category_P"])
        same_NN = torch.zeros_like(same_NN) if self.config.same_video_negatives else same_NN
        same_PP = torch.zeros_like(same_PP) if self.config.same_category_negatives else same_PP
        same: Tensor = torch.block_diag(same_NN, same_PP).bool()
        return same

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
