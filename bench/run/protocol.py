"""What is embedded, stored and scored after each task: the CTVR protocol, with every decision named.

After task t all test queries of tasks 1..t are embedded by the current model and compared with
  stored        galleries of task j as embedded when task j ended, never again (CTVR)
  re-encoded    the same videos under the current model
  frozen-query  the stored galleries again, but each query as it was embedded when its own task ended
  indexed       the stored galleries through a FAISS index, only where one is asked for (bench.run.first_stage)
in the scopes
  seen          all galleries of tasks 1..t
  own           the gallery of the query's own task, scored alone
  own-of-seen   the own task's columns cut out of scores that were fused over all of seen. Re-encoded there means, as in
                StructAlign's evaluator: the query's own task's videos under the current model, the others as stored
in both directions. There is one query for each test video, so query i belongs to video i and rows and columns of the
score matrix share their targets.  Axes: N queries = videos of tasks 1..t, T tasks, D feature dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ctvr_bench.bench.metrics import ranks
from ctvr_bench.bench.records.record import Engine, FirstStage
from ctvr_bench.bench.run.first_stage import can_ask, rank_through
from ctvr_bench.bench.run.scores import (
    Grid,
    ScoreGrid,
    Scores,
    cat,
    chunks,
    join_texts,
    same,
    scores_of,
    side_by_side,
    stack,
    task_chunks,
)
from ctvr_bench.bench.run.search import DenseGallery, ItemIndex, Ranked
from ctvr_bench.features.streams import PairTable
from ctvr_bench.methods.shared.base import Method, MethodConfig, TextEmbedding, VideoEmbedding

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
    """

    def __init__(
        self, test: PairTable, sizes: Sequence[int], first_stage: FirstStage | None = None, engine: Engine = "auto"
    ) -> None:
        self.test, self._engine = test, engine
        self._first_stage = first_stage
        self.ends = np.cumsum(sizes).tolist()
        self.stored: list[VideoEmbedding] = []
        self._frozen_text: list[TextEmbedding] = []
        self._frozen_scores: list[Scores] = []
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
    def keep_gallery(self, method: Method) -> None:
        """Store the gallery of the next task in line and rank nothing: enough for a `headline` after the last task."""
        self.stored.append(self._encode_video(method, len(self.stored)))

    @torch.no_grad()
    def finish_task(self, method: Method) -> StageResult:
        """Store the gallery of the next task in line and rank every query of tasks up to it."""
        task = len(self.stored)
        current = [self._encode_video(method, j) for j in range(task + 1)]
        self.stored.append(current[task])
        self._frozen_text.append(self._encode_text(method, self.rows(task), task))
        one_vector_each = not method.uses_shards and self._frozen_text[-1].attend_ND is None
        large = self.ends[task] ** 2 > _MOST_SCORES
        if method.config.scoring == "cosine" and one_vector_each and (large or self._engine == "faiss"):
            text_ND, ranked = self._rank_dense(method, current)
        else:
            text_ND, ranked = self._rank_exact(method, current)
        stored = {key: value for key, value in ranked.items() if key[0] == "stored"}
        ranked = {("re-encoded", *key[1:]): value for key, value in stored.items()} | ranked  # where no video moved
        if self._first_stage is not None and can_ask(method, self._frozen_text[-1], self._first_stage):
            ranked["indexed", "seen", "t2v"] = self._rank_indexed(method, self._first_stage)
        return StageResult(
            ranked,
            text_ND=_numpy(text_ND),
            video_ND=_numpy(torch.cat([video.pooled_MD for video in current])),
            frozen_text_ND=_numpy(torch.cat([text.pooled_ND for text in self._frozen_text])),
            stored_video_ND=_numpy(torch.cat([video.pooled_MD for video in self.stored])),
        )

    def state(self) -> dict[str, Tensor]:
        """What is kept of the newest task, as named tensors; what is kept of earlier ones does not change any more."""
        own_columns = self.ends[len(self.stored) - 1]
        kept: dict[str, NamedTuple] = {"video": self.stored[-1], "text": self._frozen_text[-1]}
        if self._frozen_scores:
            kept["scores"] = self._frozen_scores[-1].block(slice(None), slice(0, own_columns))
        named = {f"{part}.{name}": value for part, values in kept.items() for name, value in values._asdict().items()}
        return {name: value.contiguous() for name, value in named.items() if value is not None}

    def restore(self, state: Mapping[str, Tensor], method: Method) -> None:
        """Take the next task up again from its `state`."""
        self.stored.append(VideoEmbedding(**_named(state, "video")))
        self._frozen_text.append(TextEmbedding(**_named(state, "text")))
        if scores := _named(state, "scores"):
            self._extend_frozen(Scores(**scores), method.config)
        else:
            self._frozen_scores.clear()

    def _encode_video(self, method: Method, task: int, shard: int | None = None) -> VideoEmbedding:
        """Videos of a task as a gallery of `shard` keeps them: their own task's, unless that is still to come."""
        shard = task if shard is None else shard
        with self._grid.encoding.running():
            parts = [method.encode_gallery(self.test.video(index), shard) for index in chunks(self.rows(task))]
        return VideoEmbedding(*(cat(fields) for fields in zip(*parts, strict=True)))  # type: ignore[arg-type]

    def _encode_text(self, method: Method, rows: slice, shard: int) -> TextEmbedding:
        with self._grid.encoding.running():
            return join_texts([method.encode_text(self.test.text(index), shard) for index in chunks(rows)])

    def _rank_exact(self, method: Method, current: Sequence[VideoEmbedding]) -> tuple[Tensor, dict[Key, Ranked]]:
        """Pooled captions, and ranks in every gallery, scope and direction from one matrix for each gallery."""
        grid = self._grid.make(method, self.stored, current)
        ranked: dict[Key, Ranked] = {}
        alpha = method.config.alpha
        spans = [self.rows(j) for j in range(len(current))]
        self._extend_frozen(grid.stored.block(spans[-1], slice(None)), method.config)
        for gallery, scores in (("stored", grid.stored), ("re-encoded", grid.reencoded)):
            if scores is None:
                continue
            seen = _numpy(scores.combined(alpha))
            own = [_numpy(scores.block(rows, rows).combined(alpha)) for rows in spans]
            cut = own if method.config.scoring != "fused" else [_own_of_seen(grid, scores, j, alpha) for j in spans]
            for direction in ("t2v", "v2t"):
                ranked[gallery, "seen", direction] = _rank_blocks([seen], direction)
                ranked[gallery, "own", direction] = in_own = _rank_blocks(own, direction)
                ranked[gallery, "own-of-seen", direction] = in_own if cut is own else _rank_blocks(cut, direction)
        frozen = stack(self._frozen_scores)
        ranked["frozen-query", "seen", "t2v"] = _rank_blocks([_numpy(frozen.combined(alpha))], "t2v")
        return grid.text_ND, ranked

    def _extend_frozen(self, newest: Scores, config: MethodConfig) -> None:
        """Earlier queries meet the newest gallery, in the encoding for their own task's shard; `newest` joins them."""
        for j, scores in enumerate(self._frozen_scores):
            columns = scores_of(self._frozen_text[j], self.stored[-1], config)
            self._frozen_scores[j] = side_by_side([scores, columns])
        self._frozen_scores.append(newest)

    def _rank_dense(self, method: Method, current: Sequence[VideoEmbedding]) -> tuple[Tensor, dict[Key, Ranked]]:
        """The same without the matrix, for one vector a side: for galleries whose scores do not fit in memory."""
        self._frozen_scores.clear()  # nothing that follows is smaller
        spans = [self.rows(j) for j in range(len(current))]
        texts = [self._encode_text(method, rows, len(current) - 1).pooled_ND for rows in spans]
        text_index, stored_index = _index_of(texts), _index_of([video.pooled_MD for video in self.stored])
        videos = [video.pooled_MD for video in self.stored]
        ranked = self._both_scopes("stored", "t2v", stored_index, texts)
        ranked |= self._both_scopes("stored", "v2t", text_index, videos)
        if not all(map(same, self.stored, current)):
            videos = [video.pooled_MD for video in current]
            ranked |= self._both_scopes("re-encoded", "t2v", _index_of(videos), texts)
            ranked |= self._both_scopes("re-encoded", "v2t", text_index, videos)
        frozen_ND = torch.cat([text.pooled_ND for text in self._frozen_text])
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
        self, gallery: str, direction: str, index: DenseGallery, queries: Sequence[Tensor]
    ) -> dict[Key, Ranked]:
        query_ND, target_N = torch.cat(list(queries)), np.arange(len(index))
        engine = self._counts_or_asks
        blocks = [index.rank(query, target_N[self.rows(j)], block=j, engine=engine) for j, query in enumerate(queries)]
        own = Ranked(*(np.concatenate(parts) for parts in zip(*blocks, strict=True)))
        seen = index.rank(query_ND, target_N, engine=engine)
        return {(gallery, "seen", direction): seen} | {(gallery, s, direction): own for s in ("own", "own-of-seen")}


def _own_of_seen(grid: Grid, own: Scores, rows: slice, alpha: float) -> Floats:
    """A task's own columns, its scores `own` fused among those against the stored galleries of all other tasks."""
    first, last = slice(0, rows.start), slice(rows.stop, None)
    parts = [grid.stored.block(rows, first), own.block(rows, rows), grid.stored.block(rows, last)]
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
