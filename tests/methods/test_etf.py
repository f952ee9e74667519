"""The simplex ETF is exact; the released construction is what was measured of it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ctvr_bench.methods.shared.etf import random_projection_etf, simplex_etf


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cosine_deviations(etf_CD: Tensor) -> Tensor:
    """Off-diagonal cosines minus -1/(C-1), flat, float64."""
    num_classes = len(etf_CD)
    cosine_CC = etf_CD.double() @ etf_CD.double().T
    return cosine_CC[~torch.eye(num_classes, dtype=torch.bool)] + 1 / (num_classes - 1)


@pytest.mark.parametrize(("num_classes", "dim"), [(20, 512), (200, 512), (513, 512), (4, 4), (5, 4), (2, 1), (2, 512)])
def test_simplex_etf_is_equiangular_unit_and_centred(num_classes: int, dim: int) -> None:
    etf_CD = simplex_etf(num_classes, dim, seeded())
    assert etf_CD.shape == (num_classes, dim)
    assert etf_CD.dtype == torch.float32
    assert cosine_deviations(etf_CD).abs().max() < 1e-6
    torch.testing.assert_close(etf_CD.double().norm(dim=1), torch.ones(num_classes).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(etf_CD.mean(0), torch.zeros(dim), rtol=0, atol=1e-6)


@pytest.mark.parametrize("construct", [simplex_etf, random_projection_etf])
def test_equal_seeds_give_equal_bits_and_other_seeds_another_orientation(construct) -> None:  # type: ignore[no-untyped-def]
    assert torch.equal(construct(20, 64, seeded(3)), construct(20, 64, seeded(3)))
    assert (construct(20, 64, seeded(3)) - construct(20, 64, seeded(4))).abs().max() > 0.1


def test_every_category_can_point_anywhere() -> None:
    """Random orientation: over many draws the first category's direction averages out in every dimension."""
    first = torch.stack([simplex_etf(4, 5, seeded(seed))[0] for seed in range(400)])
    assert first.mean(0).abs().max() < 4 * (1 / 5 / 400) ** 0.5
    torch.testing.assert_close(first.square().mean(0), torch.full((5,), 1 / 5), rtol=0, atol=0.06)


@pytest.mark.parametrize(("num_classes", "max_deviation", "rms"), [(20, 0.10588, 0.04488), (200, 0.18688, 0.04429)])
def test_random_projection_deviates_as_the_release_was_measured_to(
    num_classes: int, max_deviation: float, rms: float
) -> None:
    etf_CD = random_projection_etf(num_classes, 512, seeded(0))
    deviation = cosine_deviations(etf_CD)
    assert deviation.abs().max().item() == pytest.approx(max_deviation, abs=1e-5)
    assert deviation.square().mean().sqrt().item() == pytest.approx(rms, abs=1e-5)
    torch.testing.assert_close(etf_CD.norm(dim=1), torch.ones(num_classes))


def test_more_classes_than_a_simplex_has_corners_are_refused() -> None:
    with pytest.raises(ValueError, match="6 categories needs features of at least 5 dimensions, got 4"):
        simplex_etf(6, 4, seeded())


@pytest.mark.parametrize("construct", [simplex_etf, random_projection_etf])
def test_a_single_class_is_refused(construct) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="at least 2 categories, got 1"):
        construct(1, 4, seeded())
