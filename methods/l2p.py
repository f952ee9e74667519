"""Learning to Prompt: each caption and each video picks prompts from a pool by key match.

x = frozen pooled feature;  chosen = the top-N keys by cosine(x, key);  the chosen prompts join the tokens in attention.
L = L_contrastive - pull * mean sum_chosen cosine(x, key)                                  Wang et al. 2022, CVPR (L2P)
One pool per modality. Every sample picks its own prompts in training and at test (no batch-wise choice, which would let
one query see others).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from ctvr_bench.features.streams import PairBatch, TextBatch, VideoBatch
from ctvr_bench.methods.shared.attention import Attending, PromptConfig
from ctvr_bench.methods.shared.base import FeatureSpec, TextEmbedding, VideoEmbedding
from ctvr_bench.methods.shared.heads import Prompts, masked_mean, uniform
from ctvr_bench.methods.shared.ranges import Count, NotNegative, Positive, Search, at_most
from ctvr_bench.methods.shared.registry import register
from ctvr_bench.methods.shared.scoring import embed_text, embed_video
from ctvr_bench.methods.shared.similarity import normalise


@dataclass(frozen=True)
class L2PConfig(PromptConfig):
    """pool: prompts in a pool. length: tokens of a prompt. chosen: prompts per sample. pull: weight of the key term.

    key_bound: keys start uniform within it (None: 1 / sqrt(D)); the smaller they are, the further a step turns them.
    """

    pool: Count = 10
    length: Count = 5
    chosen: Count = 5
    pull: Annotated[NotNegative, Search(0.01, 10.0)] = 0.1
    key_bound: Positive | None = 0.01

    def __post_init__(self) -> None:
        at_most(self.chosen, self.pool, "chosen", "pool")


@register()
class L2P(Attending):
    """The attention block with prompts chosen from a shared pool."""

    name = "l2p"
    paper = "Wang et al. 2022, Learning to Prompt for Continual Learning"
    source = (
        "google-research/l2p@dd8836e models/prompt.py, configs/cifar100_l2p.py; JH-LEE-KR/l2p-pytorch@f7bc994 prompt.py"
    )
    fidelity = "adapted"
    deviations = (
        "prompts join one trained attention block over frozen tokens instead of a frozen transformer's input; "
        "every sample picks for itself, there a whole batch together; the caption's own output is scored, there "
        "the mean of the prompts' outputs; keys are pulled as in the PyTorch port (`pull`), ten times as hard in "
        "Google's; the block learns in every task (`block`)"
    )
    published = "length=10, chosen=4, pull=1.0, block=first_task, prompt_rate=18.75, schedule=constant, warmup=0.0"
    idea = "Tasks share a pool of prompts; the input itself chooses which to use."
    control = "attention_head"
    Config = L2PConfig
    config: L2PConfig

    def __init__(self, config: L2PConfig, spec: FeatureSpec, generator: torch.Generator) -> None:
        super().__init__(config, spec, generator)
        self.text_pool = PromptPool(config, spec.dim, generator)
        self.video_pool = PromptPool(config, spec.dim, generator)

    def prompt_parameters(self) -> list[nn.Parameter]:
        return [*self.text_pool.parameters(), *self.video_pool.parameters()]

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        video_ND = masked_mean(*batch.video)
        match = self.text_pool.match(batch.text.pooled_ND) + self.video_pool.match(video_ND)
        return {**super().loss(batch), "pull": -self.config.pull * match}

    def encode_text(self, text: TextBatch, shard: int) -> TextEmbedding:
        return embed_text(self.attend_text(text, self.text_pool(text.pooled_ND)), self.config)

    def encode_video(self, video: VideoBatch) -> VideoEmbedding:
        return embed_video(self.attend_video(video, self.video_pool(masked_mean(*video))), self.config)


class PromptPool(nn.Module):
    """`pool` keys [K, D] and prompts [K, length, D], chosen by cosine between key and query feature."""

    def __init__(self, config: L2PConfig, dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self.chosen = config.chosen
        bound = 1 / math.sqrt(dim) if config.key_bound is None else config.key_bound
        self.keys_KD = uniform((config.pool, dim), bound, generator)
        self.prompts_KPD = uniform((config.pool, config.length, dim), 1.0, generator)

    def forward(self, query_ND: Tensor) -> Prompts:
        """The pool and each query's choice of it, best match first."""
        return Prompts(self.prompts_KPD, self._cosine(query_ND).topk(self.chosen, dim=-1).indices)

    def match(self, query_ND: Tensor) -> Tensor:
        """Sum over the chosen keys of their cosine with the query, averaged over queries."""
        return self._cosine(query_ND).topk(self.chosen, dim=-1).values.sum(-1).mean()

    def _cosine(self, query_ND: Tensor) -> Tensor:
        return normalise(query_ND) @ normalise(self.keys_KD).T
