"""Scores of all queries seen against all galleries, held once; a block is made again only where a side of it moved.

A block holds a chunk of one task's queries against one task's gallery. It always has the same shape and is computed by
itself, so that a model that did not change gives the same bits after every task, however many others have come.
Axes: N queries, M videos, L words, D features.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from ctvr_bench.features.streams import PairTable
from ctvr_bench.methods.shared.base import Method, MethodConfig, TextEmbedding, VideoEmbedding
from ctvr_bench.methods.shared.scoring import pooled_similarity
from ctvr_bench.methods.shared.similarity import fuse
from ctvr_bench.methods.shared.word_frame import word_frame_scores

CHUNK = 256
_FUSED = 32  # rows fused together: they and their z-scores stay in a core's cache


class Stopwatch:
    """Seconds spent inside `running`."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - start


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
        fused_NM = torch.empty_like(self.pooled_NM, memory_format=torch.contiguous_format)
        parts = (part.split(_FUSED) for part in (fused_NM, self.word_frame_NM, self.pooled_NM))
        for out, word_frame, pooled in zip(*parts, strict=True):
            out.copy_(fuse(word_frame, pooled, alpha))
        return fused_NM


def scores_of(text: TextEmbedding, video: VideoEmbedding, config: MethodConfig) -> Scores:
    """Raw scores of one encoding of queries against one gallery, in the parts that the scoring needs."""
    return Scores(
        pooled_NM=None if config.scoring == "word_frame" else pooled_similarity(text, video),
        word_frame_NM=None if config.scoring == "cosine" else word_frame_scores(text, video),
    )


class Grid(NamedTuple):
    """One evaluation, scores [N, M] of the tasks so far; the matrices are the grid's own and change with the next.

    frozen: of queries as they were embedded when their task ended; None where all still are. own_again: of each task's
    queries with its own videos under the current model; reencoded_NM: of all with all, combined as they are ranked;
    both None where no video moved, reencoded_NM also where it was not asked for. text_ND: pooled captions, encoded for
    the newest gallery's shard.
    """

    stored: Scores
    frozen: Scores | None
    own_again: list[Scores] | None
    reencoded_NM: Tensor | None
    text_ND: Tensor


