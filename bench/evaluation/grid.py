"""Scores of all queries seen against all galleries, row by row; a block is made again only where a side of it moved.

A block holds a chunk of one task's queries against one task's gallery. It always has the same shape and is computed by
itself, so that a model that did not change gives the same bits after every task, however many others have come.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from ctvr_bench.bench.evaluation.queries import Queries, pieces, span
from ctvr_bench.bench.evaluation.scores import Scores, fingerprint, join_texts, same, scores_of, side_by_side, stack
from ctvr_bench.bench.records.environment import give_back_memory
from ctvr_bench.features.streams import PairTable
from ctvr_bench.methods.shared.base import Method, MethodConfig, TextEmbedding, VideoEmbedding

_LEFT = 1 << 26  # bytes of captions that are encoded before what they left is given back to the system


class Stopwatch:
    """Seconds spent inside `running`."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - start


class GridRow(NamedTuple):
    """A chunk of a task's queries with every gallery, each block in the encoding for its gallery's shard.

    stored: blocks with the stored galleries. again: by task, blocks with current videos; all, or the own one alone, and
    none where no video moved. frozen: with all stored galleries, as these captions were when their task ended; None
    where that is what `stored` has. pooled_ND: encoded for the newest gallery's shard.
    """

    task: int
    rows: slice
    stored: list[Scores]
    again: dict[int, Scores]
    frozen: Scores | None
    pooled_ND: Tensor


class ScoreGrid:
    """Makes all `GridRow`s after every task. test: a pair for each of the queries.

    A block against a stored gallery stays while its captions stay what they were, which their fingerprints tell; one
    whose captions moved between two tasks is made after every task from then on, and not kept. Frozen queries share
    the blocks that stay: no score is held twice.
    """

    def __init__(self, test: PairTable, queries: Queries) -> None:
        self._test, self._queries = test, queries
        self._kept: dict[_Block, _Kept] = {}
        self._moving: set[_Block] = set()
        self._frozen: dict[_Block, Scores] = {}
        self._frozen_text: dict[int, _Captions] = {}  # by first row
        self.encoding = Stopwatch()

    def rows(
        self,
        method: Method,
        stored: Sequence[VideoEmbedding],
        current: Sequence[VideoEmbedding],
        newest: Sequence[TextEmbedding],
        *,
        reencode: bool,
    ) -> Iterator[GridRow]:
        """Scores of the queries of all tasks that have a gallery, in their order.

        newest: chunks of the newest task's captions for its own shard. reencode: every caption with every current video
        where one moved. After the last task frozen queries are given up as they were asked.
        """
        config, last = method.config, len(stored) - 1
        moved = [not same(old, new) for old, new in zip(stored, current, strict=True)]
        encoded = 0
        for task in range(len(stored)):
            for number, index in enumerate(self._queries.chunks(task)):
                rows = span(index)
                known = newest[number] if task == last else None
                blocks, again = [], dict[int, Scores]()
                for shard, text in enumerate(self._texts(method, index, len(stored), known)):
                    block = self._block(rows, shard, text, stored[shard], config)
                    blocks.append(block)
                    if any(moved) and (reencode or shard == task):
                        again[shard] = scores_of(text.embedding, current[shard], config) if moved[shard] else block
                    encoded += text.bytes if method.uses_shards else 0
                if encoded > _LEFT:  # as many encodings as galleries are more than all scores
                    encoded = 0
                    give_back_memory()
                if task == last:
                    self._frozen_text[rows.start] = text
                    self._frozen |= {(rows.start, shard): block for shard, block in enumerate(blocks)}
                else:
                    self._extend_frozen(rows.start, last, stored[-1], config)
                as_stored = all(self._frozen[rows.start, shard] is block for shard, block in enumerate(blocks))
                frozen = None if as_stored else self._frozen_chunk(rows.start, len(stored))
                if len(stored) == len(self._queries.ends):  # nobody asks it again
                    self._give_up(rows.start)
                yield GridRow(task, rows, blocks, again, frozen, text.embedding.pooled_ND)

    def own(self, method: Method, task: int, video: VideoEmbedding) -> Scores:
        """Scores of a task's queries with its own videos as they will be stored, kept for `rows`.

        For a method that learns nothing and encodes a query once for all galleries.
        """
        found = []
        for index in self._queries.chunks(task):
            (text,) = self._texts(method, index, 1)
            found.append(self._block(span(index), task, text, video, method.config))
        return stack(found)

    def row(self, method: Method, index: Tensor, videos: Sequence[VideoEmbedding]) -> Scores:
        """Scores of a chunk of queries against these galleries."""
        pairs = zip(self._texts(method, index, len(videos)), videos, strict=True)
        return side_by_side([scores_of(text.embedding, video, method.config) for text, video in pairs])

    def newest(self, task: int) -> dict[str, Scores]:
        """Scores of frozen queries that came with the newest task; nothing where no scores are held.

        row: of its queries with its and earlier galleries; column: of earlier queries with its gallery.
        """
        if not self._frozen:
            return {}
        firsts = [int(index[0]) for index in self._queries.chunks(task)]
        found = {"row": stack([self._frozen_chunk(first, task + 1) for first in firsts])}
        if earlier := [self._frozen[place.key] for place in self._places(task) if place.part == "column"]:
            found["column"] = stack(earlier)
        return found

    def restore(self, task: int, texts: Sequence[TextEmbedding], newest: Mapping[str, Scores]) -> None:
        """Take up again what came with a task: chunks of its captions, and `newest`."""
        for index, text in zip(self._queries.chunks(task), texts, strict=True):
            self._frozen_text[int(index[0])] = _Captions(text)
        self._frozen |= {place.key: newest[place.part].block(*place.at) for place in self._places(task)}

    def rest(self, task: int, texts: Sequence[TextEmbedding], newest: Mapping[str, Scores]) -> None:
        """Hold what came with the newest task as these chunks and this `newest`, which have its values."""
        for index, text in zip(self._queries.chunks(task), texts, strict=True):
            self._frozen_text[int(index[0])].rest(text)
        for place in self._places(task):
            block, kept = newest[place.part].block(*place.at), self._kept.get(place.key)
            if kept is not None and kept.scores is self._frozen[place.key]:
                self._kept[place.key] = kept._replace(scores=block)
            self._frozen[place.key] = block

    def _places(self, task: int) -> Iterator[_Place]:
        """Where the blocks that come with a task stand in its `newest`."""
        begin = self._queries.of(task).start
        for rows in map(span, self._queries.chunks(task)):
            for shard in range(task + 1):
                at = slice(rows.start - begin, rows.stop - begin), self._queries.videos(shard)
                yield _Place((rows.start, shard), "row", at)
        for rows in (span(index) for earlier in range(task) for index in self._queries.chunks(earlier)):
            yield _Place((rows.start, task), "column", (rows, slice(None)))

    def forget(self) -> None:
        """Give up all scores: the galleries have become too large to hold any."""
        self._kept.clear()
        self._frozen.clear()
        self._frozen_text.clear()

    def _texts(
        self, method: Method, index: Tensor, shards: int, newest: TextEmbedding | None = None
    ) -> Iterator[_Captions]:
        """A chunk's captions for each shard, one after the other; newest: for the last one, where they are known."""
        with self.encoding.running():
            text = Asked(self._test, self._queries, index)
        captions = None
        for shard in range(shards):
            if captions is None or method.uses_shards:
                at = shard if method.uses_shards else shards - 1
                captions = None  # one encoding at a time
                with self.encoding.running():
                    known = newest if at == shards - 1 else None
                    captions = _Captions(text.encoded(method, at) if known is None else known)
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
        for shard in range(len(self._queries.ends)):
            del self._frozen[first, shard]
            self._kept.pop((first, shard), None)


