"""One run: a method goes through a stream once, is evaluated after every task, and leaves its records."""

from __future__ import annotations

import hashlib
import json
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ctvr_bench.bench.evaluation.protocol import Evaluator, StageResult
from ctvr_bench.bench.evaluation.search import Ranker
from ctvr_bench.bench.geometry import stage_measures
from ctvr_bench.bench.losses import DivergedError
from ctvr_bench.bench.records.code import metrics_code
from ctvr_bench.bench.records.environment import (
    environment,
    forget_peak_memory,
    give_back_memory,
    wait_for,
)
from ctvr_bench.bench.records.record import (
    RunRecord,
    Status,
    finished_record,
    save_record,
    write_json,
    write_text,
)
from ctvr_bench.bench.records.state import Saved, StateFolder, lay_aside
from ctvr_bench.bench.records.summary import metrics_of
from ctvr_bench.bench.run.budget import pair_flops, step_flops
from ctvr_bench.bench.run.jobs import (
    Job,
    PairTables,
    Progress,
    Watch,
    empty_table,
    feature_spec,
    ignore,
    load_tensors,
    make_method,
    training_rows,
)
from ctvr_bench.bench.run.kept import keep_task, what_to_keep
from ctvr_bench.bench.run.recipe import recipe_of
from ctvr_bench.bench.run.stacks.ensemble import learn_in_step
from ctvr_bench.bench.run.tally import Tally
from ctvr_bench.bench.run.training import Epoch, Learning, Taught, lessons_of_task
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.store import FeatureStore
from ctvr_bench.features.streams import PairTable, Stream
from ctvr_bench.methods.shared.base import TaskInfo


class LeakError(RuntimeError):
    """Training would see a test video."""


def run_together(
    job: Job,
    store: FeatureStore,
    stream: Stream,
    directory: Path,
    device: str = "cpu",
    watch: Watch = ignore,
) -> list[RunRecord]:
    """Make or continue the job's run and those beside it, in step, each in its own folder beside `directory`.

    Unfinished runs continue after the last finished task that all share. A run whose loss stops being finite is
    recorded as diverged; one that raises as failed, with the traceback in error.txt. Only InputError and Ctrl-C come
    through. What is kept for going on is removed when all runs have ended well.
    """
    folders = [directory, *(directory.parent / other.config.run_id for other in job.beside)]
    records = [finished_record(folder, job.keep) for folder in folders]
    if all(record is not None for record in records):
        return [record for record in records if record is not None]
    forget_peak_memory(device)
    tables = PairTables(store, device)
    runs = [
        _Run(each, store, stream, folder, device, watch, tables)
        for each, folder in zip(job.group, folders, strict=True)
    ]
    learn_in_step([run.learn() for run in _at_the_same_task(runs)])
    if all(run.record.status != "failed" for run in runs):
        for run in runs:
            run.state.remove()
    return [run.record for run in runs]


def _at_the_same_task(runs: Sequence[_Run]) -> list[_Run]:
    """The runs that have something to learn, all put back after the newest task from which all can go on.

    One that diverged in a task is among them if that task is learned again: what the others learn depends on it.
    """
    whole = [{-1, *run.state.whole()} for run in runs]
    left = [run.left_in for run in runs]
    for task in sorted(set.union(*whole), reverse=True):
        needed = [kept for kept, leaves in zip(whole, left, strict=True) if leaves is None or task < leaves]
        if all(task in kept for kept in needed):
            break
    going_on = [run for run, leaves in zip(runs, left, strict=True) if leaves is None or task < leaves]
    for run in going_on:
        run.begin_after(task)
    return going_on


@dataclass
class _BestEpoch:
    """The best of a task's epochs so far, where one is selected."""

    score: float = -1.0
    state: dict[str, torch.Tensor] | None = None


