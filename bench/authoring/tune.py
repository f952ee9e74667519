"""Equal budgets: every method's constants searched by the same number of trials, on worlds that no table reports.

A trial is a method with values for its searched fields: it learns the whole stream of each store with every seed. Its
score is R@1 after the last task, of all validation queries, text to video, against the galleries stored when their
tasks ended: the headline; averaged over stores and seeds.

Three rounds share the trials. The first has the present default and points spread evenly over the ranges, the others
what Optuna proposes from those before. In each round all trials are made on the first store, and the better half goes
on to the others (the default always does). After a round a range grows, once on a side, where the best value lies at
its edge. The best mean is taken. All of it follows from the scores, so that a search that was cut off goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ctvr_bench.bench.authoring.proposals import Tried, even, likely
from ctvr_bench.bench.authoring.space import Space, default_of
from ctvr_bench.bench.authoring.validation import (
    SET_ASIDE,
    Trial,
    asked_rows,
    evaluate_on_validation,
    read_trial,
    trial_of,
    world_of,
    write_trial,
)
from ctvr_bench.bench.executors.claims import sweep
from ctvr_bench.bench.executors.cluster import opened
from ctvr_bench.bench.executors.planning import units
from ctvr_bench.bench.executors.workers import Executor, Workshop, run_jobs
from ctvr_bench.bench.records.record import RunConfig, StoreId
from ctvr_bench.bench.run.jobs import Job, Watch, ignore, store_id
from ctvr_bench.bench.suite.code import why_again
from ctvr_bench.bench.suite.config import MethodChoice, SuiteConfig
from ctvr_bench.bench.suite.suite import plan
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.store import FeatureStore, open_store
from ctvr_bench.features.streams import make_stream
from ctvr_bench.features.verification import check_content
from ctvr_bench.methods.shared.registry import Entry

TRIALS = 24
"""Of every method."""
ROUNDS = 3
RULE = (
    "highest mean, over stores and seeds, of R@1 on the validation queries of all tasks after the last; among trials "
    "that were made on all stores"
)


@dataclass(frozen=True)
class Candidate:
    """Values of the searched fields and what they scored.

    scores: by store, one for each seed, None where one did not finish; a store after the first is missing where the
    trial did not go on. together: as in a run's record. round: from 1.
    """

    values: dict[str, Any]
    scores: tuple[tuple[float | None, ...], ...]
    together: tuple[tuple[int, ...], ...] = ()
    round: int = 1

    @property
    def finished(self) -> bool:
        """Whether every run of it ended with a score."""
        return all(score is not None for one in self.scores for score in one)

    @property
    def mean(self) -> float | None:
        """Over stores and seeds; None where one did not finish."""
        return mean(self.scores) if self.finished else None


class Asked(NamedTuple):
    """A store of a search, and how many validation queries it was asked."""

    store: StoreId
    queries: int


@dataclass(frozen=True)
class Search:
    """A finished search. space: the ranges as they were at the end. declared: as they were at first."""

    entry: Entry
    declared: Space
    space: Space
    default: dict[str, Any]
    candidates: tuple[Candidate, ...]
    chosen: Candidate
    trials: tuple[Trial, ...]
    asked: tuple[Asked, ...]
    device: str


OnTrial = Callable[[int, int, Trial], None]


def search(
    entry: Entry,
    space: Space,
    suite: SuiteConfig,
    stores: Sequence[Path],
    trials: int = TRIALS,
    watch: Watch = ignore,
    on_trial: OnTrial = ignore,
    tell: Callable[[str], None] = ignore,
) -> Search:
    """Make every trial that is missing, and choose. tell: gets a line where runs are made again.

    suite: stream, seeds, validation, device, jobs, folder of the trials; its store and methods are not used.
    on_trial(number finished, total at most, trial) follows each run. Raises InputError for a stream without
    validation videos.
    """
    bench = _Bench(entry, suite, stores, watch, on_trial, tell)
    bench.total = suite.seeds * sum(size + (len(stores) - 1) * going_on(size) for size in round_sizes(trials))
    with opened(suite.cluster) as bench.executor:
        tried, grown = explore(entry, space, len(stores), trials, bench.scores)
    made = tuple(bench.made)
    return Search(entry, space, grown, default_of(entry, space), tried, choose(tried), made, bench.asked, bench.device)


class Scores(NamedTuple):
    """Of one trial on one store, by seed. together: as in a run's record."""

    scores: tuple[float | None, ...]
    together: tuple[int, ...] = ()


