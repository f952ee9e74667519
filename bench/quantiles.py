"""Densities and tails of the distributions that every report needs, on scipy.special.

scipy.stats has the same numbers, and takes longer to import than all else of a report to make; the tests compare them.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import special

Floats = npt.NDArray[np.float64]


def t_isf(tail: npt.ArrayLike, freedom: float) -> Floats:
    """What Student's t exceeds with this probability; freedom may be inf."""
    return np.asarray(-special.stdtrit(freedom, tail))


def noncentral_t_sf(value: float, freedom: float, shift: float) -> float:
    """P(noncentral t > value), to 1e-12; meant for powers, not for tails."""
    return float(1 - special.nctdtr(freedom, shift, value))


def chi2_ends(tail: float, freedom: float) -> tuple[float, float]:
    """What chi-square stays below, and what it exceeds, with this probability."""
    return float(2 * special.gammaincinv(freedom / 2, tail)), float(special.chdtri(freedom, tail))


def chi2_pdf(value: npt.ArrayLike, freedom: float) -> Floats:
    """x^(f/2 - 1) exp(-x/2) / ( 2^(f/2) Gamma(f/2) )"""
    x, half = np.asarray(value, np.float64), freedom / 2
    return np.asarray(np.exp(special.xlogy(half - 1, x) - x / 2 - special.gammaln(half) - np.log(2) * freedom / 2))


def normal_pdf(value: npt.ArrayLike) -> Floats:
    """exp(-x^2 / 2) / sqrt(2 pi)"""
    return np.asarray(np.exp(-(np.asarray(value) ** 2) / 2.0) / math.sqrt(2 * math.pi))


def normal_sf(value: npt.ArrayLike) -> Floats:
    """P(N(0, 1) > value)"""
    return np.asarray(special.ndtr(-np.asarray(value)))
