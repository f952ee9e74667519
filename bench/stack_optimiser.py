"""AdamW and its schedule for a stack of runs that may differ in learning rate, decay and warm-up."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bench.training import learning_rate_factor, make_optimiser
from methods.base import Method, TrainedConfig


class StackOptimiser:
    """AdamW over weights [S, ...], run s with the rate, decay and schedule of its own method.

    Where they are all alike this is the optimiser of a run alone. Else a step is made with rate 1 and no decay, u, of
    which each run takes its share: w <- (1 - lr_s wd_s) w + lr_s u. Decoupled decay makes AdamW linear in the rate
    (Loshchilov & Hutter 2019), and moments do not depend on it.
    """

    def __init__(self, weights: Sequence[Tensor], methods: Sequence[Method], pairs: int) -> None:
        self._weights = weights
        self._peaks = [method.learning_rate() for method in methods]
        self._configs = [method.config for method in methods if isinstance(method.config, TrainedConfig)]
        self._adam, self._schedule, self.total = make_optimiser(weights, methods[0], self._configs[0], pairs)
        recipes = zip(self._peaks, self._configs, strict=True)
        self._alike = len({(peak, config.weight_decay, config.warmup) for peak, config in recipes}) == 1
        if not self._alike:
            self._adam = torch.optim.AdamW(weights, lr=1.0, weight_decay=0.0, fused=True)
        self._made = 0

    def zero_grad(self) -> None:
        self._adam.zero_grad()

    @torch.no_grad()
    def step(self) -> None:
        if self._alike:
            self._adam.step()
            self._schedule.step()
            return
        before = [weight.clone() for weight in self._weights]
        self._adam.step()
        recipes = list(zip(self._peaks, self._configs, strict=True))
        rates = [peak * learning_rate_factor(self._made, self.total, config) for peak, config in recipes]
        keep = [1 - rate * config.weight_decay for rate, config in zip(rates, self._configs, strict=True)]
        for weight, old in zip(self._weights, before, strict=True):
            if weight.grad is None:
                continue
            shape = (-1, *(1 for _ in weight.shape[1:]))
            rate_S, keep_S = weight.new_tensor(rates).view(shape), weight.new_tensor(keep).view(shape)
            weight.copy_(keep_S * old + rate_S * (weight - old))
        self._made += 1
