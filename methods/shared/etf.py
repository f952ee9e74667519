"""Equiangular targets: one unit vector per category, all as far apart as C vectors can be.

Axes: C categories, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ctvr_bench.features.errors import InputError
from ctvr_bench.methods.shared.similarity import normalise


def simplex_etf(num_classes: int, dim: int, generator: torch.Generator) -> Tensor:
    """A randomly oriented exact simplex equiangular tight frame, [C, D] float32, unit rows, on the generator's device.

    E = sqrt(C/(C-1)) (I - 11^T/C) U^T with U^T U = I, so that e_c . e_k = -1/(C-1) for c != k        Papyan et al. 2020
    Written here as E = sqrt(C/(C-1)) H Q^T: the columns of H [C, C-1] are an orthonormal basis of the complement of the
    ones vector (H H^T = I - 11^T/C) and Q [D, C-1] is a random orthonormal basis. Only C-1 dimensions are spanned, so
    C = D + 1 works too, where no U exists. Computed on the CPU in float64: one CPU generator state, one result.
    Raises InputError for C < 2 and for C > D + 1.

    >>> etf_CD = simplex_etf(3, 8, torch.Generator().manual_seed(0))
    >>> (etf_CD @ etf_CD.T)[0, 1].round(decimals=4)
    tensor(-0.5000)
    """
    _check_size(num_classes, dim)
    gaussian = torch.randn(dim, num_classes - 1, generator=generator, device=generator.device, dtype=torch.float64)
    return _simplex_along(_orthonormal(gaussian.cpu())).to(generator.device, torch.float32)


def simplex_in_directions_of(rows_RD: Tensor, num_classes: int, generator: torch.Generator) -> Tensor:
    """An exact simplex like `simplex_etf`'s, [C, D] float32, that lies where the rows vary most.

    Q of `simplex_etf` is the first C-1 principal directions of the rows (about zero, as they come; centre them first).
    Rows that span fewer leave the rest to random directions orthogonal to theirs. Raises InputError as `simplex_etf`.
    """
    dim = rows_RD.shape[1]
    _check_size(num_classes, dim)
    value_K, direction_DK = torch.linalg.eigh(rows_RD.T.double() @ rows_RD.double())  # ascending
    spanned_DK = direction_DK.flip(1)[:, value_K.flip(0) > 1e-9 * value_K.max()][:, : num_classes - 1]
    largest_1K = spanned_DK.gather(0, spanned_DK.abs().argmax(0, keepdim=True))
    spanned_DK = spanned_DK * largest_1K.sign()  # as in _orthonormal: a direction's sign is LAPACK's choice
    missing = num_classes - 1 - spanned_DK.shape[1]
    gaussian = torch.randn(dim, missing, generator=generator, device=generator.device, dtype=torch.float64)
    return _simplex_along(_orthonormal(torch.cat([spanned_DK, gaussian.to(spanned_DK)], 1))).to(rows_RD)


def random_projection_etf(num_classes: int, dim: int, generator: torch.Generator) -> Tensor:
    """The StructAlign release's stand-in for a simplex ETF, [C, D] float32, unit rows, on the generator's device.

    E = n_rows( sqrt(C/(C-1)) (I - 11^T/C) W^T ) with W [D, C] of independent N(0, 1) entries, U of `simplex_etf` but
    not orthonormal, hence cosines that scatter by 1/sqrt(D) around -1/(C-1) (CTVR_AND_STRUCTALIGN 2.5, D3).
    A CPU generator seeded with 0 gives the release's matrix on a CPU. Raises InputError for C < 2.
    """
    if num_classes < 2:
        raise InputError(f"centred directions need at least 2 categories, got {num_classes}; add categories")
    gaussian_DC = torch.randn(dim, num_classes, generator=generator, device=generator.device)
    return normalise((gaussian_DC - gaussian_DC.mean(1, keepdim=True)).T)


def _check_size(num_classes: int, dim: int) -> None:
    if num_classes < 2:
        raise InputError(f"a simplex ETF needs at least 2 categories, got {num_classes}; merge or add categories")
    if num_classes > dim + 1:
        raise InputError(
            f"a simplex ETF of {num_classes} categories needs features of at least {num_classes - 1} dimensions, "
            f"got {dim}; set etf_basis=random_projection, or leave the method out"
        )


def _orthonormal(columns_DK: Tensor) -> Tensor:
    basis_DK, triangle_KK = torch.linalg.qr(columns_DK)
    # QR is unique only up to column signs, which LAPACK builds choose
    turned_DK: Tensor = basis_DK * triangle_KK.diagonal().sign()
    return turned_DK


def _simplex_along(basis_DK: Tensor) -> Tensor:
    """The simplex of C = K + 1 vertices whose span these orthonormal columns are, [C, D] float64."""
    num_classes = basis_DK.shape[1] + 1
    simplex_CD: Tensor = (num_classes / (num_classes - 1)) ** 0.5 * _helmert_basis(num_classes) @ basis_DK.T
    return simplex_CD


def _helmert_basis(size: int) -> Tensor:
    """Orthonormal columns orthogonal to ones, [size, size-1] float64: (1, .., 1, -k, 0, ..) / sqrt(k(k+1))."""
    k = torch.arange(1, size, dtype=torch.float64)
    columns = torch.ones(size, size - 1, dtype=torch.float64).triu() - torch.diag(k, -1)[:, : size - 1]
    return columns / (k * (k + 1)).sqrt()
