"""DER++ and A-GEM: what is drawn from the memory, and what it does to the step."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from ctvr_bench.bench.run.jobs import load_tensors
from ctvr_bench.bench.run.training import generator_for
from ctvr_bench.features.streams import PairBatch
from ctvr_bench.methods.agem import AGEM, projected
from ctvr_bench.methods.der_pp import DERpp
from ctvr_bench.methods.shared.memory import batch_of
from ctvr_bench.methods.shared.weights import gradient_of
from tests.learning import begin, learn, make, train_pairs


def prepared(method: DERpp | AGEM, seed: int = 0) -> PairBatch:
    batch = train_pairs(1).pairs(torch.arange(12))
    return method.prepare(batch, generator_for(seed, "draws"))


def der_pp(**values: object) -> DERpp:
    method = make("der_pp", **values)
    assert isinstance(method, DERpp)
    learn(method, 0)
    begin(method, 1)
    return method


def agem(**values: object) -> AGEM:
    method = make("agem", **values)
    assert isinstance(method, AGEM)
    learn(method, 0)
    begin(method, 1)
    return method


# --- DER++


def test_der_pps_two_draws_are_independent() -> None:
    """Of 12 items drawn twice out of 48, 3 coincide on average; one and the same draw would give 12."""
    method = der_pp(buffer=48)
    stored = method.memory.state_dict()["item_stored_text_ND"]
    assert len(stored.unique(dim=0)) == 48
    coincide = []
    for seed in range(60):
        replayed = prepared(method, seed).replayed
        dark, replay = (replayed[use].rows["stored_text_ND"] for use in ("dark", "replay"))
        coincide.append(sum(bool((row == replay).all(1).any()) for row in dark))
    mean = sum(coincide) / len(coincide)
    deviation = (12 * 0.25 * 0.75 * 36 / 47 / 60) ** 0.5  # of the mean of 60 hypergeometric counts
    assert abs(mean - 3) < 4 * deviation


def test_der_pps_draws_have_dropout_masks_of_their_own() -> None:
    batch = prepared(der_pp(dropout=0.5))
    masks = [each.draws["keep_text_NR"] for each in (batch, batch.replayed["dark"], batch.replayed["replay"])]
    assert not torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[1], masks[2])


def test_der_pps_loss_is_the_sum_of_its_three_terms() -> None:
    method = der_pp(dark=0.3, replay=0.7, dropout=0.0)
    with torch.no_grad():
        method.head.caption.up += 0.05  # so that the stored similarities are no longer the head's
    batch = prepared(method)
    terms = method.loss(batch)
    drawn = batch.replayed["dark"]
    text, video = method.embed_batch(drawn)
    expected = 0.0
    for i in range(12):
        for j in range(12):
            stored = drawn.rows["stored_text_ND"][i] @ drawn.rows["stored_video_ND"][j]
            expected += (17.6 * (text.pooled_ND[i] @ video.pooled_MD[j] - stored)).item() ** 2 / 144
    assert terms["dark"].item() == pytest.approx(0.3 * expected, rel=1e-4)
    plain = make("finetune", dropout=0.0)
    load_tensors(plain, {name: value for name, value in method.state_dict().items() if name.startswith("head.")})
    replayed = plain.loss(batch.replayed["replay"])["contrastive"]
    assert_close(terms["replay"], 0.7 * replayed)
    assert_close(terms["contrastive"], plain.loss(batch)["contrastive"])


def test_der_pp_stores_what_the_head_said_when_the_task_ended() -> None:
    method = der_pp(buffer=48)
    items = method.memory.state_dict()
    with torch.no_grad():
        text, video = method.embed_batch(batch_of(_unprefixed(items), torch.device("cpu")))
    assert_close(items["item_stored_text_ND"], text.pooled_ND)
    assert_close(items["item_stored_video_ND"], video.pooled_MD)


def _unprefixed(items: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("item_"): value for name, value in items.items()}


# --- A-GEM


def test_a_projected_gradient_does_not_point_against_the_memorys() -> None:
    generator = torch.Generator().manual_seed(0)
    opposed = 0
    for _ in range(200):
        gradient_P, memory_P = torch.randn(2, 9, generator=generator, dtype=torch.float64)
        result_P = projected(gradient_P, memory_P)
        assert result_P @ memory_P >= -1e-12
        if gradient_P @ memory_P >= 0:
            assert torch.equal(result_P, gradient_P)
        else:
            opposed += 1
            removed_P = gradient_P - result_P  # what is taken out lies along the memory's gradient
            cosine = removed_P @ memory_P / removed_P.norm() / memory_P.norm()
            assert cosine.item() == pytest.approx(-1)
    assert 50 < opposed < 150


def test_without_a_memory_gradient_nothing_is_projected() -> None:
    gradient_P = torch.tensor([1.0, -2.0])
    assert torch.equal(projected(gradient_P, torch.zeros(2)), gradient_P)


def test_agems_step_is_along_the_projection_of_its_batchs_gradient() -> None:
    method = agem(dropout=0.0)
    batch = prepared(method)
    assert "memory_gradient_P" in batch.draws
    memory_P = -_gradient(method, batch)  # as opposed as can be
    torch.stack(list(method.loss(batch).values())).sum().backward()
    method.after_backward(batch.with_draws(memory_gradient_P=memory_P))
    assert gradient_of(method.head).norm() < 1e-4 * memory_P.norm()


def test_agems_memory_gradient_is_that_of_the_loss_on_stored_pairs() -> None:
    method = agem(dropout=0.0, buffer=12)
    memory_P = prepared(method).draws["memory_gradient_P"]
    stored = batch_of(_unprefixed(method.memory.state_dict()), torch.device("cpu"))
    assert_close(memory_P, _gradient(method, stored), rtol=1e-3, atol=1e-5)


def test_agem_never_trains_on_stored_pairs() -> None:
    method = agem(dropout=0.0)
    batch = train_pairs(1).pairs(torch.arange(12))
    finetune = make("finetune", dropout=0.0)
    load_tensors(finetune, {name: value for name, value in method.state_dict().items() if name.startswith("head.")})
    assert_close(method.loss(prepared(method))["contrastive"], finetune.loss(batch)["contrastive"])


def _gradient(method: AGEM, batch: PairBatch) -> Tensor:
    method.zero_grad()
    torch.stack(list(method.loss(batch).values())).sum().backward()
    gradient_P = gradient_of(method.head)
    method.zero_grad()
    return gradient_P
