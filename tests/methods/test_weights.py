"""A module's weights and gradients as one vector."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from ctvr_bench.methods.shared.weights import (
    gradient_of,
    gradient_rows,
    set_gradient,
    set_weights,
    swapped_weights,
    weights_of,
)


class TwoLayers(nn.Module):
    """One layer that the values below use, and one that they do not."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.used = nn.Parameter(torch.randn(3, 4, generator=generator))
        self.idle = nn.Parameter(torch.randn(2, generator=generator))

    def forward(self, x_ND: Tensor) -> Tensor:
        return (x_ND @ self.used.T).tanh().sum(1)


def inputs() -> Tensor:
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(1))


def test_weights_are_written_back_as_they_were_read() -> None:
    module = TwoLayers()
    weights_P = weights_of(module).detach()
    set_weights(module, 2 * weights_P)
    assert_close(weights_of(module), 2 * weights_P, rtol=0, atol=0)
    assert module.idle.shape == (2,)


def test_gradients_flow_through_the_vector() -> None:
    module = TwoLayers()
    weights_of(module).square().sum().backward()
    assert_close(module.used.grad, 2 * module.used)


def test_a_parameter_without_gradient_counts_as_zero_and_stays_without() -> None:
    module = TwoLayers()
    module(inputs()).sum().backward()
    gradient_P = gradient_of(module)
    assert_close(gradient_P[-2:], torch.zeros(2))
    set_gradient(module, 3 * gradient_P)
    assert_close(gradient_of(module), 3 * gradient_P)
    assert module.idle.grad is None


def test_rows_of_gradients_are_those_of_one_backward_for_each_value() -> None:
    module = TwoLayers()
    rows_NP = gradient_rows(module(inputs()), module)
    for row_P, x_D in zip(rows_NP, inputs(), strict=True):
        module.zero_grad()
        module(x_D[None]).sum().backward()
        assert_close(row_P, gradient_of(module))


def test_swapped_weights_come_back_bit_for_bit_even_after_an_error() -> None:
    module = TwoLayers()
    before_P = weights_of(module).detach()

    def fail_inside() -> None:
        with swapped_weights(module, torch.zeros_like(before_P)):
            assert not weights_of(module).any()
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail_inside()
    assert torch.equal(weights_of(module), before_P)
