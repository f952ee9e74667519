"""What a suite is asked for: the fields of its file and of the command line, each checked before a store is opened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import torch

from ctvr_bench.bench.executors.cluster import Cluster
from ctvr_bench.bench.records.kept import Keep
from ctvr_bench.bench.records.record import Engine, FirstStage, IndexKind, Reencoded, Selection
from ctvr_bench.bench.run.jobs import ignore
from ctvr_bench.bench.suite.choices import recipe_given, tuned_values
from ctvr_bench.bench.suite.plugins import find_method, names_a_file
from ctvr_bench.bench.suite.stores import DEFAULT_WORLD, is_world, short_name, store_path
from ctvr_bench.features.errors import InputError, unknown_name
from ctvr_bench.features.stages import OnStage
from ctvr_bench.features.streams import StreamOptions
from ctvr_bench.features.tables import read_toml
from ctvr_bench.methods.shared.base import MethodConfig
from ctvr_bench.methods.shared.registry import Entry

MOST = 1000
"""Rows, seeds, orders, processes and threads of a suite: past any use, and short of what would be planned for hours."""

DEFAULT_METHODS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("zero_shot", {}),
    ("zero_shot", {"scoring": "word_frame"}),
    ("zero_shot", {"scoring": "fused"}),
    ("finetune", {}),
    ("joint", {}),
    ("lwf", {}),
    ("er", {}),
    ("attention_head", {}),
    ("l2p", {}),
    ("structalign", {}),
)


class MethodChoice(pydantic.BaseModel, frozen=True, extra="forbid"):
    """A method with Config values that differ from its defaults, as a suite file writes it; a bare name has none."""

    name: str
    set: dict[str, Any] = {}

    @pydantic.model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class SuiteConfig(pydantic.BaseModel, frozen=True, extra="forbid"):
    """A suite: what `run` does. The field names are those of a suite file.

    seeds: runs with seeds 0..seeds-1 (a method that is not trained runs once). orders: task orders 0..orders-1, 0 being
    the published one. set: values for single methods, as in {"finetune": {"lr": 1e-4}}; they reach every entry of that
    name. ensemble: auto trains a method's seeds, five at a time, as one stack (bench.executors.planning), off each
    alone; the numbers agree but for rounding.
    recipe: fixed trains with the Configs' own rates and epochs; auto finds both on each run's first task, for methods
    that are not given a rate, steps or epochs (bench.run.recipe); None is fixed on the embedded worlds, for which the
    defaults were made, and auto elsewhere.
    tuned: a file of values by method, as `tune` leaves it; a value that is given otherwise is stronger.
    shots, long_tail, validation, split, blurred: see features.streams.StreamOptions. limit: tasks, and queries of each,
    for a smoke test, whose numbers are marked everywhere and are no result.
    jobs: runs at the same time (0: one for each core, or one on CUDA). threads: of each run; it does not follow the
    machine, since the last bits of sums depend on it. executor: local processes, or the workers of a Dask cluster, at
    the address or in the file `scheduler`, else one of this machine's own; the bits are the same. stage: folder of each
    node's own disk to which the store is copied once (docs/cluster.md). against: the label of a row from which all
    others' differences are shown, over all stores.
    engine: what makes exact ranks: FAISS's exact index where one vector a side is compared, or counting, as auto does;
    the ranks are the same. measure: after which tasks galleries encoded again are ranked as a whole, `last` or
    `every`; each task's own is after every task. index: a FAISS index that is asked beside exact search, its loss
    shown next to R@K, for methods that compare one vector a side; rerank: items of it that the method scores again,
    then for all whose queries do not depend on the gallery.
    keep: what runs keep beside their ranks, of weights, embeddings and top=100 (bench.records.kept). It is part of what
    a finished run has, and not of what it is called: one that did not keep it is made again.
    """

    name: str = "default"
    store: Path
    stream: str | None = None
    methods: tuple[MethodChoice, ...] = pydantic.Field(
        default=tuple(MethodChoice(name=name, set=values) for name, values in DEFAULT_METHODS), max_length=MOST
    )
    set: dict[str, dict[str, Any]] = {}
    tuned: Path | None = None
    seeds: int = pydantic.Field(default=3, ge=1, le=MOST)
    orders: int = pydantic.Field(default=1, ge=1, le=MOST)
    recipe: Literal["fixed", "auto"] | None = None
    selection: Selection = "last"
    shots: int | None = None
    long_tail: float = 1.0
    validation: int = 0
    split: bool = False
    blurred: float = 0.0
    limit: dict[Literal["tasks", "queries"], Annotated[int, pydantic.Field(ge=1)]] = {}
    device: Literal["auto", "cpu", "cuda"] = "auto"
    ensemble: Literal["auto", "off"] = "auto"
    engine: Engine = "auto"
    measure: Reencoded = "last"
    index: IndexKind | None = None
    rerank: int = pydantic.Field(default=0, ge=0)
    jobs: int = pydantic.Field(default=0, ge=0, le=MOST)
    threads: int = pydantic.Field(default=1, ge=1, le=MOST)
    executor: Literal["local", "dask"] = "local"
    scheduler: str | None = None
    stage: Path | None = None
    out: Path = Path("results/runs")
    against: str | None = None
    keep: tuple[str, ...] = ()

    @pydantic.field_validator("store", mode="before")
    @classmethod
    def _world(cls, store: Any) -> Any:
        return store_path(store) if is_world(store) else store

    @pydantic.field_validator("name")
    @classmethod
    def _is_below_out(cls, name: str) -> str:
        parts = name.split("/")
        if any(part.strip() in ("", ".", "..") or "\0" in part or "\\" in part for part in parts):
            raise ValueError("a suite's name is the name of a folder below out, such as 'default' or 'msrvtt/first'")
        return name

    @pydantic.field_validator("keep", mode="before")
    @classmethod
    def _can_be_kept(cls, keep: Any) -> Any:
        texts = [keep] if isinstance(keep, str) else keep
        if not (isinstance(texts, list | tuple) and all(isinstance(text, str) for text in texts)):
            return keep
        words = [word for text in texts for word in text.split(",")]
        try:
            Keep.read(words)
        except InputError as error:
            raise ValueError(str(error)) from error
        return words

    @pydantic.model_validator(mode="after")
    def _reranks_an_index(self) -> SuiteConfig:
        if self.rerank and self.index is None:
            raise ValueError("rerank needs an index to take its first items from, as in index = 'hnsw'")
        return self

    @pydantic.model_validator(mode="after")
    def _has_a_cluster(self) -> SuiteConfig:
        if self.executor == "local" and (self.scheduler is not None or self.stage is not None):
            raise ValueError("scheduler and stage are of a cluster; add executor = 'dask'")
        return self

    @property
    def cluster(self) -> Cluster | None:
        """Where runs are made; None for processes of this machine."""
        return None if self.executor == "local" else Cluster(self.scheduler, self.stage, find_method)

    @property
    def chosen_device(self) -> str:
        """'cpu' or 'cuda'. A cluster's workers say themselves whether they have a GPU."""
        return self.device if self.scheduler and self.device != "auto" else pick_device(self.device)

    @property
    def first_stage(self) -> FirstStage | None:
        """The index that is asked beside exact search."""
        return None if self.index is None else FirstStage(index=self.index, rerank=self.rerank)

    @property
    def kept(self) -> Keep:
        """What each run keeps beside its ranks."""
        return Keep.read(self.keep)

    @property
    def stream_options(self) -> StreamOptions:
        """Of the published order."""
        fields = ("shots", "long_tail", "validation", "split", "blurred")
        given: dict[str, Any] = {field: getattr(self, field) for field in fields}
        return StreamOptions(**given, tasks=self.limit.get("tasks"), queries=self.limit.get("queries"))

    @property
    def directory(self) -> Path:
        return self.out / self.name


