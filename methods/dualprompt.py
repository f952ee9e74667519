"""DualPrompt: a general prompt for all tasks, and an expert prompt for each.

x = frozen pooled feature. In training task t uses its own expert; at test the expert e of the largest cosine(x, key_e)
among the tasks learned. General and expert tokens join the sample's own in attention.
L = L_contrastive - pull * mean cosine(x, key_t)                                            Wang et al. 2022, ECCV
One set of prompts per modality; a caption and its video choose separately, each by itself. Keys start near zero, so
that a task's few steps can turn them; from unit length they would hardly move and routing would be by chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from ctvr_bench.features.streams import PairBatch, TextBatch, VideoBatch
from ctvr_bench.methods.shared.attention import Attending, PromptConfig
from ctvr_bench.methods.shared.base import FeatureSpec, TextEmbedding, VideoEmbedding
from ctvr_bench.methods.shared.heads import Prompts, masked_mean, uniform
from ctvr_bench.methods.shared.losses import symmetric_contrastive
from ctvr_bench.methods.shared.ranges import Count, NotNegative, Search
from ctvr_bench.methods.shared.registry import register
from ctvr_bench.methods.shared.scoring import embed_text, embed_video, pair_similarity, same_video
from ctvr_bench.methods.shared.similarity import normalise


@dataclass(frozen=True)
class DualPromptConfig(PromptConfig):
    """general, length: tokens of the general and of each expert prompt. pull: weight of the key term."""

    general: Count = 5
    length: Count = 5
    pull: Annotated[NotNegative, Search(0.01, 10.0)] = 1.0


@register()
class DualPrompt(Attending):
    """The attention block with a general prompt and the expert prompt of the nearest task key."""

    name = "dualprompt"
    paper = "Wang et al. 2022, DualPrompt: Complementary Prompting for Rehearsal-free Continual Learning"
    source = "google-research/l2p@dd8836e models/prompt.py, configs/cifar100_dualprompt.py"
    fidelity = "adapted"
    deviations = (
        "both prompts join one trained attention block over frozen tokens, not layers of a frozen transformer, "
        "and serve as keys and values, which there have prompts of their own; the block learns in every task "
        "(`block`)"
    )
    published = "block=first_task, prompt_rate=18.75, schedule=constant, warmup=0.0"
    idea = "What all tasks share goes into one prompt, what is a task's own into another, found again by its key."
    control = "attention_head"
    Config = DualPromptConfig
    config: DualPromptConfig

    def __init__(self, config: DualPromptConfig, spec: FeatureSpec, generator: torch.Generator) -> None:
        super().__init__(config, spec, generator)
        self.text_prompts = DualPrompts(config, spec, generator)
        self.video_prompts = DualPrompts(config, spec, generator)

    @property
    def learned(self) -> int:
        """Tasks begun: experts that may be chosen."""
        return max(self.task.position, 0) + 1

    def prompt_parameters(self) -> list[nn.Parameter]:
        idle = {*self.text_prompts.experts_but(self.learned - 1), *self.video_prompts.experts_but(self.learned - 1)}
        own = [*self.text_prompts.parameters(), *self.video_prompts.parameters()]
        return [parameter for parameter in own if parameter not in idle]

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        config, own_N = self.config, torch.full_like(batch.category_N, self.learned - 1)
        text = embed_text(self.attend_text(batch.text, *self.text_prompts(own_N)), config)
        video = embed_video(self.attend_video(batch.video, *self.video_prompts(own_N)), config)
        sim_NN = pair_similarity(text, video, config)
        match = self.text_prompts.match(batch.text.pooled_ND)[:, self.learned - 1]
        match = match + self.video_prompts.match(masked_mean(*batch.video))[:, self.learned - 1]
        return {
            "contrastive": symmetric_contrastive(sim_NN, config.scale, same_video(batch.video_N)),
            "pull": -config.pull * match.mean(),
        }

    def route(self, text: TextBatch) -> Tensor:
        return self.text_prompts.match(text.pooled_ND)[:, : self.learned].argmax(1)

    def encode_text(self, text: TextBatch, shard: int) -> TextEmbedding:
        return embed_text(self.attend_text(text, *self.text_prompts(self.route(text))), self.config)

    def encode_video(self, video: VideoBatch) -> VideoEmbedding:
        expert_M = self.video_prompts.match(masked_mean(*video))[:, : self.learned].argmax(1)
        return embed_video(self.attend_video(video, *self.video_prompts(expert_M)), self.config)


class DualPrompts(nn.Module):
    """A general prompt [G, D], and for each of T tasks a key [D] and an expert prompt [length, D]."""

    def __init__(self, config: DualPromptConfig, spec: FeatureSpec, generator: torch.Generator) -> None:
        super().__init__()
        tasks, dim = range(spec.num_tasks), spec.dim
        self.general_GD = uniform((config.general, dim), 1.0, generator)
        self.keys = nn.ParameterList(uniform((1, dim), 0.002, generator) for _ in tasks)
        self.experts = nn.ParameterList(uniform((config.length, dim), 1.0, generator) for _ in tasks)

    def forward(self, expert_N: Tensor) -> tuple[Prompts, Prompts]:
        """The general prompt, and after it the chosen expert."""
        experts = Prompts(torch.stack(list(self.experts)), expert_N[:, None])
        return Prompts.shared(self.general_GD, len(expert_N)), experts

    def match(self, query_ND: Tensor) -> Tensor:
        """Cosine of each query with each task's key, [N, T]."""
        return normalise(query_ND) @ normalise(torch.cat(list(self.keys))).T

    def experts_but(self, task: int) -> set[nn.Parameter]:
        """Keys and prompts of all other tasks."""
        pairs = zip(self.keys, self.experts, strict=True)
        return {parameter for other, pair in enumerate(pairs) if other != task for parameter in pair}