class ScoreGrid:
    """Makes a `Grid` after every task. ends: last row of each task, plus one.

    A block against a stored gallery stays while its captions stay what they were, which their fingerprints tell; one
    whose captions moved between two tasks is made after every task from then on.
    """

    def __init__(self, test: PairTable, ends: Sequence[int]) -> None:
        self._test, self._ends = test, ends
        self._stored: Scores | None = None
        self._frozen: Scores | None = None  # while None the stored scores are theirs too
        self._frozen_text: dict[int, _Captions] = {}  # by first row
        self._marks: dict[tuple[int, int], Tensor] = {}
        self._moving: set[tuple[int, int]] = set()
        self.encoding = Stopwatch()

    def make(
        self,
        method: Method,
        stored: Sequence[VideoEmbedding],
        current: Sequence[VideoEmbedding],
        newest: Sequence[TextEmbedding],
        *,
        reencode: bool,
    ) -> Grid:
        """Scores of the queries of all tasks that have a gallery, each against the encoding for the gallery's shard.

        newest: chunks of the newest task's captions for its own shard. reencode: make `reencoded_NM` where one moved.
        """
        config, last = method.config, len(stored) - 1
        moved = [not same(old, new) for old, new in zip(stored, current, strict=True)]
        again: list[list[Scores]] = [[] for _ in stored]
        everywhere_NM: Tensor | None = None
        pooled = []
        for task in range(len(stored)):
            for number, index in enumerate(chunks(self._rows(task))):
                rows = slice(int(index[0]), int(index[-1]) + 1)
                known = newest[number] if task == last else None
                texts = self._texts(method, index, len(stored), known)
                for shard, (text, video) in enumerate(zip(texts, stored, strict=True)):
                    self._bring(rows, shard, text, video, config)
                assert self._stored is not None
                if any(moved):
                    blocks = [self._stored.block(rows, self._rows(shard)) for shard in range(len(stored))]
                    for shard in range(len(stored)) if reencode else (task,):
                        if moved[shard]:
                            blocks[shard] = scores_of(texts[shard].embedding, current[shard], config)
                    again[task].append(blocks[task])
                    if reencode:  # combined row by row, so that no part of it is held whole
                        combined_NM = side_by_side(blocks).combined(config.alpha)
                        if everywhere_NM is None:
                            everywhere_NM = combined_NM.new_empty(self._ends[last], self._ends[last])
                        everywhere_NM[rows] = combined_NM
                if task == last:
                    self._frozen_text[rows.start] = texts[last]
                pooled.append(texts[-1].embedding.pooled_ND)
        self._extend_frozen(stored, config)
        seen = slice(0, self._ends[last])
        assert self._stored is not None
        if self._frozen is not None:
            _write(self._frozen.block(self._rows(last), seen), self._stored.block(self._rows(last), seen))
        return Grid(
            self._stored.block(seen, seen),
            None if self._frozen is None else self._frozen.block(seen, seen),
            [stack(blocks) for blocks in again] if any(moved) else None,
            everywhere_NM,
            torch.cat(pooled),
        )

    def own(self, method: Method, task: int, video: VideoEmbedding) -> Scores:
        """Scores of a task's queries with its own videos as they will be stored, kept for `make`.

        For a method that learns nothing and encodes a query once for all galleries.
        """
        rows = self._rows(task)
        for index in chunks(rows):
            text = self._texts(method, index, 1)[0]
            self._bring(slice(int(index[0]), int(index[-1]) + 1), task, text, video, method.config)
        assert self._stored is not None
        return self._stored.block(rows, rows)

    def row(self, method: Method, index: Sequence[Tensor], videos: Sequence[VideoEmbedding]) -> Scores:
        """Scores of some chunks of queries against these galleries."""
        rows = []
        for chunk in index:
            texts = self._texts(method, chunk, len(videos))
            pairs = zip(texts, videos, strict=True)
            rows.append(side_by_side([scores_of(text.embedding, video, method.config) for text, video in pairs]))
        return stack(rows)

    def frozen_row(self, task: int) -> Scores | None:
        """Scores of a task's queries as they were embedded when it ended, with its and earlier galleries."""
        scores = self._stored if self._frozen is None else self._frozen
        return None if scores is None else scores.block(self._rows(task), slice(0, self._ends[task]))

    def restore(
        self,
        task: int,
        texts: Sequence[TextEmbedding],
        row: Scores,
        stored: Sequence[VideoEmbedding],
        config: MethodConfig,
    ) -> None:
        """Take the frozen queries of a task up again: chunks of their captions and their `frozen_row`."""
        rows = self._rows(task)
        if self._frozen is None:
            self._frozen = self._empty(row)
        _write(self._frozen.block(rows, slice(0, self._ends[task])), row)
        for index, text in zip(chunks(rows), texts, strict=True):
            self._frozen_text[int(index[0])] = _Captions(text)
        self._extend_frozen(stored, config)

    def forget(self) -> None:
        """Give up all scores: the galleries have become too large to hold any."""
        self._stored = self._frozen = None
        self._frozen_text.clear()
        self._marks.clear()

    def _rows(self, task: int) -> slice:
        return slice(self._ends[task - 1] if task else 0, self._ends[task])

    def _texts(
        self, method: Method, index: Tensor, shards: int, newest: TextEmbedding | None = None
    ) -> list[_Captions]:
        """A chunk's captions for each shard; newest: for the last one, where they are known."""
        with self.encoding.running():
            text, last = self._test.text(index), shards - 1
            if not method.uses_shards:
                return [_Captions(method.encode_text(text, last) if newest is None else newest)] * shards
            known = [] if newest is None else [newest]
            each = [method.encode_text(text, shard) for shard in range(shards - len(known))] + known
            return [_Captions(embedding) for embedding in each]

    def _bring(self, rows: slice, shard: int, text: _Captions, video: VideoEmbedding, config: MethodConfig) -> None:
        """Make the block of a chunk and a stored gallery, unless it is there and the captions are what they were."""
        key = rows.start, shard
        if key not in self._moving:
            before = self._marks.get(key)
            if before is not None and torch.equal(before, text.mark):
                return
            self._marks[key] = text.mark
            if before is not None:
                self._moving.add(key)
                del self._marks[key]
        if key in self._moving:
            self._split()
        block = scores_of(text.embedding, video, config)
        if self._stored is None:
            self._stored = self._empty(block)
        _write(self._stored.block(rows, self._rows(shard)), block)

    def _extend_frozen(self, stored: Sequence[VideoEmbedding], config: MethodConfig) -> None:
        """Earlier queries meet the newest gallery, in the encoding for their own task's shard."""
        last = len(stored) - 1
        columns = self._rows(last)
        for first, text in self._frozen_text.items():
            if first >= columns.start:
                continue
            now = self._marks.get((first, last))
            rows = slice(first, first + len(text.embedding.pooled_ND))
            if now is not None and self._stored is not None and torch.equal(now, text.mark):
                block = self._stored.block(rows, columns)
            else:
                self._split()
                block = scores_of(text.embedding, stored[-1], config)
            if self._frozen is not None:
                _write(self._frozen.block(rows, columns), block)

    def _split(self) -> None:
        """Let the frozen queries have scores of their own from here on."""
        if self._frozen is None and self._stored is not None:
            self._frozen = Scores(*(None if part is None else part.clone() for part in self._stored))

    def _empty(self, like: Scores) -> Scores:
        size = self._ends[-1]
        return Scores(*(None if part is None else part.new_empty(size, size) for part in like))


class _Captions:
    """A chunk of captions, with its fingerprint when it is asked for."""

    def __init__(self, embedding: TextEmbedding) -> None:
        self.embedding = embedding

    @cached_property
    def mark(self) -> Tensor:
        return fingerprint(self.embedding)


def _write(target: Scores, source: Scores) -> None:
    for out, values in zip(target, source, strict=True):
        if out is not None and values is not None:
            out.copy_(values)


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


def split_texts(text: TextEmbedding) -> list[TextEmbedding]:
    """The chunks of `join_texts`; their padding stays."""
    spans = [slice(first, first + CHUNK) for first in range(0, len(text.pooled_ND), CHUNK)]
    return [TextEmbedding(*(None if x is None else x[span] for x in text)) for span in spans]  # type: ignore[arg-type]


def same(first: VideoEmbedding, second: VideoEmbedding) -> bool:
    """Whether two galleries are equal to the last bit."""
    pairs = zip(first, second, strict=True)
    return all(a is b or (a is not None and b is not None and torch.equal(a, b)) for a, b in pairs)


def _widen(text: TextEmbedding, width: int) -> TextEmbedding:
    if text.words_NLD is None or text.word_mask_NL is None:
        return text
    more = width - text.words_NLD.shape[1]
    return text._replace(words_NLD=pad(text.words_NLD, (0, 0, 0, more)), word_mask_NL=pad(text.word_mask_NL, (0, more)))
