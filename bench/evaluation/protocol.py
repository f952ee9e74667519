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
Each test video is asked for by one caption, or by as many as any other (`bench.evaluation.queries`). Videos search the
captions of one sheet at a time.  Axes: N queries, n videos of tasks 1..t, T tasks, D feature dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ctvr_bench.bench.evaluation.dense import rank_dense
from ctvr_bench.bench.evaluation.first_stage import can_ask, rank_through
from ctvr_bench.bench.evaluation.grid import Asked, ScoreGrid, Stopwatch
from ctvr_bench.bench.evaluation.queries import CHUNK, Queries, pieces, span
from ctvr_bench.bench.evaluation.ranking import Floats, Ints, Key, numpy_of, rank_exact
from ctvr_bench.bench.evaluation.scores import Scores, cat, join_texts, same, scores_of, split_texts, stack
from ctvr_bench.bench.evaluation.search import ItemIndex, Ranked, Ranker
from ctvr_bench.bench.metrics import ranks
from ctvr_bench.bench.records.record import Engine, FirstStage, Reencoded
from ctvr_bench.features.streams import PairTable
from ctvr_bench.methods.shared.base import Method, TextEmbedding, VideoEmbedding, learns

_Encoded = TypeVar("_Encoded", TextEmbedding, VideoEmbedding)
_MOST_SCORES = 1 << 26  # of one matrix held whole: 256 MB


