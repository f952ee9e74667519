"""What a trial of a search scores: it learns the whole stream as a run does, and is asked once, at the end.

Its queries are validation captions; no test row of a store is ever read, but for worlds of moving shapes that were set
aside for tuning: no table reports those, so that their test videos are validation videos too.
"""

from __future__ import annotations

import re
import traceback
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pydantic

from ctvr_bench.bench.evaluation.protocol import Evaluator
from ctvr_bench.bench.losses import DivergedError
from ctvr_bench.bench.records.record import RunConfig, read_checked, write_checked, write_text
from ctvr_bench.bench.run.jobs import Job, PairTables, Progress, Watch, feature_spec, make_method, training_rows
from ctvr_bench.bench.run.stacks.ensemble import learn_in_step
from ctvr_bench.bench.run.training import Learning, Taught, lessons_of_task
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.store import FeatureStore
from ctvr_bench.features.streams import Stream, Task
from ctvr_bench.methods.shared.base import TaskInfo

SET_ASIDE = range(1000, 2000)
"""Seeds of the worlds that defaults are tuned on and no table reports."""
_WORLD = re.compile(r"moving shapes, world (\d+)")


class Trial(pydantic.BaseModel):
    """What one candidate scored with one seed; score in percent, None unless done. together, made_by: as of a run."""

    label: str
    config: RunConfig
    run_id: str
    status: Literal["done", "diverged", "failed"]
    reason: str = ""
    score: float | None = None
    together: int = 1
    made_by: dict[str, str] = {}


def world_of(store: FeatureStore) -> int | None:
    """The seed of a world of moving shapes; None for any other store."""
    match = _WORLD.fullmatch(store.name)
    return None if match is None else int(match[1])


def asked_rows(store: FeatureStore, task: Task) -> npt.NDArray[np.int64]:
    """The captions of a task that a trial is asked."""
    rows = [task.validation, task.test] if world_of(store) in SET_ASIDE else [task.validation]
    return np.concatenate(rows)


def trial_of(job: Job, status: Literal["done", "diverged", "failed"] = "done", reason: str = "") -> Trial:
    """The trial of a job, without a score."""
    made_by, run_id = dict(job.made_by), job.config.run_id
    return Trial(label=job.label, config=job.config, run_id=run_id, status=status, reason=reason, made_by=made_by)


def write_trial(file: Path, trial: Trial) -> Trial:
    """Keep a trial, as `file`.json."""
    write_checked(file.with_suffix(".json"), trial.model_dump(mode="json"))
    return trial


def read_trial(path: Path) -> Trial:
    """A trial that was kept. Raises InputError where the file cannot be read, or is not what was written."""
    try:
        return Trial.model_validate(read_checked(path))
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        what = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: cannot be read as a trial ({what}); remove it, and it is made again") from error


def evaluate_on_validation(
    job: Job, store: FeatureStore, stream: Stream, directory: Path, device: str, watch: Watch
) -> list[Trial]:
    """The trials of the job and of those beside it, each also written, to `directory`.json and beside it."""
    tables = PairTables(store, device)
    files = [directory, *(directory.parent / other.config.run_id for other in job.beside)]
    kept = [read_trial(path) for file in files if (path := file.with_suffix(".json")).is_file()]
    if len(kept) == len(files) and all(trial.status != "failed" for trial in kept):
        return kept
    candidates = [_Candidate(each, stream, tables, file, watch) for each, file in zip(job.group, files, strict=True)]
    learn_in_step([candidate.learn() for candidate in candidates])
    return [candidate.trial for candidate in candidates]


class _Candidate:
    def __init__(self, job: Job, stream: Stream, tables: PairTables, file: Path, watch: Watch) -> None:
        self._job, self._stream, self._tables, self._file, self._watch = job, stream, tables, file, watch
        self.trial = trial_of(job)

    def learn(self) -> Learning:
        """The whole stream, and what became of it."""
        try:
            yield from self._learn()
        except DivergedError as error:
            self.trial.status, self.trial.reason = "diverged", str(error)
        except InputError:
            raise
        except Exception as error:
            self.trial.status, self.trial.reason = "failed", f"{type(error).__name__}: {error}"
            write_text(self._file.with_suffix(".txt"), traceback.format_exc())
        write_trial(self._file, self.trial)

    def _learn(self) -> Learning:
        stream, seed, last = self._stream, self._job.config.seed, len(self._stream) - 1
        method = make_method(self._job, feature_spec(self._tables.store, stream), self._tables.device)
        held_out = [asked_rows(self._tables.store, task) for task in stream.tasks]
        evaluator = Evaluator(self._tables.of(held_out), [len(rows) for rows in held_out])
        for task in stream.tasks:
            rows = training_rows(method, stream, task.index)
            data = None if rows is None else self._tables.of(rows)
            info = TaskInfo(task.index, 0 if data is None else len(data), task.categories)
            yield from lessons_of_task(method, data, info, seed, on_taught=self._note)
            self._watch(Progress(self._job.label, task.index + 1, len(stream)))
            if task.index < last:
                evaluator.keep_gallery(method)
        self.trial.score = evaluator.headline(method, last)

    def _note(self, taught: Taught) -> None:
        self.trial.together = max(self.trial.together, taught.together)
