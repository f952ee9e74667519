"""Methods that work on weights: interpolation, averages, task vectors, pruning, merged low-rank maps, isolation."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.testing import assert_close

from ctvr_bench.bench.run.training import generator_for
from ctvr_bench.features.streams import VideoBatch
from ctvr_bench.methods.adapter_per_task import AdapterPerTask
from ctvr_bench.methods.c_clip import CCLIP
from ctvr_bench.methods.packnet import FREE, PackNet
from ctvr_bench.methods.shared.base import TaskInfo
from ctvr_bench.methods.shared.weights import set_weights, weights_of
from ctvr_bench.methods.task_arithmetic import TaskArithmetic
from ctvr_bench.methods.ties import TIES, elect_and_average, trim
from ctvr_bench.methods.wise_ft import WiseFT
from ctvr_bench.methods.zscl import ZSCL
from tests.learning import begin, embeddings, learn, make, train_pairs


def head_weights(name: str, *tasks: int, **values: object) -> Tensor:
    method = make(name, **values)
    learn(method, *tasks)
    return weights_of(method.head).detach()


# --- WiSE-FT


def test_wise_ft_at_one_is_fine_tuning_bit_for_bit() -> None:
    assert torch.equal(head_weights("wise_ft", 0, 1, mix=1.0), head_weights("finetune", 0, 1))


def test_wise_ft_at_zero_is_zero_shot_bit_for_bit() -> None:
    method, zero_shot = make("wise_ft", mix=0.0), make("zero_shot")
    learn(method, 0, 1)
    for mine, frozen in zip(embeddings(method), embeddings(zero_shot), strict=True):
        assert torch.equal(mine, frozen)


def test_wise_ft_lies_between_the_weights_before_and_after_a_task() -> None:
    method, plain = make("wise_ft", mix=0.25), make("finetune")
    assert isinstance(method, WiseFT)
    start_P = weights_of(method.head).detach()
    learn(method, 0)
    learn(plain, 0)
    assert_close(weights_of(method.head).detach(), 0.75 * start_P + 0.25 * weights_of(plain.head).detach())


# --- task vectors


def test_trimming_keeps_the_largest_changes() -> None:
    change_P = torch.tensor([0.1, -5.0, 0.0, 2.0, -0.3, 1.0, 0.2, -0.2, 0.3, 0.05])
    assert trim(change_P, 0.2).tolist() == [0, -5, 0, 2, 0, 0, 0, 0, 0, 0]


def test_ties_elects_signs_and_averages_who_agrees() -> None:
    """Columns: agreement; the larger sum wins over the majority; a single vote; no vote; a tie; zeros do not vote."""
    trimmed_TP = torch.tensor(
        [
            [1.0, 1.0, 0.0, 0.0, 2.0, 0.0],
            [2.0, 2.0, 0.0, 0.0, -2.0, 3.0],
            [3.0, -9.0, -4.0, 0.0, 0.0, 5.0],
        ]
    )
    assert elect_and_average(trimmed_TP).tolist() == [2.0, -9.0, -4.0, 0.0, 0.0, 4.0]


def test_ties_merges_what_each_task_changed_from_the_start() -> None:
    method = make("ties", keep=0.5, lr=1e-3)
    assert isinstance(method, TIES)
    start_P = weights_of(method.head).detach()
    learn(method, 0, 1)
    for task in (0, 1):
        assert_close(method.trimmed_TP[task], trim(head_weights("finetune", task, lr=1e-3) - start_P, 0.5))
    assert_close(weights_of(method.head).detach(), start_P + elect_and_average(method.trimmed_TP))


def test_task_arithmetic_adds_changes_of_tasks_trained_apart() -> None:
    method = make("task_arithmetic", merge=0.4, lr=1e-3)
    assert isinstance(method, TaskArithmetic)
    start_P = weights_of(method.head).detach()
    learn(method, 0)
    first_P = method.sum_P
    assert_close(first_P, head_weights("finetune", 0, lr=1e-3) - start_P)
    learn(method, 1)
    assert_close(method.sum_P - first_P, head_weights("finetune", 1, lr=1e-3) - start_P, rtol=0, atol=1e-6)
    assert_close(weights_of(method.head).detach(), start_P + 0.4 * method.sum_P)


# --- ZSCL's average


def test_zscl_ends_with_the_mean_of_the_start_and_every_kth_step() -> None:
    method = make("zscl", average_every=2)
    assert isinstance(method, ZSCL)
    begin(method, 0)
    start_P, batch = weights_of(method.head).detach(), train_pairs(0).pairs(torch.arange(4))
    states = [start_P + step for step in range(1, 6)]
    for weights_P in states:
        set_weights(method.head, weights_P)
        method.after_step(batch)
    method.end_task(train_pairs(0), generator_for(0, "end"))
    averaged = [start_P, states[1], states[3], states[4]]  # the last step counts, whenever it comes
    assert_close(weights_of(method.head).detach(), torch.stack(averaged).mean(0))


def test_zscl_without_averages_ends_where_training_ends() -> None:
    alone = head_weights("finetune", 0, dropout=0.0, lr=1e-3)
    assert_close(head_weights("zscl", 0, average_every=0, weight=0.0, dropout=0.0, lr=1e-3), alone)
    assert not torch.equal(head_weights("zscl", 0, weight=0.0, dropout=0.0, lr=1e-3), alone)


# --- PackNet


def test_packnets_tasks_own_disjoint_weights_and_halve_what_is_free() -> None:
    method = make("packnet", prune=0.5)
    assert isinstance(method, PackNet)
    free = len(method.owner_P)
    for task in range(3):
        before_P = method.owner_P.clone()
        learn(method, task)
        mine_P = method.owner_P == task
        assert not (mine_P & (before_P != FREE)).any()
        assert (method.owner_P[before_P != FREE] == before_P[before_P != FREE]).all()
        assert mine_P.sum().item() == pytest.approx(free / 2, rel=1e-3, abs=10)
        free -= int(mine_P.sum())
        assert (method.owner_P == FREE).sum().item() == free
        assert not weights_of(method.head)[method.owner_P == FREE].any()


def test_packnet_keeps_the_largest_weights_of_every_tensor() -> None:
    method = make("packnet", prune=0.75)
    assert isinstance(method, PackNet)
    begin(method, 0)
    weights_P = torch.randn(len(method.owner_P), generator=torch.Generator().manual_seed(0))
    set_weights(method.head, weights_P)
    method.end_task(train_pairs(0), generator_for(0, "end"))
    first = 0
    for parameter in method.head.parameters():
        span = slice(first, first + parameter.numel())
        kept = method.owner_P[span] == 0
        assert kept.sum().item() == parameter.numel() - round(0.75 * parameter.numel())
        assert weights_P[span][kept].abs().min() >= weights_P[span][~kept].abs().max()
        first += parameter.numel()


@pytest.mark.parametrize("position", [126, 127, 128, 199])
def test_packnet_takes_two_hundred_tasks(position: int) -> None:
    """127 was once the mark of a free weight, and 128 did not fit beside it."""
    method = make("packnet", prune=0.5)
    assert isinstance(method, PackNet)
    method.spec = method.spec._replace(num_tasks=200)
    set_weights(method.head, torch.ones(len(method.owner_P)))
    method.begin_task(TaskInfo(position, 48, (0,)))
    method.end_task(train_pairs(0), generator_for(0, "end"))
    assert method.owner_P.unique().tolist() == [position, FREE]
    text = train_pairs(0).text(torch.arange(3))
    with torch.no_grad():
        own, earlier = (method.encode_text(text, shard).pooled_ND for shard in (position, position - 1))
    assert torch.equal(earlier, normalize(text.pooled_ND, dim=-1))  # no earlier task owns a weight
    assert not torch.equal(own, earlier)


def test_packnets_last_task_may_keep_all_that_is_free() -> None:
    """As the authors' script, which gives the last data set of a sequence a share of -1 to prune."""
    kept = {}
    for prune_last in (True, False):
        method = make("packnet", prune=0.5, prune_last=prune_last)
        assert isinstance(method, PackNet)
        learn(method, 0, 1, 2)
        kept[prune_last] = [(method.owner_P == task).sum().item() for task in (0, 1, 2, FREE)]
    assert kept[True][:2] == kept[False][:2]
    assert kept[True][3] > 0
    assert kept[False][2:] == [kept[True][2] + kept[True][3], 0]


