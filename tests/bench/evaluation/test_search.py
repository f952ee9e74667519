from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ctvr_bench.bench.evaluation.scores import fingerprint
from ctvr_bench.bench.evaluation.search import DenseGallery, ItemIndex
from ctvr_bench.bench.metrics import ranks
from ctvr_bench.methods.shared.base import TextEmbedding
from ctvr_bench.methods.shared.similarity import normalise

ENGINES = [("count", 100), ("faiss", 1), ("faiss", 10), ("faiss", 1000)]


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return normalise(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)))


def gallery_of(blocks: list[torch.Tensor]) -> DenseGallery:
    gallery = DenseGallery(blocks[0].shape[1])
    for block in blocks:
        gallery.add(block)
    return gallery


@pytest.mark.parametrize(("engine", "depth"), ENGINES)
def test_ranks_are_those_of_the_whole_matrix(engine: Any, depth: int) -> None:
    blocks = [unit(50, 16, seed=1), unit(70, 16, seed=2), unit(30, 16, seed=3)]
    query, target = unit(150, 16, seed=4), np.arange(150)
    ranked = gallery_of(blocks).rank(query, target, depth=depth, engine=engine)
    sim = (query @ torch.cat(blocks).T).numpy()
    assert np.array_equal(ranked.rank_N, ranks(sim, target))
    assert np.array_equal(ranked.best_N, sim.argmax(1))


@pytest.mark.parametrize(("engine", "depth"), ENGINES)
def test_the_own_scope_ranks_inside_one_block_only(engine: Any, depth: int) -> None:
    blocks = [unit(50, 16, seed=1), unit(70, 16, seed=2), unit(30, 16, seed=3)]
    gallery, query = gallery_of(blocks), unit(70, 16, seed=4)
    ranked = gallery.rank(query, np.arange(50, 120), block=1, depth=depth, engine=engine)
    sim = (query @ blocks[1].T).numpy()
    assert gallery.span(1) == (50, 120)
    assert np.array_equal(ranked.rank_N, ranks(sim, np.arange(70)))
    assert np.array_equal(ranked.best_N, 50 + sim.argmax(1))


@pytest.mark.parametrize(("engine", "depth"), [("count", 1), ("faiss", 1), ("faiss", 3), ("faiss", 5), ("faiss", 20)])
def test_ties_count_against_the_query_also_at_the_end_of_the_list(engine: Any, depth: int) -> None:
    axes = torch.eye(4)
    items = torch.cat([axes[:1]] * 5 + [axes[1:2]] * 3)
    ranked = gallery_of([items]).rank(axes[[0, 1, 1]], np.array([4, 6, 0]), depth=depth, engine=engine)
    assert ranked.rank_N.tolist() == [5, 3, 8]


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw", "pq"])
def test_an_index_gives_the_nearest_items_best_first_and_flat_gives_exact_ones(kind: Any) -> None:
    video = unit(600, 32, seed=1)
    query = normalise(video[:200] + 0.8 * unit(200, 32, seed=2))
    score_NK, item_NK = ItemIndex(video, kind).nearest(query, 10)
    assert (np.diff(score_NK, axis=1) <= 0).all()
    exact_NK = (query @ video.T).topk(10).indices.numpy()
    overlap = np.mean([len(np.intersect1d(*rows)) for rows in zip(item_NK, exact_NK, strict=True)])
    if kind == "flat":
        assert np.array_equal(item_NK, exact_NK)
    else:
        assert overlap > 2  # 10 of 600 at random share 0.2


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw", "pq"])
def test_an_index_over_very_few_items_finds_the_nearest_quietly(
    kind: Any, count: int, capfd: pytest.CaptureFixture[str]
) -> None:
    video = unit(count, 32, seed=1)
    _, item_NK = ItemIndex(video, kind).nearest(video, 10)
    assert item_NK.shape == (count, count)
    assert (item_NK[:, 0] == np.arange(count)).mean() > 0.3
    assert "WARNING" not in "".join(capfd.readouterr())


def test_a_fingerprint_shows_a_change_of_one_bit() -> None:
    words, mask = unit(20, 6, 16, seed=1), torch.ones(20, 6, dtype=torch.bool)
    before = fingerprint(TextEmbedding(words[:, 0], words, mask))
    other = words.clone()
    other[7, 3, 5] = torch.nextafter(other[7, 3, 5], torch.tensor(2.0))
    assert torch.equal(before, fingerprint(TextEmbedding(words[:, 0], words.clone(), mask)))
    assert not torch.equal(before, fingerprint(TextEmbedding(words[:, 0], other, mask)))


def test_items_level_with_the_target_count_against_it_beyond_the_depth_of_the_search() -> None:
    gallery = DenseGallery(2)
    gallery.add(torch.tensor([[1.0, 0.0]] * 6 + [[0.0, 1.0]]))
    for target in range(6):
        found = gallery.rank(torch.tensor([[1.0, 0.0]]), np.array([target]), depth=3, engine="faiss")
        assert found.rank_N.tolist() == [6]
