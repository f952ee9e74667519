"""AdamW and its schedule for a stack of runs that may differ in learning rate, decay and warm-up."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ctvr_bench.bench.run.training import learning_rate_factor, make_optimiser, total_steps
from ctvr_bench.methods.shared.base import Method, TrainedConfig


class StackOptimiser:
    """AdamW over weights [S, ...], run s with the rate, decay and schedule of its own method.

    Where they are all alike this is the optimiser of a run alone. Else a step is made with rate 1 and no decay, u, of
    which each run takes its share: w <- (1 - lr_s wd_s) w + lr_s u. Decoupled decay makes AdamW linear in the rate
    (Loshchilov & Hutter 2019), and moments do not depend on it.
    """

    def __init__(self, weights: Sequence[Tensor], methods: Sequence[Method], pairs: int) -> None:
        configs = [method.config for method in methods if isinstance(method.config, TrainedConfig)]
        peaks = [method.learning_rate() for method in methods]
        recipes = list(zip(peaks, configs, strict=True))
        self._weights, self._made = weights, 0
        self._alike = len({(peak, config.weight_decay, config.warmup) for peak, config in recipes}) == 1
        if self._alike:
            self._adam, self._schedule, self.total = make_optimiser(weights, methods[0], configs[0], pairs)
            return
        self._adam = torch.optim.AdamW(weights, lr=1.0, weight_decay=0.0, fused=True)
        self.total = total_steps(methods[0], pairs)
        steps = range(self.total)  # made at once: a step then sends nothing to a GPU
        rates = [[peak * learning_rate_factor(step, self.total, config) for peak, config in recipes] for step in steps]
        self._rates_TS = weights[0].new_tensor(rates)
        self._keep_TS = 1 - self._rates_TS * weights[0].new_tensor([config.weight_decay for config in configs])

    def zero_grad(self) -> None:
        """As an optimiser's."""
        self._adam.zero_grad()

    @torch.no_grad()
    def step(self) -> None:
        """One step of every run, and of its schedule."""
        if self._alike:
            self._adam.step()
            self._schedule.step()
            return
        learned = [weight for weight in self._weights if weight.grad is not None]
        before = [weight.clone() for weight in learned]
        self._adam.step()
        rate_S, keep_S = self._rates_TS[self._made], self._keep_TS[self._made]
        for weight, old in zip(learned, before, strict=True):
            shape = (-1, *(1 for _ in weight.shape[1:]))
            weight.copy_(keep_S.view(shape) * old + rate_S.view(shape) * (weight - old))
        self._made += 1
