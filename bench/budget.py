"""Operations of a method, counted on one step and on one pair, and a watch for the time that a part takes."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.training import generator_for
from features.streams import PairTable
from methods.base import Method, TrainedConfig


class Stopwatch:
    """Seconds spent inside `running`."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - start


def step_flops(method: Method, data: PairTable) -> int:
    """Operations of one full training step, forward and backward; the method is left as it is."""
    if not isinstance(method.config, TrainedConfig):
        return 0
    twin = copy.deepcopy(method).train()
    draws = generator_for(0, "count")
    batch = twin.prepare(data.pairs(torch.arange(min(method.config.batch_size, len(data)))), draws)
    with FlopCounterMode(display=False) as counter:
        torch.stack(list(twin.loss(batch).values())).sum().backward()
    return int(counter.get_total_flops())


@torch.no_grad()
def pair_flops(method: Method, test: PairTable) -> int:
    """Operations of encoding one query and one video, averaged over the first of them."""
    index = torch.arange(min(16, len(test)))
    shard = max(method.task.position, 0)
    with FlopCounterMode(display=False) as counter:
        method.encode_text(test.text(index), shard)
        method.encode_gallery(test.video(index), shard)
    return int(counter.get_total_flops()) // len(index)
