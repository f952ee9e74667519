"""What a method costs: numbers trained and stored, operations of a step and of a pair, memory."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from ctvr_bench.bench.run.training import generator_for, only_stepped, view_of
from ctvr_bench.features.streams import PairTable
from ctvr_bench.methods.shared.base import Method, TrainedConfig, learns


class _Counter(TorchDispatchMode):
    """torch's own formulae for products and convolutions, without its module tracker, which fails under no_grad."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch's compiler is loaded, for two seconds, to be told that nothing here is for it

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += int(formula(*args, **(kwargs or {}), out_val=out))
        return out


def trainable_parameters(method: Method) -> int:
    """How many numbers the learning of a task may change."""
    return sum(parameter.numel() for parameter in _moved(method)) if learns(type(method)) else 0


def stored_bytes(method: Method) -> int:
    """Bytes kept beside the trainable weights: teachers, buffers, prototypes, replayed samples."""
    moved = {id(parameter) for parameter in _moved(method)}
    frozen = [parameter for parameter in method.parameters() if id(parameter) not in moved]
    return sum(tensor.numel() * tensor.element_size() for tensor in [*frozen, *method.buffers()])


def _moved(method: Method) -> list[nn.Parameter]:
    return [parameter for group in method.parameter_groups() if group.rate for parameter in group.parameters]


def step_flops(method: Method, data: PairTable) -> int:
    """Operations of a training step on a random full batch, forward and backward; the method is left as it is."""
    if not isinstance(method.config, TrainedConfig):
        return 0
    twin = copy.deepcopy(method).train()
    data = view_of(twin, data)
    index_N = next(data.shuffled(method.config.batch_size, generator_for(0, "count", "batch")))
    batch = twin.prepare(data.pairs(index_N), generator_for(0, "count"))
    counter = _Counter()
    with only_stepped(twin), counter:
        torch.stack(list(twin.loss(batch).values())).sum().backward()
    return counter.total


@torch.no_grad()
def pair_flops(method: Method, test: PairTable) -> int:
    """Operations of encoding one query and one video, averaged over the first of them."""
    index = torch.arange(min(16, len(test)))
    shard = max(method.task.position, 0)
    counter = _Counter()
    with counter:
        method.encode_text(test.text(index), shard)
        method.encode_gallery(test.video(index), shard)
    return counter.total // len(index)
