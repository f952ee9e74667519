"""S-Prompts: prompts of its own for every task, found again by the nearest centroid of frozen features.

After task t, K centroids of its frozen caption features and K of its frozen mean frames are stored (K-means on unit
vectors). In training the task's own prompts are used; at test each caption, and each video, takes those of the task to
which its nearest centroid belongs. L = L_contrastive                                    Wang et al. 2022, NeurIPS
Tasks are independent. A prompt needs attention to carry it: here each task also has the attention block of its own that
a frozen transformer would lend to all; with block = first_task that of the first task is lent to all. How often
captions find their task is reported (`routing_accuracy`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

import torch
from torch import Tensor, nn

from ctvr_bench.features.streams import PairBatch, PairTable, TextBatch, VideoBatch
from ctvr_bench.methods.shared.attention import Attending, PromptConfig
from ctvr_bench.methods.shared.base import FeatureSpec, Method, ParameterGroup, TextEmbedding, VideoEmbedding
from ctvr_bench.methods.shared.heads import AdaptedVideo, Prompts, masked_mean, uniform
from ctvr_bench.methods.shared.losses import symmetric_contrastive
from ctvr_bench.methods.shared.memory import k_means
from ctvr_bench.methods.shared.ranges import Count, NotNegative, Search
from ctvr_bench.methods.shared.registry import register
from ctvr_bench.methods.shared.scoring import embed_text, embed_video, pair_similarity, same_video
from ctvr_bench.methods.shared.similarity import normalise

_Batch = TypeVar("_Batch", TextBatch, VideoBatch)


@dataclass(frozen=True)
class SPromptsConfig(PromptConfig):
    """lr: bolder than the block's elsewhere, as no task moves what another learned.

    length: tokens of a prompt. centroids: K per task and modality.
    distance: from a feature to centroids; the authors sum absolute differences.
    """

    lr: NotNegative = 2e-4
    length: Count = 10
    centroids: Annotated[Count, Search(1, 20)] = 5
    distance: Literal["euclidean", "manhattan"] = "euclidean"


@register()
class SPrompts(Method):
    """Independent prompts and attention per task, chosen by K-means centroids."""

    name = "s_prompts"
    paper = "Wang et al. 2022, S-Prompts Learning with Pre-trained Transformers"
    source = "iamwangyabin/S-Prompts@a26e822 methods/sprompt.py"
    fidelity = "adapted"
    deviations = (
        "each task's prompts join an attention block of its own over frozen tokens (`block`), not a frozen "
        "transformer; the nearest centroid is that of least squared differences of unit vectors, there of least "
        "absolute ones of features (`distance`)"
    )
    published = "distance=manhattan, block=first_task"
    idea = "Learn tasks apart from each other and let the frozen features say which one a sample belongs to."
    stores_samples = "`centroids` centroids of frozen features per task and modality"
    control = "attention_head"
    Config = SPromptsConfig
    config: SPromptsConfig
    text_centroids_TKD: Tensor
    video_centroids_TKD: Tensor

    def __init__(self, config: SPromptsConfig, spec: FeatureSpec, generator: torch.Generator) -> None:
        super().__init__(config, spec, generator)
        tasks, shape = range(spec.num_tasks), (config.length, spec.dim)
        blocks = range(1) if config.block == "first_task" else tasks
        self.heads = nn.ModuleList(Attending(config, spec, generator) for _ in blocks)
        self.text_prompts = nn.ParameterList(uniform(shape, 1.0, generator) for _ in tasks)
        self.video_prompts = nn.ParameterList(uniform(shape, 1.0, generator) for _ in tasks)
        shape_TKD = (spec.num_tasks, config.centroids, spec.dim)
        self.register_buffer("text_centroids_TKD", torch.zeros(shape_TKD))
        self.register_buffer("video_centroids_TKD", torch.zeros(shape_TKD))

    @property
    def begun(self) -> int:
        """Tasks that a sample may belong to."""
        return max(self.task.position, 0) + 1

    def parameter_groups(self) -> list[ParameterGroup]:
        newest = self.begun - 1
        own = [self.text_prompts[newest], self.video_prompts[newest]]
        prompts = ParameterGroup(own, self.config.prompt_rate, self.config.prompt_decay)
        held = self.config.block == "first_task" and newest > 0
        return [prompts] if held else [ParameterGroup(list(self._head(newest).parameters())), prompts]

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        text = embed_text(self._text(batch.text, self.task.position), self.config)
        video = embed_video(self._video(batch.video, self.task.position), self.config)
        sim_NN = pair_similarity(text, video, self.config)
        return {"contrastive": symmetric_contrastive(sim_NN, self.config.scale, same_video(batch.video_N))}

    @torch.no_grad()
    def end_task(self, data: PairTable, generator: torch.Generator) -> None:
        batches = [data.pairs(index_N) for index_N in data.chunks(256)]
        text_ND = normalise(torch.cat([batch.text.pooled_ND for batch in batches]))
        video_ND = normalise(torch.cat([masked_mean(*batch.video) for batch in batches]))
        for stored_TKD, feature_ND in ((self.text_centroids_TKD, text_ND), (self.video_centroids_TKD, video_ND)):
            stored_TKD[self.task.position] = k_means(feature_ND, self.config.centroids, generator)

    def route(self, text: TextBatch) -> Tensor:
        return self._nearest(text.pooled_ND, self.text_centroids_TKD)

    def encode_text(self, text: TextBatch, shard: int) -> TextEmbedding:
        parts, back_N = _by_task(text, self.route(text))
        found = [embed_text(self._text(part, task), self.config) for task, part in parts]
        return TextEmbedding._make(_joined(found, back_N))

    def encode_video(self, video: VideoBatch) -> VideoEmbedding:
        parts, back_M = _by_task(video, self._nearest(masked_mean(*video), self.video_centroids_TKD))
        found = [embed_video(self._video(part, task), self.config) for task, part in parts]
        return VideoEmbedding._make(_joined(found, back_M))

    def _nearest(self, feature_ND: Tensor, centroid_TKD: Tensor) -> Tensor:
        """task_N of the nearest centroid among the tasks begun."""
        begun_KD = centroid_TKD[: self.begun].flatten(0, 1)
        power = 2.0 if self.config.distance == "euclidean" else 1.0
        return torch.cdist(normalise(feature_ND), begun_KD, p=power).argmin(1) // self.config.centroids

    def _text(self, text: TextBatch, task: int) -> TextBatch:
        return self._head(task).attend_text(text, Prompts.shared(self.text_prompts[task], len(text.pooled_ND)))

    def _video(self, video: VideoBatch, task: int) -> AdaptedVideo:
        return self._head(task).attend_video(video, Prompts.shared(self.video_prompts[task], len(video.frames_MFD)))

    def _head(self, task: int) -> Attending:
        head = self.heads[0 if self.config.block == "first_task" else task]
        assert isinstance(head, Attending)
        return head


def _by_task(batch: _Batch, task_N: Tensor) -> tuple[list[tuple[int, _Batch]], Tensor]:
    """The part of a batch that belongs to each task, and where each of its rows is among the parts'."""
    tasks = task_N.unique().tolist()
    rows = [torch.nonzero(task_N == task)[:, 0] for task in tasks]
    parts = [(task, type(batch)._make(x[row_K] for x in batch)) for task, row_K in zip(tasks, rows, strict=True)]
    return parts, torch.cat(rows).argsort()


def _joined(parts: Sequence[tuple[Tensor | None, ...]], back_N: Tensor) -> Iterator[Tensor | None]:
    """The parts' fields in the order of the batch."""
    for fields in zip(*parts, strict=True):
        present = [field for field in fields if field is not None]
        yield torch.cat(present)[back_N] if present else None