class _Run:
    def __init__(
        self,
        job: Job,
        store: FeatureStore,
        stream: Stream,
        directory: Path,
        device: str,
        watch: Watch,
        tables: PairTables,
    ) -> None:
        self.job, self.store, self.stream = job, store, stream
        self.directory, self.device, self.watch = directory, device, watch
        self.tally = Tally()
        self._validation: Evaluator | None = None
        spec = feature_spec(store, stream)
        self.recipe = recipe_of(job, spec, store, stream.tasks[0], directory.parent / "recipes", device)
        self.method = make_method(job, spec, device, self.recipe)
        self.engine: Ranker = "count"
        self.pair_flops = 0
        self.log: list[str] = []
        self.state = StateFolder(directory, lambda note: watch(Progress(job.label, 0, len(stream), note=note)))
        self.keep = what_to_keep(directory, job.keep, self.state)
        self._tasks = 0  # finished
        self._tables = tables

    @property
    def left_in(self) -> int | None:
        """The task (from 0) in which an earlier try of this run diverged; None for any other."""
        earlier = finished_record(self.directory)
        if earlier is None or earlier.status != "diverged":
            return None
        self.record = earlier
        return earlier.tasks

    def begin_after(self, task: int) -> None:
        """Go on after a task (from 0) whose state is whole; -1 begins anew."""
        self._tasks = task + 1
        self.write_record("running")

    def learn(self) -> Learning:
        """The tasks that are left, and the record of what became of the run."""
        try:
            yield from self._learn()
        except DivergedError as error:
            self.record = self.write_record("diverged", str(error))
        except InputError:
            raise
        except Exception as error:
            write_text(self.directory / "error.txt", traceback.format_exc())
            self.record = self.write_record("failed", f"{type(error).__name__}: {error}")
        else:
            self.record = self.write_record("done")

    def _learn(self) -> Learning:
        """All tasks in order, from the first that is not finished; hands out what is to be trained."""
        with self._timed("load"):
            tasks, config = self.stream.tasks, self.job.config
            self.test = self._tables.of([rows for task in tasks for rows in task.asked], asked=True)
            sizes, sheets = [len(task.test) for task in tasks], len(tasks[0].asked)
            self.evaluator = Evaluator(
                self.test,
                sizes,
                config.first_stage,
                config.engine,
                config.reencoded,
                sheets,
                aside=partial(lay_aside, self.directory) if self.device == "cpu" else dict,
            )
            self.table = empty_table(self.store, self.stream)
            if self._tasks:
                self._take_up(self.state.load(self._tasks - 1, self.device))
        if self._tasks == 0:
            with self._timed("evaluate"):
                self._rank_before()
        for task in range(self._tasks, len(self.stream)):
            yield from self._learn_task(task)
        self.pair_flops = pair_flops(self.method, self.test)
        with self._timed("write"):
            self.table.save(self.directory / "ranks.h5")
            write_json(self.directory / "metrics.json", metrics_of(self.table))

    def write_record(self, status: Status, reason: str = "") -> RunRecord:
        method, job, tally = self.method, self.job, self.tally
        record = RunRecord(
            label=job.label,
            position=job.position,
            config=job.config,
            run_id=job.config.run_id,
            status=status,
            reason=reason,
            source=job.entry.written_as,
            sees=method.sees,
            stores_samples=method.stores_samples,
            fidelity=method.fidelity,
            deviations=method.deviations,
            cost=tally.cost(method, self.device, self.pair_flops),
            geometry=tally.geometry,
            trained_on=tally.trained_on,
            recipe=self.recipe,
            engine=self.engine,
            together=tally.together,
            remarks=tally.remarks,
            tasks=self._tasks,
            keep=self.keep,
            made_by=dict(job.made_by),
            derived_by=metrics_code(),
            environment=environment(self.device),
        )
        return save_record(self.directory, record)

    def _learn_task(self, task: int) -> Learning:
        method, stream = self.method, self.stream
        train, data = training_rows(method, stream, task), None
        if train is not None:
            with self._timed("load"):
                data = self._pairs(train)
                self.tally.trained_on.append(self._training_videos(task, data))
        best = _BestEpoch()
        yield from lessons_of_task(
            method,
            data,
            TaskInfo(task, 0 if data is None else len(data), stream.tasks[task].categories),
            self.job.config.seed,
            on_epoch=partial(self._end_epoch, task, best),
            on_taught=partial(self._end_training, task, data, best),
            timed=partial(self._timed, "train"),
        )
        data = None  # nobody needs the training pairs beside the scores
        give_back_memory()
        self.watch(Progress(self.job.label, task + 1, len(stream)))
        encoded = self.evaluator.encode_s
        with self._timed("evaluate"):
            self._record_stage(task, result := self.evaluator.finish_task(method))
            self.engine = self.evaluator.engine
            if task + 1 < len(stream):
                rows = self.evaluator.queries(task + 1)
                self.table.ahead_N[rows] = self.evaluator.own_ranks(method, task + 1, shard=task)
        self.tally.seconds["encode"] += self.evaluator.encode_s - encoded
        give_back_memory()
        with self._timed("write"):
            keep_task(self.directory, self.keep, task, method, self.evaluator, result)
            if task + 1 < len(stream):
                self._save(task)
        give_back_memory()
        self._tasks = task + 1

    def _training_videos(self, task: int, data: PairTable) -> str:
        """Count of the training pairs and digest of their videos. Raises LeakError for a video of the test."""
        videos = data.video_P.cpu().numpy()
        leaked = np.intersect1d(videos, self.table.video_N)
        if len(leaked):
            raise LeakError(f"{len(leaked)} test videos among the training pairs of task {task + 1}")
        return f"{len(videos)} pairs, {hashlib.sha256(videos.tobytes()).hexdigest()[:16]}"

    def _end_epoch(self, task: int, best: _BestEpoch, epoch: Epoch) -> None:
        """Log the epoch, and keep its weights where it is the best so far."""
        self.watch(Progress(self.job.label, task + 1, len(self.stream), epoch))
        line: dict[str, Any] = {"task": task + 1, **asdict(epoch)}
        if epoch.epoch == 1:  # training may begin a second time, alone where a stack failed
            self.log = [earlier for earlier in self.log if json.loads(earlier)["task"] <= task]
        selector = self._selector()
        if selector is not None:
            self.method.eval()
            line["selection_score"] = score = selector.headline(self.method, task)
            self.method.train()
            if score >= best.score:  # a tie goes to the later epoch, as in the release
                best.score = score
                best.state = {name: value.clone() for name, value in self.method.state_dict().items()}
        self.log.append(json.dumps(line))

    def _end_training(self, task: int, data: PairTable | None, best: _BestEpoch, taught: Taught) -> None:
        """Keep the last epoch, or the best by validation or (labelled so) by test queries; write the log."""
        assert data is not None
        tally = self.tally
        tally.steps += taught.steps
        if task + 1 == len(self.stream) or self.method.sees == "all":
            tally.flops = step_flops(self.method, data)
        tally.seconds["train"] += taught.seconds
        tally.together = max(tally.together, taught.together)
        if taught.alone_because:
            remark = f"task {task + 1} was learned alone, since its stack failed ({taught.alone_because})"
            tally.remarks.append(remark)
            note = f"{self.job.label} (seed {self.job.config.seed}): {remark}"
            self.watch(Progress(self.job.label, task + 1, len(self.stream), note=note))
        if best.state is not None:
            load_tensors(self.method, best.state)
            selector = self._selector()
            if selector is not self.evaluator and selector is not None:
                selector.finish_task(self.method)
        write_text(self.directory / "training.jsonl", "".join(line + "\n" for line in self.log))

    def _selector(self) -> Evaluator | None:
        """What picks the epoch: nothing, an evaluator of validation queries, or the test evaluator."""
        selection = self.job.config.selection
        if selection == "test-oracle":
            return self.evaluator
        if selection == "last":
            return None
        if self._validation is None:
            sizes = [len(task.validation) for task in self.stream.tasks]
            if not all(sizes):
                raise InputError("selection 'validation' needs validation videos in every task; hold some out")
            asked = self._tables.of([task.validation for task in self.stream.tasks], asked=True)
            self._validation = Evaluator(asked, sizes)
        return self._validation

    def _pairs(self, rows: list[np.ndarray[Any, Any]]) -> PairTable:
        return self._tables.of(rows)

    def _rank_before(self) -> None:
        """Own-gallery ranks of every task before any training, the baseline of forward transfer."""
        for task in range(len(self.stream)):
            rows = self.evaluator.queries(task)
            self.table.before_N[rows] = self.evaluator.own_ranks(self.method, task, shard=0)
        first = self.evaluator.queries(0)
        self.table.ahead_N[first] = self.table.before_N[first]

    def _record_stage(self, task: int, result: StageResult) -> None:
        shape = (len(self.stream), len(self.table.task_N))
        for key, ranked in result.ranked.items():
            name, seen = "/".join(key), len(ranked.rank_N)
            self.table.ranks.setdefault(name, np.zeros(shape, np.int32))[task, :seen] = ranked.rank_N
            self.table.best.setdefault(name, np.full(shape, -1, np.int32))[task, :seen] = ranked.best_N
        routed = self.evaluator.routing_accuracy(self.method)
        first_n = self.table.first_n[: len(result.text_ND)]
        measured = stage_measures(
            result.text_ND,
            result.video_ND,
            result.frozen_text_ND,
            result.stored_video_ND,
            self.table.category_N[first_n],
            self.table.task_N[first_n] < task,
        )
        self.tally.geometry.append(measured | ({} if routed is None else {"routing_accuracy": routed}))

    def _save(self, task: int) -> None:
        picks = self._validation
        validation = picks.state() if picks is not None and len(picks.stored) == task + 1 else None
        self.state.save(
            task,
            asdict(self.tally),
            self.log,
            self.table,
            self.method.state_dict(),
            self.evaluator.state(),
            validation,
        )
        if self.device == "cpu":
            self.evaluator.rest(self.state.gallery(task))

    def _take_up(self, saved: Saved) -> None:
        """Be as this run was after the task of `saved`."""
        self.tally, self.log, table = Tally.of(saved.facts), saved.log, saved.table
        for target, source in ((self.table.ranks, table.ranks), (self.table.best, table.best)):
            target.update({name: np.array(values) for name, values in source.items()})
        self.table.ahead_N[:], self.table.before_N[:] = table.ahead_N, table.before_N
        load_tensors(self.method, saved.method)
        for state in saved.galleries:
            self.evaluator.restore(state)
        if saved.validation and (selector := self._selector()) is not None:
            for state in saved.validation:
                selector.restore(state)
        self.method.task = TaskInfo(saved.task, 0, self.stream.tasks[saved.task].categories)

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        wait_for(self.device)
        self.tally.seconds[part] += time.perf_counter() - start
