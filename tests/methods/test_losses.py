"""Losses against the authors' recorded values, plain loops, and cases whose answer can be seen."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ctvr_bench.methods.shared.losses import (
    cross_task_contrastive,
    distillation,
    kl_divergence,
    prototype_contrastive,
    pseudo_alignment,
    relation_preserving,
    similarity_distillation,
    symmetric_contrastive,
)
from ctvr_bench.methods.shared.similarity import normalise, pool_frames, pool_words, word_frame_similarity
from tests.golden import golden
from tests.methods.alignment import etf_alignment
from tests.ragged import pad

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
TEMPERATURE = 2.0  # the release's


def recorded(name: str, *leaves: str) -> dict[str, Tensor]:
    """The golden arrays as tensors, 0-d ones in float32 as the authors' parameters, `leaves` asking for gradients."""
    record = {key: torch.from_numpy(value) for key, value in golden(name).items()}
    record = {key: value.float() if value.dim() == 0 else value for key, value in record.items()}
    for key in leaves:
        record[key].requires_grad_()
    return record


def assert_recorded_gradients(loss: Tensor, record: dict[str, Tensor], **expected: str) -> None:
    """Gradients of `loss` with respect to record[key] equal record[expected[key]] to 1e-4 of their largest entry."""
    actual = torch.autograd.grad(loss, [record[key] for key in expected], retain_graph=True)
    for gradient, name in zip(actual, expected.values(), strict=True):
        tolerance = 1e-4 * record[name].abs().max().item()
        torch.testing.assert_close(gradient, record[name], rtol=1e-4, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


# --- the authors' values


def test_contrastive_word_frame_loss_is_the_authors() -> None:
    record = recorded("scl_no_ref", "frames", "words", "log_temp")
    sim = word_frame_similarity(*pad(record["words"], record["lengths"]), record["frames"])
    loss = symmetric_contrastive(sim, record["log_temp"].exp() / len(sim) ** 0.5)
    close(loss, record["loss"])
    assert_recorded_gradients(loss, record, frames="grad_frames", words="grad_words", log_temp="grad_log_temp")


def test_relation_preserving_loss_is_the_authors() -> None:
    record = recorded("scl_crp_ref", "frames", "words", "log_temp")
    sim = word_frame_similarity(*pad(record["words"], record["lengths"]), record["frames"])
    teacher_sim = word_frame_similarity(*pad(record["ref_words"], record["ref_lengths"]), record["ref_frames"])
    scale, teacher_scale = (record[key].exp() / len(sim) ** 0.5 for key in ("log_temp", "ref_log_temp"))
    contrastive = symmetric_contrastive(sim, scale)
    preserving = relation_preserving(scale * sim, teacher_scale * teacher_sim, TEMPERATURE)
    close(contrastive, record["nce_only"])
    close(10 * preserving, record["crp_times10"])
    close(contrastive + 10 * preserving, record["loss"])
    assert_recorded_gradients(
        contrastive + 10 * preserving, record, frames="grad_frames", words="grad_words", log_temp="grad_log_temp"
    )


def test_divergence_and_distillation_are_the_authors() -> None:
    record = recorded("kl_distillation", "student")
    student, teacher = record["student"], record["teacher"]
    close(kl_divergence(student, teacher, 1.0), record["kl_T1"])
    close(distillation(student, teacher, 1.0), record["distill_T1"])
    divergence, cross_entropy = kl_divergence(student, teacher, 2.0), distillation(student, teacher, 2.0)
    close(divergence, record["kl_T2"])
    close(cross_entropy, record["distill_T2"])
    assert_recorded_gradients(divergence, record, student="grad_student_kl_T2")
    assert_recorded_gradients(cross_entropy, record, student="grad_student_distill_T2")


def test_pooled_contrastive_loss_is_the_authors_and_twice_clips() -> None:
    record = recorded("global_losses", "vis", "text", "log_temp")
    loss = symmetric_contrastive(record["text"] @ record["vis"].T, record["log_temp"].exp())
    close(loss, record["nce"])
    assert_recorded_gradients(loss, record, vis="nce_gv", text="nce_gt", log_temp="nce_gtemp")
    close(loss / 2, record["clip_loss"])
    assert_recorded_gradients(loss / 2, record, vis="clip_loss_gv", text="clip_loss_gt")


def test_student_teacher_text_distillation_is_the_released_lwf() -> None:
    record = recorded("global_losses", "vis", "text", "log_temp")
    vis, text, scale = record["vis"], record["text"], record["log_temp"].exp()
    loss = symmetric_contrastive(text @ vis.T, scale) + similarity_distillation(
        text, vis, record["ref_text"], record["ref_vis"], scale, TEMPERATURE, "student_teacher_text"
    )
    close(loss, record["lwf"])
    assert_recorded_gradients(loss, record, vis="lwf_gv", text="lwf_gt", log_temp="lwf_gtemp")


def test_student_teacher_text_distillation_on_reference_videos_is_the_released_zscl() -> None:
    record = recorded("global_losses", "vis", "text", "log_temp", "ref_vis_curr")
    vis, text, scale = record["vis"], record["text"], record["log_temp"].exp()
    loss = symmetric_contrastive(text @ vis.T, scale) + similarity_distillation(
        text, record["ref_vis_curr"], record["ref_text"], record["ref_vis"], scale, TEMPERATURE, "student_teacher_text"
    )
    close(loss, record["zscl"])
    assert_recorded_gradients(
        loss, record, vis="zscl_gv", text="zscl_gt", log_temp="zscl_gtemp", ref_vis_curr="zscl_g_ref_vis_curr"
    )


def test_cross_task_loss_is_the_authors() -> None:
    record = recorded("global_losses", "vis", "text", "neg_vis", "log_temp")
    vis, text, scale, gamma = record["vis"], record["text"], record["log_temp"].exp(), record["triplet_scale"].item()
    first_task = cross_task_contrastive(text, vis, record["neg_vis"][:0], scale, gamma)
    close(first_task, record["triplet_noref"])
    assert_recorded_gradients(first_task, record, vis="triplet_noref_gv", text="triplet_noref_gt")
    later_task = cross_task_contrastive(text, vis, record["neg_vis"], scale, gamma)
    close(later_task, record["triplet_ref"])
    names = {"vis": "triplet_ref_gv", "text": "triplet_ref_gt", "neg_vis": "triplet_ref_gneg"}
    assert_recorded_gradients(later_task, record, **names, log_temp="triplet_ref_gtemp")


def etf_inputs(record: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, None, Tensor, Tensor, Tensor]:
    etf_ND = record["etf"].T[record["categories"]]
    return (
        *pad(record["words"], record["lengths"]),
        record["frames"],
        None,
        etf_ND,
        record["W1_text"],
        record["W2_video"],
    )


def test_etf_alignment_is_the_authors() -> None:
    record = recorded("etf_base", "frames", "words", "W1_text", "W2_video")
    loss = etf_alignment(*etf_inputs(record))
    close(loss, record["loss"])
    assert_recorded_gradients(
        loss, record, frames="grad_frames", words="grad_words", W1_text="grad_W1", W2_video="grad_W2"
    )


def test_etf_alignment_with_swapped_pseudo_features_is_the_authors() -> None:
    record = recorded("etf_incremental", "frames", "words", "W1_text", "W2_video", "text_proto_aug", "video_proto_aug")
    pseudo = (record["text_proto_aug"], record["video_proto_aug"], record["etf"].T[record["proto_label"]])
    projections = (record["W1_text"], record["W2_video"])
    loss = etf_alignment(*etf_inputs(record)) + pseudo_alignment(*pseudo, *projections, swapped=True)
    close(loss, record["loss"])
    names = {"W1_text": "grad_W1", "W2_video": "grad_W2"}
    pseudo_names = {"text_proto_aug": "grad_text_proto_aug", "video_proto_aug": "grad_video_proto_aug"}
    assert_recorded_gradients(loss, record, frames="grad_frames", words="grad_words", **names, **pseudo_names)
    close(pseudo_alignment(*pseudo, *projections), pseudo_alignment(*pseudo, *projections[::-1], swapped=True))


def test_prototype_loss_is_the_authors() -> None:
    record = recorded("prototype_bank", "pl_frames", "pl_words")
    loss = prototype_contrastive(
        pool_words(*pad(record["pl_words"], record["pl_lengths"])),
        pool_frames(record["pl_frames"]),
        record["seed0_apa_text"],
        record["seed0_apa_video"],
        record["pl_log_temp"].exp(),
    )
    close(loss, record["pl_loss"])
    assert_recorded_gradients(loss, record, pl_frames="pl_grad_frames", pl_words="pl_grad_words")


# --- plain loops


def normal(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def softmax_by_loop(row: list[float]) -> list[float]:
    total = sum(math.exp(value) for value in row)
    return [math.exp(value) / total for value in row]


def rows_by_loop(logits: Tensor, keep: Tensor | None = None) -> float:
    """Mean cross-entropy of the rows with the diagonal as target, over the columns that `keep` leaves."""
    losses = []
    for i, row in enumerate(logits.tolist()):
        total = sum(math.exp(value) for k, value in enumerate(row) if keep is None or keep[i, k] or k == i)
        losses.append(math.log(total) - row[i])
    return sum(losses) / len(losses)


def divergence_by_loop(student: Tensor, teacher: Tensor, temperature: float, entropy: bool) -> float:
    total = 0.0
    for student_row, teacher_row in zip(student.tolist(), teacher.tolist(), strict=True):
        p = softmax_by_loop([value / temperature for value in teacher_row])
        q = softmax_by_loop([value / temperature for value in student_row])
        total += sum(a * ((math.log(a) if entropy else 0.0) - math.log(b)) for a, b in zip(p, q, strict=True))
    return temperature**2 * total / len(student)


def agrees(actual: Tensor, expected: float) -> None:
    assert actual.item() == pytest.approx(expected, rel=1e-5 if actual.dtype == torch.float32 else 1e-12)


@DTYPES
def test_contrastive_loss_equals_loops(dtype: torch.dtype) -> None:
    sim = normal(5, 5, dtype=dtype)
    agrees(symmetric_contrastive(sim, 3.0), rows_by_loop(3 * sim) + rows_by_loop(3 * sim.T))


@DTYPES
def test_captions_of_the_same_video_leave_the_denominator(dtype: torch.dtype) -> None:
    sim, video = normal(5, 5, dtype=dtype), torch.tensor([0, 1, 0, 2, 0])
    same_video = video.unsqueeze(0) == video.unsqueeze(1)
    expected = rows_by_loop(3 * sim, ~same_video) + rows_by_loop(3 * sim.T, ~same_video)
    agrees(symmetric_contrastive(sim, 3.0, same_video), expected)


@DTYPES
def test_cross_task_loss_equals_loops(dtype: torch.dtype) -> None:
    text, video, negatives = (normalise(normal(n, 6, dtype=dtype, seed=n)) for n in (4, 5, 7))
    text = torch.cat([text, text[:1] * -1])
    sim = text @ video.T
    pairs = rows_by_loop(9 * sim) + rows_by_loop(9 * sim.T)
    cross_task = rows_by_loop(9 * torch.cat([sim, text @ negatives.T], dim=1))
    agrees(cross_task_contrastive(text, video, negatives, 9.0, 0.6), 0.4 * pairs + 0.6 * cross_task)


@DTYPES
def test_prototype_loss_equals_loops_with_and_without_same_class_pairs(dtype: torch.dtype) -> None:
    text, video = normal(3, 6, dtype=dtype, seed=1), normal(3, 6, dtype=dtype, seed=2)
    pseudo_text, pseudo_video = normal(4, 6, dtype=dtype, seed=3), normal(4, 6, dtype=dtype, seed=4)
    sim = torch.cat([text, pseudo_text]) @ torch.cat([video, pseudo_video]).T
    category = torch.tensor([0, 1, 2, 3, 3, 4, 3])
    same_class = category.unsqueeze(0) == category.unsqueeze(1)
    arguments = (text, video, pseudo_text, pseudo_video, 2.0)
    agrees(prototype_contrastive(*arguments), rows_by_loop(2 * sim) + rows_by_loop(2 * sim.T))
    expected = rows_by_loop(2 * sim, ~same_class) + rows_by_loop(2 * sim.T, ~same_class)
    agrees(prototype_contrastive(*arguments, same_class_mask=same_class), expected)


@DTYPES
def test_divergences_equal_loops(dtype: torch.dtype) -> None:
    student, teacher = normal(5, 7, dtype=dtype, seed=1), normal(5, 7, dtype=dtype, seed=2)
    agrees(kl_divergence(student, teacher, 2.0), divergence_by_loop(student, teacher, 2.0, entropy=True))
    agrees(distillation(student, teacher, 2.0), divergence_by_loop(student, teacher, 2.0, entropy=False))


@DTYPES
def test_relation_preserving_is_the_mean_of_rows_and_columns(dtype: torch.dtype) -> None:
    sim, teacher = normal(5, 5, dtype=dtype, seed=1), normal(5, 5, dtype=dtype, seed=2)
    rows = divergence_by_loop(sim, teacher, 2.0, entropy=True)
    columns = divergence_by_loop(sim.T, teacher.T, 2.0, entropy=True)
    agrees(relation_preserving(sim, teacher, 2.0), (rows + columns) / 2)


@DTYPES
@pytest.mark.parametrize("variant", ["student_student", "student_teacher_text"])
def test_similarity_distillation_equals_loops(dtype: torch.dtype, variant: str) -> None:
    text, video, old_text, old_video = (normalise(normal(5, 6, dtype=dtype, seed=seed)) for seed in range(4))
    student = 4 * video @ (text if variant == "student_student" else old_text).T
    teacher = 4 * old_video @ old_text.T
    expected = divergence_by_loop(student, teacher, 2.0, False) + divergence_by_loop(student.T, teacher.T, 2.0, False)
    agrees(similarity_distillation(text, video, old_text, old_video, 4.0, 2.0, variant), expected)


def misalignment_by_loop(items: Tensor, mask: Tensor, direction: Tensor, projection: Tensor) -> float:
    """1 - cos of one caption's (or video's) attended, projected items with its ETF direction."""
    projected = [projection @ item for item, real in zip(items, mask, strict=True) if real]
    if not projected:
        return 1.0
    weights = softmax_by_loop([float(item @ direction) for item in projected])
    attended = sum(weight * item for weight, item in zip(weights, projected, strict=True))
    return 1.0 - float(attended @ direction / attended.norm())


def etf_example(dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """Four pairs with 3, 1, 0, 2 words and 2, 3, 1, 0 frames; padding holds garbage, not zeros."""
    word_mask = torch.arange(3) < torch.tensor([3, 1, 0, 2]).unsqueeze(1)
    frame_mask = torch.arange(3) < torch.tensor([2, 3, 1, 0]).unsqueeze(1)
    words, frames = normal(4, 3, 6, dtype=dtype, seed=1), normal(4, 3, 6, dtype=dtype, seed=2)
    etf = normalise(normal(4, 6, dtype=dtype, seed=3))
    return (
        words,
        word_mask,
        frames,
        frame_mask,
        etf,
        normal(6, 6, dtype=dtype, seed=4),
        normal(6, 6, dtype=dtype, seed=5),
    )


@DTYPES
def test_etf_alignment_equals_loops(dtype: torch.dtype) -> None:
    words, word_mask, frames, frame_mask, etf, text_projection, video_projection = etf_example(dtype)
    expected = sum(
        misalignment_by_loop(words[i], word_mask[i], etf[i], text_projection)
        + misalignment_by_loop(frames[i], frame_mask[i], etf[i], video_projection)
        for i in range(4)
    )
    agrees(etf_alignment(*etf_example(dtype)), expected / 4)


@DTYPES
def test_pseudo_alignment_equals_loops(dtype: torch.dtype) -> None:
    words, _, frames, _, etf, text_projection, video_projection = etf_example(dtype)
    text, video, real = words[:, 0], frames[:, 0], torch.tensor([True])
    expected = sum(
        misalignment_by_loop(text[i : i + 1], real, etf[i], text_projection)
        + misalignment_by_loop(video[i : i + 1], real, etf[i], video_projection)
        for i in range(4)
    )
    agrees(pseudo_alignment(text, video, etf, text_projection, video_projection), expected / 4)


# --- cases whose answer can be seen


def test_a_uniform_batch_costs_two_log_n() -> None:
    agrees(symmetric_contrastive(torch.zeros(8, 8), 50.0), 2 * math.log(8))


def test_a_batch_of_one_costs_nothing() -> None:
    one = normalise(normal(1, 6))
    assert symmetric_contrastive(one @ -one.T, 99.0).item() == 0
    assert relation_preserving(99 * one @ one.T, -99 * one @ one.T, 2.0).item() == 0
    assert similarity_distillation(one, one, -one, one, 99.0, 2.0).item() == 0


def test_a_batch_of_one_video_costs_nothing_when_its_captions_are_not_negatives() -> None:
    sim = normal(4, 4).requires_grad_()
    loss = symmetric_contrastive(sim, 20.0, torch.ones(4, 4, dtype=torch.bool))
    assert loss.item() == 0
    assert torch.autograd.grad(loss, sim)[0].count_nonzero() == 0


def test_divergence_from_oneself_is_zero_and_distillation_is_the_entropy() -> None:
    logits = torch.zeros(3, 4, dtype=torch.float64)
    assert kl_divergence(logits, logits, 2.0).item() == 0
    agrees(distillation(logits, logits, 2.0), 4 * math.log(4))


def test_features_on_their_etf_direction_have_no_misalignment() -> None:
    etf = normalise(normal(4, 6))
    mask, identity = torch.ones(4, 2, dtype=torch.bool), torch.eye(6, dtype=torch.float64)
    tokens = etf.unsqueeze(1) * torch.tensor([1.0, 3.0], dtype=torch.float64).view(1, 2, 1)
    assert etf_alignment(tokens, mask, tokens, None, etf, identity, identity).item() == pytest.approx(0, abs=1e-12)
    assert etf_alignment(-tokens, mask, -tokens, mask, etf, identity, identity).item() == pytest.approx(4)


@DTYPES
def test_an_empty_caption_contributes_one_and_no_gradient_to_etf_alignment(dtype: torch.dtype) -> None:
    words, word_mask, frames, frame_mask, etf, *projections = etf_example(dtype)
    words.requires_grad_()
    projections[0].requires_grad_()
    empty = slice(2, 3)
    alone = etf_alignment(words[empty], word_mask[empty], frames[empty], frame_mask[empty], etf[empty], *projections)
    agrees(alone, 1 + misalignment_by_loop(frames[2], frame_mask[2], etf[2], projections[1]))
    for gradient in torch.autograd.grad(alone, (words, projections[0])):
        assert gradient.count_nonzero() == 0


def test_an_empty_caption_leaves_prototype_loss_and_gradients_finite() -> None:
    words, word_mask, frames, _, _, *_ = etf_example()
    words.requires_grad_()
    text, video = pool_words(words, word_mask), pool_frames(frames)
    loss = prototype_contrastive(text, video, normal(3, 6, seed=7), normal(3, 6, seed=8), 99.0)
    gradient = torch.autograd.grad(loss, words)[0]
    assert loss.isfinite()
    assert gradient.isfinite().all()
    assert gradient[2].count_nonzero() == 0


# --- stacked ensembles

TEXT, VIDEO, OTHER = (normalise(normal(4, 6, seed=seed)) for seed in (11, 12, 13))
SAME = torch.tensor([0, 1, 0, 2]).unsqueeze(0) == torch.tensor([0, 1, 0, 2]).unsqueeze(1)
ETF = etf_example()
LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "symmetric_contrastive": lambda w: symmetric_contrastive(TEXT @ w @ VIDEO.T, 9.0, SAME),
    "cross_task_contrastive": lambda w: cross_task_contrastive(TEXT @ w, VIDEO @ w, OTHER, w.sum(), 0.6),
    "prototype_contrastive": lambda w: prototype_contrastive(TEXT @ w, VIDEO @ w, TEXT, OTHER, 9.0),
    "kl_divergence": lambda w: kl_divergence(TEXT @ w, VIDEO, 2.0),
    "distillation": lambda w: distillation(TEXT @ w, VIDEO, 2.0),
    "relation_preserving": lambda w: relation_preserving(TEXT @ w @ VIDEO.T, TEXT @ VIDEO.T, 2.0),
    "similarity_distillation": lambda w: similarity_distillation(TEXT @ w, VIDEO @ w, TEXT, VIDEO, 9.0, 2.0),
    "etf_alignment": lambda w: etf_alignment(ETF[0] @ w, ETF[1], ETF[2] @ w, ETF[3], ETF[4], w, ETF[6]),
    "pseudo_alignment": lambda w: pseudo_alignment(TEXT, VIDEO, ETF[4], w, ETF[6] @ w, swapped=True),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_stacked_ensemble_of_losses_equals_a_loop(name: str) -> None:
    weight = normal(3, 6, 6, seed=21)
    stacked_gradient, stacked_loss = torch.func.vmap(torch.func.grad_and_value(LOSSES[name]))(weight)
    assert stacked_gradient.isfinite().all()
    for one, gradient, loss in zip(weight, stacked_gradient, stacked_loss, strict=True):
        expected_gradient, expected_loss = torch.func.grad_and_value(LOSSES[name])(one)
        torch.testing.assert_close(loss, expected_loss)
        torch.testing.assert_close(gradient, expected_gradient)
