"""RanPAC: the first session's adapters, lambda by held-out videos, and the least squares solution on all data."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.testing import assert_close

from ctvr_bench.bench.run.training import generator_for
from ctvr_bench.methods.ranpac import RanPAC, held_out_errors
from ctvr_bench.methods.shared.heads import masked_mean
from ctvr_bench.methods.shared.losses import symmetric_contrastive
from tests.learning import begin, learn, make, train_pairs
from tests.methods.test_ridge import least_squares

ALL = torch.arange(48)


@cache
def ranpac(*tasks: int, **values: Any) -> RanPAC:
    method = make("ranpac", **{"features": 60, "first_session": 3, **values})
    assert isinstance(method, RanPAC)
    learn(method, *tasks)
    return method


@torch.no_grad()
def regressed(method: RanPAC, task: int) -> tuple[Tensor, Tensor]:
    """Random features of a task's adapted captions, and its adapted unit videos; float64."""
    batch = train_pairs(task).pairs(ALL)
    caption_ND = method.head.text(batch.text).pooled_ND
    centred_ND = caption_ND - caption_ND.mean(1, keepdim=True)
    scaled_ND = centred_ND / (centred_ND.square().mean(1, keepdim=True) + 1e-5).sqrt()
    return (scaled_ND @ method.projection_DM).clamp(min=0).double(), method.encode_video(batch.video).pooled_MD.double()


def test_the_map_is_the_least_squares_solution_over_all_adapted_pairs() -> None:
    method = ranpac(0, 1, lowest=1, highest=1)
    x_NM, v_ND = (torch.cat(parts) for parts in zip(*(regressed(method, task) for task in (0, 1)), strict=True))
    expected_MD = least_squares(x_NM, v_ND - v_ND.mean(0), 10.0)
    assert expected_MD.abs().max() > 1e-3
    assert_close(method.map_MD.detach().double(), expected_MD, rtol=1e-4, atol=1e-6)


def test_errors_on_held_out_pairs_are_those_of_least_squares_on_the_others() -> None:
    x_NM, v_ND = regressed(ranpac(0), 0)
    held_N, powers = ALL % 5 == 0, range(-3, 5)
    found = held_out_errors(x_NM, v_ND, held_N, [10.0**power for power in powers])
    for power, error in zip(powers, found, strict=True):
        mean_D = v_ND[~held_N].mean(0)
        map_MD = least_squares(x_NM[~held_N], v_ND[~held_N] - mean_D, 10.0**power)
        assert error == pytest.approx(float((x_NM[held_N] @ map_MD + mean_D - v_ND[held_N]).square().sum()), rel=1e-5)


def test_lambda_is_the_one_of_least_error_on_a_fifth_of_the_tasks_videos() -> None:
    method, errors = ranpac(0), {}
    x_NM, v_ND = regressed(method, 0)
    generator = generator_for(3, "x")
    order_N = torch.randperm(48, generator=generator)
    videos = train_pairs(0).video_P.unique()
    held = videos[torch.randperm(len(videos), generator=generator)][: math.ceil(len(videos) / 5)]
    held_N = torch.isin(train_pairs(0).video_P, held)
    assert held_N.sum() == 4 * len(held) == 12  # a held-out video with all of its captions
    for power in range(-8, 9):
        errors[power] = held_out_errors(x_NM[order_N], v_ND[order_N], held_N[order_N], [10.0**power])[0]
    best = min(errors, key=lambda power: errors[power])
    assert -8 < best < 8
    with torch.no_grad():
        assert method._ridge(train_pairs(0), generator_for(3, "x")) == 10.0**best


def test_a_lambda_that_float64_cannot_tell_from_zero_is_raised() -> None:
    """Fewer pairs than features: without a floor the factorisation would fail."""
    method = ranpac(0, features=300, lowest=-20, highest=-20)
    assert torch.isfinite(method.map_MD).all()


def test_adapters_learn_in_the_first_session_alone_and_the_sums_are_of_what_they_give() -> None:
    method = make("ranpac", features=60, first_session=3, adapter_lr=2e-3)
    assert isinstance(method, RanPAC)
    learn(method, 0)
    first = {name: value.clone() for name, value in method.head.state_dict().items()}
    assert first["caption.up"].abs().max() > 1e-3
    assert first["frame.up"].abs().max() > 1e-3
    learn(method, 1)
    assert all(torch.equal(value, first[name]) for name, value in method.head.state_dict().items())
    adapted_D = torch.cat([regressed(method, task)[1] for task in (0, 1)]).sum(0)
    assert_close(method.sums.video_CD.sum(0), adapted_D, rtol=1e-6, atol=1e-5)
    raw_D = sum(normalize(masked_mean(*train_pairs(task).pairs(ALL).video)).double().sum(0) for task in (0, 1))
    assert not torch.allclose(adapted_D, raw_D, atol=1e-3)


def test_the_first_session_lowers_the_contrastive_loss_of_its_task() -> None:
    losses = {}
    for passes in (0, 3):
        method = make("ranpac", features=20, first_session=passes, adapter_lr=2e-3)
        assert isinstance(method, RanPAC)
        begin(method, 0)
        data = train_pairs(0)
        method._first_session(data, generator_for(0, "end"))
        batch = data.pairs(ALL)
        with torch.no_grad():
            text_ND = normalize(method.adapted_text(batch.text).pooled_ND)
            sim_NN = text_ND @ method.encode_video(batch.video).pooled_MD.T
        losses[passes] = float(symmetric_contrastive(sim_NN, 17.6, batch.video_N[:, None] == batch.video_N[None]))
    assert losses[3] < losses[0] - 0.05


def test_a_task_of_one_video_can_be_fitted() -> None:
    method = make("ranpac", features=20, first_session=0)
    data = train_pairs(0)
    data.lengths_P = data.lengths_P[:1]  # the table's length
    begin(method, 0)
    method.end_task(data, torch.Generator())
    assert all(torch.isfinite(value).all() for value in method.state_dict().values())
