"""An accident of StructAlign's release that is kept as a switch (D6): gradients that are never cleared."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class StaleGradients(nn.Module):
    """Weights that are never stepped, gather gradients for ever and count in the clipped norm.

    They are the fixed projections and the similarity scale. Where `kept` is False there are none.
    """

    def __init__(self, fixed: Iterable[nn.Parameter], kept: bool) -> None:
        super().__init__()
        self._fixed = tuple(fixed) if kept else ()
        if kept:
            self.log_scale = nn.Parameter(torch.zeros(()))  # of the factor 1 on the similarity scale
        for place, weight in enumerate(self.weights):
            self.register_buffer(f"gathered_{place}", torch.zeros_like(weight))

    @property
    def weights(self) -> list[nn.Parameter]:
        """The scale's logarithm and the fixed projections."""
        return [*self.parameters(), *self._fixed]

    def scaled(self, scale: float) -> float | Tensor:
        """The scale, as something through which its own gradient flows where it is kept."""
        return scale * self.log_scale.exp() if self.weights else scale

    def add_what_gathered(self) -> None:
        """After a step's gradients are there: with those of all steps before."""
        for weight, gathered in zip(self.weights, self.buffers(), strict=True):
            if weight.grad is not None:
                weight.grad += gathered

    def gather(self) -> None:
        """After a step: what the next one begins with."""
        for weight, gathered in zip(self.weights, self.buffers(), strict=True):
            if weight.grad is not None:
                gathered.copy_(weight.grad)