def explore(
    entry: Entry,
    space: Space,
    stores: int,
    trials: int,
    scores: Callable[[int, Sequence[Mapping[str, Any]]], Sequence[Scores]],
) -> tuple[tuple[Candidate, ...], Space]:
    """The trials of a search, the default first, and the ranges as they are at its end.

    scores(store, points): of each point on a store. Fewer trials are made where the space has no more points.
    """
    tried: list[Candidate] = []
    for number, size in enumerate(round_sizes(trials), 1):
        if number == 1:
            points = [default_of(entry, space), *even(space, size - 1, seed=0)]
        else:
            known = [Tried(each.values, mean(each.scores), len(each.scores) == stores) for each in tried]
            points = likely(space, known, size, seed=len(tried))
        points = _new(entry, points, tried)
        tried += _made_round(number, points, stores, scores)
        best = _best(tried)
        if best is not None and number < ROUNDS:
            space = {name: where.grown_for(best.values[name]) for name, where in space.items()}
    return tuple(tried), space


def round_sizes(trials: int) -> list[int]:
    """Trials of each round, the first ones larger where they cannot be alike.

    >>> round_sizes(24), round_sizes(4)
    ([8, 8, 8], [2, 1, 1])
    """
    return [len(part) for part in np.array_split(range(trials), ROUNDS) if len(part)]


def going_on(trials: int) -> int:
    """How many of a round's trials are made on every store."""
    return math.ceil(trials / 2)


def choose(candidates: Sequence[Candidate]) -> Candidate:
    """The candidate of RULE; of equal ones the first. Raises InputError where none finished."""
    best = _best(candidates)
    if best is None:
        raise InputError("no trial finished on every store with every seed; see the reasons above, and mend the method")
    return best


def mean(scores: Sequence[Sequence[float | None]]) -> float:
    """Of all scores; what did not finish counts as nothing found."""
    return float(np.mean([0.0 if score is None else score for one in scores for score in one]))


def _best(candidates: Sequence[Candidate]) -> Candidate | None:
    stores = max(len(candidate.scores) for candidate in candidates)
    whole = [each for each in candidates if each.finished and len(each.scores) == stores]
    return max(whole, key=lambda candidate: candidate.mean or 0.0, default=None)


def _new(entry: Entry, points: Sequence[dict[str, Any]], tried: Sequence[Candidate]) -> list[dict[str, Any]]:
    """The points that make another Config than those before, as 1 and 1.0 do not."""
    seen = {repr(entry.config(each.values)) for each in tried}
    kept = []
    for point in points:
        if (made := repr(entry.config(point))) not in seen:
            seen.add(made)
            kept.append(point)
    return kept


def _made_round(
    number: int,
    points: Sequence[dict[str, Any]],
    stores: int,
    scores: Callable[[int, Sequence[Mapping[str, Any]]], Sequence[Scores]],
) -> list[Candidate]:
    if not points:
        return []
    found = [[each] for each in scores(0, points)]
    order = sorted(range(len(points)), key=lambda place: (-mean([found[place][0].scores]), place))
    ahead = order[: going_on(len(points))]
    if number == 1 and 0 not in ahead:
        ahead = [*ahead[:-1], 0]
    ahead.sort()
    for store in range(1, stores):
        for place, each in zip(ahead, scores(store, [points[place] for place in ahead]), strict=True):
            found[place].append(each)
    return [
        Candidate(point, tuple(each.scores for each in mine), tuple(each.together for each in mine), number)
        for point, mine in zip(points, found, strict=True)
    ]