@dataclass(frozen=True)
class StageResult:
    """What one evaluation leaves.

    ranked[key]: rank and top item of the N queries seen, in the order of `Queries`, by which an item is named too.
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

    test: the test pairs of all tasks in learning order, in a task those of the first sheet, then the second ones, ...;
    sizes: how many videos each task has; sheets: captions that ask for each of them. The text side of a method is asked
    once for each gallery shard where it depends on the shard, else once.
    first_stage: an index to be asked beside exact search, of every method for which one answers.
    engine: faiss has FAISS's exact index make the ranks of methods that compare one vector a side; count counts them in
        blocks of scores, as auto does, since that is as fast or faster in every size measured. Ranks are the same.
    reencoded: after which tasks the re-encoded galleries of all tasks together are ranked where a video moved, `last`
        or `every`; each task's own is after every task.
    aside: lays words of the newest captions and frames of galleries that moved where memory need not hold them while
        they are ranked.
    """

    def __init__(
        self,
        test: PairTable,
        sizes: Sequence[int],
        first_stage: FirstStage | None = None,
        engine: Engine = "auto",
        reencoded: Reencoded = "last",
        sheets: int = 1,
        aside: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict,
    ) -> None:
        self.test, self._engine, self._reencoded, self._aside = test, engine, reencoded, aside
        self._first_stage = first_stage
        self._queries = Queries(sizes, sheets)
        self.ends = self._queries.ends
        self.stored: list[VideoEmbedding] = []
        self._frozen_text: list[list[TextEmbedding]] = []  # by task and chunk
        self._settled: dict[int, VideoEmbedding] = {}
        self._grid = ScoreGrid(test, self._queries)
        self._encoding = Stopwatch()
        self.engine: Ranker = "count"

    @property
    def encode_s(self) -> float:
        """Seconds spent so far in the method's encoders."""
        return self._encoding.seconds + self._grid.encoding.seconds

    def rows(self, task: int) -> slice:
        """Positions of a task's videos, and of its queries in a sheet."""
        return self._queries.videos(task)

    def queries(self, task: int) -> slice:
        """Positions of a task's queries among those of all sheets."""
        return self._queries.of(task)

    @torch.no_grad()
    def own_ranks(self, method: Method, task: int, shard: int) -> Ints:
        """Ranks of a task's queries in its own gallery under the current model, text to video; nothing is stored."""
        settled = is_settled(method)
        video = self._current_video(method, task) if settled else self._encode_video(method, task, shard)
        if settled:
            own = self._grid.own(method, task, video)
        else:
            own = stack([scores_of(text, video, method.config) for text in self._encode_text(method, task, shard)])
        target_N = self._queries.target_N[self.queries(task)] - self.rows(task).start
        return ranks(numpy_of(own.combined(method.config.alpha)), target_N)

    @torch.no_grad()
    def routing_accuracy(self, method: Method) -> float | None:
        """Percent of the queries seen that the method sends to their own task; None where it does not route."""
        right: list[Tensor] = []
        for task in range(len(self.stored)):
            for index in self._queries.chunks(task):
                task_N = method.route(self.test.text(index))
                if task_N is None:
                    return None
                right.append(task_N == task)
        return float(100 * torch.cat(right).float().mean())

    @torch.no_grad()
    def headline(self, method: Method, task: int) -> float:
        """R@1 in percent of all queries of tasks up to `task`, text to video, earlier galleries as stored."""
        galleries = [*self.stored[:task], self._encode_video(method, task)]
        found = []
        for index in (index for seen in range(task + 1) for index in self._queries.chunks(seen)):
            sim_NM = self._grid.row(method, index, galleries).combined(method.config.alpha)
            found.append(ranks(numpy_of(sim_NM), self._queries.target_N[span(index)]) == 1)
        return float(100 * np.mean(np.concatenate(found)))

    @torch.no_grad()
    def top(self, method: Method, count: int) -> tuple[npt.NDArray[np.int32], Floats]:
        """The first items of each query seen, [N, count] or as many as there are, and their scores, stored galleries.

        In the order of the ranks: a query's own video comes last among equals.
        """
        items, scores = [], []
        for index in (index for task in range(len(self.stored)) for index in self._queries.chunks(task)):
            sim_NM = numpy_of(self._grid.row(method, index, self.stored).combined(method.config.alpha))
            for own, sim_M in zip(self._queries.target_N[span(index)], sim_NM, strict=True):
                first_K = np.lexsort((np.arange(len(sim_M)) == own, -sim_M))[:count]
                items.append(self._queries.item_V[first_K].astype(np.int32))
                scores.append(sim_M[first_K])
        return np.stack(items), np.stack(scores)

    @torch.no_grad()
    def keep_gallery(self, method: Method) -> None:
        """Store the gallery of the next task in line and rank nothing: enough for a `headline` after the last task."""
        self.stored.append(self._encode_video(method, len(self.stored)))

    @torch.no_grad()
    def finish_task(self, method: Method) -> StageResult:
        """Store the gallery of the next task in line and rank every query of tasks up to it."""
        task = len(self.stored)
        current = [self._current(method, j) for j in range(task)]
        self.stored.append(self._current_video(method, task))
        current.append(self.stored[task])
        self._frozen_text.append([self._laid(text) for text in self._encode_text(method, task, task)])
        dense = self._ranks_without_matrix(method, task)
        self.engine = dense or self.engine
        text_ND, ranked = (
            self._rank_exact(method, current) if dense is None else self._rank_dense(method, current, dense)
        )
        if not any(gallery == "re-encoded" for gallery, _, _ in ranked):  # no video moved
            ranked |= {("re-encoded", *key[1:]): value for key, value in ranked.items() if key[0] == "stored"}
        if self._first_stage is not None and can_ask(method, self._frozen_text[-1][0], self._first_stage):
            ranked["indexed", "seen", "t2v"] = self._rank_indexed(method, self._first_stage)
        first_V = self._queries.item_V[: self.ends[task]]
        return StageResult(
            ranked,
            text_ND=numpy_of(text_ND)[first_V],
            video_ND=numpy_of(torch.cat([video.pooled_MD for video in current])),
            frozen_text_ND=numpy_of(torch.cat(self._frozen_pooled()))[first_V],
            stored_video_ND=numpy_of(torch.cat([video.pooled_MD for video in self.stored])),
        )

    def state(self) -> dict[str, Tensor]:
        """What is kept of the newest task, as named tensors; what is kept of earlier ones does not change any more."""
        kept: dict[str, NamedTuple] = {"video": self.stored[-1], "text": join_texts(self._frozen_text[-1])}
        kept |= self._grid.newest(len(self.stored) - 1)
        parts = {part: _tensors(values) for part, values in kept.items()}
        return {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take the next task up again from its `state`."""
        self.stored.append(VideoEmbedding(**_named(state, "video")))
        self._frozen_text.append(split_texts(TextEmbedding(**_named(state, "text"))))
        if scores := _scores(state):
            self._grid.restore(len(self.stored) - 1, self._frozen_text[-1], scores)
        else:
            self._grid.forget()

    def rest(self, state: Mapping[str, Tensor]) -> None:
        """Hold what is kept of the newest task as these tensors, which have the values of its `state`.

        Where they are a file's map, memory has to hold nothing that a finished task left.
        """
        task = len(self.stored) - 1
        self.stored[task] = VideoEmbedding(**_named(state, "video"))
        if task in self._settled:
            self._settled[task] = self.stored[task]
        self._frozen_text[task] = split_texts(TextEmbedding(**_named(state, "text")))
        if scores := _scores(state):
            self._grid.rest(task, self._frozen_text[task], scores)

    def _rank_exact(self, method: Method, current: Sequence[VideoEmbedding]) -> tuple[Tensor, dict[Key, Ranked]]:
        """Pooled captions of all queries seen, and their ranks from one row of scores for each."""
        newest, everywhere = self._frozen_text[-1], self._everywhere
        if len(self.stored) == len(self.ends):  # the grid gives up the words once they were asked
            self._frozen_text = [[text._replace(words_NLD=None) for text in task] for task in self._frozen_text]
        rows = self._grid.rows(method, self.stored, current, newest, reencode=everywhere)
        return rank_exact(self._queries, rows, len(current), method.config, everywhere=everywhere)

    def _rank_dense(
        self, method: Method, current: Sequence[VideoEmbedding], engine: Ranker
    ) -> tuple[Tensor, dict[Key, Ranked]]:
        """The same without a matrix, for one vector a side: for galleries whose scores do not fit in memory."""
        self._grid.forget()  # nothing that follows is smaller
        last = len(current) - 1
        texts = [
            torch.cat([text.pooled_ND for text in self._encode_text(method, j, last)]) for j in range(len(current))
        ]
        moved = not all(map(same, self.stored, current))
        stored, now = ([video.pooled_MD for video in gallery] for gallery in (self.stored, current))
        frozen, everywhere = self._frozen_pooled(), self._everywhere
        ranked = rank_dense(self._queries, texts, frozen, stored, now if moved else None, engine, everywhere=everywhere)
        return torch.cat(texts), ranked

    def _rank_indexed(self, method: Method, stage: FirstStage) -> Ranked:
        """Ranks of all queries seen, through an index over the stored galleries."""
        videos = VideoEmbedding(*(cat(fields) for fields in zip(*self.stored, strict=True)))  # type: ignore[arg-type]
        index, found = ItemIndex(videos.pooled_MD, stage.index), []
        for task in range(len(self.stored)):
            text = join_texts([*self._encode_text(method, task, len(self.stored) - 1)])
            target_N = self._queries.target_N[self.queries(task)]
            found.append(rank_through(index, text, videos, target_N, method.config, stage))
        rank_N, best_N = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return Ranked(rank_N, np.where(best_N < 0, -1, self._queries.item_V[best_N]))  # -1: the index found none

    @property
    def _everywhere(self) -> bool:
        """Whether all re-encoded galleries together are ranked after the newest task."""
        return self._reencoded == "every" or len(self.stored) == len(self.ends)

    def _frozen_pooled(self) -> list[Tensor]:
        """Each task's pooled captions as they were when it ended."""
        return [torch.cat([text.pooled_ND for text in task]) for task in self._frozen_text]

    def _ranks_without_matrix(self, method: Method, task: int) -> Ranker | None:
        """Who ranks where no matrix of scores is held: of one vector a side, many or asked for by FAISS."""
        large = self.ends[task] ** 2 > _MOST_SCORES
        if method.config.scoring != "cosine" or method.uses_shards or not (large or self._engine == "faiss"):
            return None
        attends = method.encode_text(self.test.text(torch.arange(1)), task).attend_ND is not None
        return None if attends else "faiss" if self._engine == "faiss" else "count"

    def _current(self, method: Method, task: int) -> VideoEmbedding:
        """Videos of an earlier task under the current model: the stored ones where they are the same, so held once."""
        video = self._current_video(method, task)
        if same(self.stored[task], video):
            return self.stored[task]
        return self._laid(video)

    def _laid(self, encoded: _Encoded) -> _Encoded:
        """The same, laid aside where it has words or frames."""
        large = encoded.words_NLD if isinstance(encoded, TextEmbedding) else encoded.frames_MFD
        return encoded if large is None else type(encoded)(**self._aside(_tensors(encoded)))

    def _current_video(self, method: Method, task: int) -> VideoEmbedding:
        """Videos of a task under the current model; those of a method that learns nothing are encoded once."""
        if not is_settled(method):
            return self._encode_video(method, task)
        if task not in self._settled:
            known = task < len(self.stored)
            self._settled[task] = self.stored[task] if known else self._encode_video(method, task)
        return self._settled[task]

    def _encode_text(self, method: Method, task: int, shard: int) -> Iterator[TextEmbedding]:
        """Chunks of a task's captions for a gallery of `shard`."""
        for index in self._queries.chunks(task):
            with self._encoding.running():
                text = Asked(self.test, self._queries, index).encoded(method, shard)
            yield text

    def _encode_video(self, method: Method, task: int, shard: int | None = None) -> VideoEmbedding:
        """Videos of a task as a gallery of `shard` keeps them: their own task's, unless that is still to come."""
        shard = task if shard is None else shard
        first_M = torch.from_numpy(self._queries.item_V[self.rows(task)])
        with self._encoding.running():
            batches = (pieces(self.test.video(index)) for index in first_M.split(CHUNK))
            parts = [method.encode_gallery(piece, shard) for batch in batches for piece in batch]
        return VideoEmbedding(*(cat(fields) for fields in zip(*parts, strict=True)))  # type: ignore[arg-type]


def is_settled(method: Method) -> bool:
    """Whether the method encodes every video and query the same after all tasks, since it learns nothing."""
    return not learns(type(method)) and not method.uses_shards


def _tensors(values: NamedTuple) -> dict[str, Tensor]:
    return {name: value.contiguous() for name, value in values._asdict().items() if value is not None}


def _scores(state: Mapping[str, Tensor]) -> dict[str, Scores]:
    named = {part: _named(state, part) for part in ("row", "column")}
    return {part: Scores(**values) for part, values in named.items() if values}


def _named(state: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{part}."): value for name, value in state.items() if name.startswith(f"{part}.")}
