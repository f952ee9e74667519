"""What a run leaves on disk: configuration, ranks, derived metrics, training log and resumable state.

<run id>/run.json       everything that decides the numbers, and what happened (status, times, environment)
        /ranks.h5       per query, stage, gallery, scope and direction: its rank and the item that took rank 1
        /metrics.json   derived from ranks.h5, and derived again by `report --recompute`
        /training.jsonl one line for each epoch
        /kept/          weights, embeddings, first items, where `run` was asked to keep them (bench.records.kept)
        /state/         parameters and stored galleries after each task, while the run is unfinished
Every file is written beside its name and renamed, so that it is there whole or not at all.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pydantic

from ctvr_bench.bench.records.files import write_bytes
from ctvr_bench.bench.records.kept import NOTHING, Keep
from ctvr_bench.features import hdf5
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.schema import LIMITS
from ctvr_bench.features.whole import digest_of_file, read_whole

Ints = npt.NDArray[np.int32]
Selection = Literal["last", "validation", "test-oracle"]
Status = Literal["running", "done", "diverged", "failed"]
IndexKind = Literal["flat", "ivf", "hnsw", "pq"]
Engine = Literal["auto", "count", "faiss"]
Reencoded = Literal["last", "every"]
"""After which tasks re-encoded galleries of all tasks together are ranked: the last alone, or every one."""
PROTOCOL = 1
"""Number of the protocol's definition; a change that moves numbers raises it, and old runs are then run again."""


class StoreId(pydantic.BaseModel, frozen=True):
    """Which features a run used."""

    name: str
    digest: str
    simulated: bool
    path: str = pydantic.Field(exclude=True, default="")


class FirstStage(pydantic.BaseModel, frozen=True):
    """A FAISS index that is asked beside exact search. rerank: items that the method scores again; 0 for none."""

    index: IndexKind
    rerank: int = 0


class RunConfig(pydantic.BaseModel, frozen=True):
    """Everything that decides a run's numbers. config: all fields of the method's Config. options: of the stream.

    code: digest of the file or package of a method that is not one of the suite's; empty for those that are.
    first_stage: None where exact ranks are all that was asked for. engine: what was asked to make exact ranks.
    reencoded: whether re-encoded galleries of all tasks together are ranked after the last task or after every one.
    device: cpu or cuda. threads: of the run; sums of another number of threads end in other bits.
    harness: digest of the suite's own code that can change this run's numbers (bench.suite.code).
    stack: ids that the runs trained as one stack have alone, its own among them; empty for a run trained alone.
    """

    method: str
    config: dict[str, Any]
    stream: str
    options: dict[str, Any]
    seed: int
    selection: Selection
    store: StoreId
    protocol: int = PROTOCOL
    code: str = ""
    first_stage: FirstStage | None = None
    engine: Engine = "auto"
    reencoded: Reencoded = "last"
    device: str = "cpu"
    threads: int = 1
    harness: str = ""
    stack: tuple[str, ...] = ()

    @property
    def limit(self) -> str:
        """Which part of the stream a smoke test asks, as 'queries=100 tasks=2'; empty for the whole."""
        return " ".join(f"{name}={self.options[name]}" for name in LIMITS if self.options.get(name) is not None)

    @property
    def run_id(self) -> str:
        """Method, order and seed to read, and a digest of everything to be unique."""
        digest = hashlib.sha256(json.dumps(self.model_dump(), sort_keys=True).encode()).hexdigest()
        return f"{self.method}-o{self.options['order']}-s{self.seed}-{digest[:10]}"


class Cost(pydantic.BaseModel):
    """trainable: parameters that training may change. stored_bytes: kept beside them at the end. Times in seconds.

    encode_s: of evaluate_s, spent in the method's encoders; the rest is scores and ranks. step_flops: operations of one
    training step of the last task, forward and backward; train_flops: of all steps. pair_flops: of encoding one query
    and one video. Only matrix products and convolutions are counted, a multiplication and an addition each.
    lr: peak learning rate. task_steps: steps of a task, on average.
    """

    trainable: int
    stored_bytes: int
    load_s: float
    train_s: float
    evaluate_s: float
    write_s: float
    steps: int
    peak_memory_bytes: int
    encode_s: float = 0.0
    step_flops: int = 0
    train_flops: int = 0
    pair_flops: int = 0
    lr: float = 0.0
    task_steps: float = 0.0

    @property
    def seconds(self) -> float:
        """Of the whole run."""
        return self.load_s + self.train_s + self.evaluate_s + self.write_s


