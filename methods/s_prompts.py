"""S-Prompts: prompts of its own for every task, found again by the nearest centroid of frozen features.

After task t, K centroids of its frozen caption features and K of its frozen mean frames are stored (K-means on unit
vectors). In training the task's own prompts are used; at test each caption, and each video, takes those of the task to
which its nearest centroid belongs. L = L_contrastive                                    Wang et al. 2022, NeurIPS
Tasks are independent. A prompt needs attention to carry it: here each task also has the attention block of its own that
a frozen transformer would lend to all. How often captions find their task is reported (`routing_accuracy`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from features.streams import PairBatch, PairTable, TextBatch, VideoBatch
from methods.attention_head import AttentionConfig, AttentionHead
from methods.base import FeatureSpec, Method, TaskInfo, TextEmbedding, VideoEmbedding
from methods.heads import AdaptedVideo, masked_mean, uniform
from methods.losses import symmetric_contrastive
from methods.memory import k_means
from methods.registry import register
from methods.scoring import embed_text, embed_video, pair_similarity, same_video
from methods.similarity import normalise


@dataclass(frozen=True)
class SPromptsConfig(AttentionConfig):
    """length: tokens of a prompt. centroids: K per task and modality."""

    length: int = 10
    centroids: int = 5


@register()
class SPrompts(Method):
    """Independent prompts and attention per task, chosen by K-means centroids."""

    name = "s_prompts"
    paper = "Wang et al. 2022, S-Prompts Learning with Pre-trained Transformers"
    idea = "Learn tasks apart from each other and let the frozen features say which one a sample belongs to."
    fidelity = "adapted"
    deviations = "each task's prompts join an attention block of its own over frozen tokens, not a frozen transformer"
    stores_samples = "`centroids` centroids of frozen features per task and modality"
    control = "attention_head"
    Config = SPromptsConfig
    config: SPromptsConfig
    text_centroids_TKD: Tensor
    video_centroids_TKD: Tensor

    def __init__(self, config: SPromptsConfig, spec: FeatureSpec, generator: torch.Generator) -> None:
        super().__init__(config, spec, generator)
        tasks, shape = range(spec.num_tasks), (config.length, spec.dim)
        self.heads = nn.ModuleList(AttentionHead(config, spec, generator) for _ in tasks)
        self.text_prompts = nn.ParameterList(uniform(shape, 1.0, generator) for _ in tasks)
        self.video_prompts = nn.ParameterList(uniform(shape, 1.0, generator) for _ in tasks)
        shape_TKD = (spec.num_tasks, config.centroids, spec.dim)
        self.register_buffer("text_centroids_TKD", torch.zeros(shape_TKD))
        self.register_buffer("video_centroids_TKD", torch.zeros(shape_TKD))

    @property
    def begun(self) -> int:
        """Tasks that a sample may belong to."""
        return max(self.task.position, 0) + 1

    def begin_task(self, task: TaskInfo) -> None:
        super().begin_task(task)
        self.zero_grad()  # earlier tasks' prompts are stepped no more, and must not count in the clipped norm

    def optimised_parameters(self) -> list[nn.Parameter]:
        newest = self.begun - 1
        return [*self.heads[newest].parameters(), self.text_prompts[newest], self.video_prompts[newest]]

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
        pooled_ND, words_NLD = torch.empty_like(text.pooled_ND), torch.empty_like(text.words_NLD)
        task_N = self.route(text)
        for task in task_N.unique().tolist():
            mine_N = task_N == task
            part = TextBatch(text.pooled_ND[mine_N], text.words_NLD[mine_N], text.word_mask_NL[mine_N])
            pooled_ND[mine_N], words_NLD[mine_N], _ = self._text(part, task)
        return embed_text(TextBatch(pooled_ND, words_NLD, text.word_mask_NL), self.config)

    def encode_video(self, video: VideoBatch) -> VideoEmbedding:
        adapted_MFD = torch.empty_like(video.frames_MFD)
        task_M = self._nearest(masked_mean(*video), self.video_centroids_TKD)
        for task in task_M.unique().tolist():
            mine_M = task_M == task
            adapted_MFD[mine_M] = self._video(VideoBatch(*(part[mine_M] for part in video)), task).frames_MFD
        return embed_video(AdaptedVideo(adapted_MFD, video.frame_mask_MF), self.config)

    def _nearest(self, feature_ND: Tensor, centroid_TKD: Tensor) -> Tensor:
        """task_N of the nearest centroid among the tasks begun."""
        begun_KD = centroid_TKD[: self.begun].flatten(0, 1)
        return torch.cdist(normalise(feature_ND), begun_KD).argmin(1) // self.config.centroids

    def _text(self, text: TextBatch, task: int) -> TextBatch:
        prompts_NPD = self.text_prompts[task].expand(len(text.pooled_ND), -1, -1)
        return self._head(task).attend_text(text, prompts_NPD)

    def _video(self, video: VideoBatch, task: int) -> AdaptedVideo:
        prompts_MPD = self.video_prompts[task].expand(len(video.frames_MFD), -1, -1)
        return self._head(task).attend_video(video, prompts_MPD)

    def _head(self, task: int) -> AttentionHead:
        head = self.heads[task]
        assert isinstance(head, AttentionHead)
        return head
