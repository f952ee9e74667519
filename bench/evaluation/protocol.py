"""What is embedded, stored and scored after each task: the CTVR protocol, with every decision named.

After task t all test queries of tasks 1..t are embedded by the current model and compared with
  stored        galleries of task j as embedded when task j ended, never again (CTVR)
  re-encoded    the same videos under the current model
  frozen-query  the stored galleries again, but each query as it was embedded when its own task ended
  indexed       the stored galleries through a FAISS index, only where one is asked for (bench.evaluation.first_stage)
in the scopes
  seen          all galleries of tasks 1..t
  own           the gallery of the query's own task, scored alone
  own-of-seen   the own task's columns cut out of scores that were fused over all of seen. Re-encoded there means, as in
                StructAlign's evaluator: the query's own task's videos under the current model, the others as stored
in both directions. Re-encoded seen costs as much as all stored galleries, and tables show it after the last task: where
a video moved it is ranked then alone, unless it is asked for after every task.
Each test video is asked for by one caption, or by as many as any other. Captions are asked in sheets, one of each
video: in a sheet query i belongs to video i, and rows and columns of the score matrix share their targets. Videos, too,
search one sheet at a time.  Axes: N queries, n = N / sheets videos of tasks 1..t, T tasks, D feature dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ctvr_bench.bench.evaluation.scores import Scores, Stopwatch, cat, chunks, same
from ctvr_bench.bench.evaluation.search import Ranked, Ranker
from ctvr_bench.bench.evaluation.sheet import Floats, Ints, Key, Sheet, is_settled
from ctvr_bench.bench.records.record import Engine, FirstStage, Reencoded
from ctvr_bench.features.streams import PairTable
from ctvr_bench.methods.shared.base import Method, TextEmbedding, VideoEmbedding

_MOST_SCORES = 1 << 26  # of one matrix held whole: 256 MB


@dataclass(frozen=True)
class StageResult:
    """What one evaluation leaves.

    ranked[key]: rank and top item of the N queries seen, by task, in a task by sheet; an item is the position of its
    video's query of the first sheet.
    text_ND, video_ND: pooled embeddings [n, D] of the first sheet and the videos under the current model;
    frozen_text_ND, stored_video_ND: at their task's end.
    """

    ranked: dict[Key, Ranked]
    text_ND: Floats
    video_ND: Floats
    frozen_text_ND: Floats
    stored_video_ND: Floats


class Evaluator:
    """Keeps what is stored between tasks and ranks after each of them.

    test: the test pairs of all tasks in learning order; sizes: how many belong to each task; further: the same videos
    with other captions (`PairTable.told_as`). The text side of a method is asked once for each gallery shard where it
    depends on the shard, else once.
    first_stage: an index to be asked beside exact search, of every method for which one answers.
    engine: faiss has FAISS's exact index make the ranks of methods that compare one vector a side; count counts them in
        blocks of scores, as auto does, since that is as fast or faster in every size measured. Ranks are the same.
    reencoded: after which tasks the re-encoded galleries of all tasks together are ranked where a video moved, `last`
        or `every`; each task's own is after every task.
    """

    def __init__(
        self,
        test: PairTable,
        sizes: Sequence[int],
        first_stage: FirstStage | None = None,
        engine: Engine = "auto",
        reencoded: Reencoded = "last",
        further: Sequence[PairTable] = (),
    ) -> None:
        self.test, self._engine, self._reencoded = test, engine, reencoded
        self._first_stage = first_stage
        self.ends = np.cumsum(sizes).tolist()
        self.stored: list[VideoEmbedding] = []
        self._settled: dict[int, VideoEmbedding] = {}
        self._encoding = Stopwatch()
        self._sheets = [Sheet(table, self.ends) for table in (test, *further)]
        self.engine: Ranker = "count"

    @property
    def encode_s(self) -> float:
        """Seconds spent so far in the method's encoders."""
        return self._encoding.seconds + sum(sheet.encode_s for sheet in self._sheets)

    def rows(self, task: int) -> slice:
        """Positions of a task's videos, and of its queries in a sheet."""
        return slice(self.ends[task - 1] if task else 0, self.ends[task])

    def queries(self, task: int) -> slice:
        """Positions of a task's queries among those of all sheets."""
        rows, sheets = self.rows(task), len(self._sheets)
        return slice(rows.start * sheets, rows.stop * sheets)

    @torch.no_grad()
    def own_ranks(self, method: Method, task: int, shard: int) -> Ints:
        """Ranks of a task's queries in its own gallery under the current model, text to video; nothing is stored."""
        settled = is_settled(method)
        video = self._current_video(method, task) if settled else self._encode_video(method, task, shard)
        return np.concatenate([sheet.own_ranks(method, task, video, shard) for sheet in self._sheets])

    @torch.no_grad()
    def routing_accuracy(self, method: Method) -> float | None:
        """Percent of the queries seen that the method sends to their own task; None where it does not route."""
        right = [sheet.routed_right(method, len(self.stored)) for sheet in self._sheets]
        known = [right_N for right_N in right if right_N is not None]
        return float(100 * torch.cat(known).float().mean()) if known else None

    @torch.no_grad()
    def headline(self, method: Method, task: int) -> float:
        """R@1 in percent of all queries of tasks up to `task`, text to video, earlier galleries as stored."""
        galleries = [*self.stored[:task], self._encode_video(method, task)]
        return float(100 * np.mean([sheet.seen_ranks(method, galleries) == 1 for sheet in self._sheets]))

    @torch.no_grad()
    def top(self, method: Method, count: int) -> tuple[npt.NDArray[np.int32], Floats]:
        """The first items of each query seen, [N, count] or as many as there are, and their scores, stored galleries.

        In the order of the ranks: a query's own video comes last among equals.
        """
        found = [sheet.top(method, self.stored, count) for sheet in self._sheets]
        items, scores = (self._by_task(parts) for parts in zip(*found, strict=True))
        return self._columns[items], scores

    @torch.no_grad()
    def keep_gallery(self, method: Method) -> None:
        """Store the gallery of the next task in line and rank nothing: enough for a `headline` after the last task."""
        self.stored.append(self._encode_video(method, len(self.stored)))

    @torch.no_grad()
    def finish_task(self, method: Method) -> StageResult:
        """Store the gallery of the next task in line and rank every query of tasks up to it."""
        task = len(self.stored)
        current = [self._current_video(method, j) for j in range(task + 1)]
        self.stored.append(current[task])
        current = [old if same(old, new) else new for old, new in zip(self.stored, current, strict=True)]  # held once
        dense = self._ranks_without_matrix(method, task)
        self.engine = dense or self.engine
        results = [
            sheet.finish_task(
                method,
                self.stored,
                current,
                dense=dense,
                everywhere=self._reencoded == "every" or task + 1 == len(self.ends),
                first_stage=self._first_stage,
            )
            for sheet in self._sheets
        ]
        return StageResult(
            self._joined([result.ranked for result in results]),
            text_ND=_numpy(results[0].text_ND),
            video_ND=_numpy(torch.cat([video.pooled_MD for video in current])),
            frozen_text_ND=_numpy(results[0].frozen_text_ND),
            stored_video_ND=_numpy(torch.cat([video.pooled_MD for video in self.stored])),
        )

    def state(self) -> dict[str, Tensor]:
        """What is kept of the newest task, as named tensors; what is kept of earlier ones does not change any more."""
        kept: dict[str, NamedTuple] = {"video": self.stored[-1]}
        for number, sheet in enumerate(self._sheets):
            kept |= {_part(name, number): values for name, values in sheet.state().items()}
        named = {f"{part}.{name}": value for part, values in kept.items() for name, value in values._asdict().items()}
        return {name: value.contiguous() for name, value in named.items() if value is not None}

    def restore(self, state: Mapping[str, Tensor], method: Method) -> None:
        """Take the next task up again from its `state`."""
        self.stored.append(VideoEmbedding(**_named(state, "video")))
        for number, sheet in enumerate(self._sheets):
            text = TextEmbedding(**_named(state, _part("text", number)))
            scores = _named(state, _part("scores", number))
            sheet.restore(text, Scores(**scores) if scores else None, self.stored, method.config)

    @property
    def _columns(self) -> npt.NDArray[np.int32]:
        """Of each video, the position of its query of the first sheet among the queries of all."""
        sizes = np.diff([0, *self.ends])
        before = np.repeat((len(self._sheets) - 1) * np.array([0, *self.ends[:-1]]), sizes)
        return (before + np.arange(self.ends[-1])).astype(np.int32)

    def _by_task(self, sheets: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """Rows of all sheets: by task, in a task by sheet."""
        ends = [end for end in self.ends if end <= len(sheets[0])]
        return np.concatenate([part[a:b] for a, b in pairwise([0, *ends]) for part in sheets])

    def _joined(self, sheets: Sequence[Mapping[Key, Ranked]]) -> dict[Key, Ranked]:
        """Ranks of all sheets together; what is one object under two keys in every sheet stays one."""
        joined: dict[tuple[int, ...], Ranked] = {}
        found = {}
        for key in sheets[0]:
            parts = [sheet[key] for sheet in sheets]
            same = tuple(map(id, parts))
            if same not in joined:
                rank_N, best_N = (self._by_task(fields) for fields in zip(*parts, strict=True))
                joined[same] = Ranked(
                    rank_N, np.where(best_N < 0, -1, self._columns[best_N])
                )  # -1: an index found none
            found[key] = joined[same]
        return found

    def _ranks_without_matrix(self, method: Method, task: int) -> Ranker | None:
        """Who ranks where no matrix of scores is held: of one vector a side, many or asked for by FAISS."""
        large = self.ends[task] ** 2 > _MOST_SCORES
        if method.config.scoring != "cosine" or method.uses_shards or not (large or self._engine == "faiss"):
            return None
        attends = method.encode_text(self.test.text(torch.arange(1)), task).attend_ND is not None
        return None if attends else "faiss" if self._engine == "faiss" else "count"

    def _current_video(self, method: Method, task: int) -> VideoEmbedding:
        """Videos of a task under the current model; those of a method that learns nothing are encoded once."""
        if not is_settled(method):
            return self._encode_video(method, task)
        if task not in self._settled:
            known = task < len(self.stored)
            self._settled[task] = self.stored[task] if known else self._encode_video(method, task)
        return self._settled[task]

    def _encode_video(self, method: Method, task: int, shard: int | None = None) -> VideoEmbedding:
        """Videos of a task as a gallery of `shard` keeps them: their own task's, unless that is still to come."""
        shard = task if shard is None else shard
        with self._encoding.running():
            parts = [method.encode_gallery(self.test.video(index), shard) for index in chunks(self.rows(task))]
        return VideoEmbedding(*(cat(fields) for fields in zip(*parts, strict=True)))  # type: ignore[arg-type]


def _part(name: str, sheet: int) -> str:
    """Of a state: what it calls a part of a sheet; the first one's has no number."""
    return f"{name}-{sheet + 1}" if sheet else name


def _named(state: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{part}."): value for name, value in state.items() if name.startswith(f"{part}.")}


def _numpy(x: Tensor) -> Floats:
    return x.cpu().numpy()
