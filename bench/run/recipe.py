"""The auto recipe: a head's learning rate and steps a task, found on training videos of the first task alone.

A continual learner has no more than its first task when it must choose. Its videos, category after category, are cut
into equal parts, a short stream of their own, and every trial (a rate and a number of steps) learns that stream as a
run learns the real one: half of each part's videos are held out, their galleries are stored when their part has been
learned, and after the last part all held-out captions are compared with all stored galleries. So a trial is judged by
what it gains on what it learns and by what it breaks of what it learned before.

    loss_v = mean over the captions of video v of  -log softmax_u( scale * s(caption, u) )[v]    over all stored u
    chosen: the trial of least  mean_v (loss_v - loss_v before any training); of equal ones the gentlest
    steps of every task of the run = steps of the chosen trial * parts / tasks

so that a run makes as many steps over its tasks as the trial did over its parts: what a task shifts by chance is
carried on through all later ones (docs/recipe.md). scale makes the untrained method's loss least: stores of any
temperature are judged alike. Each video is held out once. The first trials are the same for every method; where the
chosen one lies on their edge, trials beyond it follow, until it lies inside or at the range's end. A trial that after
one fold is HOPELESS standard errors behind the best, video by video, does not learn the second and is not chosen. No
test row is read, no later task.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from ctvr_bench.bench.evaluation.scores import scores_of, side_by_side
from ctvr_bench.bench.losses import DivergedError
from ctvr_bench.bench.records.record import Recipe, RecipeTrial, RunConfig, read_checked, write_checked
from ctvr_bench.bench.run.jobs import Job, spec_for
from ctvr_bench.bench.run.training import generator_for, learn_task
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.store import FeatureStore
from ctvr_bench.features.streams import PairTable, Task
from ctvr_bench.methods.shared.base import FeatureSpec, Method, TaskInfo, TrainedConfig, VideoEmbedding
from ctvr_bench.methods.shared.registry import Entry

RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
STEPS = (7, 20, 60, 180, 540)
FIRST_RATES = slice(2, 6)
FIRST_STEPS = slice(1, 3)
PARTS = 5  # tasks of the short stream at most; at least two
PART = 16  # its videos at least, where there are enough for two parts
FOLDS = 2
HOPELESS = 3.0
_SCALES = tuple(2.0 ** (half / 2) for half in range(-4, 21))
_CHUNK = 256

Rows = npt.NDArray[np.int64]
Losses = npt.NDArray[np.float64]
Scored = tuple[Tensor, Tensor, Tensor]
"""Scores of all held-out captions with all stored videos [N, M], the column of each one's video, its row."""
Point = tuple[int, int]
"""A rate and a number of steps, by their places in RATES and STEPS."""


@dataclass(frozen=True)
class _Part:
    """A task of the short stream: captions to learn, captions held out, category rows."""

    train: Rows
    held_out: Rows
    categories: tuple[int, ...]


def find_recipe(
    entry: Entry, config: TrainedConfig, spec: FeatureSpec, store: FeatureStore, task: Task, device: str
) -> Recipe:
    """The rate and the steps for a method with this Config, from the training captions of a stream's first task.

    Every field of `config` but `lr`, `steps` and `epochs` is kept. The same input gives the same recipe, whatever the
    seed of the run that asks. Raises InputError for a task of one video, of which none could be held out.
    """
    start = time.perf_counter()
    streams = [_Stream(store, _parts(store, task, fold), device) for fold in range(FOLDS)]
    parts = len(streams[0].held_out)
    search = _Search(entry, config, spec._replace(num_tasks=parts), streams)
    for trial in product(range(len(RATES))[FIRST_RATES], range(len(STEPS))[FIRST_STEPS]):
        search.make(trial)
    while missing := [trial for trial in search.beside_the_best() if trial not in search.found]:
        for trial in missing:
            search.make(trial)
    rate, steps = search.best()
    return Recipe(
        lr=RATES[rate],
        steps=max(1, round(STEPS[steps] * min(1.0, parts / spec.num_tasks))),
        parts=parts,
        scale=search.scale,
        videos=len(search.before),
        trials=[search.found[trial] for trial in sorted(search.found)],
        seconds=round(time.perf_counter() - start, 3),
    )


