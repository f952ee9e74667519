"""Ridge regression: the solution on all data at once, whatever the order of the tasks."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.testing import assert_close

from ctvr_bench.bench.run.budget import stored_bytes, trainable_parameters
from ctvr_bench.methods.ridge import Ridge
from ctvr_bench.methods.shared.base import is_trained, learns
from ctvr_bench.methods.shared.heads import masked_mean
from ctvr_bench.methods.shared.regression import Sums
from tests.learning import learn, make, train_pairs


def ridge(*tasks: int, **values: object) -> Ridge:
    method = make("ridge", **{"features": 200, "hold_out": 5, **values})  # so that regression helps on these pairs
    assert isinstance(method, Ridge)
    learn(method, *tasks)
    return method


class Pairs(NamedTuple):
    """All training pairs: raw captions, unit captions and videos, video and category rows."""

    caption_ND: Tensor
    text_ND: Tensor
    video_ND: Tensor
    video_N: Tensor
    category_N: Tensor


def all_pairs() -> Pairs:
    data = train_pairs(0, 1, 2)
    batch = data.pairs(torch.arange(len(data)))
    text_ND, video_ND = normalize(batch.text.pooled_ND).double(), normalize(masked_mean(*batch.video)).double()
    return Pairs(batch.text.pooled_ND, text_ND, video_ND, batch.video_N, batch.category_N)


def random_features(method: Ridge, caption_ND: Tensor) -> Tensor:
    centred_ND = caption_ND - caption_ND.mean(1, keepdim=True)
    scaled_ND = centred_ND / (centred_ND.square().mean(1, keepdim=True) + 1e-5).sqrt()
    return (scaled_ND @ method.projection_DM).clamp(min=0).double()


def least_squares(x_NM: Tensor, y_ND: Tensor, penalty: float) -> Tensor:
    """The ridge solution, as ordinary least squares with rows that ask for zero."""
    rows = torch.cat([x_NM, penalty**0.5 * torch.eye(x_NM.shape[1], dtype=torch.float64)])
    targets = torch.cat([y_ND, torch.zeros(x_NM.shape[1], y_ND.shape[1], dtype=torch.float64)])
    return torch.from_numpy(np.linalg.lstsq(rows.numpy(), targets.numpy(), rcond=None)[0])


def test_ridge_is_the_least_squares_solution_on_all_data_at_once() -> None:
    method, pairs = ridge(0, 1, 2, lowest=4, highest=4), all_pairs()
    centred_ND = pairs.video_ND - pairs.video_ND.mean(0)
    expected_MD = least_squares(random_features(method, pairs.caption_ND), centred_ND, 1e4)
    learned_MD = method.map_MD.detach().double()
    share = (learned_MD * expected_MD).sum() / expected_MD.square().sum()
    assert share > 0.1
    assert_close(learned_MD, share * expected_MD, rtol=1e-4, atol=1e-8)


def test_ridge_does_not_depend_on_the_order_of_tasks() -> None:
    maps = [ridge(*order).map_MD for order in itertools.permutations(range(3))]
    for other in maps[1:]:
        assert_close(maps[0], other, rtol=1e-5, atol=1e-8)
    assert (ridge(0, 1).map_MD - maps[0]).abs().max() > 1e-4


def about_their_category(pairs: Pairs) -> Tensor:
    """Each pair's video less the mean of its category, a pair at a time."""
    return torch.stack(
        [
            video_D - pairs.video_ND[pairs.category_N == category].mean(0)
            for video_D, category in zip(pairs.video_ND, pairs.category_N, strict=True)
        ]
    )


def distinctness(x_NM: Tensor, text_ND: Tensor, own_ND: Tensor, map_MD: Tensor, every_ND: Tensor) -> float:
    """d of the docstring, a pair at a time; a query's spread is that of its scores of all videos within categories."""
    own, squares = 0.0, 0.0
    for x_M, text_D, own_D in zip(x_NM, text_ND, own_ND, strict=True):
        query_D = text_D + x_M @ map_MD
        own += float(query_D @ own_D)
        squares += float((every_ND @ query_D).square().mean())
    return own / squares**0.5


