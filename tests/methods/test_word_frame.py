from __future__ import annotations

import pytest
import torch

from ctvr_bench.methods.shared.base import TextEmbedding, VideoEmbedding
from ctvr_bench.methods.shared.similarity import normalise, unit_word_frame_similarity, word_frame_similarity
from ctvr_bench.methods.shared.word_frame import word_frame_scores


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return normalise(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)))


def test_word_frame_scores_in_blocks_equal_the_whole_matrix_at_once() -> None:
    words, frames = unit(150, 9, 16, seed=1), unit(300, 5, 16, seed=2)
    lengths = torch.randint(0, 10, (150,), generator=torch.Generator().manual_seed(3))
    mask = torch.arange(9) < lengths[:, None]
    frame_mask = torch.arange(5) < torch.randint(1, 6, (300, 1), generator=torch.Generator().manual_seed(4))
    scores = word_frame_scores(
        TextEmbedding(words[:, 0], words, mask), VideoEmbedding(frames[:, 0], frames, frame_mask)
    )
    torch.testing.assert_close(scores, word_frame_similarity(words, mask, frames, frame_mask), rtol=1e-5, atol=1e-6)
    assert (scores[lengths == 0] == 0).all()


def test_word_frame_scores_need_words_and_frames() -> None:
    with pytest.raises(ValueError, match="set scoring"):
        word_frame_scores(TextEmbedding(unit(2, 4)), VideoEmbedding(unit(3, 4)))


def test_a_block_of_word_frame_scores_has_the_bits_of_the_similarity_of_padded_captions() -> None:
    words, frames = unit(40, 9, 16, seed=1), unit(70, 5, 16, seed=2)
    mask = torch.arange(9) < torch.arange(40).remainder(10)[:, None]
    frame_mask = torch.arange(5) < torch.arange(70).remainder(6)[:, None]
    words, frames = words * mask[..., None], frames * frame_mask[..., None]
    scores = word_frame_scores(
        TextEmbedding(words[:, 0], words, mask), VideoEmbedding(frames[:, 0], frames, frame_mask)
    )
    assert torch.equal(scores, unit_word_frame_similarity(words, mask, frames, frame_mask))