def recipe_of(job: Job, spec: FeatureSpec, store: FeatureStore, task: Task, folder: Path, device: str) -> Recipe | None:
    """The recipe of a run whose Config says `auto`, None for any other.

    task: the stream's first. folder: where it is kept for runs that would find the same; one that cannot be read, or is
    not what was written, is set aside (`.damaged`) and found again.
    """
    config = job.entry.config(job.config.config)
    if not isinstance(config, TrainedConfig) or config.recipe != "auto":
        return None
    path = folder / f"{job.config.method}-{_digest(job.config)}.json"
    try:
        return Recipe.model_validate(read_checked(path))
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        if path.is_file():
            path.replace(path.with_suffix(".damaged"))
    found = find_recipe(job.entry, config, spec_for(job.entry, spec), store, task, device)
    write_checked(path, found.model_dump())
    return found


def _digest(run: RunConfig) -> str:
    """Of everything that decides a recipe: all that decides the run, but for its seed and what the recipe replaces."""
    config = {name: value for name, value in run.config.items() if name not in ("lr", "steps", "epochs")}
    decides = run.model_dump(exclude={"seed", "stack", "selection", "first_stage"}) | {"config": config}
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:12]


class _Search:
    def __init__(self, entry: Entry, config: TrainedConfig, spec: FeatureSpec, streams: Sequence[_Stream]) -> None:
        self._entry, self._config, self._spec, self._streams = entry, config, spec, streams
        self.found: dict[Point, RecipeTrial] = {}
        self._changes: dict[Point, Losses] = {}
        untrained = [(stream, self._method(config)) for stream in self._streams]
        scored = [stream.scores(method, stream.galleries(method)) for stream, method in untrained]
        self.scale = min(_SCALES, key=lambda scale: float(np.mean(_losses(scored, scale))))
        self.before = _losses(scored, self.scale)

    def make(self, trial: Point) -> None:
        """Learn both short streams with the trial's rate and steps, and judge it."""
        config = replace(self._config, lr=RATES[trial[0]], steps=STEPS[trial[1]])
        scored, change = list[Scored](), self.before[:0]
        try:
            for stream in self._streams:
                if self._is_hopeless(change):
                    break
                method = self._method(config)
                scored.append(stream.scores(method, stream.learned(method)))
                losses = _losses(scored, self.scale)
                change = losses - self.before[: len(losses)]
        except DivergedError:
            change = np.full_like(self.before, np.inf)
        finite = bool(np.isfinite(change).all())
        self._changes[trial] = change if finite else np.full_like(self.before, np.inf)
        self.found[trial] = RecipeTrial(
            lr=RATES[trial[0]],
            steps=STEPS[trial[1]],
            change=float(change.mean()) if finite else None,
            error=_error(change) if finite else None,
            videos=len(change),
        )

    def _is_hopeless(self, change: Losses) -> bool:
        """Whether a trial is clearly behind the best one, on the videos that it has been judged on."""
        best = self._changes[self.best()][: len(change)] if self._changes else change
        finite = len(change) > 0 and bool(np.isfinite(change).all() and np.isfinite(best).all())
        return finite and float(np.mean(change - best)) > HOPELESS * _error(change - best)

    def best(self) -> Point:
        """Least change of the loss among trials that learned both folds; of equal ones the gentlest."""
        whole = [trial for trial, change in self._changes.items() if len(change) == len(self.before)]
        return min(whole, key=lambda trial: (float(self._changes[trial].mean()), RATES[trial[0]] * STEPS[trial[1]]))

    def beside_the_best(self) -> Iterator[Point]:
        """The trials next to the best."""
        rate, steps = self.best()
        for step, turn in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            if 0 <= rate + step < len(RATES) and 0 <= steps + turn < len(STEPS):
                yield rate + step, steps + turn

    def _method(self, config: TrainedConfig) -> Method:
        return self._entry.method(config, self._spec, generator_for(0, "init")).to(self._streams[0].device).eval()


