"""The loss terms of an epoch's steps: their means, or in which step they left all bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

EXPLODED = 1e20
"""A loss term of this size is as bad as one that is not finite."""


class DivergedError(RuntimeError):
    """A loss stopped being finite, or exploded."""


def means_of(losses: Sequence[Mapping[str, Tensor]], epoch: int, task: int) -> list[dict[str, float] | DivergedError]:
    """Mean of each loss term over an epoch's steps for each of S runs; in the place of one that diverged its error.

    losses: the terms of each step, [] or [S]; one that a step lacks is 0 there. They are read here for the first time,
    so that no step waits for a GPU. epoch, task: from 0.
    """
    names = list(dict.fromkeys(name for terms in losses for name in terms))
    zero = torch.zeros_like(next(iter(losses[0].values())))
    steps = [torch.stack([terms.get(name, zero) for name in names]).view(len(names), -1) for terms in losses]
    values_STK = torch.stack(steps).movedim(2, 0).cpu().numpy()
    return [_mean_or_error(names, values_TK, epoch, task) for values_TK in values_STK]


def _mean_or_error(
    names: Sequence[str], values_TK: npt.NDArray[np.floating], epoch: int, task: int
) -> dict[str, float] | DivergedError:
    bounded_T = (np.abs(values_TK) < EXPLODED).all(axis=1)
    if bounded_T.all():
        mean_K = np.cumsum(values_TK, axis=0)[-1].astype(float) / len(values_TK)  # summed step by step
        return dict(zip(names, mean_K.tolist(), strict=True))
    step = int(bounded_T.argmin())
    terms = ", ".join(f"{name} {value:g}" for name, value in zip(names, values_TK[step].tolist(), strict=True))
    where = f"step {step + 1} of epoch {epoch + 1} of task {task + 1}"
    return DivergedError(f"loss is not finite or past {EXPLODED:g} in {where}: {terms}; lower the lr")