class RecipeTrial(pydantic.BaseModel):
    """What a rate and a number of steps did to the loss of held-out videos, with its standard error; None: diverged.

    videos: on which it was judged; a hopeless trial on those of the first fold alone (0: an older record).
    """

    lr: float
    steps: int
    videos: int = 0
    change: float | None
    error: float | None


class Recipe(pydantic.BaseModel):
    """What the auto recipe chose, and from what (bench.run.recipe).

    steps: of each task of the run. parts: tasks of the short stream that the trials learned; 0 in records of before it
    counted. videos: held out. seconds: that the search took.
    """

    lr: float
    steps: int
    scale: float
    videos: int
    parts: int = 0
    trials: list[RecipeTrial]
    seconds: float

    @property
    def told(self) -> bool:
        """Whether what was chosen lowered the loss by more than its standard error."""
        judged = [(t.change, t.error) for t in self.trials if t.videos in (0, self.videos)]
        change, error = min(((c, e) for c, e in judged if c is not None and e is not None), default=(0.0, 0.0))
        return -change > error


class RunRecord(pydantic.BaseModel):
    """run.json.

    label, position: name and place in the suite's table. source: how the method was named on the command line.
    reason: why a run diverged or failed. geometry: measures of the embedding space after each task.
    trained_on: count and digest of the videos of each training, pair by pair.
    recipe: the rate and steps that were found, where the Config says recipe = auto. engine: what made the exact ranks.
    together: runs in the stack that this one was trained in (bench.run.stacks), 1 if it was trained alone.
    remarks: what else happened, as that a task was learned alone because its stack failed.
    tasks: how many it finished. made_by: digests of the suite's files behind `config.harness`.
    derived_by: digest of the code that made metrics of the ranks.
    files: SHA-256 of metrics.json, ranks.h5, training.jsonl and of what is kept, once it ended. ended: when, in UTC.
    keep: what is kept beside its ranks.
    """

    label: str
    position: int
    config: RunConfig
    run_id: str
    status: Status
    reason: str = ""
    source: str = ""
    sees: str
    stores_samples: str
    fidelity: str
    deviations: str
    cost: Cost | None = None
    geometry: list[dict[str, float | None]] = []
    trained_on: list[str] = []
    recipe: Recipe | None = None
    engine: Literal["count", "faiss"] = "count"
    together: int = 1
    remarks: list[str] = []
    tasks: int = 0
    made_by: dict[str, str] = {}
    derived_by: str = ""
    files: dict[str, str] = {}
    keep: Keep = NOTHING
    ended: str = ""
    environment: dict[str, Any] = {}

    @property
    def trained(self) -> bool:
        """Whether anything was learned. What was not has no seeds to be unsure about, whatever it is called."""
        return bool(self.trained_on or (self.cost is not None and self.cost.steps))


