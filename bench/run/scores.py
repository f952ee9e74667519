"""Scores of all queries seen against all galleries, each made once and made again only where a side of it moved.

A block holds a chunk of one task's queries against one task's gallery. It always has the same shape and is computed by
itself, so that a model that did not change gives the same bits after every task, however many others have come.
Axes: N queries, M videos, L words, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from ctvr_bench.bench.run.budget import Stopwatch
from ctvr_bench.bench.run.search import word_frame_scores
from ctvr_bench.features.streams import PairTable
from ctvr_bench.methods.shared.base import Method, MethodConfig, TextEmbedding, VideoEmbedding
from ctvr_bench.methods.shared.scoring import pooled_similarity
from ctvr_bench.methods.shared.similarity import fuse

CHUNK = 256


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


def scores_of(text: TextEmbedding, video: VideoEmbedding, config: MethodConfig) -> Scores:
    """Raw scores of one encoding of queries against one gallery, in the parts that the scoring needs."""
    return Scores(
        pooled_NM=None if config.scoring == "word_frame" else pooled_similarity(text, video),
        word_frame_NM=None if config.scoring == "cosine" else word_frame_scores(text, video),
    )


class Grid(NamedTuple):
    """One evaluation. stored, reencoded: scores [N, M] (reencoded None where no video moved); text_ND: pooled captions.

    text_ND is encoded for the newest gallery's shard.
    """

    stored: Scores
    reencoded: Scores | None
    text_ND: Tensor


class ScoreGrid:
    """Makes a `Grid` after every task. ends: last row of each task, plus one.

    Where words are compared it keeps the blocks against stored galleries and, for each, fingerprints of its captions;
    a block whose captions turn out to move between two tasks is not kept again.
    """

    def __init__(self, test: PairTable, ends: Sequence[int]) -> None:
        self._test, self._ends = test, ends
        self._kept: dict[tuple[int, int], tuple[Tensor, Scores]] = {}
        self._moving: set[tuple[int, int]] = set()
        self.encoding = Stopwatch()

    def make(self, method: Method, stored: Sequence[VideoEmbedding], current: Sequence[VideoEmbedding]) -> Grid:
        """Scores of the queries of all tasks that have a gallery, each against the encoding for the gallery's shard."""
        moved = [not same(old, new) for old, new in zip(stored, current, strict=True)]
        stored_rows, current_rows, pooled = [], [], []
        for index in task_chunks([0, *self._ends[: len(stored)]]):
            texts = self._texts(method, index, len(stored))
            blocks = self._against_stored(texts, stored, int(index[0]), method)
            stored_rows.append(side_by_side(blocks))
            if any(moved):
                pairs = zip(texts, current, blocks, moved, strict=True)
                again = [scores_of(text, video, method.config) if new else old for text, video, old, new in pairs]
                current_rows.append(side_by_side(again))
            pooled.append(texts[-1].pooled_ND)
        return Grid(stack(stored_rows), stack(current_rows) if current_rows else None, torch.cat(pooled))

    def row(self, method: Method, index: Sequence[Tensor], videos: Sequence[VideoEmbedding]) -> Scores:
        """Scores of some chunks of queries against these galleries."""
        rows = []
        for chunk in index:
            texts = self._texts(method, chunk, len(videos))
            pairs = zip(texts, videos, strict=True)
            rows.append(side_by_side([scores_of(text, video, method.config) for text, video in pairs]))
        return stack(rows)

    def _texts(self, method: Method, index: Tensor, shards: int) -> list[TextEmbedding]:
        with self.encoding.running():
            text = self._test.text(index)
            if method.uses_shards:
                return [method.encode_text(text, shard) for shard in range(shards)]
            return [method.encode_text(text, shards - 1)] * shards

    def _against_stored(
        self, texts: Sequence[TextEmbedding], stored: Sequence[VideoEmbedding], first: int, method: Method
    ) -> list[Scores]:
        if method.config.scoring == "cosine":
            return [scores_of(text, video, method.config) for text, video in zip(texts, stored, strict=True)]
        blocks = []
        for shard, (text, video) in enumerate(zip(texts, stored, strict=True)):
            if method.uses_shards or not shard:
                mark = fingerprint(text)
            blocks.append(self._kept_or(partial(scores_of, text, video, method.config), (first, shard), mark))
        return blocks

    def _kept_or(self, make: Callable[[], Scores], key: tuple[int, int], mark: Tensor) -> Scores:
        """The kept block of a chunk and a stored gallery if the captions are what they were, else a new one."""
        if key in self._moving:
            return make()
        if key not in self._kept:
            self._kept[key] = mark, make()
        elif not torch.equal(mark, self._kept[key][0]):
            del self._kept[key]
            self._moving.add(key)
            return make()
        return self._kept[key][1]


def fingerprint(text: TextEmbedding) -> Tensor:
    """One int64 for each caption and each word over the bits of its vector: other bits, another number, but for chance.

    sum_d bits_d o_d mod 2^32 with fixed odd o_d: a change of a single entry always shows.
    """
    marks = []
    for part in (text.pooled_ND, text.words_NLD, text.attend_ND):
        if part is not None:
            odd_D = 2 * torch.randint(2**30, part.shape[-1:], generator=torch.Generator().manual_seed(0)) + 1
            bits = part.contiguous().view(torch.int32) * odd_D.to(part.device, torch.int32)
            marks.append(bits.sum(-1).remainder(2**32).flatten())
    if text.word_mask_NL is not None:
        marks.append(text.word_mask_NL.sum(1))
    return torch.cat(marks)


def task_chunks(ends: Sequence[int]) -> list[Tensor]:
    """Index tensors over the rows of each task in turn, at most `CHUNK` long; a chunk never spans two tasks."""
    return [index for first, last in pairwise(ends) for index in chunks(slice(first, last))]


def chunks(rows: slice) -> tuple[Tensor, ...]:
    """Index tensors over these rows, at most `CHUNK` long."""
    return torch.split(torch.arange(rows.start, rows.stop), CHUNK)


def side_by_side(parts: Sequence[Scores]) -> Scores:
    """Blocks of the same queries as one matrix."""
    return Scores(*(None if columns[0] is None else torch.cat(columns, 1) for columns in zip(*parts, strict=True)))


def stack(parts: Sequence[Scores]) -> Scores:
    """Blocks against the same galleries as one matrix."""
    return Scores(*(cat(rows) for rows in zip(*parts, strict=True)))


def cat(parts: Sequence[Tensor | None]) -> Tensor | None:
    """The parts one after another; None where there is none."""
    return None if parts[0] is None else torch.cat([part for part in parts if part is not None])


def join_texts(parts: Sequence[TextEmbedding]) -> TextEmbedding:
    """Chunks of captions as one, padded to the longest."""
    width = max((part.words_NLD.shape[1] for part in parts if part.words_NLD is not None), default=0)
    wide = [_widen(part, width) for part in parts]
    return TextEmbedding(*(cat(fields) for fields in zip(*wide, strict=True)))  # type: ignore[arg-type]


def same(first: VideoEmbedding, second: VideoEmbedding) -> bool:
    """Whether two galleries are equal to the last bit."""
    pairs = zip(first, second, strict=True)
    return all(a is b or (a is not None and b is not None and torch.equal(a, b)) for a, b in pairs)


def _widen(text: TextEmbedding, width: int) -> TextEmbedding:
    if text.words_NLD is None or text.word_mask_NL is None:
        return text
    more = width - text.words_NLD.shape[1]
    return text._replace(words_NLD=pad(text.words_NLD, (0, 0, 0, more)), word_mask_NL=pad(text.word_mask_NL, (0, more)))
