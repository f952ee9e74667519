"""Scores of all queries seen against all galleries, held once; a block is made again only where a side of it moved.

A block holds a chunk of one task's queries against one task's gallery. It always has the same shape and is computed by
itself, so that a model that did not change gives the same bits after every task, however many others have come.
Axes: N queries, M videos, L words, D features.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from ctvr_bench.bench.records.environment import give_back_memory
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
    """One evaluation of the N queries of the tasks so far, scores combined as they are ranked.

    seen_NM: with the stored galleries of all tasks. own: of each task's queries with its own gallery alone. own_again,
    own_of_seen_again: as `own`, and cut out of scores over all galleries, under the current model (there is the stored
    gallery of every other task); reencoded_NM: of all with all current videos. None where no video moved, reencoded_NM
    also where it was not asked for. text_ND: pooled captions, encoded for the newest gallery's shard.
    """

    seen_NM: Tensor
    own: list[Tensor]
    own_again: list[Tensor] | None
    own_of_seen_again: list[Tensor] | None
    reencoded_NM: Tensor | None
    text_ND: Tensor


class ScoreGrid:
    """Makes a `Grid` after every task. ends: last row of each task, plus one.

    A block against a stored gallery stays while its captions stay what they were, which their fingerprints tell; one
    whose captions moved between two tasks is made after every task from then on, and not kept. Frozen queries share
    the blocks that stay: no score is held twice.
    """

    def __init__(self, test: PairTable, ends: Sequence[int]) -> None:
        self._test, self._ends = test, ends
        self._kept: dict[_Block, _Kept] = {}
        self._moving: set[_Block] = set()
        self._frozen: dict[_Block, Scores] = {}
        self._frozen_text: dict[int, _Captions] = {}  # by first row
        self.encoding = Stopwatch()

    def make(
        self,
        method: Method,
        stored: Sequence[VideoEmbedding],
        current: Sequence[VideoEmbedding],
        newest: Sequence[TextEmbedding],
        *,
        reencode: bool,
        on_frozen: Callable[[slice, Tensor], None],
    ) -> Grid:
        """Scores of the queries of all tasks that have a gallery, each against the encoding for the gallery's shard.

        newest: chunks of the newest task's captions for its own shard. reencode: make `reencoded_NM` where one moved.
        on_frozen: is given rows of queries which, as they were embedded when their task ended, score otherwise than
        now, and these scores, combined. After the last task frozen queries are given up as they were asked.
        """
        config, last = method.config, len(stored) - 1
        alpha, fused = config.alpha, config.scoring == "fused"
        moved = [not same(old, new) for old, new in zip(stored, current, strict=True)]
        seen = _Rows(self._ends[last])
        everywhere = _Rows(self._ends[last])
        own, own_again, cut_again = ([list[Tensor]() for _ in stored] for _ in range(3))
        pooled = []
        for task in range(len(stored)):
            for number, index in enumerate(chunks(self._rows(task))):
                rows = slice(int(index[0]), int(index[-1]) + 1)
                known = newest[number] if task == last else None
                blocks, again = [], dict[int, Scores]()
                for shard, text in enumerate(self._texts(method, index, len(stored), known)):
                    block = self._block(rows, shard, text, stored[shard], config)
                    blocks.append(block)
                    if any(moved) and (reencode or shard == task):
                        again[shard] = scores_of(text.embedding, current[shard], config) if moved[shard] else block
                if method.uses_shards:
                    give_back_memory()  # of as many encodings as galleries, which is more than all scores
                if task == last:
                    self._frozen_text[rows.start] = text
                    self._frozen |= {(rows.start, shard): block for shard, block in enumerate(blocks)}
                else:
                    self._extend_frozen(rows.start, last, stored[-1], config)
                    as_stored = all(self._frozen[rows.start, shard] is block for shard, block in enumerate(blocks))
                    if not as_stored:
                        on_frozen(rows, self._frozen_chunk(rows.start, len(stored)).combined(alpha))
                if len(stored) == len(self._ends):  # nobody asks it again
                    self._give_up(rows.start)
                pooled.append(text.embedding.pooled_ND)
                seen.put(rows, side_by_side(blocks).combined(alpha))
                own[task].append(blocks[task].combined(alpha))
                if again:
                    own_again[task].append(again[task].combined(alpha))
                    if fused:
                        cut_again[task].append(_own_of_seen(blocks, again, task, alpha))
                    if reencode:
                        everywhere.put(rows, side_by_side(list(again.values())).combined(alpha))
        return Grid(
            seen.whole(),
            [torch.cat(parts) for parts in own],
            [torch.cat(parts) for parts in own_again] if any(moved) else None,
            [torch.cat(parts) for parts in (cut_again if fused else own_again)] if any(moved) else None,
            everywhere.whole() if any(moved) and reencode else None,
            torch.cat(pooled),
        )

    def own(self, method: Method, task: int, video: VideoEmbedding) -> Scores:
        """Scores of a task's queries with its own videos as they will be stored, kept for `make`.

        For a method that learns nothing and encodes a query once for all galleries.
        """
        found = []
        for index in chunks(self._rows(task)):
            (text,) = self._texts(method, index, 1)
            rows = slice(int(index[0]), int(index[-1]) + 1)
            found.append(self._block(rows, task, text, video, method.config))
        return stack(found)

    def row(self, method: Method, index: Sequence[Tensor], videos: Sequence[VideoEmbedding]) -> Scores:
        """Scores of some chunks of queries against these galleries."""
        rows = []
        for chunk in index:
            pairs = zip(self._texts(method, chunk, len(videos)), videos, strict=True)
            rows.append(side_by_side([scores_of(text.embedding, video, method.config) for text, video in pairs]))
        return stack(rows)

    def frozen_row(self, task: int) -> Scores | None:
        """Scores of a task's queries as they were embedded when it ended, with its and earlier galleries.

        None where no scores are held.
        """
        firsts = [int(index[0]) for index in chunks(self._rows(task))]
        return stack([self._frozen_chunk(first, task + 1) for first in firsts]) if self._frozen else None

    def restore(
        self,
        task: int,
        texts: Sequence[TextEmbedding],
        row: Scores,
        stored: Sequence[VideoEmbedding],
        config: MethodConfig,
    ) -> None:
        """Take the frozen queries of a task up again: chunks of their captions and their `frozen_row`."""
        for first in self._frozen_text:
            self._extend_frozen(first, task, stored[task], config)
        rows = self._rows(task)
        for index, text in zip(chunks(rows), texts, strict=True):
            first = int(index[0])
            within = slice(first - rows.start, int(index[-1]) + 1 - rows.start)
            self._frozen_text[first] = _Captions(text)
            for shard in range(task + 1):
                self._frozen[first, shard] = row.block(within, self._rows(shard))

    def forget(self) -> None:
        """Give up all scores: the galleries have become too large to hold any."""
        self._kept.clear()
        self._frozen.clear()
        self._frozen_text.clear()

    def _rows(self, task: int) -> slice:
        return slice(self._ends[task - 1] if task else 0, self._ends[task])

    def _texts(
        self, method: Method, index: Tensor, shards: int, newest: TextEmbedding | None = None
    ) -> Iterator[_Captions]:
        """A chunk's captions for each shard, one after the other; newest: for the last one, where they are known."""
        with self.encoding.running():
            text = self._test.text(index)
        captions = None
        for shard in range(shards):
            if captions is None or method.uses_shards:
                at = shard if method.uses_shards else shards - 1
                captions = None  # one encoding at a time
                with self.encoding.running():
                    known = newest if at == shards - 1 else None
                    captions = _Captions(method.encode_text(text, at) if known is None else known)
            yield captions

    def _block(self, rows: slice, shard: int, text: _Captions, video: VideoEmbedding, config: MethodConfig) -> Scores:
        """Scores of a chunk with a stored gallery: those that are kept, where the captions are what they were."""
        key = rows.start, shard
        kept = self._kept.get(key)
        if kept is not None and torch.equal(kept.mark, text.mark):
            return kept.scores
        if kept is not None:
            self._moving.add(key)
            del self._kept[key]
        scores = scores_of(text.embedding, video, config)
        if key not in self._moving:
            self._kept[key] = _Kept(text.mark, scores)
        return scores

    def _extend_frozen(self, first: int, shard: int, video: VideoEmbedding, config: MethodConfig) -> None:
        """Earlier queries meet a new gallery, in the encoding for their own task's shard."""
        text, kept = self._frozen_text[first], self._kept.get((first, shard))
        known = kept is not None and torch.equal(kept.mark, text.mark)
        self._frozen[first, shard] = kept.scores if kept and known else scores_of(text.embedding, video, config)

    def _frozen_chunk(self, first: int, shards: int) -> Scores:
        return side_by_side([self._frozen[first, shard] for shard in range(shards)])

    def _give_up(self, first: int) -> None:
        """Forget a chunk of frozen queries, and all of its scores."""
        del self._frozen_text[first]
        for shard in range(len(self._ends)):
            del self._frozen[first, shard]
            self._kept.pop((first, shard), None)


