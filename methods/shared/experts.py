"""Low-rank experts behind a router for each task (MoE-Adapters)."""

from __future__ import annotations

import math
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from ctvr_bench.methods.shared.base import FeatureSpec
from ctvr_bench.methods.shared.heads import MASKED, LowRank, fan_in_uniform, layer_norm, masked_mean, norm


class ExpertsConfig(Protocol):
    """The fields of MoEAdaptersConfig that the experts read."""

    @property
    def experts(self) -> int: ...
    @property
    def rank(self) -> int: ...
    @property
    def top_k(self) -> int: ...
    @property
    def activation(self) -> str: ...


class Experts(nn.Module):
    """E low-rank adapters, a router [E, D] for each task, which experts are frozen, and how often each was used."""

    frozen_E: Tensor
    uses_E: Tensor

    def __init__(self, config: ExpertsConfig, spec: FeatureSpec, generator: torch.Generator) -> None:
        super().__init__()
        self.top_k = config.top_k
        self.activation = functional.gelu if config.activation == "gelu" else functional.relu
        self.experts = nn.ModuleList(LowRank(spec.dim, config.rank, 1, generator) for _ in range(config.experts))
        shape = (config.experts, spec.dim)
        self.routers = nn.ParameterList(fan_in_uniform(shape, generator) for _ in range(spec.num_tasks))
        self.register_buffer("frozen_E", torch.zeros(config.experts, dtype=torch.bool))
        self.register_buffer("uses_E", torch.zeros(config.experts))

    def gates(self, query_ND: Tensor, task: int, noise_NE: Tensor | None = None) -> Tensor:
        logits_NE = layer_norm(query_ND) @ self.routers[task].T
        if noise_NE is not None:
            logits_NE = logits_NE + noise_NE
        least_N1 = logits_NE.topk(self.top_k, dim=-1).values[..., -1:]
        return torch.where(logits_NE >= least_N1, logits_NE, MASKED).softmax(-1)

    def forward(self, x_NLD: Tensor, gates_NE: Tensor, keep_NR: Tensor | None = None) -> Tensor:
        """Tokens with the chosen experts' residuals added."""
        return x_NLD + norm(x_NLD) * self._up(self._active(x_NLD, gates_NE, keep_NR))

    def mean(self, x_NLD: Tensor, mask_NL: Tensor, gates_NE: Tensor, keep_NR: Tensor | None = None) -> Tensor:
        """The mean [N, D] of `forward` over real tokens: the way up is linear, so that it takes one row a sample."""
        active_NLH = self._active(x_NLD, gates_NE, keep_NR)
        return masked_mean(x_NLD, mask_NL) + self._up(masked_mean(norm(x_NLD) * active_NLH, mask_NL))

    def _active(self, x_NLD: Tensor, gates_NE: Tensor, keep_NR: Tensor | None) -> Tensor:
        """All experts' hidden units times their gates, [N, L, E R]."""
        down_HD = torch.cat([expert.down[0] for expert in self.adapters])
        active_NLH: Tensor = self.activation(functional.linear(layer_norm(x_NLD), down_HD))
        gates_NER = gates_NE[:, :, None].expand(-1, -1, len(down_HD) // len(self.experts))
        gates_NER = gates_NER if keep_NR is None else gates_NER * keep_NR[:, None]
        return active_NLH * gates_NER.flatten(1)[:, None]

    def _up(self, active: Tensor) -> Tensor:
        up_DH = torch.cat([expert.up for expert in self.adapters], 1)
        shift: Tensor = functional.linear(active, up_DH) / math.sqrt(len(up_DH))
        return shift

    @property
    def adapters(self) -> list[LowRank]:
        """The experts, by their type."""
        return [expert for expert in self.experts if isinstance(expert, LowRank)]

    @torch.no_grad()
    def count_uses(self, query_ND: Tensor, task: int) -> None:
        self.uses_E = (self.gates(query_ND, task) > 0).float().mean(0)

    def freeze(self, count: int, among: Literal["open", "all"]) -> None:
        """Freeze the `count` experts that the last task used most, of those not frozen yet or of all."""
        uses_E = self.uses_E.masked_fill(self.frozen_E, -1.0) if among == "open" else self.uses_E
        most = uses_E.topk(min(count, len(uses_E))).indices
        self.frozen_E = self.frozen_E.clone()
        self.frozen_E[most[uses_E[most] > 0]] = True

    def trained_in(self, task: int) -> list[nn.Parameter]:
        """The task's router and what is not frozen."""
        pairs = zip(self.experts, self.frozen_E.tolist(), strict=True)
        return [self.routers[task], *(p for expert, frozen in pairs if not frozen for p in expert.parameters())]
