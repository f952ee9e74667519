"""Zero-shot: the frozen encoder's own features, with nothing learned.

The reference of every other method, once for each scoring. Stored galleries never change, so BWF is exactly 0.
"""

from __future__ import annotations

from ctvr_bench.features.streams import TextBatch, VideoBatch
from ctvr_bench.methods.shared.base import Method, TextEmbedding, VideoEmbedding
from ctvr_bench.methods.shared.heads import AdaptedVideo
from ctvr_bench.methods.shared.registry import register
from ctvr_bench.methods.shared.scoring import embed_text, embed_video


@register()
class ZeroShot(Method):
    """cosine(caption, mean of frames), or the word-frame or fused score of the same frozen features."""

    name = "zero_shot"
    paper = "Radford et al. 2021, Learning Transferable Visual Models From Natural Language Supervision"
    source = "the definition"
    idea = "Compare frozen features; learn nothing."

    def encode_text(self, text: TextBatch, shard: int) -> TextEmbedding:
        return embed_text(text, self.config)

    def encode_video(self, video: VideoBatch) -> VideoEmbedding:
        return embed_video(AdaptedVideo(*video), self.config)
