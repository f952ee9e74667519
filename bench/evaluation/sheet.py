"""One caption of every test video: what is kept of it between tasks, and its ranks in the galleries that there are.

In a sheet query i asks for video i, so rows and columns of the score matrix share their targets.
Axes: n queries = videos of tasks 1..t, D feature dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ctvr_bench.bench.evaluation.first_stage import can_ask, rank_through
from ctvr_bench.bench.evaluation.scores import (
    ScoreGrid,
    Scores,
    cat,
    chunks,
    join_texts,
    same,
    scores_of,
    split_texts,
    stack,
    task_chunks,
)
from ctvr_bench.bench.evaluation.search import DenseGallery, ItemIndex, Ranked, Ranker
from ctvr_bench.bench.metrics import ranks
from ctvr_bench.bench.records.record import FirstStage
from ctvr_bench.features.streams import PairTable
from ctvr_bench.methods.shared.base import Method, MethodConfig, TextEmbedding, VideoEmbedding, learns

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Key = tuple[str, str, str]
"""gallery, scope, direction, as in 'stored', 'seen', 't2v'."""

_ROWS = 128


class SheetResult(NamedTuple):
    """ranked[key]: rank of the n queries and position of the top item. Pooled captions [n, D], now and when their task
    ended.
    """

    ranked: dict[Key, Ranked]
    text_ND: Tensor
    frozen_text_ND: Tensor


class Sheet:
    """test: the test pairs of all tasks in learning order, one of each video; ends: last row of each task, plus one."""

    def __init__(self, test: PairTable, ends: Sequence[int]) -> None:
        self.test, self._ends = test, ends
        self._frozen_text: list[list[TextEmbedding]] = []
        self._grid = ScoreGrid(test, ends)

    @property
    def encode_s(self) -> float:
        """Seconds spent so far in the method's text encoder."""
        return self._grid.encoding.seconds

    def own_ranks(self, method: Method, task: int, video: VideoEmbedding, shard: int) -> Ints:
        """Ranks of a task's queries in its own gallery `video` of a shard, text to video."""
        if is_settled(method):
            own = self._grid.own(method, task, video)
        else:
            texts = [method.encode_text(self.test.text(index), shard) for index in chunks(self._rows(task))]
            own = stack([scores_of(text, video, method.config) for text in texts])
        return _rank_blocks([_numpy(own.combined(method.config.alpha))], "t2v").rank_N

    def routed_right(self, method: Method, tasks: int) -> Tensor | None:
        """bool [n]: which queries of the first tasks the method sends to their own; None where it does not route."""
        right: list[Tensor] = []
        for task in range(tasks):
            for index in chunks(self._rows(task)):
                task_N = method.route(self.test.text(index))
                if task_N is None:
                    return None
                right.append(task_N == task)
        return torch.cat(right)

    def seen_ranks(self, method: Method, galleries: Sequence[VideoEmbedding]) -> Ints:
        """Ranks of the queries of these galleries' tasks, text to video, among all of their videos."""
        index = task_chunks([0, *self._ends[: len(galleries)]])
        rows = (self._grid.row(method, [chunk], galleries).combined(method.config.alpha) for chunk in index)
        return _rank_rows(rows).rank_N

    def top(self, method: Method, stored: Sequence[VideoEmbedding], count: int) -> tuple[npt.NDArray[np.int32], Floats]:
        """Positions of the first items of each query, [n, count] or as many as there are, and their scores.

        In the order of the ranks: a query's own video comes last among equals.
        """
        found: list[tuple[npt.NDArray[np.int32], Floats]] = []
        for index in task_chunks([0, *self._ends[: len(stored)]]):
            sim_NM = _numpy(self._grid.row(method, [index], stored).combined(method.config.alpha))
            for own, sim_M in zip(index.tolist(), sim_NM, strict=True):
                first_K = np.lexsort((np.arange(len(sim_M)) == own, -sim_M))[:count]
                found.append((first_K.astype(np.int32), sim_M[first_K]))
        return np.stack([item_K for item_K, _ in found]), np.stack([score_K for _, score_K in found])

    def finish_task(
        self,
        method: Method,
        stored: Sequence[VideoEmbedding],
        current: Sequence[VideoEmbedding],
        *,
        dense: Ranker | None,
        everywhere: bool,
        first_stage: FirstStage | None,
    ) -> SheetResult:
        """Keep the newest task's queries and rank all in the stored galleries and, where a video moved, current ones.

        dense: who ranks without a matrix of scores, None to hold it. everywhere: rank in re-encoded galleries of all
        tasks together.
        """
        task = len(stored) - 1
        self._frozen_text.append(self._encode_chunks(method, self._rows(task), task))
        if dense is None:
            text_ND, ranked = self._rank_exact(method, stored, current, everywhere)
        else:
            text_ND, ranked = self._rank_dense(method, stored, current, everywhere, dense)
        if not any(gallery == "re-encoded" for gallery, _, _ in ranked):  # no video moved
            ranked |= {("re-encoded", *key[1:]): value for key, value in ranked.items() if key[0] == "stored"}
        if first_stage is not None and can_ask(method, self._frozen_text[-1][0], first_stage):
            ranked["indexed", "seen", "t2v"] = self._rank_indexed(method, stored, first_stage)
        return SheetResult(ranked, text_ND, self._frozen_pooled())

    def state(self) -> dict[str, NamedTuple]:
        """What is kept of the newest task."""
        kept: dict[str, NamedTuple] = {"text": join_texts(self._frozen_text[-1])}
        if (scores := self._grid.frozen_row(len(self._frozen_text) - 1)) is not None:
            kept["scores"] = scores
        return kept

    def restore(
        self, text: TextEmbedding, scores: Scores | None, stored: Sequence[VideoEmbedding], config: MethodConfig
    ) -> None:
        """Take the next task up again from its `state`; stored: its gallery and those before it."""
        self._frozen_text.append(split_texts(text))
        if scores is None:
            self._grid.forget()
        else:
            self._grid.restore(len(stored) - 1, self._frozen_text[-1], scores, stored, config)

    def _rows(self, task: int) -> slice:
        return slice(self._ends[task - 1] if task else 0, self._ends[task])

    def _encode_text(self, method: Method, rows: slice, shard: int) -> TextEmbedding:
        return join_texts(self._encode_chunks(method, rows, shard))

    def _encode_chunks(self, method: Method, rows: slice, shard: int) -> list[TextEmbedding]:
        with self._grid.encoding.running():
            return [method.encode_text(self.test.text(index), shard) for index in chunks(rows)]

    def _frozen_pooled(self) -> Tensor:
        return torch.cat([text.pooled_ND for task in self._frozen_text for text in task])

    def _rank_exact(
        self, method: Method, stored: Sequence[VideoEmbedding], current: Sequence[VideoEmbedding], everywhere: bool
    ) -> tuple[Tensor, dict[Key, Ranked]]:
        """Pooled captions, and ranks in every gallery, scope and direction from one matrix for each gallery."""
        frozen: list[tuple[slice, Ranked]] = []

        def rank_frozen(rows: slice, sim_NM: Tensor) -> None:
            frozen.append((rows, _rank_rows([sim_NM], rows.start)))

        newest = self._frozen_text[-1]
        if len(stored) == len(self._ends):  # the grid gives up the words once they were asked
            self._frozen_text = [[text._replace(words_NLD=None) for text in task] for task in self._frozen_text]
        grid = self._grid.make(method, stored, current, newest, reencode=everywhere, on_frozen=rank_frozen)
        spans, fused = [self._rows(j) for j in range(len(current))], method.config.scoring == "fused"
        seen, own = _numpy(grid.seen_NM), [*map(_numpy, grid.own)]
        ranked = _in_scopes("stored", seen, own, [seen[rows, rows] for rows in spans] if fused else own)
        ranked["frozen-query", "seen", "t2v"] = _with_rows(ranked["stored", "seen", "t2v"], frozen)
        if grid.own_again is not None and grid.own_of_seen_again is not None:
            again = None if grid.reencoded_NM is None else _numpy(grid.reencoded_NM)
            own = [*map(_numpy, grid.own_again)]
            cut = [*map(_numpy, grid.own_of_seen_again)] if fused else own
            ranked |= _in_scopes("re-encoded", again, own, cut)
        return grid.text_ND, ranked

    def _rank_dense(
        self,
        method: Method,
        stored: Sequence[VideoEmbedding],
        current: Sequence[VideoEmbedding],
        everywhere: bool,
        engine: Ranker,
    ) -> tuple[Tensor, dict[Key, Ranked]]:
        """The same without the matrix, for one vector a side: for galleries whose scores do not fit in memory."""
        self._grid.forget()  # nothing that follows is smaller
        spans = [self._rows(j) for j in range(len(current))]
        texts = [self._encode_text(method, rows, len(current) - 1).pooled_ND for rows in spans]
        videos, now = ([video.pooled_MD for video in gallery] for gallery in (stored, current))
        text_index, stored_index = _index_of(texts), _index_of(videos)
        ranked = self._both_scopes("stored", "t2v", stored_index, texts, engine)
        ranked |= self._both_scopes("stored", "v2t", text_index, videos, engine)
        if not all(map(same, stored, current)):
            ranked |= self._both_scopes("re-encoded", "t2v", _index_of(now), texts, engine, seen=everywhere)
            ranked |= self._both_scopes("re-encoded", "v2t", text_index, now, engine, seen=everywhere)
        frozen_ND = self._frozen_pooled()
        frozen = stored_index.rank(frozen_ND, np.arange(len(frozen_ND)), engine=engine)
        ranked["frozen-query", "seen", "t2v"] = frozen
        return torch.cat(texts), ranked

    def _rank_indexed(self, method: Method, stored: Sequence[VideoEmbedding], stage: FirstStage) -> Ranked:
        """Ranks of all queries seen, through an index over the stored galleries."""
        videos = VideoEmbedding(*(cat(fields) for fields in zip(*stored, strict=True)))  # type: ignore[arg-type]
        index, found = ItemIndex(videos.pooled_MD, stage.index), []
        for rows in map(self._rows, range(len(stored))):
            text, target_N = self._encode_text(method, rows, len(stored) - 1), np.arange(rows.start, rows.stop)
            found.append(rank_through(index, text, videos, target_N, method.config, stage))
        return Ranked(*(np.concatenate(parts) for parts in zip(*found, strict=True)))

    def _both_scopes(
        self,
        gallery: str,
        direction: str,
        index: DenseGallery,
        queries: Sequence[Tensor],
        engine: Ranker,
        *,
        seen: bool = True,
    ) -> dict[Key, Ranked]:
        query_ND, target_N = torch.cat(list(queries)), np.arange(len(index))
        blocks = [index.rank(query, target_N[self._rows(j)], block=j, engine=engine) for j, query in enumerate(queries)]
        own = Ranked(*(np.concatenate(parts) for parts in zip(*blocks, strict=True)))
        ranked = {(gallery, scope, direction): own for scope in ("own", "own-of-seen")}
        if seen:
            ranked[gallery, "seen", direction] = index.rank(query_ND, target_N, engine=engine)
        return ranked