class _Bench:
    """Where the trials of a search are made."""

    def __init__(
        self,
        entry: Entry,
        suite: SuiteConfig,
        stores: Sequence[Path],
        watch: Watch,
        on_trial: OnTrial,
        tell: Callable[[str], None],
    ) -> None:
        self._entry, self._watch, self._on_trial, self._tell = entry, watch, on_trial, tell
        self._suite = suite.model_copy(update={"selection": "last", "recipe": "fixed", "orders": 1, "set": {}})
        self.device = suite.chosen_device
        self.executor: Executor | None = None
        self.stores = [open_store(path) for path in stores]
        self.made: list[Trial] = []
        self.total = 0
        asked = []
        for store in self.stores:
            if world_of(store) not in (None, *SET_ASIDE):
                raise InputError(
                    f"{store.path}: this world is for tables; tune on those from moving-shapes:{SET_ASIDE[0]} to "
                    f"moving-shapes:{SET_ASIDE[-1]}"
                )
            rows = [asked_rows(store, task) for task in make_stream(store, suite.stream, suite.stream_options).tasks]
            if not all(len(mine) for mine in rows):
                raise InputError(f"{store.path}: a task has no validation video; hold some out with --validation 2")
            asked.append(Asked(store_id(store), sum(len(mine) for mine in rows)))
        self.asked = tuple(asked)

    def scores(self, store: int, points: Sequence[Mapping[str, Any]]) -> list[Scores]:
        """Of each point on a store."""
        choices = tuple(MethodChoice(name=self._entry.written_as, set=dict(values)) for values in points)
        suite = self._suite.model_copy(update={"methods": choices, "store": self.stores[store].path})
        trials = self._trials(plan(suite, self.stores[store], sweep=True), self.stores[store], suite)
        found = []
        for values in points:
            config = asdict(self._entry.config(values))
            mine = [trial for trial in trials if trial.config.config == config]
            found.append(Scores(tuple(t.score for t in mine), tuple(t.together for t in mine)))
        return found

    def _trials(self, jobs: Sequence[Job], store: FeatureStore, suite: SuiteConfig) -> list[Trial]:
        found: dict[str, Trial] = {}
        for job in jobs:
            path = suite.directory / f"{job.config.run_id}.json"
            if path.is_file() and (trial := read_trial(path)).status != "failed":
                found[trial.run_id] = trial
        missing = [unit for unit in units(jobs) if any(job.config.run_id not in found for job in unit.group)]
        if missing:
            check_content(store)
        begun = [job for unit in missing for job in unit.group]
        sweep(suite.directory, found)
        for job in begun:
            found.pop(job.config.run_id, None)  # a stack is made whole
        if again := why_again(begun, lambda job: _earlier(suite.directory, job)):
            self._tell(again)
        where, lost = (suite.store, suite.directory, self.device), partial(_lost, suite.directory)
        shop = Workshop(evaluate_on_validation, *where, suite.jobs, suite.threads, self._watch, lost)
        for made in run_jobs(missing, shop, self.executor):
            for trial in made:
                found[trial.run_id] = trial
                self._on_trial(len(self.made) + len(found), self.total, trial)
        trials = [found[job.config.run_id] for job in jobs]
        self.made += trials
        return trials


def _earlier(directory: Path, job: Job) -> Iterator[tuple[RunConfig, Mapping[str, str]]]:
    for path in directory.glob(f"{job.config.run_id.rpartition('-')[0]}-*.json"):
        trial = read_trial(path)
        if trial.status == "done":
            yield trial.config, trial.made_by


def _lost(directory: Path, unit: Job, reason: str) -> list[Trial]:
    """The trials whose process was killed."""
    trials = [trial_of(job, status="failed", reason=reason) for job in unit.group]
    return [write_trial(directory / trial.run_id, trial) for trial in trials]
