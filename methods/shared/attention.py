"""The attention block that prompt methods share: caption, words and frames attend to each other in a narrow space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from ctvr_bench.features.streams import PairBatch, TextBatch, VideoBatch
from ctvr_bench.methods.shared.base import (
    FeatureSpec,
    Method,
    ParameterGroup,
    TextEmbedding,
    TrainedConfig,
    VideoEmbedding,
)
from ctvr_bench.methods.shared.heads import AdaptedVideo, AttentionBlock, Prompts, mean_alone
from ctvr_bench.methods.shared.losses import symmetric_contrastive
from ctvr_bench.methods.shared.memory import captions_alone
from ctvr_bench.methods.shared.ranges import Among, Count, NotNegative, Search
from ctvr_bench.methods.shared.scoring import embed_text, embed_video, pair_similarity, same_video


@dataclass(frozen=True)
class AttentionConfig(TrainedConfig):
    """width: dimensions inside the attention, over all heads. heads: attention heads. rank, dropout: not used.

    block: whether attention is trained in every task or held after the first one, as the originals hold their encoder.
    prompt_rate: factor on lr for prompts and keys, which the originals step 5 (CODA-Prompt) to 20 times (L2P) as far as
        the block is here. prompt_decay: their weight decay (None: the block's).
    """

    lr: NotNegative = 1e-4
    width: Count = 128
    heads: Count = 4
    block: Literal["trained", "first_task"] = "trained"
    prompt_rate: NotNegative = 30.0
    prompt_decay: NotNegative | None = 0.0

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"heads must divide width, {self.width}; got {self.heads}")


@dataclass(frozen=True)
class PromptConfig(AttentionConfig):
    """Fields of AttentionConfig, of which methods with prompts have two more to search."""

    block: Annotated[Literal["trained", "first_task"], Among(("trained", "first_task"))] = "trained"
    prompt_rate: Annotated[NotNegative, Search(1.0, 300.0)] = 30.0


class Attending(Method):
    """One attention block for a caption with its words and one for frames, trained like fine-tuning."""

    Config = AttentionConfig
    config: AttentionConfig

    def __init__(self, config: AttentionConfig, spec: FeatureSpec, generator: torch.Generator) -> None:
        super().__init__(config, spec, generator)
        self.text_block = AttentionBlock(spec.dim, config.width, config.heads, generator)
        self.video_block = AttentionBlock(spec.dim, config.width, config.heads, generator)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Attention, then what a prompt method adds to it, each with a rate and decay of its own."""
        prompts = ParameterGroup(self.prompt_parameters(), self.config.prompt_rate, self.config.prompt_decay)
        held = self.config.block == "first_task" and self.task.position > 0
        if held and prompts.parameters:
            return [prompts]
        blocks = [*self.text_block.parameters(), *self.video_block.parameters()]
        return [ParameterGroup(blocks, rate=0.0 if held else 1.0), prompts]

    def prompt_parameters(self) -> list[nn.Parameter]:
        """Prompts and keys that the current task trains."""
        return []

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        text, video = self.encode_text(batch.text, self.task.position), self.encode_video(batch.video)
        sim_NN = pair_similarity(text, video, self.config)
        return {"contrastive": symmetric_contrastive(sim_NN, self.config.scale, same_video(batch.video_N))}

    def encode_text(self, text: TextBatch, shard: int) -> TextEmbedding:
        return embed_text(self.attend_text(text), self.config)

    def encode_video(self, video: VideoBatch) -> VideoEmbedding:
        return embed_video(self.attend_video(video), self.config)

    def attend_text(self, text: TextBatch, *prompts: Prompts) -> TextBatch:
        """The caption is the first token of its words; without them where no word is scored."""
        tokens_NLD = torch.cat([text.pooled_ND[:, None], text.words_NLD], 1)
        mask_NL = torch.cat([text.word_mask_NL.new_ones(len(tokens_NLD), 1), text.word_mask_NL], 1)
        if self.config.scoring == "cosine":
            return captions_alone(self.text_block(tokens_NLD, mask_NL, *prompts, asked=1)[:, 0])
        adapted_NLD = self.text_block(tokens_NLD, mask_NL, *prompts)
        return TextBatch(adapted_NLD[:, 0], adapted_NLD[:, 1:] * text.word_mask_NL[..., None], text.word_mask_NL)

    def attend_video(self, video: VideoBatch, *prompts: Prompts) -> AdaptedVideo:
        """Frames attend to each other; their mean as the only frame where none is scored."""
        frames_MFD, mask_MF = video
        if self.config.scoring == "cosine":
            return mean_alone(self.video_block.mean(frames_MFD, mask_MF, *prompts), mask_MF)
        return AdaptedVideo(self.video_block(frames_MFD, mask_MF, *prompts) * mask_MF[..., None], mask_MF)