def is_settled(method: Method) -> bool:
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


def _rank_blocks(blocks: Sequence[Floats], direction: str) -> Ranked:
    """Ranks of the diagonal in each square block, rows asked for 't2v' and columns for 'v2t'; positions run on."""
    rank, best, first = [], [], 0
    for block in blocks:
        sim = block if direction == "t2v" else block.T
        rank.append(ranks(sim, np.arange(len(sim))))
        best.append(first + _best(sim))
        first += len(sim)
    return Ranked(np.concatenate(rank), np.concatenate(best))


def _with_rows(ranked: Ranked, others: Sequence[tuple[slice, Ranked]]) -> Ranked:
    """These ranks with other ones in some rows; the very same where there are none."""
    if not others:
        return ranked
    found = Ranked(*(field_N.copy() for field_N in ranked))
    for rows, other in others:
        for field_N, other_N in zip(found, other, strict=True):
            field_N[rows] = other_N
    return found


def _rank_rows(chunked: Iterable[Tensor], first: int = 0) -> Ranked:
    """Ranks of the diagonal, rows asked, which come some at a time and are never held whole; first: the first row."""
    rank, best = [], []
    for rows_NM in chunked:
        sim_NM = _numpy(rows_NM)
        rank.append(ranks(sim_NM, np.arange(first, first := first + len(sim_NM))))
        best.append(_best(sim_NM))
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


def _numpy(x: Tensor) -> Floats:
    return x.cpu().numpy()
