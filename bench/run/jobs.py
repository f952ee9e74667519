"""Runs to be made: what a job says, the method that it begins with, and what is told while it goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch

from ctvr_bench.bench.records.kept import NOTHING, Keep
from ctvr_bench.bench.records.record import RankTable, Recipe, RunConfig, StoreId
from ctvr_bench.bench.run.training import Epoch, generator_for
from ctvr_bench.features.store import FeatureStore
from ctvr_bench.features.streams import PairTable, Stream
from ctvr_bench.methods.shared.base import FeatureSpec, Method, ReferenceBank, TrainedConfig, learns
from ctvr_bench.methods.shared.registry import Entry


@dataclass(frozen=True)
class Progress:
    """Where a run is: task of tasks (from 1), the epoch that just ended (None: evaluating).

    note: something that a person must be told.
    """

    label: str
    task: int
    tasks: int
    epoch: Epoch | None = None
    note: str = ""


Watch = Callable[[Progress], None]


def ignore(*_: object) -> None:
    """A watcher that looks away."""


@dataclass(frozen=True)
class Job:
    """A run to be made: the method's registry entry, its configuration, its name and place in tables.

    beside: the same run with other seeds or numbers, made in step with it so that they are trained together.
    made_by: digests of the suite's files that can change its numbers. keep: what is to be kept beside ranks.
    """

    entry: Entry
    config: RunConfig
    label: str
    position: int
    beside: tuple[Job, ...] = ()
    made_by: Mapping[str, str] = field(default_factory=dict)
    keep: Keep = NOTHING

    @property
    def group(self) -> tuple[Job, ...]:
        """This run and those beside it."""
        return self, *self.beside


class PairTables:
    """Pairs in memory, one table for all runs that use the same rows at the same time."""

    def __init__(self, store: FeatureStore, device: str) -> None:
        self.store, self.device = store, device
        self._tables: WeakValueDictionary[bytes, PairTable] = WeakValueDictionary()

    def of(self, rows: Sequence[np.ndarray[Any, Any]], *, asked: bool = False) -> PairTable:
        """The pairs of these captions; asked: queries, never a method's table, whose words stay in the file."""
        joined = np.concatenate(rows)
        key = asked.to_bytes() + joined.tobytes()
        table = self._tables.get(key)
        if table is None:
            self._tables[key] = table = PairTable(self.store, joined, self.device, mapped=asked)
        return table


def store_id(store: FeatureStore) -> StoreId:
    """How records name a store."""
    return StoreId(name=store.name, digest=store.digest, simulated=store.simulated, path=str(store.path))


def make_method(job: Job, spec: FeatureSpec, device: str, recipe: Recipe | None = None) -> Method:
    """The method as every run with this seed begins it; recipe: the rate and steps that take the place of its own."""
    config = job.entry.config(job.config.config)
    if recipe is not None:
        assert isinstance(config, TrainedConfig)
        config = replace(config, lr=recipe.lr, steps=recipe.steps)
    return job.entry.method(config, spec_for(job.entry, spec), generator_for(job.config.seed, "init")).to(device).eval()


def spec_for(entry: Entry, spec: FeatureSpec) -> FeatureSpec:
    """The sizes as the method is told them: without the reference bank, unless it learns with it."""
    return spec if entry.method.needs_reference else spec._replace(reference=None)


def feature_spec(store: FeatureStore, stream: Stream) -> FeatureSpec:
    """Sizes that methods are told, and the reference bank where the store has one."""
    _, num_frames, dim = store.feature("videos/frames").shape
    bank = None
    if store.has_reference:
        captions, frames = (store.feature(f"reference/{part}").astype(np.float32) for part in ("captions", "frames"))
        bank = ReferenceBank(torch.from_numpy(captions), torch.from_numpy(frames))
    return FeatureSpec(dim, num_frames, len(store.category_names), len(stream), bank)


def training_rows(method: Method, stream: Stream, task: int) -> list[np.ndarray[Any, Any]] | None:
    """Rows of the pairs that the method gets to learn a task from, by task; None where it learns nothing then.

    What it gets is declared by `sees`; nothing else is ever handed over.
    """
    if not learns(type(method)) or (method.sees == "all" and task > 0):
        return None
    seen = {"current": range(task, task + 1), "seen": range(task + 1), "all": range(len(stream))}[method.sees]
    return [stream.tasks[j].train for j in seen]


def empty_table(store: FeatureStore, stream: Stream) -> RankTable:
    """The table of ranks of a run that has asked nothing yet."""
    tasks = stream.tasks
    asked = [np.concatenate(task.asked) for task in tasks]
    captions = np.concatenate(asked)
    videos = store.caption_video_M[captions]
    size = len(captions)
    return RankTable(
        ranks={},
        best={},
        ahead_N=np.zeros(size, np.int32),
        before_N=np.zeros(size, np.int32),
        task_N=np.repeat(np.arange(len(tasks), dtype=np.int32), [len(rows) for rows in asked]),
        weights_T=np.array([len(task.categories) for task in tasks], np.int32),
        caption_N=captions,
        video_N=videos.astype(np.int64),
        category_N=store.category_N[videos].astype(np.int32),
    )


def load_tensors(method: Method, tensors: Mapping[str, torch.Tensor]) -> None:
    """Set parameters and buffers by their state-dict name; buffers may be new or have another shape."""
    missing = set(method.state_dict()) - set(tensors)
    if missing:
        raise ValueError(f"saved state of {method.name} lacks {', '.join(sorted(missing))}; start the run again")
    for name, tensor in tensors.items():
        path, _, leaf = name.rpartition(".")
        module = method.get_submodule(path)
        if leaf in dict(module.named_parameters(recurse=False)):
            module.get_parameter(leaf).data = tensor
        else:
            module.register_buffer(leaf, tensor)
