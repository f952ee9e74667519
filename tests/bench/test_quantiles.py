import math

import numpy as np
import pytest
from scipy import stats

from ctvr_bench.bench import quantiles

FREEDOMS = (1.0, 2.0, 3.7, 29.0, 1999.0)


@pytest.mark.parametrize("freedom", [*FREEDOMS, math.inf])
def test_students_quantiles_are_those_of_scipy_stats(freedom: float) -> None:
    tail = np.concatenate([np.logspace(-10, -1, 50), np.linspace(0.1, 0.9, 9)])
    np.testing.assert_array_equal(quantiles.t_isf(tail, freedom), stats.t.isf(tail, freedom))


@pytest.mark.parametrize("freedom", FREEDOMS)
def test_chi_squares_are_those_of_scipy_stats(freedom: float) -> None:
    ends = quantiles.chi2_ends(1e-13, freedom)
    assert ends == (stats.chi2.ppf(1e-13, freedom), stats.chi2.isf(1e-13, freedom))
    value = np.linspace(*ends, 40)
    np.testing.assert_array_equal(quantiles.chi2_pdf(value, freedom), stats.chi2.pdf(value, freedom))


def test_the_normal_is_that_of_scipy_stats() -> None:
    value = np.linspace(-8, 8, 65)
    np.testing.assert_array_equal(quantiles.normal_pdf(value), stats.norm.pdf(value))
    np.testing.assert_array_equal(quantiles.normal_sf(value), stats.norm.sf(value))


@pytest.mark.parametrize("freedom", FREEDOMS)
def test_powers_are_those_of_scipy_stats(freedom: float) -> None:
    for shift in (0.0, 0.5, 2.0, 6.0):
        for value in (0.7, 1.96, 4.3):
            expected = stats.nct.sf(value, freedom, shift)
            assert quantiles.noncentral_t_sf(value, freedom, shift) == pytest.approx(expected, abs=1e-10)
