from __future__ import annotations

import numpy as np
import torch

from ctvr_bench.bench.losses import DivergedError, means_of


def test_means_are_the_sums_in_the_order_of_the_steps_bit_for_bit() -> None:
    rng = torch.Generator().manual_seed(0)
    losses = [{"a": torch.rand(3, generator=rng) * 10**step, "b": torch.rand(3, generator=rng)} for step in range(7)]
    del losses[2]["b"]  # a term that a step lacks
    for run, found in enumerate(means_of(losses, 0, 0)):
        sums = {"a": np.float32(0), "b": np.float32(0)}
        for terms in losses:
            for name, value in terms.items():
                sums[name] = np.float32(sums[name] + value[run].numpy())
        assert found == {name: float(total) / 7 for name, total in sums.items()}


def test_a_run_that_leaves_all_bounds_is_named_and_its_neighbours_are_not() -> None:
    losses = [{"near": torch.ones(3), "far": torch.tensor([0.5, 2.0, 1.0])} for _ in range(4)]
    losses[1]["far"][0] = float("-inf")
    losses[2]["far"][0] = float("inf")  # their sum is not a number, and neither is the first
    losses[3]["near"][2] = 3e20  # finite, as is its mean of 7.5e19
    first, second, third = means_of(losses, 1, 4)
    assert second == {"near": 1.0, "far": 2.0}
    assert isinstance(first, DivergedError)
    assert "in step 2 of epoch 2 of task 5: near 1, far -inf;" in str(first)
    assert isinstance(third, DivergedError)
    assert "past 1e+20 in step 4 of epoch 2 of task 5: near 3e+20, far 1;" in str(third)
