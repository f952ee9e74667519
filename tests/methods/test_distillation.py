"""LwF, VR-LwF, ZSCL, Mod-X, CTP and DKR: each distillation term against plain loops or the authors' recorded values."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity
from torch.testing import assert_close

from ctvr_bench.bench.run.training import generator_for
from ctvr_bench.features.streams import PairBatch
from ctvr_bench.methods.ctp import CTP
from ctvr_bench.methods.dkr import rectified
from ctvr_bench.methods.finetune import Finetune
from ctvr_bench.methods.mod_x import off_diagonal
from ctvr_bench.methods.shared.base import Method
from ctvr_bench.methods.shared.losses import (
    cross_task_contrastive,
    kl_divergence,
    queue_contrastive,
    similarity_distillation,
    topology_preserving,
)
from ctvr_bench.methods.shared.memory import captions_alone, frames_alone
from ctvr_bench.methods.shared.weights import weights_of
from ctvr_bench.methods.zscl import ZSCL
from tests.golden import golden
from tests.learning import begin, learn, make, train_pairs

SCALE, T = 17.6, 2.0


def taught(name: str, **values: object) -> Finetune:
    """A method in its second task, its head already away from its teacher's, without dropout."""
    method = make(name, dropout=0.0, **values)
    assert isinstance(method, Finetune)
    learn(method, 0)
    begin(method, 1)
    with torch.no_grad():
        for part in (method.head.caption, method.head.frame, method.head.video):
            part.up += 0.03 * torch.randn(part.up.shape, generator=torch.Generator().manual_seed(1))
    return method


def prepared(method: Method, pairs: int = 8) -> PairBatch:
    return method.prepare(train_pairs(1).pairs(torch.arange(0, 4 * pairs, 4)), generator_for(0, "draws"))


def distilled(old_RK: Tensor, new_RK: Tensor) -> float:
    """-T^2 mean_rows sum_k softmax(old / T) log softmax(new / T), a row and a column at a time."""
    total = 0.0
    for old_K, new_K in zip(old_RK.tolist(), new_RK.tolist(), strict=True):
        p, q = ([math.exp(x / T) for x in row] for row in (old_K, new_K))
        total -= sum(a / sum(p) * math.log(b / sum(q)) for a, b in zip(p, q, strict=True))
    return T**2 * total / len(old_RK)


def cosines(text_ND: Tensor, video_MD: Tensor) -> Tensor:
    return torch.stack([cosine_similarity(text[None], video_MD) for text in text_ND]).detach()


# --- the authors' values


def test_lwfs_student_teacher_text_term_is_the_authors() -> None:
    """Their LwF loss is NCE + H + H'; theirs without the distillation is recorded beside it."""
    g = {name: torch.from_numpy(value).float() for name, value in golden("global_losses").items()}
    kept = similarity_distillation(
        g["text"], g["vis"], g["ref_text"], g["ref_vis"], g["log_temp"].exp(), T, "student_teacher_text"
    )
    assert_close(kept, g["lwf"] - g["nce"], rtol=1e-4, atol=1e-4)


def test_zscls_term_is_the_authors() -> None:
    g = {name: torch.from_numpy(value).float() for name, value in golden("global_losses").items()}
    kept = similarity_distillation(
        g["text"], g["ref_vis_curr"], g["ref_text"], g["ref_vis"], g["log_temp"].exp(), T, "student_teacher_text"
    )
    assert_close(kept, g["zscl"] - g["nce"], rtol=1e-4, atol=1e-4)


# --- LwF in both variants


@pytest.mark.parametrize("variant", ["student_student", "student_teacher_text"])
def test_lwf_distils_the_previous_model(variant: str) -> None:
    method = taught("lwf", variant=variant, weight=0.7)
    batch = prepared(method)
    text, video = method.embed_batch(batch)
    old_text_ND, old_video_ND = embedded_before(method, batch)
    old_NN = SCALE * cosines(old_text_ND, old_video_ND)
    new_NN = SCALE * cosines(text.pooled_ND if variant == "student_student" else old_text_ND, video.pooled_MD)
    expected = 0.7 * (distilled(old_NN, new_NN) + distilled(old_NN.T, new_NN.T))
    assert method.loss(batch)["distillation"].item() == pytest.approx(expected, rel=1e-4)


