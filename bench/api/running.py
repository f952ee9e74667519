"""The suite as a library: stores, streams, methods of one's own, runs."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ctvr_bench.bench.api.results import Results, load
from ctvr_bench.bench.run.jobs import Progress
from ctvr_bench.bench.suite.config import check_values, make_suite
from ctvr_bench.bench.suite.controls import that_fit
from ctvr_bench.bench.suite.plugins import known_as
from ctvr_bench.bench.suite.stores import DEFAULT_WORLD, store_path
from ctvr_bench.bench.suite.suite import run_suite
from ctvr_bench.features import streams
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.store import FeatureStore
from ctvr_bench.features.store import open_store as open_file
from ctvr_bench.features.streams import Stream, StreamOptions
from ctvr_bench.methods.shared.base import Method

_Class = TypeVar("_Class", bound=type[Method])
Named = str | type[Method] | Mapping[str, Any]
"""A method: a name, `FILE.py:CLASS`, a class, or {"name": any of these, "set": {field: value}}."""


def run(
    methods: Sequence[Named] | Named | None = None,
    store: str | os.PathLike[str] | FeatureStore = DEFAULT_WORLD,
    *,
    seeds: int = 3,
    orders: int = 1,
    on_epoch: Callable[[Progress], object] | None = None,
    on_task: Callable[[Progress], object] | None = None,
    jobs: int = 1,
    **fields: Any,
) -> Results:
    """Run methods over a stream, only what is missing, and return the results.

    methods: default: those of the default suite that fit the store; a warning names those that do not. A class may be
    written in a notebook.
    store: a file, an open store, or a world of moving shapes, which is built on first use.
    on_epoch: called after each epoch with label, task (from 1), tasks and `epoch` (epoch of epochs, steps, mean terms).
    on_task: called with the same, but `epoch` None, when a task was learned and its queries are about to be ranked.
    jobs: runs at the same time; 1 is this process, 0 one for each core (a script then needs its
    `if __name__ == "__main__":`, as for any worker processes).
    fields: all others of a suite file, such as stream, set, selection, recipe, shots, name, out (bench.suite.suite);
    keep="weights" or ["embeddings", "top=100"] leaves more than ranks, limit={"tasks": 2} makes a smoke test.
    Warns where finished runs are made again, since code changed or they did not keep what is asked. Raises InputError
    for anything wrong with these, and where no run ended well.

    >>> import ctvr_bench
    >>> small = ctvr_bench.open_store(path)
    >>> found = ctvr_bench.run(["zero_shot", {"name": "finetune", "set": {"epochs": 1}}], small, seeds=1, out=folder)
    >>> found.labels
    ['zero_shot', 'finetune [epochs=1]']
    """
    given = {"seeds": seeds, "orders": orders, "jobs": jobs, **fields}
    if methods is not None:
        listed = [methods] if isinstance(methods, str | type | Mapping) else methods
        given["methods"] = [_choice(each) for each in listed]
    check_values(given, "run()")
    place = store.path if isinstance(store, FeatureStore) else store_path(os.fspath(store))
    config = that_fit(make_suite({**given, "store": Path(place)}, "run()"), warnings.warn)

    def watch(progress: Progress) -> None:
        told = on_task if progress.epoch is None else on_epoch
        if told is not None and not progress.note:
            told(progress)

    records = run_suite(config, watch, tell=warnings.warn)
    if not any(record.status == "done" for record in records):
        raise InputError(f"no run ended well; {records[0].label} {records[0].status}: {records[0].reason}")
    return load(config.directory)


def open_store(store: str | os.PathLike[str] = DEFAULT_WORLD) -> FeatureStore:
    """A feature store, by its file or as a world of moving shapes, which is built on first use; no features are read.

    Raises InputError where it is no store, or a broken one.

    >>> import ctvr_bench
    >>> ctvr_bench.open_store(path).feature("captions/pooled").shape[1]
    32
    """
    return open_file(store_path(os.fspath(store)))


def make_stream(store: FeatureStore, name: str | None = None, **options: Any) -> Stream:
    """The tasks of a stream of the store: default its only one.

    options: order, seed, shots, long_tail, validation, split, blurred (features.streams.StreamOptions).
    Raises InputError for an unknown stream or option.

    >>> import ctvr_bench
    >>> stream = ctvr_bench.make_stream(ctvr_bench.open_store(path), order=1)
    >>> len(stream), len(stream.tasks[0].test)
    (3, 10)
    """
    try:
        chosen = StreamOptions(**options)
    except TypeError as error:
        raise InputError(f"make_stream: {error}; see features.streams.StreamOptions") from error
    return streams.make_stream(store, name, chosen)


def register(method: _Class) -> _Class:
    """Class decorator: the method can be named in `run` from now on, in this process.

    Raises InputError where its source cannot be read, or its name is taken by a method of the suite.
    """
    if not method.__module__.startswith("ctvr_file_"):  # that is its source, read again
        known_as(method, plainly=True)
    return method


def _choice(method: Named) -> dict[str, Any]:
    if isinstance(method, Mapping):
        if "name" not in method:
            raise InputError(f"a method in braces needs its name, as in {{'name': 'lwf', 'set': {{}}}}; got {method!r}")
        return {**method, "name": _name(method["name"])}
    return {"name": _name(method)}


def _name(method: Any) -> str:
    if isinstance(method, str):
        return method
    return known_as(method)
