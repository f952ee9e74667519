"""InfLoRA and SD-LoRA: where a task's change of a weight lies, and what later tasks may still do to it."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import layer_norm
from torch.testing import assert_close

from ctvr_bench.methods.inflora import FreeSubspace, InfLoRA, second_moment
from ctvr_bench.methods.sd_lora import Directions, SDLoRA
from tests.learning import begin, embeddings, learn, make, stepped, train_pairs

# --- the map that both change


def test_a_videos_mean_is_that_of_its_changed_frames() -> None:
    branch = sd_lora(0).video_map
    video = train_pairs(0).video(torch.arange(6))
    video.frame_mask_MF[2, 3:] = False
    with torch.no_grad():
        for found_D, frames_FD, mask_F in zip(branch.mean(*video), *video, strict=True):
            expected = [x_D + x_D.norm() * branch.change(layer_norm(x_D, (32,))) / 32**0.5 for x_D in frames_FD[mask_F]]
            assert_close(found_D, torch.stack(expected).mean(0), rtol=1e-4, atol=1e-5)


# --- InfLoRA


def inflora(*tasks: int, **values: Any) -> InfLoRA:
    method = make("inflora", **{"rank": 4, "threshold": 0.9, "threshold_end": 0.9, "lr": 1e-2, **values})
    assert isinstance(method, InfLoRA)
    learn(method, *tasks)
    return method


@torch.no_grad()
def change_of(branch: FreeSubspace) -> Tensor:
    """dW, column by column."""
    return branch.change(torch.eye(32)).T.double()


def moment(task: int, side: str) -> Tensor:
    """mean of h h' over a task's captions, or its frames (each video's once), a vector at a time."""
    if side == "text":
        rows = list(train_pairs(task).text(torch.arange(48)).pooled_ND)
    else:
        videos = train_pairs(task).all_videos()
        rows = [frame for frames, mask in zip(*videos, strict=True) for frame in frames[mask]]
    inputs = [layer_norm(row.double(), row.shape) for row in rows]
    return torch.stack([torch.outer(h, h) for h in inputs]).mean(0)


@pytest.mark.parametrize("side", ["text", "video"])
def test_a_new_branch_looks_along_the_leading_inputs_outside_the_old_subspace(side: str) -> None:
    method = inflora(0)
    begin(method, 1)
    with torch.no_grad():
        method.survey(train_pairs(1))
    branch: FreeSubspace = getattr(method, f"{side}_map")
    taken_DD, now_DD = branch.taken_DD.numpy(), moment(1, side).numpy()
    left_DR = np.linalg.svd(now_DD - taken_DD @ now_DD)[0][:, :4]
    found_RD = branch.down_RD.double().numpy()
    assert np.allclose(found_RD @ found_RD.T, np.eye(4) / 3, atol=1e-6)
    assert np.allclose(np.abs(3**0.5 * found_RD @ left_DR), np.eye(4), atol=1e-5)
    assert np.abs(found_RD @ taken_DD).max() < 1e-6


@pytest.mark.parametrize("side", ["text", "video"])
def test_a_later_tasks_change_is_nothing_along_the_inputs_of_earlier_tasks(side: str) -> None:
    method = inflora(0)
    branch: FreeSubspace = getattr(method, f"{side}_map")
    before_DD, taken_DD = change_of(branch), branch.taken_DD.clone()
    learn(method, 1)
    added_DD = change_of(branch) - before_DD
    assert added_DD.abs().max() > 1e-3
    assert (added_DD @ taken_DD).abs().max() < 1e-6
    assert torch.linalg.matrix_rank(added_DD, rtol=1e-4) == 4


@pytest.mark.parametrize("side", ["text", "video"])
def test_the_subspace_grows_by_as_few_directions_as_hold_the_share(side: str) -> None:
    method, taken = inflora(threshold=0.97, threshold_end=1.0), np.zeros((32, 32))
    for task, share in enumerate((0.97, 0.98, 0.99)):
        learn(method, task)
        now = moment(task, side).numpy()
        left, sizes, _ = np.linalg.svd(now - taken @ now)
        total, kept, count = float((now**2).sum()), 0.0, 0
        while (kept := 1 - float((sizes[count:] ** 2).sum()) / total) < share:
            count += 1
        taken = taken + left[:, :count] @ left[:, :count].T
        assert kept >= share
        assert_close(getattr(method, f"{side}_map").taken_DD, torch.from_numpy(taken), rtol=0, atol=1e-8)
    assert 3 < np.trace(taken) < 32


def test_where_no_direction_is_free_nothing_is_learned() -> None:
    method = inflora(0)
    for branch in (method.text_map, method.video_map):
        branch.taken_DD.copy_(torch.eye(32))
    before = embeddings(method)
    learn(method, 1)
    for old, new in zip(before, embeddings(method), strict=True):
        assert_close(old, new, rtol=1e-5, atol=1e-6)


def test_what_is_trained_is_the_newest_branch_alone() -> None:
    method = make("inflora")
    of = {id(parameter): name for name, parameter in method.named_parameters()}
    assert [of[id(parameter)] for parameter in stepped(method)] == ["text_map.up_DR", "video_map.up_DR"]


def test_words_are_inputs_where_they_are_scored() -> None:
    method, data = make("inflora", scoring="fused"), train_pairs(0)
    assert isinstance(method, InfLoRA)
    text = data.text(torch.arange(48))
    rows_ND = torch.cat([text.pooled_ND, text.words_NLD[text.word_mask_NL]])
    assert_close(second_moment(method._captions(data)), second_moment([rows_ND]))


# --- SD-LoRA


@cache
def sd_lora(*tasks: int) -> SDLoRA:
    method = make("sd_lora", rank=4, lr=1e-2)
    assert isinstance(method, SDLoRA)
    learn(method, *tasks)
    return method


def test_the_change_is_the_sum_of_magnitudes_times_unit_directions_and_the_newest_product() -> None:
    method = sd_lora(0, 1)
    branch = method.text_map
    expected_DD = torch.zeros(32, 32)
    for size, up, down in zip(branch.sizes, branch.ups, branch.downs, strict=True):
        expected_DD += size.detach() * up.detach() @ down.detach()
    h_ND = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert_close(branch.change(h_ND), h_ND @ expected_DD.T, rtol=1e-4, atol=1e-5)
        for k in (0, 1):
            assert (branch.ups[k] @ branch.downs[k]).norm().item() == pytest.approx(1, rel=1e-5)
    assert not branch.ups[2].any()


def test_a_later_task_moves_magnitudes_of_earlier_directions_and_not_the_directions() -> None:
    before, after = sd_lora(0), sd_lora(0, 1)
    for old, new in ((before.text_map, after.text_map), (before.video_map, after.video_map)):
        assert torch.equal(old.ups[0], new.ups[0])
        assert torch.equal(old.downs[0], new.downs[0])
        assert abs(float(old.sizes[0].detach() - new.sizes[0].detach())) > 1e-4
        assert torch.equal(new.sizes[2].detach(), torch.tensor(0.8))  # a task to come


def test_fixing_a_direction_changes_nothing_that_is_encoded() -> None:
    method = make("sd_lora", rank=4)
    assert isinstance(method, SDLoRA)
    with torch.no_grad():
        for branch in (method.text_map, method.video_map):
            branch.ups[0].normal_(generator=torch.Generator().manual_seed(1))
    before = embeddings(method)
    for branch in (method.text_map, method.video_map):
        with torch.no_grad():
            branch.fix(0)
        assert isinstance(branch, Directions)
        assert branch.sizes[0] > 1
    for old, new in zip(before, embeddings(method), strict=True):
        assert_close(old, new, rtol=1e-4, atol=1e-6)


def test_magnitudes_do_not_decay_and_have_a_rate_of_their_own() -> None:
    method = make("sd_lora", magnitude_rate=3.0)
    begin(method, 1)
    directions, magnitudes = method.parameter_groups()
    assert (directions.rate, directions.decay, len(directions.parameters)) == (1.0, None, 4)
    assert (magnitudes.rate, magnitudes.decay, len(magnitudes.parameters)) == (3.0, 0.0, 4)
