"""What a method is given to learn from: the pairs that it declares, and no others."""

from __future__ import annotations

import numpy as np
import pytest

from ctvr_bench.bench.run.jobs import training_rows
from tests.learning import make
from tests.stores import small_stream


@pytest.mark.parametrize(
    ("name", "learned_from"),
    [
        ("zero_shot", [[], [], []]),
        ("finetune", [[0], [1], [2]]),
        ("cumulative", [[0], [0, 1], [0, 1, 2]]),
        ("joint", [[0, 1, 2], [], []]),
    ],
)
def test_a_method_gets_the_pairs_that_it_declares_and_no_others(name: str, learned_from: list[list[int]]) -> None:
    stream = small_stream()
    assert len(stream) == len(learned_from)
    for task, sources in enumerate(learned_from):
        rows = training_rows(make(name), stream, task) or []
        assert [found.tolist() for found in rows] == [stream.tasks[source].train.tolist() for source in sources]
    assert all(len(np.unique(task.train)) == len(task.train) > 0 for task in stream.tasks)
