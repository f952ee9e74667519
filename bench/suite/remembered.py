"""What a folder remembers of a command, so that its runs can be made again from the folder alone."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ctvr_bench.bench.records.environment import command_line
from ctvr_bench.bench.records.files import write_bytes
from ctvr_bench.bench.records.suites import SOURCES, PlannedRun, Suite, write_suite
from ctvr_bench.bench.run.jobs import Job
from ctvr_bench.bench.suite.choices import tuned_values
from ctvr_bench.bench.suite.plugins import file_of, find_method
from ctvr_bench.features.cache import world_of
from ctvr_bench.features.store import tool_version

if TYPE_CHECKING:
    from ctvr_bench.bench.suite.config import SuiteConfig

OF_THE_MACHINE = {"out", "name", "jobs", "store", "executor", "scheduler", "stage", "keep"}
"""Fields of a suite that say how it was run and not what: a folder does not remember them, nor follow them."""
_SETS_APART = (
    *("stream", "selection", "shots", "long_tail", "validation", "split", "blurred", "limit", "index", "rerank"),
    *("ensemble", "device", "threads"),
)


def remember(config: SuiteConfig, jobs: Sequence[Job]) -> Suite:
    """Write the suite's list of runs, its configuration, the files of its methods and its command into its folder."""
    values = config.model_dump(mode="json")
    changed = [f"{n}={values[n]}" for n in _SETS_APART if values[n] != type(config).model_fields[n].default]
    rows = len({job.label for job in jobs})
    sizes = [f"{rows} rows", f"{config.seeds} seeds", f"store {config.store.name}"]
    world = world_of(config.store)
    suite = Suite(
        runs=tuple(PlannedRun(run_id=j.config.run_id, label=j.label, position=j.position) for j in jobs),
        setting=", ".join([*sizes, *changed]),
        config={
            **{name: value for name, value in values.items() if name not in OF_THE_MACHINE},
            "methods": [_as_it_was(config, choice) for choice in values["methods"]],
            "tuned": None,
            "store": str(config.store) if world is None else f"moving-shapes:{world}",
        },
        command=command_line(),
        version=tool_version(),
        begun=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    write_suite(config.directory, suite)
    return suite


def _as_it_was(config: SuiteConfig, choice: dict[str, Any]) -> dict[str, Any]:
    """A method choice that needs no other file: tuned values are written out, and a method's file is copied.

    The copy is named by the digest of its bytes.
    """
    entry = find_method(choice["name"])
    tuned = {} if config.tuned is None else tuned_values(config.tuned).get(entry.name, {})
    choice = {**choice, "set": {**tuned, **choice["set"]}}
    if (found := file_of(entry)) is None:
        return choice
    source, class_name = found
    path = f"{SOURCES}/{hashlib.sha256(source).hexdigest()[:16]}.py"
    write_bytes(config.directory / path, source)
    return {**choice, "name": f"{path}:{class_name}"}
