"""AdamW and its schedule for a stack of runs that may differ in learning rate, decay and warm-up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ctvr_bench.bench.run.training import Pace, learning_rate_factor, make_optimiser, pace_of
from ctvr_bench.methods.shared.adamw import AdamW
from ctvr_bench.methods.shared.base import Method, TrainedConfig, total_steps

ALIKE = "epsilon"
"""The fractional field of a Config that all runs of a stack share."""


class StackOptimiser:
    """AdamW over weights [S, ...], run s with the rates, decays and schedule of its own method.

    Where they are all alike this is the optimiser of a run alone. Else a step is made with rate 1 and no decay, u, of
    which each run takes its share: w <- (1 - lr_s wd_s) w + lr_s u. Decoupled decay makes AdamW linear in the rate
    (Loshchilov & Hutter 2019), and moments do not depend on it.
    weights: by their names in the methods. Raises ValueError for methods that group them differently.
    """

    def __init__(self, weights: Mapping[str, Tensor], methods: Sequence[Method], pairs: int) -> None:
        configs = [method.config for method in methods if isinstance(method.config, TrainedConfig)]
        groups = [_named_paces(method) for method in methods]
        if any([names for names, _ in mine] != [names for names, _ in groups[0]] for mine in groups):
            raise ValueError("the runs group their parameters differently")
        if len({config.epsilon for config in configs}) > 1:
            raise ValueError("the runs differ in epsilon")
        stepped = [[weights[name] for name in names] for names, _ in groups[0]]
        paces = [[mine[g][1] for mine in groups] for g in range(len(stepped))]  # of each group, for each run
        self._made, self.total = 0, total_steps(methods[0], pairs)
        self._alike = len({(config.warmup, config.later_warmup) for config in configs}) == 1 and all(
            len(set(each)) == 1 for each in paces
        )
        if self._alike:
            first = [(group, each[0]) for group, each in zip(stepped, paces, strict=True)]
            self._adam, self._schedule, _ = make_optimiser(first, methods[0], pairs)
            return
        self._adam = AdamW(
            [weight for group in stepped for weight in group],
            lr=1.0,
            weight_decay=0.0,
            eps=configs[0].epsilon,
            fused=True,
        )
        steps = range(self.total)  # made at once: a step then sends nothing to a GPU
        task = methods[0].task.position
        factors_TS = [[learning_rate_factor(step, self.total, config, task) for config in configs] for step in steps]
        self._groups = []
        for group, each in zip(stepped, paces, strict=True):
            rates = [[pace.lr * factor for pace, factor in zip(each, row, strict=True)] for row in factors_TS]
            rates_TS = group[0].new_tensor(rates)
            self._groups.append((group, rates_TS, 1 - rates_TS * group[0].new_tensor([pace.decay for pace in each])))

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
        before = [[weight.clone() for weight in group] for group, _, _ in self._groups]
        self._adam.step()
        for (group, rates_TS, keep_TS), olds in zip(self._groups, before, strict=True):
            for weight, old in zip(group, olds, strict=True):
                if weight.grad is not None:
                    shape = (-1, *(1 for _ in weight.shape[1:]))
                    keep_S, rate_S = keep_TS[self._made].view(shape), rates_TS[self._made].view(shape)
                    weight.copy_(keep_S * old + rate_S * (weight - old))
        self._made += 1


def _named_paces(method: Method) -> list[tuple[list[str], Pace]]:
    """The names of each group's parameters, and how it is stepped."""
    assert isinstance(method.config, TrainedConfig)
    name_of = {id(parameter): name for name, parameter in method.named_parameters()}
    return [
        ([name_of[id(parameter)] for parameter in group.parameters], pace_of(group, method.config))
        for group in method.parameter_groups()
        if len(group.parameters)
    ]