@dataclass(frozen=True)
class RankTable:
    """ranks.h5 in memory.

    ranks[f"{gallery}/{scope}/{direction}"], best[...]: int32 [T, N] after each of T tasks for all N test queries, in
    learning order (the galleries: bench.evaluation.protocol); rank from 1, 0 where the query was not asked yet or this
    was not ranked after that task (`RunConfig.reencoded`); best: position of the top item, -1 likewise.
    ahead_N: rank in the own gallery just before the query's task was learned; before_N: before any training.
    task_N: task position of each query. weights_T: categories of each task. caption_N, video_N: rows in the store.
    category_N: category row of each query's video. Where several captions are asked of each video, a task's first ones
    come before its second ones and so on, and a top item's position is that of its video's first query.
    """

    ranks: dict[str, Ints]
    best: dict[str, Ints]
    ahead_N: Ints
    before_N: Ints
    task_N: Ints
    weights_T: Ints
    caption_N: npt.NDArray[np.int64]
    video_N: npt.NDArray[np.int64]
    category_N: Ints

    def save(self, path: Path) -> None:
        with hdf5.create_file(path) as file:
            file.set_attributes({"schema": "ctvr-ranks", "protocol": PROTOCOL})
            for key, values in self.ranks.items():
                file[f"ranks/{key}"] = values
            for key, values in self.best.items():
                file[f"best/{key}"] = values
            for name in _VECTORS:
                file[name] = getattr(self, name)

    @classmethod
    def load(cls, path: Path) -> RankTable:
        """Raises InputError where the file is missing or is no table of ranks."""
        file = hdf5.map_file(path)
        if file.attributes.get("schema") != "ctvr-ranks":
            raise InputError(f"{path}: is no table of ranks; name the ranks.h5 of a run")

        def group(prefix: str) -> dict[str, Ints]:
            return {name.removeprefix(prefix): v for name, v in file.arrays.items() if name.startswith(prefix)}

        vectors: dict[str, Any] = {name: file.arrays[name] for name in _VECTORS}
        return cls(ranks=group("ranks/"), best=group("best/"), **vectors)

    @property
    def first_n(self) -> npt.NDArray[np.int64]:
        """Positions of the first query of each of the n videos, in order."""
        return np.sort(np.unique(self.video_N, return_index=True)[1])

    def same_ranks(self, other: RankTable) -> bool:
        """Whether every rank and best item is the same, of every gallery and task."""
        one, two = self._ranked, other._ranked
        return one.keys() == two.keys() and all(np.array_equal(one[name], two[name]) for name in one)

    @property
    def _ranked(self) -> dict[str, Ints]:
        best = {f"best/{name}": values for name, values in self.best.items()}
        return {**self.ranks, **best, "ahead": self.ahead_N, "before": self.before_N}


_VECTORS = ("ahead_N", "before_N", "task_N", "weights_T", "caption_N", "video_N", "category_N")


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all; raises InputError where the folder cannot be written to."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all; NaN is refused."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def save_record(directory: Path, record: RunRecord) -> RunRecord:
    """Write a run's run.json, with the digests of its other files if it has ended, and one of its own."""
    names = ("metrics.json", "ranks.h5", "training.jsonl", *record.keep.files(record.tasks))
    ends = record.status in ("done", "diverged")
    files = {name: digest_of_file(directory / name) for name in names if ends and (directory / name).is_file()}
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    ended = "" if record.status == "running" else record.ended or now
    record = record.model_copy(update={"files": files, "ended": ended})
    if ends:
        with suppress(OSError):  # what an earlier try failed with
            (directory / "error.txt").unlink(missing_ok=True)
    write_checked(directory / "run.json", record.model_dump(mode="json"))
    return record


def read_record(directory: Path) -> RunRecord:
    """The run.json of a run. Raises InputError where it cannot be read: an unreadable result is never skipped."""
    path = directory / "run.json"
    try:
        record = RunRecord.model_validate(read_checked(path))
        if record.run_id != directory.name:
            raise ValueError(f"it is of another run, {record.run_id!r}")
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: cannot be read as a run ({reason}); remove or repeat it") from error
    return record


def write_checked(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file with a digest of its own values."""
    write_json(path, {**values, "digest": digest_of_values(values)})


def read_checked(path: Path) -> dict[str, Any]:
    """The values of such a file. Raises OSError, or ValueError and its like where they are not what was written."""
    values: dict[str, Any] = json.loads(read_whole(path).decode())
    written = values.pop("digest", None)
    if written not in (None, digest_of_values(values)):
        raise ValueError("it is not what was written")
    return values


def digest_of_values(values: Mapping[str, Any]) -> str:
    """SHA-256 of JSON values, whatever their layout and order. Raises ValueError for a number that is not finite."""
    try:
        text = json.dumps(values, sort_keys=True, allow_nan=False)
    except ValueError as error:
        raise ValueError("it holds a number that is not finite") from error
    return hashlib.sha256(text.encode()).hexdigest()


def finished_record(directory: Path, keep: Keep = NOTHING) -> RunRecord | None:
    """The run.json of a run that is done or diverged; None of any other, or where there is none. Raises InputError.

    keep: what it must have kept; None also of one that did not, or whose files are gone.
    """
    if not (directory / "run.json").is_file():
        return None
    record = read_record(directory)
    there = record.keep.covers(keep) and all((directory / name).is_file() for name in keep.files(record.tasks))
    return record if record.status in ("done", "diverged") and there else None
