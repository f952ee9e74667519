"""One linear map for each modality after the frozen encoders: what methods on low-rank weight changes share.

Axes: N captions, M videos, F frames, L words, D feature dimensions.
"""

from __future__ import annotations

import math
from typing import ClassVar

from torch import Tensor, nn

from ctvr_bench.features.streams import PairBatch, TextBatch, VideoBatch
from ctvr_bench.methods.shared.base import Method, MethodConfig, TextEmbedding, TrainedConfig, VideoEmbedding
from ctvr_bench.methods.shared.heads import AdaptedVideo, layer_norm, masked_mean, mean_alone, norm
from ctvr_bench.methods.shared.losses import symmetric_contrastive
from ctvr_bench.methods.shared.memory import captions_alone
from ctvr_bench.methods.shared.scoring import embed_text, embed_video, pair_similarity, same_video


class WeightChange(nn.Module):
    """x + |x| / sqrt(D) change(LN(x)), `change` linear: what a changed weight adds, in the scale of x's entries."""

    def change(self, inputs: Tensor) -> Tensor:
        """dW h of layer-normed inputs h [..., D]; linear."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return x + norm(x) * self.change(layer_norm(x)) / math.sqrt(x.shape[-1])

    def mean(self, frames_MFD: Tensor, mask_MF: Tensor) -> Tensor:
        """The mean [M, D] of `forward` over real frames, for which one row a video is mapped."""
        inputs_MD = masked_mean(norm(frames_MFD) * layer_norm(frames_MFD), mask_MF)
        return masked_mean(frames_MFD, mask_MF) + self.change(inputs_MD) / math.sqrt(frames_MFD.shape[-1])


class ChangedWeights(Method):
    """A weight change on captions and words and one on frames, trained like fine-tuning."""

    Config: ClassVar[type[MethodConfig]] = TrainedConfig
    config: TrainedConfig
    text_map: WeightChange
    video_map: WeightChange

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        text, video = self.encode_text(batch.text, self.task.position), self.encode_video(batch.video)
        sim_NN = pair_similarity(text, video, self.config)
        return {"contrastive": symmetric_contrastive(sim_NN, self.config.scale, same_video(batch.video_N))}

    def encode_text(self, text: TextBatch, shard: int) -> TextEmbedding:
        pooled_ND = self.text_map(text.pooled_ND)
        if self.config.scoring == "cosine":
            return embed_text(captions_alone(pooled_ND), self.config)
        return embed_text(TextBatch(pooled_ND, self.text_map(text.words_NLD), text.word_mask_NL), self.config)

    def encode_video(self, video: VideoBatch) -> VideoEmbedding:
        if self.config.scoring == "cosine":
            return embed_video(mean_alone(self.video_map.mean(*video), video.frame_mask_MF), self.config)
        return embed_video(AdaptedVideo(self.video_map(video.frames_MFD), video.frame_mask_MF), self.config)