def read_suites(
    path: Path,
    overrides: dict[str, Any],
    on_stage: OnStage = ignore,
    leave_out: Callable[[str], bool] = lambda store: False,
) -> list[SuiteConfig]:
    """The suites of a TOML file: one, or with `stores` in place of `store` one for each, NAME/STORE.

    Paths in the file begin where it lies; without a store it is the default one. on_stage: of worlds that must be
    built first. leave_out: told each store as it is named; the suites of those for which it is true are not returned.
    """
    values = read_toml(path, "a suite")
    stores = values.pop("stores", [values.get("store", DEFAULT_WORLD)])
    if not isinstance(stores, list) or not stores or not all(isinstance(store, str) for store in stores):
        raise InputError(f"{path}: stores: a list of files or worlds, as in ['moving-shapes:0']; got {stores!r}")
    if isinstance(methods := values.get("methods"), list):
        values["methods"] = [_beside(path, choice) for choice in methods]
    if "tuned" in values:
        values["tuned"] = path.parent / str(values["tuned"])
    values = {"name": path.stem, **values, **overrides}
    check_values(values, str(path))
    if "store" in overrides:
        if leave_out(str(overrides["store"])):
            return []
        return [make_suite({**values, "store": store_path(overrides["store"], on_stage)}, str(path))]
    names = [values["name"] if len(stores) == 1 else f"{values['name']}/{short_name(store)}" for store in stores]
    named = [(store, name) for store, name in zip(stores, names, strict=True) if not leave_out(store)]
    places = [store_path(store if is_world(store) else path.parent / store, on_stage) for store, _ in named]
    each = [{**values, "store": place, "name": name} for place, (_, name) in zip(places, named, strict=True)]
    return [make_suite(one, str(path)) for one in each]


