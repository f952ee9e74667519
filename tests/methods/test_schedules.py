"""Best-in-TIME: the running average of weights, and rates that fall over tasks."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from ctvr_bench.bench.run.training import pace_of
from ctvr_bench.features.streams import PairTable
from ctvr_bench.methods.best_in_time import BestInTime
from ctvr_bench.methods.shared.weights import weights_of
from tests.learning import begin, learn, make


class Watched(BestInTime):
    """Notes the weights that each task was begun with, ended with, and left."""

    def end_task(self, data: PairTable, generator: torch.Generator) -> None:
        trained_P = weights_of(self.head).detach().clone()
        super().end_task(data, generator)
        self.states = [*getattr(self, "states", []), (trained_P, weights_of(self.head).detach().clone())]


def watched(**values: object) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    plain = make("best_in_time", **values)
    method = Watched(plain.config, plain.spec, torch.Generator().manual_seed(0))
    start_P = weights_of(method.head).detach().clone()
    learn(method, 0, 1, 2)
    return start_P, method.states


def test_an_exponential_average_weighs_the_newest_task_with_w() -> None:
    average_P, states = watched(weight=0.3)
    for trained_P, deployed_P in states:
        assert (trained_P - average_P).abs().max() > 1e-4
        average_P = 0.7 * average_P + 0.3 * trained_P
        assert_close(deployed_P, average_P, rtol=1e-5, atol=1e-7)


def test_a_uniform_average_is_the_mean_of_the_start_and_of_every_tasks_weights() -> None:
    start_P, states = watched(average="uniform")
    seen = [start_P]
    for trained_P, deployed_P in states:
        seen.append(trained_P)
        assert_close(deployed_P, torch.stack(seen).mean(0), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("over_tasks", "factors"),
    [
        ("rsqrt", [1, 1 / math.sqrt(2), 1 / math.sqrt(3)]),
        ("cosine", [1, 0.75, 0.25]),  # three tasks: half of 1 + cos 60 and of 1 + cos 120 degrees
        ("constant", [1, 1, 1]),
    ],
)
def test_rates_fall_over_tasks(over_tasks: str, factors: list[float]) -> None:
    method = make("best_in_time", over_tasks=over_tasks, lr=0.4)
    assert isinstance(method, BestInTime)
    for task, factor in enumerate(factors):
        begin(method, task)
        (group,) = method.parameter_groups()
        assert pace_of(group, method.config).lr == pytest.approx(0.4 * factor)
        assert {id(p) for p in group.parameters} == {id(p) for p in method.parameters()}
    assert all(later <= earlier for earlier, later in pairwise(factors))


def test_at_a_constant_rate_it_is_wise_ft() -> None:
    mine = make("best_in_time", over_tasks="constant", weight=0.3, lr=1e-3)
    wise_ft = make("wise_ft", mix=0.3, lr=1e-3)
    for method in (mine, wise_ft):
        learn(method, 0, 1)
    assert torch.equal(weights_of(mine.head), weights_of(wise_ft.head))  # type: ignore[arg-type]
