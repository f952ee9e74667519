"""What is embedded, stored and scored after each task: the CTVR protocol, with every decision named.

After task t all test queries of tasks 1..t are embedded by the current model and compared with
  stored        galleries of task j as embedded when task j ended, never again (CTVR)
  re-encoded    the same videos under the current model
  frozen-query  the stored galleries again, but each query as it was embedded when its own task ended
in the scopes
  seen          all galleries of tasks 1..t
  own           the gallery of the query's own task, scored alone
  own-of-seen   the own task's columns cut out of scores that were fused over all of seen (StructAlign's evaluator)
in both directions. There is one query for each test video, so query i belongs to video i and rows and columns of the
score matrix share their targets.  Axes: N queries = videos of tasks 1..t, T tasks, D feature dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import pad

from bench.metrics import ranks
from bench.search import DenseGallery, Ranked, word_frame_scores
from features.streams import PairTable
from methods.base import Method, MethodConfig, TextEmbedding, VideoEmbedding
from methods.scoring import pooled_similarity
from methods.similarity import fuse

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Key = tuple[str, str, str]
"""gallery, scope, direction, as in 'stored', 'seen', 't2v'."""

_CHUNK = 256


class Scores(NamedTuple):
    """Raw scores [N, M] of the parts that the scoring needs."""

    pooled_NM: Tensor | None = None
    word_frame_NM: Tensor | None = None

    def block(self, rows: slice, columns: slice) -> Scores:
        return Scores(*(None if part is None else part[rows, columns] for part in self))

    def combined(self, alpha: float) -> Tensor:
        """The matrix that is ranked: one part as it is, or both fused over exactly these columns."""
        if self.pooled_NM is None or self.word_frame_NM is None:
            part = self.word_frame_NM if self.pooled_NM is None else self.pooled_NM
            assert part is not None
            return part
        return fuse(self.word_frame_NM, self.pooled_NM, alpha)


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
    """

    def __init__(self, test: PairTable, sizes: Sequence[int]) -> None:
        self.test = test
        self.ends = np.cumsum(sizes).tolist()
        self.stored: list[VideoEmbedding] = []
        self._frozen_text: list[TextEmbedding] = []
        self._frozen_scores: list[Scores] = []
        self._index: DenseGallery | None = None

    def rows(self, task: int) -> slice:
        """Positions of a task's queries and videos."""
        return slice(self.ends[task - 1] if task else 0, self.ends[task])

    @torch.no_grad()
    def own_ranks(self, method: Method, task: int, shard: int) -> Ints:
        """Ranks of a task's queries in its own gallery under the current model, text to video; nothing is stored."""
        return _rank_blocks([self._own(method, shard, self._encode_video(method, task, shard), task)], "t2v").rank_N

    @torch.no_grad()
    def routing_accuracy(self, method: Method) -> float | None:
        """Percent of the queries seen that the method sends to their own task; None where it does not route."""
        right: list[Tensor] = []
        for task in range(len(self.stored)):
            for index in _chunks(self.rows(task)):
                task_N = method.route(self.test.text(index))
                if task_N is None:
                    return None
                right.append(task_N == task)
        return float(100 * torch.cat(right).float().mean())

    @torch.no_grad()
    def headline(self, method: Method, task: int) -> float:
        """R@1 in percent of all queries of tasks up to `task`, text to video, earlier galleries as stored."""
        scores = self._scores(method, [*self.stored[:task], self._encode_video(method, task)])
        ranked = _rank_blocks([_numpy(scores.combined(method.config.alpha))], "t2v")
        return float(100 * (ranked.rank_N == 1).mean())

    @torch.no_grad()
    def finish_task(self, method: Method) -> StageResult:
        """Store the gallery of the next task in line and rank every query of tasks up to it."""
        task = len(self.stored)
        current = [self._encode_video(method, j) for j in range(task + 1)]
        text_ND = self._encode_pooled(method, task)
        self.stored.append(current[task])
        self._frozen_text.append(self._encode_text(method, self.rows(task), task))
        unchanged = all(_same(old, new) for old, new in zip(self.stored, current, strict=True))
        one_vector_each = not method.uses_shards and self._frozen_text[-1].attend_ND is None
        if method.config.scoring == "cosine" and one_vector_each:
            ranked = self._rank_dense(text_ND, None if unchanged else current)
        else:
            ranked = self._rank_exact(method, None if unchanged else current)
        if unchanged:
            stored = {key: value for key, value in ranked.items() if key[0] == "stored"}
            ranked |= {("re-encoded", *key[1:]): value for key, value in stored.items()}
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
            self._stored_index(self.stored[-1])

    def _encode_video(self, method: Method, task: int, shard: int | None = None) -> VideoEmbedding:
        """Videos of a task as a gallery of `shard` keeps them: their own task's, unless that is still to come."""
        shard = task if shard is None else shard
        parts = [method.encode_gallery(self.test.video(index), shard) for index in _chunks(self.rows(task))]
        return VideoEmbedding(*(_cat(fields) for fields in zip(*parts, strict=True)))  # type: ignore[arg-type]

    def _encode_pooled(self, method: Method, task: int) -> Tensor:
        """Pooled captions of all queries of tasks up to `task`, as the newest shard is asked."""
        parts = [
            method.encode_text(self.test.text(index), task).pooled_ND for index in _chunks(slice(0, self.ends[task]))
        ]
        return torch.cat(parts)

    def _encode_text(self, method: Method, rows: slice, shard: int) -> TextEmbedding:
        parts = [method.encode_text(self.test.text(index), shard) for index in _chunks(rows)]
        width = max((part.words_NLD.shape[1] for part in parts if part.words_NLD is not None), default=0)
        wide = [_widen(part, width) for part in parts]
        return TextEmbedding(*(_cat(fields) for fields in zip(*wide, strict=True)))  # type: ignore[arg-type]

    def _scores(self, method: Method, videos: Sequence[VideoEmbedding]) -> Scores:
        """Scores of all queries seen against these galleries, each compared with the text encoding for its shard.

        Queries pass in chunks, so that no more than a chunk's words are in memory.
        """
        rows = []
        for index in _chunks(slice(0, self.ends[len(videos) - 1])):
            text = self.test.text(index)
            if method.uses_shards:
                texts = [method.encode_text(text, shard) for shard in range(len(videos))]
            else:
                texts = [method.encode_text(text, len(videos) - 1)] * len(videos)
            pairs = zip(texts, videos, strict=True)
            rows.append(_side_by_side([compare(text, video, method.config) for text, video in pairs]))
        return Scores(*(_cat(parts) for parts in zip(*rows, strict=True)))

    def _rank_exact(self, method: Method, current: Sequence[VideoEmbedding] | None) -> dict[Key, Ranked]:
        ranked: dict[Key, Ranked] = {}
        alpha = method.config.alpha
        for gallery, videos in (("stored", self.stored), ("re-encoded", current)):
            if videos is None:
                continue
            scores = self._scores(method, videos)
            if gallery == "stored":
                self._extend_frozen(scores.block(self.rows(len(videos) - 1), slice(None)), method.config)
            seen = _numpy(scores.combined(alpha))
            blocks = [self.rows(j) for j in range(len(videos))]
            own = [self._own(method, j, video) for j, video in enumerate(videos)]
            cut = [seen[rows, rows] for rows in blocks]
            for direction in ("t2v", "v2t"):
                ranked[gallery, "seen", direction] = _rank_blocks([seen], direction)
                ranked[gallery, "own", direction] = _rank_blocks(own, direction)
                ranked[gallery, "own-of-seen", direction] = _rank_blocks(cut, direction)
        frozen = Scores(*(_cat(parts) for parts in zip(*self._frozen_scores, strict=True)))
        ranked["frozen-query", "seen", "t2v"] = _rank_blocks([_numpy(frozen.combined(alpha))], "t2v")
        return ranked

    def _own(self, method: Method, shard: int, video: VideoEmbedding, task: int | None = None) -> Floats:
        """Scores of a task's queries against its own gallery alone.

        Computed by themselves and not cut out of the seen scores, so that an unchanged model gives the same bits after
        every task, however many others have come.
        """
        text = self._encode_text(method, self.rows(shard if task is None else task), shard)
        return _numpy(compare(text, video, method.config).combined(method.config.alpha))

    def _extend_frozen(self, newest: Scores, config: MethodConfig) -> None:
        """Earlier queries meet the newest gallery, in the encoding for their own task's shard; `newest` joins them."""
        for j, scores in enumerate(self._frozen_scores):
            columns = compare(self._frozen_text[j], self.stored[-1], config)
            self._frozen_scores[j] = _side_by_side([scores, columns])
        self._frozen_scores.append(newest)

    def _stored_index(self, newest: VideoEmbedding) -> DenseGallery:
        if self._index is None:
            self._index = DenseGallery(newest.pooled_MD.shape[1])
        self._index.add(newest.pooled_MD)
        return self._index

    def _rank_dense(self, text_ND: Tensor, current: Sequence[VideoEmbedding] | None) -> dict[Key, Ranked]:
        stored_index = self._stored_index(self.stored[-1])
        texts = [text_ND[self.rows(j)] for j in range(len(self.stored))]
        text_index = _index_of(texts)
        videos = [video.pooled_MD for video in self.stored]
        ranked = self._both_scopes("stored", "t2v", stored_index, texts)
        ranked |= self._both_scopes("stored", "v2t", text_index, videos)
        if current is not None:
            videos = [video.pooled_MD for video in current]
            ranked |= self._both_scopes("re-encoded", "t2v", _index_of(videos), texts)
            ranked |= self._both_scopes("re-encoded", "v2t", text_index, videos)
        frozen_ND = torch.cat([text.pooled_ND for text in self._frozen_text])
        ranked["frozen-query", "seen", "t2v"] = stored_index.rank(frozen_ND, np.arange(len(frozen_ND)))
        return ranked

    def _both_scopes(
        self, gallery: str, direction: str, index: DenseGallery, queries: Sequence[Tensor]
    ) -> dict[Key, Ranked]:
        query_ND, target_N = torch.cat(list(queries)), np.arange(len(index))
        blocks = [index.rank(query, target_N[self.rows(j)], block=j) for j, query in enumerate(queries)]
        own = Ranked(*(np.concatenate(parts) for parts in zip(*blocks, strict=True)))
        seen = index.rank(query_ND, target_N)
        return {(gallery, "seen", direction): seen} | {(gallery, s, direction): own for s in ("own", "own-of-seen")}