def _beside(path: Path, choice: Any) -> Any:
    """A method choice of a suite file; that of a method's file begins where the suite lies."""
    given = {"name": choice} if isinstance(choice, str) else choice
    if isinstance(given, dict) and names_a_file(str(given.get("name"))):
        return {**given, "name": str(path.parent / given["name"])}
    return choice


def make_suite(values: dict[str, Any], where: str) -> SuiteConfig:
    """A validated suite. Raises InputError with the field, what arrived, and the nearest known field."""
    try:
        return SuiteConfig.model_validate(values)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            raise unknown_name(f"field in {where}:", field, SuiteConfig.model_fields) from error
        raise InputError(f"{where}: {field}: {first['msg'].lower()}; got {first.get('input')!r}") from error


def placed(config: SuiteConfig, executor: str | None, scheduler: str | None, stage: Path | None) -> SuiteConfig:
    """The suite with its runs made elsewhere; None leaves a field as it is. Raises InputError as make_suite does."""
    given = {"executor": executor, "scheduler": scheduler, "stage": stage}
    changed = {field: value for field, value in given.items() if value is not None}
    return make_suite({**config.model_dump(), **changed}, "command line") if changed else config


def check_values(values: dict[str, Any], where: str) -> None:
    """Everything that can be known without a store, before one is built. Raises InputError."""
    config = make_suite({**values, "store": Path()}, where)
    configured(config)
    _ = config.stream_options, config.chosen_device


def configured(config: SuiteConfig, recipe: str = "fixed") -> list[tuple[Entry, MethodConfig]]:
    """The suite's methods with their values, every one checked."""
    entries = [find_method(choice.name) for choice in config.methods]
    for name in config.set:
        if name not in {entry.name for entry in entries}:
            raise unknown_name("method to set values of", name, {entry.name for entry in entries})
    tuned = {} if config.tuned is None else tuned_values(config.tuned)
    values = [
        {**tuned.get(entry.name, {}), **choice.set, **config.set.get(entry.name, {})}
        for choice, entry in zip(config.methods, entries, strict=True)
    ]
    return [(e, e.config(chosen | recipe_given(e, chosen, recipe))) for e, chosen in zip(entries, values, strict=True)]


def pick_device(name: str) -> str:
    """'cpu' or 'cuda'; auto takes CUDA where torch sees it. Raises InputError for CUDA without a GPU."""
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device 'cuda' needs a GPU that torch can see; none was found, use --device cpu")
    return "cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu"
