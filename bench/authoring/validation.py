"""What a candidate of a search scores: it learns the whole stream as a run does, and is asked once, at the end.

Its queries are validation captions of training videos; no test row is ever read.
"""

from __future__ import annotations

import traceback
from collections.abc import Generator
from pathlib import Path
from typing import Literal

import pydantic

from ctvr_bench.bench.records.record import RunConfig, write_json, write_text
from ctvr_bench.bench.run.jobs import Job, PairTables, Progress, Watch, feature_spec, make_method, visible_tasks
from ctvr_bench.bench.run.protocol import Evaluator
from ctvr_bench.bench.run.stacks.ensemble import Lesson, Taught, go_on, learn_in_step
from ctvr_bench.bench.run.training import DivergedError, generator_for
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.store import FeatureStore
from ctvr_bench.features.streams import Stream
from ctvr_bench.methods.shared.base import TaskInfo


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


def evaluate_on_validation(
    job: Job, store: FeatureStore, stream: Stream, directory: Path, device: str, watch: Watch
) -> list[Trial]:
    """The trials of the job and of those beside it, each also written, to `directory`.json and beside it."""
    tables = PairTables(store, device)
    files = [directory, *(directory.parent / other.config.run_id for other in job.beside)]
    candidates = [_Candidate(each, stream, tables, file, watch) for each, file in zip(job.group, files, strict=True)]
    learn_in_step(candidates)
    return [candidate.trial for candidate in candidates]


class _Candidate:
    def __init__(self, job: Job, stream: Stream, tables: PairTables, file: Path, watch: Watch) -> None:
        self._job, self._stream, self._tables, self._file, self._watch = job, stream, tables, file, watch
        made_by, run_id = dict(job.made_by), job.config.run_id
        self.trial = Trial(label=job.label, config=job.config, run_id=run_id, status="done", made_by=made_by)
        self._learning = self._learn()

    def advance(self, taught: Taught | Exception | None = None) -> Lesson | None:
        try:
            return go_on(self._learning, taught)
        except StopIteration as end:
            self.trial.score = end.value
        except DivergedError as error:
            self.trial.status, self.trial.reason = "diverged", str(error)
        except InputError:
            raise
        except Exception as error:
            self.trial.status, self.trial.reason = "failed", f"{type(error).__name__}: {error}"
            write_text(self._file.with_suffix(".txt"), traceback.format_exc())
        write_json(self._file.with_suffix(".json"), self.trial.model_dump())
        return None

    def _learn(self) -> Generator[Lesson, Taught, float]:
        stream, seed, last = self._stream, self._job.config.seed, len(self._stream) - 1
        method = make_method(self._job, feature_spec(self._tables.store, stream), self._tables.device)
        held_out = [task.validation for task in stream.tasks]
        evaluator = Evaluator(self._tables.of(held_out), [len(rows) for rows in held_out])
        for task in stream.tasks:
            method.task = TaskInfo(task.index, 0, task.categories)
            if (method.is_trained or method.closed_form) and (method.sees != "all" or task.index == 0):
                data = self._tables.of([stream.tasks[j].train for j in visible_tasks(method, task.index, len(stream))])
                method.begin_task(method.task._replace(num_pairs=len(data)))
                if method.closed_form:
                    method.fit_task(data, generator_for(seed, "fit", task.index))
                else:
                    taught = yield Lesson(method, data, seed, task.index)
                    self.trial.together = max(self.trial.together, taught.together)
                method.end_task(data, generator_for(seed, "end", task.index))
            self._watch(Progress(self._job.label, task.index + 1, len(stream)))
            if task.index < last:
                evaluator.keep_gallery(method)
        return evaluator.headline(method, last)
