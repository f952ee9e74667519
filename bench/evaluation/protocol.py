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
There is one query for each test video, so query i belongs to video i and rows and columns of the score matrix share
their targets.  Axes: N queries = videos of tasks 1..t, T tasks, D feature dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ctvr_bench.bench.evaluation.first_stage import can_ask, rank_through
from ctvr_bench.bench.evaluation.scores import (
    Grid,
    ScoreGrid,
    Scores,
    cat,
    chunks,
    join_texts,
    same,
    scores_of,
    side_by_side,
    split_texts,
    stack,
    task_chunks,
)
from ctvr_bench.bench.evaluation.search import DenseGallery, ItemIndex, Ranked
from ctvr_bench.bench.metrics import ranks
from ctvr_bench.bench.records.record import Engine, FirstStage, Reencoded
from ctvr_bench.features.streams import PairTable
from ctvr_bench.methods.shared.base import Method, TextEmbedding, VideoEmbedding, learns

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Key = tuple[str, str, str]
"""gallery, scope, direction, as in 'stored', 'seen', 't2v'."""

_MOST_SCORES = 1 << 26  # of one matrix held whole: 256 MB
_ROWS = 128


@dataclass(frozen=True)
class StageResult:
    """What one evaluation leaves.

    ranked[key]: rank and top item (position among the test videos) of the N queries seen.
    text_ND, video_ND: pooled embeddings under the current model; frozen_text_ND, stored_video_ND: at their task's end.
    """

    ranked: dict[Key, Ranked]
    text_ND: Floats
    video_ND: Floats
    frozen_text_ND: Floats
    stored_video_ND: Floats