_Block = tuple[int, int]
"""First row of a chunk, and the gallery that it meets."""


class _Place(NamedTuple):
    """A block's place, rows and columns, in a part of `ScoreGrid.newest`."""

    key: _Block
    part: str
    at: tuple[slice, slice]


class _Kept(NamedTuple):
    """A block's scores, and the fingerprint of its captions."""

    mark: Tensor
    scores: Scores


class Asked:
    """A chunk of captions, which are encoded a sheet at a time: those of one sheet are padded to its longest alone."""

    def __init__(self, test: PairTable, queries: Queries, index: Tensor) -> None:
        self._parts = [test.text(torch.arange(part.start, part.stop)) for part in queries.by_sheet(span(index))]

    def encoded(self, method: Method, shard: int) -> TextEmbedding:
        """As the method encodes them for the galleries of a shard."""
        return join_texts([method.encode_text(piece, shard) for part in self._parts for piece in pieces(part)])


class _Captions:
    """A chunk of captions, with its fingerprint when it is asked for."""

    def __init__(self, embedding: TextEmbedding) -> None:
        self.embedding = embedding

    @property
    def bytes(self) -> int:
        return sum(part.nbytes for part in self.embedding if part is not None)

    @cached_property
    def mark(self) -> Tensor:
        return fingerprint(self.embedding)

    def rest(self, embedding: TextEmbedding) -> None:
        """Hold these tensors of the same values, though captions may be padded further there."""
        _ = self.mark  # of the captions as they were padded
        self.embedding = embedding
