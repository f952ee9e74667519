"""Grid search on validation queries of the training videos: no test row is ever read.

Each candidate learns the whole stream with every seed; its score is R@1 after the last task, of the validation queries
of all tasks, text to video, against the validation galleries stored when their tasks ended: the headline.
The present default is always a candidate.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ctvr_bench.bench.authoring.validation import Trial, evaluate_on_validation, read_trial, trial_of, write_trial
from ctvr_bench.bench.executors.cluster import opened
from ctvr_bench.bench.executors.workers import Workshop, run_jobs
from ctvr_bench.bench.records.record import RunConfig
from ctvr_bench.bench.run.jobs import Job, Watch, ignore
from ctvr_bench.bench.run.stacks.planning import units
from ctvr_bench.bench.suite.code import why_again
from ctvr_bench.bench.suite.suite import MethodChoice, SuiteConfig, plan
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.store import FeatureStore, check_content, open_store
from ctvr_bench.features.streams import make_stream
from ctvr_bench.methods.shared.registry import Entry

RULE = (
    "highest mean over seeds of R@1 on validation queries of all tasks after the last; among candidates whose mean "
    "difference from it, paired by seed, is at most one standard error, the one nearest the present default"
)


@dataclass(frozen=True)
class Candidate:
    """Values of the grid's fields, with the score of each seed; None where one did not finish.

    together: as in a run's record, for each seed.
    """

    values: dict[str, Any]
    scores: tuple[float | None, ...]
    together: tuple[int, ...] = ()

    @property
    def finished(self) -> bool:
        return None not in self.scores

    @property
    def mean(self) -> float | None:
        return float(np.mean(self._finite)) if self.finished else None

    @property
    def std(self) -> float | None:
        return float(np.std(self._finite, ddof=1)) if self.finished and len(self.scores) > 1 else None

    @property
    def _finite(self) -> list[float]:
        return [score for score in self.scores if score is not None]


@dataclass(frozen=True)
class Search:
    """A finished search. default: the present values of the grid's fields."""

    entry: Entry
    grid: Mapping[str, Sequence[Any]]
    default: dict[str, Any]
    candidates: tuple[Candidate, ...]
    chosen: Candidate
    trials: tuple[Trial, ...]
    device: str


def search(
    entry: Entry,
    grid: Mapping[str, Sequence[Any]],
    suite: SuiteConfig,
    watch: Watch = ignore,
    on_trial: Callable[[int, int, Trial], None] = ignore,
    tell: Callable[[str], None] = ignore,
) -> Search:
    """Make every trial that is missing, and choose. tell: gets a line where trials are made again.

    suite: store, stream, seeds, validation, device, jobs, folder of the trials; its methods are not used.
    Raises InputError for a field or value that the method does not take, and for a stream without validation videos.
    """
    default = {field: asdict(entry.config())[field] for field in checked_grid(entry, grid)}
    combinations = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    settled = {key_of(entry, values): values for values in [default, *combinations]}
    choices = tuple(MethodChoice(name=entry.written_as, set=values) for values in settled.values())
    suite = suite.model_copy(
        update={"methods": choices, "selection": "last", "recipe": "fixed", "orders": 1, "set": {}}
    )
    store = open_store(suite.store)
    if not all(len(task.validation) for task in make_stream(store, suite.stream, suite.stream_options).tasks):
        raise InputError(f"{store.path}: a task has no validation video; hold some out with --validation 2")
    trials = _trials(plan(suite, store, sweep=True), store, suite, watch, on_trial, tell)
    candidates = []
    for key, values in settled.items():
        mine = [trial for trial in trials if key_of(entry, trial.config.config, grid) == key]
        scores, stacks = tuple(trial.score for trial in mine), tuple(trial.together for trial in mine)
        candidates.append(Candidate({**default, **values}, scores, stacks))
    chosen, device = choose(candidates, default), suite.chosen_device
    return Search(entry, grid, default, tuple(candidates), chosen, tuple(trials), device)


