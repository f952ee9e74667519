"""A module's weights and their gradients as one vector: where penalties, averages and merges of weights are written.

Axes: P all numbers of a module's parameters, in the order of `module.parameters()`; N values.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def weights_of(module: nn.Module) -> Tensor:
    """weights_P, through which gradients flow; a copy."""
    return torch.cat([parameter.reshape(-1) for parameter in module.parameters()])


@torch.no_grad()
def set_weights(module: nn.Module, weights_P: Tensor) -> None:
    """Overwrite the module's parameters, in place."""
    for parameter, part in _parts(module, weights_P):
        parameter.copy_(part)


@contextmanager
def swapped_weights(module: nn.Module, weights_P: Tensor) -> Iterator[None]:
    """Other weights for as long as the block runs; the module's own come back bit for bit."""
    own_P = weights_of(module).detach()
    set_weights(module, weights_P)
    try:
        yield
    finally:
        set_weights(module, own_P)


def gradient_of(module: nn.Module) -> Tensor:
    """gradient_P as the last backward left it; zero where a parameter has none."""
    gradients = [(p, p.grad) for p in module.parameters()]
    return torch.cat([(torch.zeros_like(p) if grad is None else grad).reshape(-1) for p, grad in gradients])


def set_gradient(module: nn.Module, gradient_P: Tensor) -> None:
    """Overwrite the module's gradients; a parameter without one stays without."""
    for parameter, part in _parts(module, gradient_P):
        if parameter.grad is not None:
            parameter.grad.copy_(part)


def gradient_rows(value_N: Tensor, module: nn.Module) -> Tensor:
    """gradient_NP of each of the N values with respect to the module's weights, in one batched backward."""
    parameters = list(module.parameters())
    unit_NN = torch.eye(len(value_N), dtype=value_N.dtype, device=value_N.device)
    rows = torch.autograd.grad(value_N, parameters, unit_NN, is_grads_batched=True, allow_unused=True)
    pairs = zip(parameters, rows, strict=True)
    return torch.cat([_row_block(parameter, row, len(value_N)) for parameter, row in pairs], 1)


def _row_block(parameter: Tensor, row: Tensor | None, count: int) -> Tensor:
    return parameter.new_zeros(count, parameter.numel()) if row is None else row.reshape(count, -1)


def _parts(module: nn.Module, vector_P: Tensor) -> list[tuple[nn.Parameter, Tensor]]:
    parameters = list(module.parameters())
    parts = vector_P.split([parameter.numel() for parameter in parameters])
    return [(parameter, part.view_as(parameter)) for parameter, part in zip(parameters, parts, strict=True)]
