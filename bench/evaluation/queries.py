"""Which query asks for which video, and the chunks in which queries are encoded and scored.

Each test video is asked for by as many captions as any other. Captions come in sheets, one of each video; queries stand
by task, in a task by sheet, and in a sheet in the order of the videos.
Axes: N queries, V videos, T tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from ctvr_bench.features.streams import TextBatch, VideoBatch

_Batch = TypeVar("_Batch", TextBatch, VideoBatch)

CHUNK = 256
_PIECE, _LARGE = 64, 1 << 22  # rows, and bytes of a chunk that is encoded in pieces


class Queries:
    """sizes: videos of each task; sheets: captions of each video.

    target_N: position of the video that a query asks for; sheet_N: the sheet it stands in; item_V: of each video the
    position of its query of the first sheet, by which an item is named.
    """

    def __init__(self, sizes: Sequence[int], sheets: int = 1) -> None:
        self.ends: list[int] = np.cumsum(sizes).tolist()
        self.sheets = sheets
        spans = list(pairwise([0, *self.ends]))
        self.target_N = np.concatenate([np.tile(np.arange(first, last), sheets) for first, last in spans])
        self.sheet_N = np.concatenate([np.repeat(np.arange(sheets), last - first) for first, last in spans])
        self.item_V = np.flatnonzero(self.sheet_N == 0)

    def videos(self, task: int) -> slice:
        """Positions of a task's videos."""
        return slice(self.ends[task - 1] if task else 0, self.ends[task])

    def of(self, task: int) -> slice:
        """Positions of a task's queries."""
        videos = self.videos(task)
        return slice(videos.start * self.sheets, videos.stop * self.sheets)

    def chunks(self, task: int) -> tuple[Tensor, ...]:
        """Positions of a task's queries, at most `CHUNK` at a time."""
        return chunks(self.of(task))

    def by_sheet(self, rows: slice) -> list[slice]:
        """Rows of one task in parts that each stand in one sheet."""
        cuts = rows.start + 1 + np.flatnonzero(np.diff(self.sheet_N[rows]))
        return [slice(first, last) for first, last in pairwise([rows.start, *cuts.tolist(), rows.stop])]


def chunks(rows: slice) -> tuple[Tensor, ...]:
    """Index tensors over these rows, at most `CHUNK` long."""
    return torch.split(torch.arange(rows.start, rows.stop), CHUNK)


def pieces(batch: _Batch) -> list[_Batch]:
    """A chunk of captions or videos as it is encoded: a large one in pieces, padded alike, on a CPU.

    What lies between an encoder's layers is several times what it gives.
    """
    if batch[0].device.type != "cpu" or sum(part.nbytes for part in batch) <= _LARGE:
        return [batch]
    return [type(batch)(*(part[at : at + _PIECE] for part in batch)) for at in range(0, len(batch[0]), _PIECE)]


def span(index: Tensor) -> slice:
    """The rows of a chunk."""
    return slice(int(index[0]), int(index[-1]) + 1)
