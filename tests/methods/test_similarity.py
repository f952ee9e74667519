"""Similarities against the authors' recorded values, plain loops, and cases whose answer can be seen."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ctvr_bench.methods.shared.similarity import (
    cosine_similarity,
    fuse,
    normalise,
    pool_frames,
    pool_words,
    row_zscore,
    unit_word_frame_similarity,
    word_frame_similarity,
)
from tests.golden import golden
from tests.ragged import pad

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def recorded(name: str) -> dict[str, Tensor]:
    return {key: torch.from_numpy(value) for key, value in golden(name).items()}


def example(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Five captions of 4, 1, 0, 3, 2 words and four videos of 3, 1, 0, 2 frames; padding holds garbage, not zeros."""
    generator = torch.Generator().manual_seed(0)
    words_NLD = torch.randn(5, 4, 6, generator=generator, dtype=dtype)
    frames_MFD = torch.randn(4, 3, 6, generator=generator, dtype=dtype)
    word_mask_NL = torch.arange(4) < torch.tensor([4, 1, 0, 3, 2]).unsqueeze(1)
    frame_mask_MF = torch.arange(3) < torch.tensor([3, 1, 0, 2]).unsqueeze(1)
    return words_NLD, word_mask_NL, frames_MFD, frame_mask_MF


def word_frame_by_loops(words_NLD: Tensor, word_mask_NL: Tensor, frames_MFD: Tensor, frame_mask_MF: Tensor) -> Tensor:
    rows = []
    for words, word_mask in zip(words_NLD, word_mask_NL, strict=True):
        row = []
        for frames, frame_mask in zip(frames_MFD, frame_mask_MF, strict=True):
            real_words = [w / w.norm() for w, real in zip(words, word_mask, strict=True) if real]
            real_frames = [f / f.norm() for f, real in zip(frames, frame_mask, strict=True) if real]
            if not real_words or not real_frames:
                row.append(words.new_zeros(()))
                continue
            best_frame = [max(w @ f for f in real_frames) for w in real_words]
            best_word = [max(w @ f for w in real_words) for f in real_frames]
            row.append((sum(best_frame) / len(real_words) + sum(best_word) / len(real_frames)) / 2)
        rows.append(torch.stack(row))
    return torch.stack(rows)