# --- VR-LwF and ZSCL


def test_vr_lwf_distils_the_batchs_videos_against_replayed_sentences() -> None:
    method = taught("vr_lwf", weight=0.7, sentences=5)
    batch = prepared(method)
    sentences = captions_alone(batch.draws["sentences_RD"])
    assert len(sentences.pooled_ND) == 5
    new_text_ND = method.head.text(sentences).pooled_ND
    _, video = method.embed_batch(batch)
    old_head = before(method).head
    _, old_video_ND = embedded_before(method, batch)
    old_NR = SCALE * cosines(old_video_ND, old_head.text(sentences).pooled_ND)
    expected = 0.7 * distilled(old_NR, SCALE * cosines(video.pooled_MD, new_text_ND))
    assert method.loss(batch)["distillation"].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("variant", ["student_student", "student_teacher_text"])
def test_zscl_distils_zero_shot_similarities_of_the_reference_bank(variant: str) -> None:
    method = taught("zscl", weight=0.7, references=6, variant=variant)
    batch = prepared(method)
    text_RD, frame_RD = batch.draws["reference_text_RD"], batch.draws["reference_frame_RD"]
    with torch.no_grad():
        video_RD = method.encode_video(frames_alone(frame_RD)).pooled_MD
        student_text_RD = method.encode_text(captions_alone(text_RD), 1).pooled_ND
    zero_NN = SCALE * cosines(frame_RD, text_RD)
    new_NN = SCALE * cosines(video_RD, student_text_RD if variant == "student_student" else text_RD)
    expected = 0.7 * (distilled(zero_NN, new_NN) + distilled(zero_NN.T, new_NN.T))
    assert method.loss(batch)["distillation"].item() == pytest.approx(expected, rel=1e-4)


def test_reference_features_are_drawn_from_the_bank_without_repetition() -> None:
    method = make("zscl", references=20)
    assert isinstance(method, ZSCL)
    drawn_RD = method.reference.captions(20, generator_for(0, "x"))
    matches = (drawn_RD[:, None] == method.reference.captions_RD).all(-1)
    assert (matches.sum(1) == 1).all()
    assert len(matches.nonzero()[:, 1].unique()) == 20
    assert len(method.reference.frames(100, generator_for(0, "x"))) == 100  # more than there are


# --- Mod-X


def test_mod_x_keeps_only_rows_that_the_old_model_got_right() -> None:
    """Row 0 right; row 1 wrong; row 2 prefers pair 3, another caption of the same video, which is right too."""
    generator = torch.Generator().manual_seed(0)
    new_NN = torch.randn(4, 4, generator=generator)
    old_NN = torch.tensor([[3.0, 1, 0, 0], [2, 1, 0, 0], [0, 1, 2, 3], [1, 0, 0, 2]])
    same_NN = torch.eye(4, dtype=torch.bool)
    same_NN[2, 3] = same_NN[3, 2] = True
    rows = [kl_divergence(new_NN[i : i + 1], old_NN[i : i + 1], 1.0) for i in (0, 2, 3)]
    assert_close(off_diagonal(new_NN, old_NN, same_NN), torch.stack(rows).sum() / 4)