def compare(text: TextEmbedding, video: VideoEmbedding, config: MethodConfig) -> Scores:
    """Raw scores of one encoding of queries against one gallery, in the parts that the scoring needs."""
    return Scores(
        pooled_NM=None if config.scoring == "word_frame" else pooled_similarity(text, video),
        word_frame_NM=None if config.scoring == "cosine" else word_frame_scores(text, video),
    )


def _rank_blocks(blocks: Sequence[Floats], direction: str) -> Ranked:
    """Ranks of the diagonal in each square block, rows asked for 't2v' and columns for 'v2t'; positions run on."""
    rank, best, first = [], [], 0
    for block in blocks:
        sim = block if direction == "t2v" else block.T
        rank.append(ranks(sim, np.arange(len(sim))))
        best.append(first + sim.argmax(1))
        first += len(sim)
    return Ranked(np.concatenate(rank), np.concatenate(best))


def _index_of(blocks: Sequence[Tensor]) -> DenseGallery:
    index = DenseGallery(blocks[0].shape[1])
    for block in blocks:
        index.add(block)
    return index


def _side_by_side(parts: Sequence[Scores]) -> Scores:
    return Scores(*(None if columns[0] is None else torch.cat(columns, 1) for columns in zip(*parts, strict=True)))


def _named(state: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{part}."): value for name, value in state.items() if name.startswith(f"{part}.")}


def _chunks(rows: slice) -> tuple[Tensor, ...]:
    return torch.split(torch.arange(rows.start, rows.stop), _CHUNK)


def _cat(parts: Sequence[Tensor | None]) -> Tensor | None:
    return None if parts[0] is None else torch.cat([part for part in parts if part is not None])


def _widen(text: TextEmbedding, width: int) -> TextEmbedding:
    if text.words_NLD is None or text.word_mask_NL is None:
        return text
    more = width - text.words_NLD.shape[1]
    return text._replace(words_NLD=pad(text.words_NLD, (0, 0, 0, more)), word_mask_NL=pad(text.word_mask_NL, (0, more)))


def _same(first: VideoEmbedding, second: VideoEmbedding) -> bool:
    pairs = zip(first, second, strict=True)
    return all(a is b or (a is not None and b is not None and torch.equal(a, b)) for a, b in pairs)


def _numpy(x: Tensor) -> Floats:
    return x.cpu().numpy()