class Evaluator:
    """Keeps what is stored between tasks and ranks after each of them.

    test: the test pairs of all tasks in learning order; sizes: how many belong to each task. The text side of a method
    is asked once for each gallery shard where it depends on the shard, else once.
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
    ) -> None:
        self.test, self._engine, self._reencoded = test, engine, reencoded
        self._first_stage = first_stage
        self.ends = np.cumsum(sizes).tolist()
        self.stored: list[VideoEmbedding] = []
        self._settled: dict[int, VideoEmbedding] = {}
        self._frozen_text: list[list[TextEmbedding]] = []
        self._grid = ScoreGrid(test, self.ends)
        self.engine: Literal["count", "faiss"] = "count"

    @property
    def encode_s(self) -> float:
        """Seconds spent so far in the method's encoders."""
        return self._grid.encoding.seconds

    def rows(self, task: int) -> slice:
        """Positions of a task's queries and videos."""
        return slice(self.ends[task - 1] if task else 0, self.ends[task])

    @torch.no_grad()
    def own_ranks(self, method: Method, task: int, shard: int) -> Ints:
        """Ranks of a task's queries in its own gallery under the current model, text to video; nothing is stored."""
        if _settled(method):
            own = self._grid.own(method, task, self._current_video(method, task))
            return _rank_blocks([_numpy(own.combined(method.config.alpha))], "t2v").rank_N
        video, blocks = self._encode_video(method, task, shard), []
        for index in chunks(self.rows(task)):
            blocks.append(scores_of(method.encode_text(self.test.text(index), shard), video, method.config))
        return _rank_blocks([_numpy(stack(blocks).combined(method.config.alpha))], "t2v").rank_N

    @torch.no_grad()
    def routing_accuracy(self, method: Method) -> float | None:
        """Percent of the queries seen that the method sends to their own task; None where it does not route."""
        right: list[Tensor] = []
        for task in range(len(self.stored)):
            for index in chunks(self.rows(task)):
                task_N = method.route(self.test.text(index))
                if task_N is None:
                    return None
                right.append(task_N == task)
        return float(100 * torch.cat(right).float().mean())

    @torch.no_grad()
    def headline(self, method: Method, task: int) -> float:
        """R@1 in percent of all queries of tasks up to `task`, text to video, earlier galleries as stored."""
        galleries = [*self.stored[:task], self._encode_video(method, task)]
        scores = self._grid.row(method, task_chunks([0, *self.ends[: task + 1]]), galleries)
        ranked = _rank_blocks([_numpy(scores.combined(method.config.alpha))], "t2v")
        return float(100 * (ranked.rank_N == 1).mean())

    @torch.no_grad()
    def top(self, method: Method, count: int) -> tuple[npt.NDArray[np.int32], Floats]:
        """The first items of each query seen, [N, count] or as many as there are, and their scores, stored galleries.

        In the order of the ranks: a query's own video comes last among equals.
        """
        found: list[tuple[npt.NDArray[np.int32], Floats]] = []
        for index in task_chunks([0, *self.ends[: len(self.stored)]]):
            sim_NM = _numpy(self._grid.row(method, [index], self.stored).combined(method.config.alpha))
            for own, sim_M in zip(index.tolist(), sim_NM, strict=True):
                first_K = np.lexsort((np.arange(len(sim_M)) == own, -sim_M))[:count]
                found.append((first_K.astype(np.int32), sim_M[first_K]))
        return np.stack([item_K for item_K, _ in found]), np.stack([score_K for _, score_K in found])

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
        self._frozen_text.append(self._encode_chunks(method, self.rows(task), task))
        one_vector_each = not method.uses_shards and self._frozen_text[-1][0].attend_ND is None
        large = self.ends[task] ** 2 > _MOST_SCORES
        if method.config.scoring == "cosine" and one_vector_each and (large or self._engine == "faiss"):
            text_ND, ranked = self._rank_dense(method, current)
        else:
            text_ND, ranked = self._rank_exact(method, current)
        if not any(gallery == "re-encoded" for gallery, _, _ in ranked):  # no video moved
            ranked |= {("re-encoded", *key[1:]): value for key, value in ranked.items() if key[0] == "stored"}
        if self._first_stage is not None and can_ask(method, self._frozen_text[-1][0], self._first_stage):
            ranked["indexed", "seen", "t2v"] = self._rank_indexed(method, self._first_stage)
        return StageResult(
            ranked,
            text_ND=_numpy(text_ND),
            video_ND=_numpy(torch.cat([video.pooled_MD for video in current])),
            frozen_text_ND=_numpy(self._frozen_pooled()),
            stored_video_ND=_numpy(torch.cat([video.pooled_MD for video in self.stored])),
        )

    def state(self) -> dict[str, Tensor]:
        """What is kept of the newest task, as named tensors; what is kept of earlier ones does not change any more."""
        kept: dict[str, NamedTuple] = {"video": self.stored[-1], "text": join_texts(self._frozen_text[-1])}
        if (scores := self._grid.frozen_row(len(self.stored) - 1)) is not None:
            kept["scores"] = scores
        named = {f"{part}.{name}": value for part, values in kept.items() for name, value in values._asdict().items()}
        return {name: value.contiguous() for name, value in named.items() if value is not None}

    def restore(self, state: Mapping[str, Tensor], method: Method) -> None:
        """Take the next task up again from its `state`."""
        task = len(self.stored)
        self.stored.append(VideoEmbedding(**_named(state, "video")))
        text = TextEmbedding(**_named(state, "text"))
        self._frozen_text.append(split_texts(text))
        if scores := _named(state, "scores"):
            self._grid.restore(task, self._frozen_text[-1], Scores(**scores), self.stored, method.config)
        else:
            self._grid.forget()

    def _current_video(self, method: Method, task: int) -> VideoEmbedding:
        """Videos of a task under the current model; those of a method that learns nothing are encoded once."""
        if not _settled(method):
            return self._encode_video(method, task)
        if task not in self._settled:
            known = task < len(self.stored)
            self._settled[task] = self.stored[task] if known else self._encode_video(method, task)
        return self._settled[task]

    def _encode_video(self, method: Method, task: int, shard: int | None = None) -> VideoEmbedding:
        """Videos of a task as a gallery of `shard` keeps them: their own task's, unless that is still to come."""
        shard = task if shard is None else shard
        with self._grid.encoding.running():
            parts = [method.encode_gallery(self.test.video(index), shard) for index in chunks(self.rows(task))]
        return VideoEmbedding(*(cat(fields) for fields in zip(*parts, strict=True)))  # type: ignore[arg-type]

    def _encode_text(self, method: Method, rows: slice, shard: int) -> TextEmbedding:
        return join_texts(self._encode_chunks(method, rows, shard))

    def _encode_chunks(self, method: Method, rows: slice, shard: int) -> list[TextEmbedding]:
        with self._grid.encoding.running():
            return [method.encode_text(self.test.text(index), shard) for index in chunks(rows)]

    def _frozen_pooled(self) -> Tensor:
        return torch.cat([text.pooled_ND for task in self._frozen_text for text in task])

    def _rank_exact(self, method: Method, current: Sequence[VideoEmbedding]) -> tuple[Tensor, dict[Key, Ranked]]:
        """Pooled captions, and ranks in every gallery, scope and direction from one matrix for each gallery."""
        grid = self._grid.make(method, self.stored, current, self._frozen_text[-1], reencode=self._asks_reencoded)
        alpha, fused = method.config.alpha, method.config.scoring == "fused"
        spans = [self.rows(j) for j in range(len(current))]
        seen = _numpy(grid.stored.combined(alpha))
        own = [_numpy(grid.stored.block(rows, rows).combined(alpha)) for rows in spans]
        cut = [seen[rows, rows] for rows in spans] if fused else own
        ranked = _in_scopes("stored", seen, own, cut)
        if grid.frozen is None:
            ranked["frozen-query", "seen", "t2v"] = ranked["stored", "seen", "t2v"]
        else:
            ranked["frozen-query", "seen", "t2v"] = _rank_blocks([_numpy(grid.frozen.combined(alpha))], "t2v")
        del seen, cut
        if grid.own_again is not None:
            pairs = list(zip(grid.own_again, spans, strict=True))
            own = [_numpy(again.combined(alpha)) for again, _ in pairs]
            cut = [_own_of_seen(grid, again, rows, alpha) for again, rows in pairs] if fused else own
            everywhere = None if grid.reencoded is None else _numpy(grid.reencoded.combined(alpha))
            ranked |= _in_scopes("re-encoded", everywhere, own, cut)
        return grid.text_ND, ranked

    @property
    def _asks_reencoded(self) -> bool:
        """Whether re-encoded galleries of all tasks together are ranked after the newest task."""
        return self._reencoded == "every" or len(self.stored) == len(self.ends)

    def _rank_dense(self, method: Method, current: Sequence[VideoEmbedding]) -> tuple[Tensor, dict[Key, Ranked]]:
        """The same without the matrix, for one vector a side: for galleries whose scores do not fit in memory."""
        self._grid.forget()  # nothing that follows is smaller
        spans = [self.rows(j) for j in range(len(current))]
        texts = [self._encode_text(method, rows, len(current) - 1).pooled_ND for rows in spans]
        text_index, stored_index = _index_of(texts), _index_of([video.pooled_MD for video in self.stored])
        videos = [video.pooled_MD for video in self.stored]
        ranked = self._both_scopes("stored", "t2v", stored_index, texts)
        ranked |= self._both_scopes("stored", "v2t", text_index, videos)
        if not all(map(same, self.stored, current)):
            videos, everywhere = [video.pooled_MD for video in current], self._asks_reencoded
            ranked |= self._both_scopes("re-encoded", "t2v", _index_of(videos), texts, seen=everywhere)
            ranked |= self._both_scopes("re-encoded", "v2t", text_index, videos, seen=everywhere)
        frozen_ND = self._frozen_pooled()
        frozen = stored_index.rank(frozen_ND, np.arange(len(frozen_ND)), engine=self._counts_or_asks)
        ranked["frozen-query", "seen", "t2v"] = frozen
        self.engine = self._counts_or_asks
        return torch.cat(texts), ranked

    @property
    def _counts_or_asks(self) -> Literal["count", "faiss"]:
        return "faiss" if self._engine == "faiss" else "count"

    def _rank_indexed(self, method: Method, stage: FirstStage) -> Ranked:
        """Ranks of all queries seen, through an index over the stored galleries."""
        videos = VideoEmbedding(*(cat(fields) for fields in zip(*self.stored, strict=True)))  # type: ignore[arg-type]
        index, found = ItemIndex(videos.pooled_MD, stage.index), []
        for rows in map(self.rows, range(len(self.stored))):
            text, target_N = self._encode_text(method, rows, len(self.stored) - 1), np.arange(rows.start, rows.stop)
            found.append(rank_through(index, text, videos, target_N, method.config, stage))
        return Ranked(*(np.concatenate(parts) for parts in zip(*found, strict=True)))

    def _both_scopes(
        self, gallery: str, direction: str, index: DenseGallery, queries: Sequence[Tensor], *, seen: bool = True
    ) -> dict[Key, Ranked]:
        query_ND, target_N = torch.cat(list(queries)), np.arange(len(index))
        engine = self._counts_or_asks
        blocks = [index.rank(query, target_N[self.rows(j)], block=j, engine=engine) for j, query in enumerate(queries)]
        own = Ranked(*(np.concatenate(parts) for parts in zip(*blocks, strict=True)))
        ranked = {(gallery, scope, direction): own for scope in ("own", "own-of-seen")}
        if seen:
            ranked[gallery, "seen", direction] = index.rank(query_ND, target_N, engine=engine)
        return ranked