@pytest.mark.parametrize("name", ["packnet", "adapter_per_task"])
def test_isolated_tasks_never_change_again(name: str) -> None:
    method = make(name, lr=1e-2)
    learn(method, 0)
    text_ND, video_ND = embeddings(method, 0)
    own = copy.deepcopy(method)
    learn(method, 1, 2)
    later_text_ND, later_video_ND = embeddings(method, 0)
    assert torch.equal(text_ND, later_text_ND)
    assert torch.equal(video_ND, later_video_ND)
    other_text_ND, _ = embeddings(method, 0, shard=2)
    assert not torch.equal(text_ND, other_text_ND)
    assert method.uses_shards
    assert own.task.position == 0


def test_each_adapter_starts_from_the_identity() -> None:
    method = make("adapter_per_task", lr=1e-2)
    assert isinstance(method, AdapterPerTask)
    start_P = weights_of(method.head).detach()
    learn(method, 0)
    assert not torch.equal(weights_of(method.head), start_P)
    begin(method, 1)
    assert torch.equal(weights_of(method.head), start_P)
    for mine, frozen in zip(embeddings(method, 1), embeddings(make("zero_shot"), 1), strict=True):
        assert torch.equal(mine, frozen)


# --- C-CLIP


def test_c_clip_merges_a_share_of_its_low_rank_map() -> None:
    method = make("c_clip", merge=0.5, lr=1e-2)
    assert isinstance(method, CCLIP)
    begin(method, 0)
    with torch.no_grad():
        method.text_map.up_DR.normal_(generator=torch.Generator().manual_seed(0))
        method.text_projector.mul_(2)
        method.video_projector.mul_(3)
    x_ND = train_pairs(0).pairs(torch.arange(6)).text.pooled_ND
    with torch.no_grad():
        trained_ND, before_ND = method.text_map(x_ND), method.text_map(x_ND, old=True)
        old_down_RD = method.text_map.down_RD.clone()
        method.end_task(train_pairs(0), generator_for(0, "end"))
        merged_ND = method.text_map(x_ND)
    assert_close(before_ND, x_ND)
    assert_close(merged_ND, (trained_ND + x_ND) / 2, rtol=1e-4, atol=1e-4)
    assert not method.text_map.up_DR.any()
    assert not torch.equal(method.text_map.down_RD, old_down_RD)
    assert_close(method.text_map(x_ND, old=True), merged_ND)
    for projector in (method.text_projector, method.video_projector):  # of one task alone
        assert torch.equal(projector, torch.eye(len(projector)))


@torch.no_grad()
def test_c_clips_video_is_the_mean_of_its_mapped_frames() -> None:
    method = make("c_clip")
    assert isinstance(method, CCLIP)
    method.video_map.up_DR.normal_(generator=torch.Generator().manual_seed(0))
    method.video_map.merged_DD.normal_(generator=torch.Generator().manual_seed(1))
    frames_MFD, mask_MF = train_pairs(0).pairs(torch.arange(6)).video
    mask_MF[1, 2:] = False
    found_MD = method.encode_video(VideoBatch(frames_MFD, mask_MF)).pooled_MD
    for frames_FD, mask_F, found_D in zip(frames_MFD, mask_MF, found_MD, strict=True):
        mapped_FD = torch.stack([method.video_map(frame_D[None])[0] for frame_D in frames_FD[mask_F]])
        assert_close(found_D, normalize(mapped_FD.mean(0), dim=0))
