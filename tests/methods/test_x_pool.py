"""X-Pool: attention over frames for each caption, without making a vector for each pair; and its gallery."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize
from torch.testing import assert_close

from ctvr_bench.bench.evaluation.protocol import Evaluator
from ctvr_bench.features.streams import PairTable
from ctvr_bench.methods.shared.similarity import attended_similarity
from ctvr_bench.methods.x_pool import XPool
from tests.learning import begin, learn, make, train_pairs
from tests.stores import small_store, small_stream


def attended_pair(text_D: Tensor, attend_D: Tensor, video_D: Tensor, frames_FD: Tensor) -> Tensor:
    """One caption and one video, as the equation reads."""
    weights = torch.stack([(attend_D @ frame).exp() for frame in frames_FD])
    weights = weights / weights.sum()
    seen_D = video_D + sum(
        (weight - 1 / len(frames_FD)) * frame for weight, frame in zip(weights, frames_FD, strict=True)
    )
    return cosine_similarity(text_D, seen_D, dim=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_attended_similarity_is_that_of_plain_loops(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    text, attend, video = (torch.randn(n, 8, generator=generator, dtype=dtype) for n in (70, 70, 3))
    frames = normalize(torch.randn(3, 5, 8, generator=generator, dtype=dtype), dim=-1)
    text, video = normalize(text), normalize(video)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]]).bool()
    measured = attended_similarity(text, attend, video, frames * mask[..., None], mask)
    for n in (0, 1, 69):
        for m, count in enumerate((5, 2, 3)):
            expected = attended_pair(text[n], attend[n], video[m], frames[m, :count])
            assert_close(measured[n, m], expected, rtol=1e-4, atol=1e-5)


def test_even_attention_gives_the_cosine_bit_for_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    text, video = (normalize(torch.randn(n, 8, generator=generator)) for n in (6, 4))
    frames = normalize(torch.randn(4, 5, 8, generator=generator), dim=-1)
    mask = torch.ones(4, 5, dtype=torch.bool)
    mask[1, 2:] = False
    measured = attended_similarity(text, torch.zeros(6, 8), video, frames * mask[..., None], mask)
    assert torch.equal(measured, text @ video.T)


def test_its_attention_learns_from_even() -> None:
    method = make("x_pool")
    assert isinstance(method, XPool)
    begin(method, 0)
    batch = train_pairs(0).pairs(torch.arange(8))
    method.loss(batch)["contrastive"].backward()
    assert method.query_DD.grad is not None
    assert method.query_DD.grad.abs().max() > 1e-4


def test_its_gallery_is_ranked_by_pairs_and_resumes_to_the_same_ranks() -> None:
    stream = small_stream()
    sizes = [len(task.test) for task in stream.tasks]
    method = make("x_pool", lr=1e-2)
    test = _test_pairs()
    evaluator, resumed = Evaluator(test, sizes), Evaluator(test, sizes)
    for task in range(2):
        learn(method, task)
        evaluator.finish_task(method)
        resumed.restore({name: value.clone() for name, value in evaluator.state().items()})
    learn(method, 2)
    with torch.no_grad():
        text = method.encode_text(test.text(torch.arange(len(test))), 2)
        scores = torch.cat(
            [
                attended_similarity(text.pooled_ND, text.attend_ND, v.pooled_MD, v.frames_MFD, v.frame_mask_MF)
                for v in (*evaluator.stored, method.encode_video(test.video(torch.arange(sum(sizes[:2]), len(test)))))
                if text.attend_ND is not None and v.frames_MFD is not None
            ],
            1,
        )
    first, second = evaluator.finish_task(method), resumed.finish_task(method)
    expected = (scores >= scores.diagonal()[:, None]).sum(1)
    assert first.ranked["stored", "seen", "t2v"].rank_N.tolist() == expected.tolist()
    for key, ranked in first.ranked.items():
        assert ranked.rank_N.tolist() == second.ranked[key].rank_N.tolist(), key


def _test_pairs() -> PairTable:
    return PairTable(small_store(), np.concatenate([task.test for task in small_stream().tasks]))
