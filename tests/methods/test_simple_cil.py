"""SimpleCIL: class means in closed form, whatever the order of tasks."""

from __future__ import annotations

import itertools

import torch
from torch.nn.functional import normalize
from torch.testing import assert_close

from ctvr_bench.methods.shared.heads import masked_mean
from ctvr_bench.methods.simple_cil import SimpleCIL
from tests.learning import embeddings, learn, make, train_pairs


def simple_cil(*tasks: int, **values: object) -> SimpleCIL:
    method = make("simple_cil", **values)
    assert isinstance(method, SimpleCIL)
    learn(method, *tasks)
    return method


def test_a_query_is_the_caption_and_the_mean_video_of_the_category_of_the_nearest_mean_caption() -> None:
    method, batch = simple_cil(0, 2, weight=0.4), train_pairs(0, 2).pairs(torch.arange(96))
    text_ND, video_ND = normalize(batch.text.pooled_ND), normalize(masked_mean(*batch.video))
    means = {
        category: [normalize(side_ND[batch.category_N == category].mean(0), dim=0) for side_ND in (text_ND, video_ND)]
        for category in batch.category_N.unique().tolist()
    }
    assert len(means) == 4
    queries = train_pairs(0, 1, 2).text(torch.arange(0, 144, 5))  # also of a task that was never learned
    found_ND, chosen = method.encode_text(queries, 0).pooled_ND, set()
    for query_D, found_D in zip(normalize(queries.pooled_ND), found_ND, strict=True):
        nearest = max(means, key=lambda category: float(query_D @ means[category][0]))
        chosen.add(nearest)
        assert_close(found_D, normalize(query_D + 0.4 * means[nearest][1], dim=0), rtol=1e-5, atol=1e-6)
    assert len(chosen) > 2


def test_means_do_not_depend_on_the_order_of_tasks() -> None:
    found = [simple_cil(*order) for order in itertools.permutations(range(3))]
    for other in found[1:]:
        assert_close(other.text_CD, found[0].text_CD, rtol=1e-12, atol=1e-12)
        assert_close(other.video_CD, found[0].video_CD, rtol=1e-12, atol=1e-12)


def test_galleries_are_zero_shots() -> None:
    videos = (embeddings(method)[1] for method in (simple_cil(0, 1), make("zero_shot")))
    assert torch.equal(*videos)