class _Stream:
    """The tables of a short stream, each made once for all trials."""

    def __init__(self, store: FeatureStore, parts: Sequence[_Part], device: str) -> None:
        self._parts, self.device = parts, device
        self.held_out = [PairTable(store, part.held_out, device) for part in parts]
        rows_of = [part.train for part in parts]
        self._pairs = cache(lambda first, last: PairTable(store, np.concatenate(rows_of[first:last]), device))

    def learned(self, method: Method) -> list[VideoEmbedding]:
        """Lead the method through the stream; the galleries as they were stored."""
        stored = []
        for task, part in enumerate(self._parts):
            info = TaskInfo(task, 0, part.categories)
            if method.sees != "all" or task == 0:
                last = len(self._parts)
                data = self._pairs(*{"current": (task, task + 1), "seen": (0, task + 1), "all": (0, last)}[method.sees])
                learn_task(method, data, info._replace(num_pairs=len(data)), 0)
            method.task = info
            stored.append(self._gallery(method, task))
        return stored

    def galleries(self, method: Method) -> list[VideoEmbedding]:
        """The galleries of a method as it is."""
        return [self._gallery(method, task) for task in range(len(self._parts))]

    @torch.no_grad()
    def _gallery(self, method: Method, task: int) -> VideoEmbedding:
        return method.encode_gallery(self.held_out[task].all_videos(), task)

    @torch.no_grad()
    def scores(self, method: Method, stored: Sequence[VideoEmbedding]) -> Scored:
        """Of the held-out captions with the stored videos."""
        first = np.cumsum([0, *(len(gallery.pooled_MD) for gallery in stored)]).tolist()
        scores, targets, videos = [], [], []
        for task, table in enumerate(self.held_out):
            for index in table.chunks(_CHUNK):
                text = table.text(index)
                blocks = [
                    scores_of(method.encode_text(text, shard), each, method.config) for shard, each in enumerate(stored)
                ]
                scores.append(side_by_side(blocks).combined(method.config.alpha))
                targets.append(table.positions(index)[1] + first[task])
                videos.append(table.video_P[index.to(table.device)])
        return torch.cat(scores), torch.cat(targets), torch.cat(videos)


def _losses(scored: Sequence[Scored], scale: float) -> Losses:
    """loss_v of every held-out video, in the order of the folds and of the videos' rows."""
    found = []
    for scores_NM, target_N, video_N in scored:
        loss_N = functional.cross_entropy(scale * scores_NM, target_N, reduction="none").double()
        _, place_N = torch.unique(video_N, return_inverse=True)
        sums = torch.zeros(int(place_N.max()) + 1, dtype=torch.float64, device=loss_N.device)
        found.append((sums.index_add(0, place_N, loss_N) / torch.bincount(place_N)).cpu().numpy())
    return np.concatenate(found)


def _error(change: Losses) -> float:
    return float(change.std(ddof=1) / math.sqrt(len(change))) if len(change) > 1 else 0.0


def _parts(store: FeatureStore, task: Task, fold: int) -> list[_Part]:
    """The short stream: the task's videos, category after category, cut into parts of equal length.

    Of each part every second video is held out, the others of it in the other fold.
    """
    video_P = store.caption_video_M[task.train]
    rng = np.random.default_rng(0)
    videos = rng.permutation(np.unique(video_P))
    category = store.category_N[videos]
    rank = rng.permutation(int(category.max()) + 1)[category]
    number = min(PARTS, max(2, len(videos) // PART))
    dealt = np.array_split(videos[np.argsort(rank, kind="stable")], number)
    parts = []
    for mine in dealt:
        held_P = np.isin(video_P, mine[fold::FOLDS])
        learned_P = np.isin(video_P, mine) & ~held_P
        if held_P.any() and learned_P.any():
            present = tuple(np.unique(store.category_N[mine]).tolist())
            parts.append(_Part(task.train[learned_P], task.train[held_P], present))
    if not parts:
        raise InputError(
            f"{store.path}: the first task has too few training videos to find a recipe on (one category needs two); "
            "give the numbers with --recipe fixed"
        )
    return parts
