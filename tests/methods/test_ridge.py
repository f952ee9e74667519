"""Ridge regression: the solution on all data at once, whatever the order of the tasks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.testing import assert_close

from methods.heads import masked_mean
from methods.ridge import Ridge, Sums
from tests.learning import learn, make, train_pairs


def ridge(*tasks: int, **values: object) -> Ridge:
    method = make("ridge", **{"features": 60, **values})
    assert isinstance(method, Ridge)
    learn(method, *tasks)
    return method


def all_pairs() -> tuple[Tensor, Tensor, Tensor]:
    """Captions, what their videos add to them, and video rows of all tasks, in float64."""
    data = train_pairs(0, 1, 2)
    batch = data.pairs(torch.arange(len(data)))
    missing_ND = normalize(masked_mean(*batch.video)) - normalize(batch.text.pooled_ND)
    return batch.text.pooled_ND, missing_ND.double(), batch.video_N


def random_features(method: Ridge, caption_ND: Tensor) -> Tensor:
    centred_ND = caption_ND - caption_ND.mean(1, keepdim=True)
    scaled_ND = centred_ND / (centred_ND.square().mean(1, keepdim=True) + 1e-5).sqrt()
    return (scaled_ND @ method.projection_DM).clamp(min=0).double()


def test_ridge_is_the_least_squares_solution_on_all_data_at_once() -> None:
    method = ridge(0, 1, 2, lowest=1, highest=1)
    caption_ND, missing_ND, _ = all_pairs()
    x_NM = random_features(method, caption_ND)
    rows = torch.cat([x_NM, 10**0.5 * torch.eye(60, dtype=torch.float64)])
    targets = torch.cat([missing_ND, torch.zeros(60, 32, dtype=torch.float64)])
    expected_MD = np.linalg.lstsq(rows.numpy(), targets.numpy(), rcond=None)[0]
    assert_close(method.map_MD.detach().double(), torch.from_numpy(expected_MD), rtol=1e-4, atol=1e-5)


def test_ridge_does_not_depend_on_the_order_of_tasks() -> None:
    maps = [ridge(*order).map_MD for order in itertools.permutations(range(3))]
    for other in maps[1:]:
        assert_close(maps[0], other, rtol=1e-5, atol=1e-7)
    assert (ridge(0, 1).map_MD - maps[0]).abs().max() > 1e-3


def test_the_held_out_error_from_sums_is_that_of_the_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    x_NM, y_ND, map_MD = (torch.randn(*shape, generator=generator).double() for shape in ((9, 4), (9, 3), (4, 3)))
    sums = Sums(4, 3)
    sums.add(x_NM[:5], y_ND[:5])
    sums.add(x_NM[5:], y_ND[5:])
    assert_close(sums.squared_error(map_MD), (x_NM @ map_MD - y_ND).square().sum())


def test_ridges_lambda_has_the_least_error_on_videos_it_was_not_fitted_to() -> None:
    method = ridge(0, 1, 2, lowest=-2, highest=4, hold_out=3)
    caption_ND, missing_ND, video_N = all_pairs()
    x_NM, held_N = random_features(method, caption_ND), video_N % 3 == 0
    assert 0 < held_N.sum() < len(held_N)
    solutions, errors = [], []
    for power in range(-2, 5):
        penalty_MM = 10.0**power * torch.eye(60, dtype=torch.float64)
        fit, held = x_NM[~held_N], x_NM[held_N]
        map_MD = torch.linalg.solve(fit.T @ fit + penalty_MM, fit.T @ missing_ND[~held_N])
        errors.append((held @ map_MD - missing_ND[held_N]).square().sum().item())
        solutions.append(torch.linalg.solve(x_NM.T @ x_NM + penalty_MM, x_NM.T @ missing_ND))
    best = errors.index(min(errors))
    assert 0 < best < 6  # a real choice
    assert_close(method.map_MD.detach().double(), solutions[best], rtol=1e-3, atol=1e-4)


def test_a_query_is_the_caption_and_what_its_video_adds() -> None:
    method = ridge(0)
    text = train_pairs(0).text(torch.arange(4))
    with torch.no_grad():
        expected_ND = normalize(text.pooled_ND) + random_features(method, text.pooled_ND).float() @ method.map_MD
        assert_close(method.encode_text(text, 0).pooled_ND, normalize(expected_ND))


def test_ridge_counts_its_map_as_learned_and_its_sums_as_stored() -> None:
    method = ridge(0)
    assert method.trainable_parameters() == 60 * 32
    sums = 2 * (60 * 60 + 60 * 32 + 1) * 8
    assert method.stored_bytes() == sums + 32 * 60 * 4


def test_a_task_of_one_video_can_be_fitted() -> None:
    method = make("ridge", features=20)
    assert isinstance(method, Ridge)
    data = train_pairs(0)
    data.lengths_P = data.lengths_P[:1]  # the table's length
    method.fit_task(data, torch.Generator())
    assert torch.isfinite(method.map_MD).all()


def test_gradient_descent_is_no_part_of_it() -> None:
    method = ridge(0)
    assert not method.is_trained
    assert method.closed_form
    with pytest.raises(NotImplementedError):
        method.loss(train_pairs(0).pairs(torch.arange(2)))
