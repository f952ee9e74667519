"""Large chunks are encoded in pieces, with the numbers of the whole."""

from __future__ import annotations

import pytest
import torch

from ctvr_bench.bench.evaluation.queries import pieces
from ctvr_bench.bench.run.training import generator_for
from ctvr_bench.features.streams import TextBatch, VideoBatch
from ctvr_bench.methods.shared.base import FeatureSpec, TextEmbedding, VideoEmbedding
from ctvr_bench.methods.shared.registry import find_method

SPEC = FeatureSpec(dim=512, num_tasks=2, num_categories=4, num_frames=12)


def chunk(rows: int) -> tuple[TextBatch, VideoBatch]:
    """Of two to twelve words and frames."""
    generator = torch.Generator().manual_seed(rows)
    length_N = torch.randint(2, 13, (rows,), generator=generator)
    mask_NL = torch.arange(12) < length_N[:, None]
    tokens = [torch.randn(rows, 12, 512, generator=generator) * mask_NL[..., None] for _ in range(2)]
    return TextBatch(torch.randn(rows, 512, generator=generator), tokens[0], mask_NL), VideoBatch(tokens[1], mask_NL)


def test_a_small_chunk_stays_whole() -> None:
    text, video = chunk(100)
    assert pieces(text)[0] is text
    assert pieces(video)[0] is video


@pytest.mark.parametrize("name", ["structalign", "attention_head", "clip4clip_seq"])
def test_a_large_chunk_is_encoded_as_it_would_be_whole(name: str) -> None:
    entry = find_method(name)
    method = entry.method(entry.config({"scoring": "fused"}), SPEC, generator_for(0, "init")).eval()
    with torch.no_grad():
        for parameter in method.parameters():  # what starts at zero would hide its layers
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator_for(0, str(tuple(parameter.shape))))
        text, video = chunk(250)
        texts, videos = pieces(text), pieces(video)
        assert (
            [len(piece.pooled_ND) for piece in texts] == [len(piece.frames_MFD) for piece in videos] == [64] * 3 + [58]
        )
        asked = TextEmbedding(*map(torch.cat, zip(*(method.encode_text(piece, 0)[:3] for piece in texts), strict=True)))
        kept = VideoEmbedding(
            *map(torch.cat, zip(*(method.encode_gallery(piece, 0)[:3] for piece in videos), strict=True))
        )
        for parts, whole in ((asked, method.encode_text(text, 0)), (kept, method.encode_gallery(video, 0))):
            for part, expected in zip(parts[:3], whole[:3], strict=True):
                torch.testing.assert_close(part, expected, rtol=0, atol=1e-6)