def test_word_frame_similarity_is_the_authors() -> None:
    record = recorded("wordframe_v5")
    words, frames = record["words"].requires_grad_(), record["frames"].requires_grad_()
    sim_NM = word_frame_similarity(*pad(words, record["lengths"]), frames)
    torch.testing.assert_close(sim_NM.T, record["sims"], rtol=1e-5, atol=1e-7)
    (sim_NM.T * record["cotangent"]).sum().backward()
    torch.testing.assert_close(words.grad, record["grad_words"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(frames.grad, record["grad_frames"], rtol=1e-4, atol=1e-6)


def test_fused_scores_are_the_authors() -> None:
    record = recorded("fusion_v3")
    word_frame_NM = word_frame_similarity(*pad(record["words"], record["lengths"]), record["frames"])
    torch.testing.assert_close(word_frame_NM, record["sims_grouped_v3"], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(word_frame_NM, record["wf"].squeeze(1), rtol=1e-5, atol=1e-7)
    # The recording handed raw frames to the fusion; the full evaluation hands it unit frames (unit_frames=True).
    pooled_NM = cosine_similarity(record["text_global"], pool_frames(record["frames"]))
    torch.testing.assert_close(pooled_NM, record["glob"].squeeze(1), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(row_zscore(word_frame_NM), record["wf_zscore"].squeeze(1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        fuse(word_frame_NM, pooled_NM, 0.5), record["fused_alpha05"].squeeze(1), rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(
        fuse(word_frame_NM, pooled_NM, 0.3), record["fused_alpha03"].squeeze(1), rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(
        row_zscore(record["const_row"].squeeze(1)), record["const_row_zscore"].squeeze(1), rtol=1e-5, atol=1e-7
    )


@DTYPES
@pytest.mark.parametrize("masked_frames", [False, True])
def test_word_frame_similarity_equals_loops_in_value_and_gradient(dtype: torch.dtype, masked_frames: bool) -> None:
    words, word_mask, frames, frame_mask = example(dtype)
    given_mask = frame_mask if masked_frames else None
    every_frame = frame_mask if masked_frames else torch.ones_like(frame_mask)
    words.requires_grad_()
    frames.requires_grad_()
    fast, slow = (
        word_frame_similarity(words, word_mask, frames, given_mask),
        word_frame_by_loops(words, word_mask, frames, every_frame),
    )
    torch.testing.assert_close(fast, slow)
    cotangent = torch.randn(fast.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
    torch.testing.assert_close(
        torch.autograd.grad(fast, (words, frames), cotangent), torch.autograd.grad(slow, (words, frames), cotangent)
    )


@DTYPES
def test_an_empty_caption_scores_zero_with_zero_gradient(dtype: torch.dtype) -> None:
    words, word_mask, frames, frame_mask = example(dtype)
    words = torch.where(word_mask.unsqueeze(-1), words, 0).requires_grad_()
    frames.requires_grad_()
    empty_row = word_frame_similarity(words, word_mask, frames, frame_mask)[2]
    assert empty_row.tolist() == [0, 0, 0, 0]
    for gradient in torch.autograd.grad(empty_row.sum(), (words, frames)):
        assert gradient.count_nonzero() == 0  # and not NaN, which counts as nonzero


def test_a_video_without_frames_scores_zero_with_zero_gradient() -> None:
    words, word_mask, frames, frame_mask = example()
    words.requires_grad_()
    frames.requires_grad_()
    empty_column = word_frame_similarity(words, word_mask, frames, frame_mask)[:, 2]
    assert empty_column.tolist() == [0, 0, 0, 0, 0]
    for gradient in torch.autograd.grad(empty_column.sum(), (words, frames)):
        assert gradient.count_nonzero() == 0


def test_padding_width_changes_nothing() -> None:
    words, word_mask, frames, frame_mask = example()
    wide_words = torch.cat([words, words], dim=1)
    wide_word_mask = torch.cat([word_mask, torch.zeros_like(word_mask)], dim=1)
    torch.testing.assert_close(
        word_frame_similarity(wide_words, wide_word_mask, frames, frame_mask),
        word_frame_similarity(words, word_mask, frames, frame_mask),
    )


def test_one_word_and_one_frame_score_their_cosine() -> None:
    words, _, frames, _ = example()
    word_ND, frame_MD = words[:, 0], frames[:, 0]
    sim_NM = word_frame_similarity(word_ND.unsqueeze(1), torch.ones(5, 1, dtype=torch.bool), frame_MD.unsqueeze(1))
    torch.testing.assert_close(sim_NM, cosine_similarity(word_ND, frame_MD))


def test_a_batch_of_one_scores_like_its_place_in_a_larger_batch() -> None:
    words, word_mask, frames, frame_mask = example()
    alone = word_frame_similarity(words[3:4], word_mask[3:4], frames[1:2], frame_mask[1:2])
    torch.testing.assert_close(alone, word_frame_similarity(words, word_mask, frames, frame_mask)[3:4, 1:2])


def test_tied_frames_share_the_gradient_equally() -> None:
    words, word_mask, frames, _ = example()
    twin_frames = frames[:, :1].repeat(1, 2, 1).requires_grad_()
    gradient = torch.autograd.grad(word_frame_similarity(words, word_mask, twin_frames).sum(), twin_frames)[0]
    torch.testing.assert_close(gradient[:, 0], gradient[:, 1])
    assert gradient.abs().sum() > 0


def test_a_unit_norm_gallery_needs_no_second_normalisation() -> None:
    words, word_mask, frames, frame_mask = example()
    torch.testing.assert_close(
        unit_word_frame_similarity(normalise(words), word_mask, normalise(frames), frame_mask),
        word_frame_similarity(words, word_mask, frames, frame_mask),
    )


@DTYPES
def test_a_stacked_ensemble_scores_and_differentiates_like_a_loop(dtype: torch.dtype) -> None:
    words, word_mask, frames, frame_mask = example(dtype)
    weight = torch.randn(3, 6, 6, generator=torch.Generator().manual_seed(2), dtype=dtype)

    def total(weight_DD: Tensor) -> Tensor:
        word_frame = word_frame_similarity(words @ weight_DD, word_mask, frames @ weight_DD, frame_mask)
        pooled = cosine_similarity(
            pool_words(words @ weight_DD, word_mask), pool_frames(frames @ weight_DD, frame_mask)
        )
        return fuse(word_frame, pooled, 0.4).square().mean() + word_frame.mean() + pooled.mean()

    stacked = torch.func.vmap(torch.func.grad_and_value(total))(weight)
    looped = [torch.func.grad_and_value(total)(one) for one in weight]
    torch.testing.assert_close(stacked[0], torch.stack([gradient for gradient, _ in looped]))
    torch.testing.assert_close(stacked[1], torch.stack([value for _, value in looped]))


def test_cosine_ignores_length_and_gives_a_zero_row_zero() -> None:
    text_ND = torch.tensor([[3.0, 0.0], [0.0, 0.0]])
    video_MD = torch.tensor([[10.0, 0.0], [0.0, 0.1], [-1.0, 0.0]])
    assert cosine_similarity(text_ND, video_MD).tolist() == [[1, 0, -1], [0, 0, 0]]


def test_rows_are_standardised_with_population_deviation() -> None:
    torch.testing.assert_close(row_zscore(torch.tensor([[1.0, 3.0], [5.0, 5.0]])), torch.tensor([[-1.0, 1.0], [0, 0]]))


def test_a_constant_row_has_a_finite_gradient() -> None:
    sim = torch.ones(2, 3, requires_grad=True)
    assert torch.autograd.grad(row_zscore(sim)[:, 0].sum(), sim)[0].isfinite().all()


def test_fusion_runs_from_pooled_at_zero_to_word_frame_at_one() -> None:
    word_frame, pooled = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(fuse(word_frame, pooled, 0.0), row_zscore(pooled))
    torch.testing.assert_close(fuse(word_frame, pooled, 1.0), row_zscore(word_frame))


@DTYPES
def test_pooling_equals_loops(dtype: torch.dtype) -> None:
    words, word_mask, frames, frame_mask = example(dtype)
    for i in (0, 1, 3, 4):
        mean = sum(word for word, real in zip(words[i], word_mask[i], strict=True) if real)
        torch.testing.assert_close(pool_words(words, word_mask)[i], mean / mean.norm())
    for j in (0, 1, 3):
        real_frames = [frame for frame, real in zip(frames[j], frame_mask[j], strict=True) if real]
        raw, unit = sum(real_frames), sum(frame / frame.norm() for frame in real_frames)
        torch.testing.assert_close(pool_frames(frames, frame_mask)[j], raw / raw.norm())
        torch.testing.assert_close(pool_frames(frames, frame_mask, unit_frames=True)[j], unit / unit.norm())


def test_pooling_without_a_mask_takes_every_frame() -> None:
    _, _, frames, frame_mask = example()
    for unit_frames in (False, True):
        torch.testing.assert_close(
            pool_frames(frames, None, unit_frames), pool_frames(frames, torch.ones_like(frame_mask), unit_frames)
        )


def test_an_empty_caption_or_video_pools_to_zero_with_zero_gradient() -> None:
    words, word_mask, frames, frame_mask = example()
    words.requires_grad_()
    frames.requires_grad_()
    for pooled, source in (
        (pool_words(words, word_mask)[2], words),
        (pool_frames(frames, frame_mask)[2], frames),
        (pool_frames(frames, frame_mask, unit_frames=True)[2], frames),
    ):
        assert pooled.count_nonzero() == 0
        assert torch.autograd.grad(pooled.sum(), source)[0].count_nonzero() == 0


def test_normalise_keeps_a_zero_vector_and_a_finite_gradient() -> None:
    x = torch.zeros(3, requires_grad=True)
    assert normalise(x).tolist() == [0, 0, 0]
    assert torch.autograd.grad(normalise(x).sum(), x)[0].isfinite().all()
