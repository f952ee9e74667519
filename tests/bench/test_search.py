from __future__ import annotations

import numpy as np
import pytest
import torch

from bench.metrics import ranks
from bench.search import DenseGallery, word_frame_scores
from methods.base import TextEmbedding, VideoEmbedding
from methods.similarity import normalise, word_frame_similarity


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return normalise(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)))


def gallery_of(blocks: list[torch.Tensor]) -> DenseGallery:
    gallery = DenseGallery(blocks[0].shape[1])
    for block in blocks:
        gallery.add(block)
    return gallery


@pytest.mark.parametrize("depth", [1, 10, 1000])
def test_faiss_ranks_are_those_of_counting_whatever_the_depth(depth: int) -> None:
    blocks = [unit(50, 16, seed=1), unit(70, 16, seed=2), unit(30, 16, seed=3)]
    query, target = unit(150, 16, seed=4), np.arange(150)
    ranked = gallery_of(blocks).rank(query, target, depth=depth)
    sim = (query @ torch.cat(blocks).T).numpy()
    assert np.array_equal(ranked.rank_N, ranks(sim, target))
    assert np.array_equal(ranked.best_N, sim.argmax(1))


@pytest.mark.parametrize("depth", [1, 10, 1000])
def test_the_own_scope_ranks_inside_one_block_only(depth: int) -> None:
    blocks = [unit(50, 16, seed=1), unit(70, 16, seed=2), unit(30, 16, seed=3)]
    gallery, query = gallery_of(blocks), unit(70, 16, seed=4)
    ranked = gallery.rank(query, np.arange(50, 120), block=1, depth=depth)
    sim = (query @ blocks[1].T).numpy()
    assert gallery.span(1) == (50, 120)
    assert np.array_equal(ranked.rank_N, ranks(sim, np.arange(70)))
    assert np.array_equal(ranked.best_N, 50 + sim.argmax(1))


@pytest.mark.parametrize("depth", [1, 3, 5, 20])
def test_ties_count_against_the_query_also_at_the_end_of_the_list(depth: int) -> None:
    axes = torch.eye(4)
    items = torch.cat([axes[:1]] * 5 + [axes[1:2]] * 3)
    ranked = gallery_of([items]).rank(axes[[0, 1, 1]], np.array([4, 6, 0]), depth=depth)
    assert ranked.rank_N.tolist() == [5, 3, 8]


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