def checked_grid(entry: Entry, grid: Mapping[str, Sequence[Any]]) -> Mapping[str, Sequence[Any]]:
    """The grid, every value of it tried on the Config."""
    if not grid:
        raise InputError(
            f"{entry.name}: nothing to search; give --grid field=value,value or a table in a file of grids"
        )
    for field, values in grid.items():
        for value in values:
            entry.config({field: value})
    return grid


def key_of(entry: Entry, values: Mapping[str, Any], fields: Mapping[str, Any] | None = None) -> str:
    """The same for values that make the same Config, as 1 and 1.0 do."""
    chosen = {field: values[field] for field in fields or values}
    return repr(sorted((field, value) for field, value in asdict(entry.config(chosen)).items() if field in chosen))


def choose(candidates: Sequence[Candidate], default: Mapping[str, Any]) -> Candidate:
    """The candidate of RULE. Raises InputError where none finished with all seeds."""
    finished = [candidate for candidate in candidates if candidate.finished]
    if not finished:
        raise InputError(
            "no candidate finished with every seed; see the reasons above, and lower lr or mend the method"
        )
    best = max(finished, key=lambda candidate: (candidate.mean or 0.0, -distance(candidate.values, default)))
    near = [candidate for candidate in finished if _within_one_error(best, candidate)]
    return min(near, key=lambda candidate: (distance(candidate.values, default), -(candidate.mean or 0.0)))


def distance(values: Mapping[str, Any], default: Mapping[str, Any]) -> float:
    """How far values lie from the default: octaves for positive numbers, 1 for anything else that differs; summed.

    >>> distance({"lr": 4e-4, "variant": "a"}, {"lr": 1e-4, "variant": "b"})
    3.0
    """
    total = 0.0
    for field, value in values.items():
        old = default[field]
        both = [number for number in (value, old) if isinstance(number, (int, float)) and not isinstance(number, bool)]
        if len(both) == 2 and min(both) > 0:
            total += abs(math.log2(value / old))
        else:
            total += float(value != old)
    return total


def _trials(
    jobs: Sequence[Job],
    store: FeatureStore,
    suite: SuiteConfig,
    watch: Watch,
    on_trial: Callable[..., None],
    tell: Callable[[str], None],
) -> list[Trial]:
    found: dict[str, Trial] = {}
    for job in jobs:
        path = suite.directory / f"{job.config.run_id}.json"
        if path.is_file() and (trial := read_trial(path)).status != "failed":
            found[trial.run_id] = trial
    missing = [unit for unit in units(jobs) if any(job.config.run_id not in found for job in unit.group)]
    if missing:
        check_content(store)
    begun = [job for unit in missing for job in unit.group]
    for job in begun:
        found.pop(job.config.run_id, None)  # a stack is made whole
    if again := why_again(begun, lambda job: _earlier(suite.directory, job)):
        tell(again)
    where = (suite.store, suite.directory, suite.chosen_device)
    shop = Workshop(evaluate_on_validation, *where, suite.jobs, suite.threads, watch, partial(_lost, suite.directory))
    with opened(suite.cluster) as executor:
        for made in run_jobs(missing, shop, executor):
            for trial in made:
                found[trial.run_id] = trial
                on_trial(len(found), len(jobs), trial)
    return [found[job.config.run_id] for job in jobs]


def _earlier(directory: Path, job: Job) -> Iterator[tuple[RunConfig, Mapping[str, str]]]:
    for path in directory.glob(f"{job.config.run_id.rpartition('-')[0]}-*.json"):
        trial = read_trial(path)
        if trial.status == "done":
            yield trial.config, trial.made_by


def _lost(directory: Path, unit: Job, reason: str) -> list[Trial]:
    """The trials whose process was killed."""
    trials = [trial_of(job, status="failed", reason=reason) for job in unit.group]
    return [write_trial(directory / trial.run_id, trial) for trial in trials]


def _within_one_error(best: Candidate, other: Candidate) -> bool:
    behind = np.array([(a or 0.0) - (b or 0.0) for a, b in zip(best.scores, other.scores, strict=True)])
    error = behind.std(ddof=1) / math.sqrt(len(behind)) if len(behind) > 1 else 0.0
    return bool(behind.mean() <= error)
