"""What is made once a task, or once a video, in place of in every step: the loss is what it was without."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ctvr_bench.bench.authoring.trial import in_double
from ctvr_bench.bench.run.training import FrozenRows, generator_for
from ctvr_bench.features.streams import PairBatch
from ctvr_bench.methods.finetune import Finetune, FinetuneConfig
from ctvr_bench.methods.shared.base import Method
from ctvr_bench.methods.shared.registry import find_method
from tests.learning import begin, learn, make, small_spec, train_pairs

TAUGHT = ("lwf", "mod_x", "vr_lwf", "c_clip", "ctp", "structalign", "structalign_released")
INDEX = torch.arange(16)


def gradients(loss: dict[str, torch.Tensor], parameters: list[torch.Tensor]) -> list[torch.Tensor]:
    total = torch.stack(list(loss.values())).sum()
    return list(torch.autograd.grad(total, parameters, allow_unused=True, materialize_grads=True))


def taught(name: str, **values: Any) -> Method:
    """In its second task, with parameters and buffers in float64."""
    method = make(name, **values)
    learn(method, 0)
    begin(method, 1)
    return method.double()


@pytest.mark.parametrize("name", TAUGHT)
def test_teacher_outputs_made_once_give_the_loss_and_gradient_of_a_teacher_asked_in_every_step(name: str) -> None:
    method = taught(name, **({"lr": 1e-2} if name == "lwf" else {}))
    data = in_double(train_pairs(1))
    rows = FrozenRows(method, data).of(INDEX)
    assert rows
    parameters = method.optimised_parameters()
    found = []
    for kept in ({}, rows):
        batch = method.prepare(data.pairs(INDEX).with_draws(**kept), generator_for(0, "draws"))
        terms = method.loss(batch)
        found.append((terms, gradients(terms, parameters)))
    (plain, slopes), (once, same_slopes) = found
    for term in plain:
        torch.testing.assert_close(once[term], plain[term], rtol=1e-6, atol=1e-12)
    for first, second in zip(slopes, same_slopes, strict=True):
        torch.testing.assert_close(second, first, rtol=1e-6, atol=1e-12)
    with torch.no_grad():
        for row in rows.values():
            row.mul_(2)
    changed = method.loss(method.prepare(data.pairs(INDEX).with_draws(**rows), generator_for(0, "draws")))
    assert any(not torch.allclose(changed[term], plain[term]) for term in plain)


def test_a_video_with_several_captions_in_a_batch_is_adapted_once_and_counts_for_each() -> None:
    method = taught("structalign")
    batch = method.prepare(in_double(train_pairs(1)).pairs(INDEX), generator_for(0, "draws"))
    assert len(batch.draws["pair_U"]) < len(INDEX)
    assert torch.equal(batch.video_N[batch.draws["pair_U"]][batch.draws["row_N"]], batch.video_N)
    each = batch.__class__(
        batch.text,
        batch.video,
        batch.category_N,
        batch.video_N,
        {key: value for key, value in batch.draws.items() if key not in ("pair_U", "row_N")},
    )
    parameters = method.optimised_parameters()
    once, plain = method.loss(batch), method.loss(each)
    for term in plain:
        torch.testing.assert_close(once[term], plain[term], rtol=1e-6, atol=1e-12)
    for first, second in zip(gradients(once, parameters), gradients(plain, parameters), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(("batch_size", "kept"), [(12, "teacher_sim_NN"), (10, "teacher_frames_NFD")])
def test_a_teachers_similarities_are_kept_where_the_steps_would_ask_for_as_many(batch_size: int, kept: str) -> None:
    method = taught("structalign", batch_size=batch_size)
    assert set(FrozenRows(method, in_double(train_pairs(1))).of(INDEX)) == {kept}


@pytest.mark.parametrize("name", ["finetune", "lwf", "ewc"])
def test_a_loss_that_averages_words_may_be_given_their_mean(name: str) -> None:
    method = make(name)
    learn(method, 0)
    begin(method, 1)
    assert method.averages_words
    assert not make(name, scoring="word_frame").averages_words
    data = train_pairs(1)
    mean = data.with_mean_words()
    assert mean.pairs(INDEX).text.words_NLD.shape[1] == 1
    plain, averaged = (
        method.loss(method.prepare(table.pairs(INDEX), generator_for(0, "draws"))) for table in (data, mean)
    )
    for term in plain:
        torch.testing.assert_close(averaged[term], plain[term], rtol=1e-5, atol=1e-6)


def test_a_head_for_pooled_scoring_averages_frames_before_it_maps_them_up() -> None:
    method = make("finetune", lr=1e-2)
    learn(method, 0)
    batch = train_pairs(1).pairs(INDEX)
    batch.video.frame_mask_MF[3, 2:] = False
    keep_MR = torch.rand(len(INDEX), find_method("finetune").config().rank, generator=generator_for(0, "keep"))
    frames, scored = method.head.video_frames(batch.video, keep_MR), method.head.scored_video(batch.video, keep_MR)
    mask = frames.frame_mask_MF[..., None]
    mean_MD = (frames.frames_MFD * mask).sum(1) / mask.sum(1)
    torch.testing.assert_close(scored.frames_MFD[:, 0], mean_MD, rtol=1e-5, atol=1e-5)
    assert torch.equal(scored.shift_MD, frames.shift_MD)


def test_a_loss_of_somebody_else_sees_every_word_unless_it_says_otherwise() -> None:
    class Mine(Finetune):
        def loss(self, batch: PairBatch) -> dict[str, torch.Tensor]:
            return super().loss(batch)

    class Pooled(Mine):
        pooled_loss = True

    built = [method(FinetuneConfig(), small_spec(), generator_for(0, "init")) for method in (Finetune, Mine, Pooled)]
    assert [method.averages_words for method in built] == [True, False, True]
