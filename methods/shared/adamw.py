"""torch's AdamW, without loading torch's compiler."""

from __future__ import annotations

import inspect
from typing import Any

import torch


def _plain(function: Any) -> Any:
    """A function of torch as it is written, without the wrapper that tells the compiler to leave it alone."""
    return inspect.unwrap(function)


class AdamW(torch.optim.AdamW):
    """torch's own numbers; only what its wrappers say to torch.compile is left out.

    The first call of such a wrapper loads the compiler, two seconds of every process that trains. Nothing here
    is compiled.
    """

    add_param_group = _plain(torch.optim.Optimizer.add_param_group)
    zero_grad = _plain(torch.optim.Optimizer.zero_grad)
    state_dict = _plain(torch.optim.Optimizer.state_dict)
    load_state_dict = _plain(torch.optim.Optimizer.load_state_dict)
    step = torch.no_grad()(_plain(torch.optim.AdamW.step))