def test_mod_xs_wrong_rows_have_no_gradient() -> None:
    new_NN = torch.randn(2, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    old_NN = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    off_diagonal(new_NN, old_NN, torch.eye(2, dtype=torch.bool)).backward()
    assert new_NN.grad is not None
    assert_close(new_NN.grad[0], torch.zeros(2), rtol=0, atol=1e-7)
    assert new_NN.grad[1].abs().max() > 0.01


# --- CTP


def test_the_queue_contrast_is_the_cross_entropy_over_batch_and_queue() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, queue = (torch.randn(n, 6, generator=generator) for n in (3, 3, 5))
    excluded = torch.zeros(3, 8, dtype=torch.bool)
    excluded[0, 0] = excluded[0, 1] = excluded[2, 7] = True  # a query's own key counts, whatever is excluded
    expected = 0.0
    for i in range(3):
        scores = {j: 2.0 * float(query[i] @ torch.cat([key, queue])[j]) for j in range(8)}
        kept = [score for j, score in scores.items() if j == i or not excluded[i, j]]
        expected += math.log(sum(map(math.exp, kept))) - scores[i]
    measured = queue_contrastive(query, key, queue, 2.0, excluded)
    assert measured.item() == pytest.approx(expected / 3, rel=1e-5)


def test_topology_is_the_divergence_of_similarities_without_oneself() -> None:
    generator = torch.Generator().manual_seed(0)
    new_ND, old_ND = torch.randn(2, 4, 6, generator=generator)
    expected = 0.0
    for i in range(4):
        others = [j for j in range(4) if j != i]
        p, q = ([math.exp(float(x[i] @ x[j])) for j in others] for x in (old_ND, new_ND))
        pairs = zip(p, q, strict=True)
        expected += sum(a / sum(p) * math.log((a / sum(p)) / (b / sum(q))) for a, b in pairs)
    measured = topology_preserving(new_ND, old_ND, 1.0, torch.eye(4, dtype=torch.bool))
    assert measured.item() == pytest.approx(expected / 4, rel=1e-4)
    assert topology_preserving(new_ND[:1], old_ND[:1], 1.0, torch.ones(1, 1, dtype=torch.bool)).item() == 0


def ctp(**values: object) -> CTP:
    method = make("ctp", **values)
    assert isinstance(method, CTP)
    return method


def test_ctps_slow_model_follows_new_weights_first_and_old_ones_too_later() -> None:
    method = ctp(first_momentum=0.9, momentum=0.8)
    begin(method, 0)
    start_P = weights_of(method.head).detach()
    batch = prepared(method)
    _shift(method, 1.0)
    method.after_step(batch)
    assert_close(weights_of(method.teacher_slow), 0.9 * start_P + 0.1 * (start_P + 1))
    begin(method, 1)
    assert_close(weights_of(method.teacher_slow), start_P + 1)
    _shift(method, 2.0)
    method.after_step(prepared(method))
    mixed_P = (start_P + 3 + start_P + 1) / 2
    assert_close(weights_of(method.teacher_slow), 0.8 * (start_P + 1) + 0.2 * mixed_P)


def _shift(method: CTP, by: float) -> None:
    with torch.no_grad():
        for parameter in method.head.parameters():
            parameter += by


def test_ctps_queue_holds_the_last_keys_in_a_ring() -> None:
    method = ctp(queue=10)
    begin(method, 0)
    data, batches = train_pairs(0), []
    for first in (0, 6):
        batches.append(method.prepare(data.pairs(torch.arange(first, first + 6)), generator_for(0, "x")))
        method.after_step(batches[-1])
    keys = torch.cat([batch.draws["key_text_ND"] for batch in batches])
    assert torch.equal(method.text_queue_QD, torch.cat([keys[10:], keys[2:10]]))
    videos = torch.cat([batch.video_N for batch in batches])
    assert torch.equal(method.queue_video_Q, torch.cat([videos[10:], videos[2:10]]))


def test_ctps_empty_queue_and_queued_captions_of_the_same_video_are_no_negatives() -> None:
    method = ctp(queue=64, dropout=0.0)
    begin(method, 0)
    one = prepared(method, pairs=1)
    assert method.loss(one)["momentum"].item() == 0
    method.after_step(one)
    assert method.loss(one)["momentum"].item() == 0
    method.after_step(method.prepare(train_pairs(0).pairs(torch.arange(8)), generator_for(0, "x")))
    assert method.loss(one)["momentum"].item() > 0.1


def test_ctp_preserves_topology_from_the_second_task_on() -> None:
    method = ctp(dropout=0.0)
    begin(method, 0)
    assert "topology" not in method.loss(prepared(method))
    begin(method, 1)
    assert method.loss(prepared(method))["topology"].item() == pytest.approx(0, abs=1e-5)
    _shift(method, 0.05)
    assert method.loss(prepared(method))["topology"].item() > 1e-3


# --- DKR


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_dkr_keeps_right_rows_and_puts_the_truth_where_neither_model_is_right(temperature: float) -> None:
    method = taught("dkr", weight=0.7, temperature=temperature)
    batch = prepared(method)
    videos = batch.video_N.tolist()
    text, video = method.embed_batch(batch)
    new_NN = SCALE * cosines(text.pooled_ND, video.pooled_MD)
    old_NN = SCALE * cosines(*embedded_before(method, batch))
    total, cases = 0.0, set()
    for new, old in ((new_NN, old_NN), (new_NN.T, old_NN.T)):
        for i in range(8):
            right = [k for k in range(8) if videos[k] == videos[i]]
            case = "old" if int(old[i].argmax()) in right else "new" if int(new[i].argmax()) in right else "neither"
            cases.add(case)
            student = (new[i] / temperature).log_softmax(0).tolist()
            teacher = (old[i] / temperature).softmax(0).tolist()
            if case == "neither":
                teacher = [1 / len(right) if k in right else 0.0 for k in range(8)]
            if case != "new":
                kept = zip(teacher, student, strict=True)
                total += temperature**2 * sum(p * (math.log(p) - q) for p, q in kept if p > 0) / 8
    assert {"old", "neither"} <= cases
    assert method.loss(batch)["rectified"].item() == pytest.approx(0.7 * total, rel=1e-3)


def test_dkrs_three_cases_of_a_row() -> None:
    right = torch.eye(3, dtype=torch.bool)
    old = torch.tensor([[3.0, 1.0, 0.0], [2.0, 1.0, 0.0], [2.0, 1.0, 0.0]])  # right, wrong, wrong
    new = torch.tensor([[0.0, 1.0, 0.0], [0.0, 4.0, 0.0], [5.0, 0.0, 1.0]])  # wrong, right, wrong
    found = rectified(old, new, right)
    assert torch.equal(found[0], old[0])
    assert torch.equal(found[1], new[1])
    assert_close(found[2].softmax(0), torch.tensor([0.0, 0.0, 1.0]))


# --- the cross-task term


def test_the_cross_task_loss_can_leave_out_captions_of_the_same_video() -> None:
    generator = torch.Generator().manual_seed(0)
    text, video, stored = (torch.nn.functional.normalize(torch.randn(n, 6, generator=generator)) for n in (3, 3, 2))
    video[2] = video[1]
    same = torch.eye(3, dtype=torch.bool)
    same[1, 2] = same[2, 1] = True
    contrastive, cross = 0.0, 0.0
    for i in range(3):
        others = [j for j in range(3) if j == i or not same[i, j]]
        by_text = [math.exp(5 * float(text[i] @ video[j])) for j in others]
        by_video = [math.exp(5 * float(text[j] @ video[i])) for j in others]
        negatives = [math.exp(5 * float(text[i] @ m)) for m in stored]
        own = 5 * float(text[i] @ video[i])
        contrastive += (math.log(sum(by_text)) + math.log(sum(by_video)) - 2 * own) / 3
        cross += (math.log(sum(by_text + negatives)) - own) / 3
    measured = cross_task_contrastive(text, video, stored, 5.0, 0.6, same)
    assert measured.item() == pytest.approx(0.4 * contrastive + 0.6 * cross, rel=1e-5)


def before(method: Finetune) -> Finetune:
    """The same method as it was when its first task ended."""
    first = make(method.name, **{name: getattr(method.config, name) for name in vars(method.config)})
    assert isinstance(first, Finetune)
    learn(first, 0)
    return first


def embedded_before(method: Finetune, batch: PairBatch) -> tuple[Tensor, Tensor]:
    text, video = before(method).embed_batch(batch)
    return text.pooled_ND.detach(), video.pooled_MD.detach()
