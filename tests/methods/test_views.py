"""What is made once a task, or once a video, in place of in every step: the loss is what it was without."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from ctvr_bench.bench.authoring.tryout import in_double
from ctvr_bench.bench.run.stacks.ensemble import learn_in_step
from ctvr_bench.bench.run.training import generator_for, lessons_of_task, view_of
from ctvr_bench.features.streams import PairBatch
from ctvr_bench.methods.finetune import Finetune, FinetuneConfig
from ctvr_bench.methods.shared.base import Method, TaskInfo
from ctvr_bench.methods.shared.registry import find_method
from tests.learning import begin, learn, make, small_spec, stepped, train_pairs

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
    viewed = view_of(method, data)
    rows = viewed.rows_of(INDEX)
    assert rows
    parameters = stepped(method)
    found = []
    for table in (data, viewed):
        terms = method.loss(method.prepare(table.pairs(INDEX), generator_for(0, "draws")))
        found.append((terms, gradients(terms, parameters)))
    (plain, slopes), (once, same_slopes) = found
    for term in plain:
        torch.testing.assert_close(once[term], plain[term], rtol=1e-6, atol=1e-12)
    for first, second in zip(slopes, same_slopes, strict=True):
        torch.testing.assert_close(second, first, rtol=1e-6, atol=1e-12)
    doubled = {name: 2 * row for name, row in rows.items()}
    changed = method.loss(method.prepare(data.pairs(INDEX).with_rows(**doubled), generator_for(0, "draws")))
    assert any(not torch.allclose(changed[term], plain[term]) for term in plain)


def test_a_video_with_several_captions_in_a_batch_is_adapted_once_and_counts_for_each() -> None:
    method = taught("structalign")
    batch = method.prepare(in_double(train_pairs(1)).pairs(INDEX), generator_for(0, "draws"))
    assert len(batch.draws["pair_U"]) < len(INDEX)
    assert torch.equal(batch.video_N[batch.draws["pair_U"]][batch.draws["row_N"]], batch.video_N)
    other = {key: value for key, value in batch.draws.items() if key not in ("pair_U", "row_N")}
    each = replace(batch, draws=other)
    parameters = stepped(method)
    once, plain = method.loss(batch), method.loss(each)
    for term in plain:
        torch.testing.assert_close(once[term], plain[term], rtol=1e-6, atol=1e-12)
    for first, second in zip(gradients(once, parameters), gradients(plain, parameters), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(("batch_size", "kept"), [(12, "teacher_sim_NN"), (10, "teacher_frames_NFD")])
def test_a_teachers_similarities_are_kept_where_the_steps_would_ask_for_as_many(batch_size: int, kept: str) -> None:
    method = taught("structalign", batch_size=batch_size)
    assert view_of(method, in_double(train_pairs(1))).rows_of(INDEX).keys() == {kept}


@pytest.mark.parametrize("name", ["finetune", "lwf", "ewc"])
def test_a_loss_that_averages_words_may_be_given_their_mean(name: str) -> None:
    method = make(name)
    learn(method, 0)
    begin(method, 1)
    data = train_pairs(1)
    mean = view_of(method, data)
    assert mean.pairs(INDEX).text.words_NLD.shape[1] == 1
    assert view_of(make(name, scoring="word_frame"), data).pairs(INDEX).text.words_NLD.shape[1] > 1
    plain, averaged = (
        method.loss(method.prepare(table.pairs(INDEX), generator_for(0, "draws"))) for table in (data, mean)
    )
    for term in plain:
        torch.testing.assert_close(averaged[term], plain[term], rtol=1e-5, atol=1e-6)


def test_runs_of_one_table_share_its_mean_words() -> None:
    data = train_pairs(0)
    views = [view_of(make("lwf", seed), data) for seed in range(2)]
    assert views[0].shares_features(views[1])
    assert not views[0].shares_features(data)
    assert not torch.equal(views[0].rows_of(INDEX)["teacher_text_ND"], 0 * INDEX[:, None])


def test_rows_follow_their_captions_videos_and_both() -> None:
    data = train_pairs(0)
    captions, videos = len(data), len(data.all_videos().frames_MFD)
    caption_P, video_V = torch.arange(captions), torch.arange(videos)
    table = data.with_rows(caption={"c": caption_P}, video={"v": video_V})
    table = table.with_rows(pair={"p": 100 * caption_P[:, None] + video_V})
    index_N = torch.tensor([7, 0, 12])
    rows, position_N = table.pairs(index_N).rows, data.video_position_P[index_N]
    assert rows["c"].tolist() == [7, 0, 12]
    assert torch.equal(rows["v"], position_N)
    assert torch.equal(rows["p"], 100 * index_N[:, None] + position_N)
    assert not data.pairs(index_N).rows


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


class DropsAWord(Finetune):
    """A stranger's word dropout: `prepare` alone is overridden."""

    name = "drops_a_word"

    def prepare(self, batch: PairBatch, generator: torch.Generator) -> PairBatch:
        self.widths = [*getattr(self, "widths", []), batch.text.words_NLD.shape[1]]
        mask_NL = batch.text.word_mask_NL.clone()
        mask_NL[:, 0] = False
        return super().prepare(replace(batch, text=batch.text._replace(word_mask_NL=mask_NL)), generator)


def test_a_subclass_of_finetune_that_overrides_prepare_is_given_every_word() -> None:
    method = DropsAWord(FinetuneConfig(epochs=1), small_spec(), generator_for(0, "init"))
    learn(method, 0)
    assert max(method.widths) == int(train_pairs(0).lengths_P.max()) > 1
    runs = [DropsAWord(FinetuneConfig(epochs=1), small_spec(), generator_for(seed, "init")) for seed in range(2)]
    data = train_pairs(0)
    learn_in_step([lessons_of_task(run, data, TaskInfo(0, len(data), (0, 1)), seed) for seed, run in enumerate(runs)])
    assert all(max(run.widths) == int(data.lengths_P.max()) for run in runs)