def test_lambda_and_share_let_held_out_videos_stand_out_most() -> None:
    method, pairs = ridge(0, 1, 2, lowest=1, highest=6), all_pairs()
    x_NM, held_N = random_features(method, pairs.caption_ND), pairs.video_N % 5 == 0
    held = Pairs(*(part[held_N] for part in pairs))
    centred_ND = pairs.video_ND - pairs.video_ND.mean(0)
    own_ND, every_ND = about_their_category(held), about_their_category(pairs)
    found = {}
    for power in range(1, 7):
        map_MD = least_squares(x_NM[~held_N], centred_ND[~held_N], 10.0**power)
        for share in np.linspace(0, 40, 81).tolist():
            found[power, share] = distinctness(x_NM[held_N], held.text_ND, own_ND, share * map_MD, every_ND)
    power, share = max(found, key=lambda choice: found[choice])
    assert 1 < power < 6  # real choices
    assert 0 < share < 40
    expected_MD = least_squares(x_NM, centred_ND, 10.0**power)
    learned_MD = method.map_MD.detach().double()
    assert ((learned_MD * expected_MD).sum() / expected_MD.square().sum()).item() == pytest.approx(share, abs=0.5)
    alike = (learned_MD * expected_MD).sum() / learned_MD.norm() / expected_MD.norm()
    assert alike.item() == pytest.approx(1, abs=1e-4)


def test_where_regression_only_hurts_the_share_is_zero() -> None:
    """Maps that point away from every video are not used at all; maps that are twice the query, wholly."""
    x_NM, text_ND = torch.eye(2), torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    video_ND, category_N = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.zeros(2, dtype=torch.int64)
    sums = Sums(2, 2, 1)
    sums.add(x_NM, text_ND, video_ND, category_N)
    spread_DD = torch.eye(2, dtype=torch.float64)
    assert sums.best_share(-video_ND.double(), spread_DD).share == 0
    assert sums.best_share(video_ND.double(), spread_DD).share == 100


def test_where_one_video_of_a_category_is_held_out_nothing_is_added() -> None:
    """Nothing stands out among one, so that rounding took shares of up to a hundred."""
    method = ridge(0, 1, 2, hold_out=1000)
    assert method.held_out.count_C.count_nonzero() == 1
    assert not method.map_MD.any()


def test_a_query_is_the_caption_and_what_is_predicted_of_its_video() -> None:
    method = ridge(0, 1, 2)
    assert method.map_MD.abs().max() > 1e-3
    text = train_pairs(0).text(torch.arange(4))
    with torch.no_grad():
        expected_ND = normalize(text.pooled_ND) + random_features(method, text.pooled_ND).float() @ method.map_MD
        assert_close(method.encode_text(text, 0).pooled_ND, normalize(expected_ND))


def test_ridge_counts_its_map_as_learned_and_its_sums_as_stored() -> None:
    method = ridge(0, features=60)
    assert trainable_parameters(method) == 60 * 32
    by_category = 6 * (60 + 32 + 32 + 1)
    assert stored_bytes(method) == 2 * 8 * (60 * 60 + 2 * 60 * 32 + 2 * 32 * 32 + 1 + by_category) + 32 * 60 * 4


def test_a_task_of_one_video_can_be_fitted() -> None:
    method = make("ridge", features=20)
    assert isinstance(method, Ridge)
    data = train_pairs(0)
    data.lengths_P = data.lengths_P[:1]  # the table's length
    method.end_task(data, torch.Generator())
    assert torch.isfinite(method.map_MD).all()


def test_gradient_descent_is_no_part_of_it() -> None:
    method = ridge(0)
    assert not is_trained(Ridge)
    assert learns(Ridge)
    with pytest.raises(NotImplementedError):
        method.loss(train_pairs(0).pairs(torch.arange(2)))
