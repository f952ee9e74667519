"""Methods on the small simulated store: made, trained a task, and given a bank of reference features."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ctvr_bench.bench.run.jobs import feature_spec
from ctvr_bench.bench.run.training import generator_for, learn_task
from ctvr_bench.features.streams import PairTable
from ctvr_bench.methods.shared.base import FeatureSpec, Method, ReferenceBank, TaskInfo
from ctvr_bench.methods.shared.registry import find_method
from tests.stores import small_store, small_stream


@cache
def small_spec() -> FeatureSpec:
    """Sizes of the small store, with a random reference bank in place of its own."""
    generator = torch.Generator().manual_seed(7)
    bank = ReferenceBank(*(10 * torch.randn(count, 32, generator=generator) for count in (40, 30)))
    return feature_spec(small_store(), small_stream())._replace(reference=bank)


def make(name: str, seed: int = 0, **values: Any) -> Method:
    """The registered method with these Config values; trained ones for one epoch unless they say otherwise."""
    entry = find_method(name)
    defaults = {"epochs": 1} if "epochs" in entry.method.Config.__dataclass_fields__ else {}
    return entry.method(entry.config({**defaults, **values}), small_spec(), generator_for(seed, "init")).eval()


def train_pairs(*tasks: int) -> PairTable:
    """Training pairs of these tasks of the small store."""
    return PairTable(small_store(), np.concatenate([small_stream().tasks[task].train for task in tasks]))


def stepped(method: Method) -> list[nn.Parameter]:
    """What the method's optimiser would step now."""
    return [parameter for group in method.parameter_groups() for parameter in group.parameters]


def begin(method: Method, task: int, pairs: int = 48) -> None:
    """Begin a task of the small store without training it."""
    method.begin_task(TaskInfo(task, pairs, small_stream().tasks[task].categories))


def learn(method: Method, *tasks: int, seed: int = 0) -> None:
    """Learn these tasks as a run does."""
    for task in tasks:
        data = train_pairs(task)
        learn_task(method, data, TaskInfo(task, len(data), small_stream().tasks[task].categories), seed)


@torch.no_grad()
def embeddings(method: Method, task: int = 0, shard: int | None = None) -> tuple[Tensor, Tensor]:
    """Pooled captions and videos of a task's first training pairs, as asked of and kept in a shard."""
    pairs, shard = train_pairs(task).pairs(torch.arange(12)), task if shard is None else shard
    return method.encode_text(pairs.text, shard).pooled_ND, method.encode_gallery(pairs.video, shard).pooled_MD
