"""A small simulated store, and a method led over it: what the contract's checks and the tests work with."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ctvr_bench.bench.evaluation.protocol import Evaluator
from ctvr_bench.bench.run.jobs import feature_spec
from ctvr_bench.bench.run.training import generator_for, learn_task
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.simulation.config import SyntheticConfig
from ctvr_bench.features.simulation.write import generated_structure, synthesise
from ctvr_bench.features.store import FeatureStore, open_store
from ctvr_bench.features.streams import PairBatch, PairTable, Stream, TextBatch, VideoBatch, make_stream
from ctvr_bench.methods.shared.base import Method, TaskInfo, TrainedConfig
from ctvr_bench.methods.shared.registry import Entry

SCORINGS = ("cosine", "word_frame", "fused")
_folder = TemporaryDirectory(prefix="ctvr-trial-")


@cache
def small_store() -> FeatureStore:
    """Six categories in three tasks, 32-d, five frames, six training videos a category with four captions each."""
    path = Path(_folder.name) / "small.h5"
    structure = generated_structure(
        categories=6,
        tasks=3,
        train_per_category=6,
        test_per_category=5,
        validation_per_category=2,
        captions_per_train_video=4,
        seed=3,
    )
    knobs = SyntheticConfig(dim=32, frames=5, latent_dim=16, agreement=0.8, seed=5)  # not all is found without training
    synthesise(structure, knobs, path, name="small", reference=24)
    return open_store(path)


@cache
def small_stream() -> Stream:
    """The published order of the small store."""
    return make_stream(small_store())


def make(entry: Entry, seed: int = 0, **values: Any) -> Method:
    """The method with these Config values, as a run begins it; a trained one learns for one epoch."""
    spec = feature_spec(small_store(), small_stream())
    if not entry.method.needs_reference:
        spec = spec._replace(reference=None)
    epochs = {"epochs": 1} if issubclass(entry.method.Config, TrainedConfig) else {}
    return entry.method(entry.config({**epochs, **values}), spec, generator_for(seed, "init")).eval()


def scorings(entry: Entry) -> list[str]:
    """The kinds of scoring that the method's Config admits."""
    return [scoring for scoring in SCORINGS if _admits(entry, scoring)]


def train_pairs(*tasks: int) -> PairTable:
    """Training pairs of these tasks."""
    return PairTable(small_store(), np.concatenate([small_stream().tasks[task].train for task in tasks]))


def query_pairs() -> PairTable:
    """Test pairs of all tasks, which no method may learn from."""
    return PairTable(small_store(), np.concatenate([task.test for task in small_stream().tasks]))


def in_double(table: PairTable) -> PairTable:
    """The table with features in float64, where a check can tell a mistake from rounding."""
    for name in ("frames_VFD", "pooled_PD", "words_TD"):
        setattr(table, name, getattr(table, name).double())
    return table


def poison(table: PairTable, value: float | None = None) -> PairTable:
    """The table with `value`, or with large noise, in place of its features."""
    generator = torch.Generator().manual_seed(1)
    for features in (table.frames_VFD, table.pooled_PD, table.words_TD):
        features.copy_(
            30 * torch.randn(features.shape, generator=generator) if value is None else torch.full_like(features, value)
        )
    return table


def learn(method: Method, task: int, data: PairTable | None = None, seed: int = 0) -> None:
    """Learn a task as a run does."""
    data = train_pairs(task) if data is None else data
    learn_task(method, data, TaskInfo(task, len(data), small_stream().tasks[task].categories), seed)


def after(entry: Entry, *tasks: int) -> Method:
    """The method after it has learned these tasks, to be done with as one likes: whoever asks for the same next gets
    a copy of what was learned once.
    """
    key = entry.method, repr(sorted(entry.preset.items())), tasks
    if key not in _learned:
        method = make(entry)
        for task in tasks:
            learn(method, task)
        while len(_learned) > 1:
            del _learned[next(iter(_learned))]
        _learned[key] = method
    return copy.deepcopy(_learned[key])


_learned: dict[tuple[type[Method], str, tuple[int, ...]], Method] = {}
"""What the checks of one method ask for again and again: after the first task, and after two."""


def evaluator(test: PairTable) -> Evaluator:
    """What evaluates after each task, with these features in place of the test videos."""
    return Evaluator(test, [len(task.test) for task in small_stream().tasks])


def random_batch(pairs: int, words: int, category: int) -> PairBatch:
    """Pairs of one category with random features and captions of so many words."""
    generator = torch.Generator().manual_seed(pairs)
    pooled_ND, words_NLD, frames_NFD = (
        torch.randn(*shape, 32, generator=generator) for shape in ((pairs,), (pairs, words), (pairs, 5))
    )
    return PairBatch(
        TextBatch(pooled_ND, words_NLD, torch.ones(pairs, words, dtype=torch.bool)),
        VideoBatch(frames_NFD, torch.ones(pairs, 5, dtype=torch.bool)),
        torch.full((pairs,), category),
        torch.arange(pairs),
    )


def state_digest(method: Method) -> str:
    """Over every bit of parameters and buffers."""
    sha = hashlib.sha256()
    for name, value in sorted(method.state_dict().items()):
        sha.update(name.encode() + value.contiguous().numpy().tobytes())
    return sha.hexdigest()


def unsaved_tensors(method: Method) -> Iterator[str]:
    """Attributes in which the method holds tensors that are neither parameters nor saved buffers."""
    saved = {value.data_ptr() for value in method.state_dict(keep_vars=True).values() if value.numel()}
    ordinary = {*vars(torch.nn.Module()), "spec", "config", "task"}
    for path, module in method.named_modules():
        for name, value in vars(module).items():
            if name not in ordinary and any(tensor.data_ptr() not in saved for tensor in _tensors(value)):
                yield ".".join(filter(None, (path, name)))
    yield from sorted(set(dict(method.named_buffers())) - set(method.state_dict()))


def _tensors(value: object, depth: int = 4) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        if value.numel():
            yield value
    elif depth and isinstance(value, (list, tuple, set, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part, depth - 1)
    elif depth and hasattr(value, "__dict__") and not isinstance(value, (type, torch.nn.Module)):
        yield from _tensors(vars(value), depth - 1)


def _admits(entry: Entry, scoring: str) -> bool:
    try:
        entry.config({"scoring": scoring})
    except InputError:
        return False
    return True