def _settled(method: Method) -> bool:
    """Whether the method encodes every video and query the same after all tasks, since it learns nothing."""
    return not learns(type(method)) and not method.uses_shards


def _in_scopes(gallery: str, seen: Floats | None, own: Sequence[Floats], cut: Sequence[Floats]) -> dict[Key, Ranked]:
    """Ranks in both directions: of all seen where they are asked, of each task's own block, and of that cut out."""
    ranked: dict[Key, Ranked] = {}
    for direction in ("t2v", "v2t"):
        if seen is not None:
            ranked[gallery, "seen", direction] = _rank_blocks([seen], direction)
        ranked[gallery, "own", direction] = in_own = _rank_blocks(own, direction)
        ranked[gallery, "own-of-seen", direction] = in_own if cut is own else _rank_blocks(cut, direction)
    return ranked


def _own_of_seen(grid: Grid, own: Scores, rows: slice, alpha: float) -> Floats:
    """A task's own columns, its scores `own` fused among those against the stored galleries of all other tasks."""
    first, last = slice(0, rows.start), slice(rows.stop, None)
    parts = [grid.stored.block(rows, first), own, grid.stored.block(rows, last)]
    return _numpy(side_by_side(parts).combined(alpha)[:, rows])


def _rank_blocks(blocks: Sequence[Floats], direction: str) -> Ranked:
    """Ranks of the diagonal in each square block, rows asked for 't2v' and columns for 'v2t'; positions run on."""
    rank, best, first = [], [], 0
    for block in blocks:
        sim = block if direction == "t2v" else block.T
        rank.append(ranks(sim, np.arange(len(sim))))
        best.append(first + _best(sim))
        first += len(sim)
    return Ranked(np.concatenate(rank), np.concatenate(best))


def _best(sim_NM: Floats) -> Ints:
    """Column of the first of each row's highest scores; a transposed view is copied in parts that stay in the cache."""
    parts = [np.ascontiguousarray(sim_NM[row : row + _ROWS]).argmax(1) for row in range(0, len(sim_NM), _ROWS)]
    return np.concatenate(parts)


def _index_of(blocks: Sequence[Tensor]) -> DenseGallery:
    index = DenseGallery(blocks[0].shape[1])
    for block in blocks:
        index.add(block)
    return index


def _named(state: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{part}."): value for name, value in state.items() if name.startswith(f"{part}.")}


def _numpy(x: Tensor) -> Floats:
    return x.cpu().numpy()