_Block = tuple[int, int]
"""First row of a chunk, and the gallery that it meets."""


class _Kept(NamedTuple):
    """A block's scores, and the fingerprint of its captions."""

    mark: Tensor
    scores: Scores


class _Rows:
    """A square matrix that comes row by row; there is none before its first."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._out_NM: Tensor | None = None

    def put(self, rows: slice, sim_NM: Tensor) -> None:
        if self._out_NM is None:
            self._out_NM = sim_NM.new_empty(self._size, self._size)
        self._out_NM[rows] = sim_NM

    def whole(self) -> Tensor:
        assert self._out_NM is not None
        return self._out_NM


def _own_of_seen(stored: Sequence[Scores], again: Mapping[int, Scores], task: int, alpha: float) -> Tensor:
    """A task's own columns: its current videos, fused among the stored galleries of all other tasks."""
    combined_NM = side_by_side([again[task] if shard == task else block for shard, block in enumerate(stored)])
    widths = [next(part.shape[1] for part in block if part is not None) for block in stored]
    first = sum(widths[:task])
    return combined_NM.combined(alpha)[:, first : first + widths[task]]


class _Captions:
    """A chunk of captions, with its fingerprint when it is asked for."""

    def __init__(self, embedding: TextEmbedding) -> None:
        self.embedding = embedding

    @cached_property
    def mark(self) -> Tensor:
        return fingerprint(self.embedding)


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
