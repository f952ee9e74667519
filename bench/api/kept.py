"""Trained heads of finished runs, from the weights that they kept, and the stores that they were run on."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from ctvr_bench.bench.records.aggregate import Run
from ctvr_bench.bench.records.kept import name_of, read_kept
from ctvr_bench.bench.records.suites import planned_in
from ctvr_bench.bench.run.jobs import Job, feature_spec, load_tensors, make_method
from ctvr_bench.bench.suite.code import code_of
from ctvr_bench.bench.suite.plugins import find_method
from ctvr_bench.bench.suite.stores import store_path
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.store import FeatureStore, open_store
from ctvr_bench.features.streams import StreamOptions, make_stream
from ctvr_bench.methods.shared.base import FeatureSpec, Method, TaskInfo
from ctvr_bench.methods.shared.registry import Entry


def task_of(run: Run, task: int | None) -> int:
    """A task of the run from 0, of one from 1, or its last. Raises InputError where it has no such task."""
    if task is not None and not 1 <= task <= run.record.tasks:
        raise InputError(f"{run.directory}: has tasks 1 to {run.record.tasks}; got {task}")
    return (run.record.tasks if task is None else task) - 1


def head_of(run: Run, task: int | None = None, store: FeatureStore | None = None) -> Method:
    """The method with the weights that it had after a task (from 1; default the last), in evaluation mode, on the CPU.

    Of a run that kept none and is not trained, as it began. Warns where the suite's own code of the method has changed
    since. Raises InputError where weights were not kept, or do not fit the code.
    """
    position, record = task_of(run, task), run.record
    entry = _entry_of(run)
    job = Job(entry, record.config, record.label, record.position)
    if not record.trained and name_of("weights", position) not in record.files:
        store = store_of(run) if store is None else store
        stream = make_stream(store, record.config.stream, StreamOptions(**record.config.options))
        method = make_method(job, feature_spec(store, stream), "cpu", record.recipe)
        method.task = TaskInfo(position, 0, stream.tasks[position].categories)
        return method
    tensors, about = read_kept(run.directory, record.files, "weights", position)
    spec = FeatureSpec(**about["spec"])
    if entry.method.needs_reference:
        store = store_of(run) if store is None else store
        spec = feature_spec(store, make_stream(store, record.config.stream))._replace(num_tasks=spec.num_tasks)
    method = make_method(job, spec, "cpu", record.recipe)
    try:
        load_tensors(method, tensors)
    except (ValueError, AttributeError) as error:
        raise InputError(f"{run.directory}: its weights do not fit {entry.name} as it is now ({error})") from error
    known = about["task"]
    method.task = TaskInfo(known["position"], known["num_pairs"], tuple(known["categories"]))
    return method


def store_of(run: Run, named: str | os.PathLike[str] | None = None) -> FeatureStore:
    """The store of a run, where its folder remembers it or where it lies now. Raises InputError for any other."""
    place = planned_in(run.directory.parent, run.record.run_id)[1] if named is None else os.fspath(named)
    path, wanted = Path(store_path(place)), run.record.config.store
    if not path.is_file():
        raise InputError(f"{path}: is not there; say where the store {wanted.name} ({wanted.digest[:12]}) lies now")
    store = open_store(path)
    if store.digest != wanted.digest:
        raise InputError(
            f"{path}: is not the store of this run (digest {store.digest[:12]}, not {wanted.digest[:12]}); name that"
        )
    return store


def _entry_of(run: Run) -> Entry:
    config = run.record.config
    entry = find_method(planned_in(run.directory.parent, run.record.run_id)[0])
    if entry.code != config.code:
        raise InputError(f"{run.directory}: its method's file is not the one that was run ({entry.code[:12]})")
    now, then = code_of(entry), run.record.made_by
    if changed := [path for path in then if path.startswith("methods/") and now.get(path) != then[path]]:
        warnings.warn(
            f"{entry.name} may embed otherwise than in its run; changed since: {', '.join(changed)}", stacklevel=3
        )
    return entry
