"""CODA-Prompt: every prompt is a weighted sum of components, the weights an attention to the input.

p(x) = sum_m alpha_m P_m,   alpha_m = cosine(x * A_m, K_m),   x the frozen pooled feature, * elementwise
Each task adds its share of the components and freezes those before it. L = L_contrastive + ortho (O(P) + O(K) + O(A)),
O(B) = mean (B B' - I)^2 over all components so far                                        Smith et al. 2023, CVPR
All components are drawn as one orthonormal set; those of a later task are made orthonormal again when it begins, to
the components before it as training left them (the authors' Gram-Schmidt). With orthogonal_to = "drawn" they are
orthogonal to what those were at first. Prompt tokens are scaled to the layer-normed tokens they join.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from ctvr_bench.features.streams import PairBatch, TextBatch, VideoBatch
from ctvr_bench.methods.shared.attention import Attending, PromptConfig
from ctvr_bench.methods.shared.base import FeatureSpec, TaskInfo, TextEmbedding, VideoEmbedding
from ctvr_bench.methods.shared.heads import Prompts, masked_mean
from ctvr_bench.methods.shared.losses import orthogonality
from ctvr_bench.methods.shared.ranges import Count, NotNegative, Search
from ctvr_bench.methods.shared.registry import register
from ctvr_bench.methods.shared.scoring import embed_text, embed_video
from ctvr_bench.methods.shared.similarity import normalise


@dataclass(frozen=True)
class CODAPromptConfig(PromptConfig):
    """pool: components over all tasks. length: tokens of a prompt. ortho: weight of the orthogonality terms.

    orthogonal_to: the earlier components that a task's new ones are orthogonal to when it begins.
    """

    prompt_rate: Annotated[NotNegative, Search(0.1, 300.0)] = 1.0
    pool: Count = 100
    length: Count = 8
    ortho: Annotated[NotNegative, Search(0.01, 10.0)] = 0.1
    orthogonal_to: Literal["drawn", "trained"] = "trained"


@register()
class CODAPrompt(Attending):
    """The attention block with prompts composed from components that each task adds to."""

    name = "coda_prompt"
    paper = "Smith et al. 2023, CODA-Prompt: COntinual Decomposed Attention-based Prompting"
    source = "GT-RIPL/CODA-Prompt@6417d4f models/zoo.py"
    fidelity = "adapted"
    deviations = (
        "the prompt joins one trained attention block over frozen tokens, not layers of a frozen transformer; it "
        "serves as keys and values, which there take half of it each; the block learns in every task (`block`)"
    )
    published = "block=first_task, prompt_rate=5.0"
    idea = "Compose the prompt from many parts instead of choosing one; new tasks add parts and leave old ones alone."
    control = "attention_head"
    Config = CODAPromptConfig
    config: CODAPromptConfig

    def __init__(self, config: CODAPromptConfig, spec: FeatureSpec, generator: torch.Generator) -> None:
        super().__init__(config, spec, generator)
        self.text_prompts = Components(config, spec, generator)
        self.video_prompts = Components(config, spec, generator)

    def begin_task(self, task: TaskInfo) -> None:
        super().begin_task(task)
        if self.config.orthogonal_to == "trained":
            self.text_prompts.start(task.position)
            self.video_prompts.start(task.position)

    def prompt_parameters(self) -> list[nn.Parameter]:
        current = max(self.task.position, 0)
        idle = {*self.text_prompts.all_but(current), *self.video_prompts.all_but(current)}
        own = [*self.text_prompts.parameters(), *self.video_prompts.parameters()]
        return [parameter for parameter in own if parameter not in idle]

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        overlap = self.text_prompts.overlap(self.task.position) + self.video_prompts.overlap(self.task.position)
        return {**super().loss(batch), "ortho": self.config.ortho * overlap}

    def encode_text(self, text: TextBatch, shard: int) -> TextEmbedding:
        prompts = Prompts(self.text_prompts(text.pooled_ND, self.task.position))
        return embed_text(self.attend_text(text, prompts), self.config)

    def encode_video(self, video: VideoBatch) -> VideoEmbedding:
        prompts = Prompts(self.video_prompts(masked_mean(*video), self.task.position))
        return embed_video(self.attend_video(video, prompts), self.config)


class Components(nn.Module):
    """For each task some prompts P [m, length D], keys K [m, D] and attention vectors A [m, D]."""

    def __init__(self, config: CODAPromptConfig, spec: FeatureSpec, generator: torch.Generator) -> None:
        super().__init__()
        self.dim, width = spec.dim, config.length * spec.dim
        share = math.ceil(config.pool / spec.num_tasks)
        self.prompts, self.keys, self.attentions = (
            nn.ParameterList(map(nn.Parameter, _orthonormal(share * spec.num_tasks, size, generator).split(share)))
            for size in (width, spec.dim, spec.dim)
        )

    def forward(self, query_ND: Tensor, task: int) -> Tensor:
        """prompts [N, length, D] from the components of the tasks up to `task`."""
        prompts_MW, keys_MD, attentions_MD = self._until(task)
        focus_NMD = normalise(query_ND)[:, None] * attentions_MD
        weight_NM = (normalise(focus_NMD) * normalise(keys_MD)).sum(-1)
        prompt_NW = weight_NM @ prompts_MW * math.sqrt(prompts_MW.shape[1])
        return prompt_NW.view(len(query_ND), -1, self.dim)

    @torch.no_grad()
    def start(self, task: int) -> None:
        """Make the task's components orthonormal, and orthogonal to those of the tasks before it."""
        for part in (self.prompts, self.keys, self.attentions):
            rows = part[task]
            rows.copy_(_orthonormal_beside(rows, torch.cat(list(part)[:task])) if task else rows)

    def overlap(self, task: int) -> Tensor:
        """O(P) + O(K) + O(A) over the components of the tasks up to `task`."""
        return torch.stack([orthogonality(rows) for rows in self._until(task)]).sum()

    def all_but(self, task: int) -> set[nn.Parameter]:
        """What belongs to all other tasks."""
        parts = (self.prompts, self.keys, self.attentions)
        return {parameter for part in parts for other, parameter in enumerate(part) if other != task}

    def _until(self, task: int) -> tuple[Tensor, Tensor, Tensor]:
        prompts, keys, attentions = (
            torch.cat([*(old.detach() for old in list(part)[: max(task, 0)]), part[max(task, 0)]])
            for part in (self.prompts, self.keys, self.attentions)
        )
        return prompts, keys, attentions


def _orthonormal(rows: int, width: int, generator: torch.Generator) -> Tensor:
    """Random unit rows, orthonormal as far as `width` dimensions allow."""
    gaussian = torch.randn(rows, width, generator=generator)
    return torch.linalg.qr(gaussian.T).Q.T.contiguous() if rows <= width else normalise(gaussian)


def _orthonormal_beside(rows_MD: Tensor, before_BD: Tensor) -> Tensor:
    """The rows without their part along those before, orthonormal; unit rows where all together exceed D dimensions."""
    if len(before_BD) + len(rows_MD) > rows_MD.shape[1]:
        return normalise(rows_MD)
    basis_DB = torch.linalg.qr(before_BD.T).Q
    basis_DM, triangle = torch.linalg.qr((rows_MD - rows_MD @ basis_DB @ basis_DB.T).T)
    signed_MD: Tensor = (basis_DM * triangle.diagonal().sign()).T
    return signed_MD
