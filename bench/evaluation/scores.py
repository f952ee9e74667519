"""Scores of captions with videos in the parts that are fused, and encodings of captions and videos as they are kept.

Axes: N queries, M videos, L words, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from ctvr_bench.bench.evaluation.queries import CHUNK
from ctvr_bench.methods.shared.base import MethodConfig, TextEmbedding, VideoEmbedding
from ctvr_bench.methods.shared.scoring import pooled_similarity
from ctvr_bench.methods.shared.similarity import fuse
from ctvr_bench.methods.shared.word_frame import word_frame_scores

_FUSED = 1 << 16  # scores fused together: whole rows, which with their z-scores stay in a core's cache


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
        rows = max(1, _FUSED // fused_NM.shape[1])
        parts = (part.split(rows) for part in (fused_NM, self.word_frame_NM, self.pooled_NM))
        for out, word_frame, pooled in zip(*parts, strict=True):
            out.copy_(fuse(word_frame, pooled, alpha))
        return fused_NM


def scores_of(text: TextEmbedding, video: VideoEmbedding, config: MethodConfig) -> Scores:
    """Raw scores of one encoding of queries against one gallery, in the parts that the scoring needs."""
    return Scores(
        pooled_NM=None if config.scoring == "word_frame" else pooled_similarity(text, video),
        word_frame_NM=None if config.scoring == "cosine" else word_frame_scores(text, video),
    )


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
    if len(parts) == 1:
        return parts[0]
    width = max((part.words_NLD.shape[1] for part in parts if part.words_NLD is not None), default=0)
    wide = [_widen(part, width) for part in parts]
    return TextEmbedding(*(cat(fields) for fields in zip(*wide, strict=True)))  # type: ignore[arg-type]


def split_texts(text: TextEmbedding) -> list[TextEmbedding]:
    """The chunks of `join_texts`; their padding stays."""
    spans = [slice(first, first + CHUNK) for first in range(0, len(text.pooled_ND), CHUNK)]
    return [TextEmbedding(*(None if x is None else x[span] for x in text)) for span in spans]  # type: ignore[arg-type]


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


def same(first: VideoEmbedding, second: VideoEmbedding) -> bool:
    """Whether two galleries are equal to the last bit."""
    pairs = zip(first, second, strict=True)
    return all(a is b or (a is not None and b is not None and torch.equal(a, b)) for a, b in pairs)


def _widen(text: TextEmbedding, width: int) -> TextEmbedding:
    if text.words_NLD is None or text.word_mask_NL is None:
        return text
    more = width - text.words_NLD.shape[1]
    if not more:
        return text
    return text._replace(words_NLD=pad(text.words_NLD, (0, 0, 0, more)), word_mask_NL=pad(text.word_mask_NL, (0, more)))
