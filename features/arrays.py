"""Features that someone has already, brought into a store: `features import-arrays`.

Axes: N videos, F frames, M captions of the store, E entries of the caption files, L words of a caption, T words of all,
D features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ctvr_bench.features.array_files import ArrayTable
from ctvr_bench.features.clips import refuse_missing, without_videos
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.schema import FLOATS, Array
from ctvr_bench.features.sources import Sources, read_sources
from ctvr_bench.features.stages import OnStage, say_nothing
from ctvr_bench.features.store import create_store


@dataclass(frozen=True)
class ArraysSummary:
    """What was imported. missing: reason by video left out.

    unknown_captions, blank_captions: left out of published files, which may hold more than the stream.
    """

    path: Path
    videos: int
    frames: int
    captions: int
    words: int
    dimension: int
    videos_without_caption: int
    unknown_captions: int
    blank_captions: int
    missing: dict[str, str] = field(default_factory=dict)


def import_arrays(
    table: Path,
    captions: Sequence[Path],
    stream: Path,
    out: Path,
    *,
    name: str = "",
    encoder: Mapping[str, Any] | None = None,
    dtype: str = "float32",
    allow_missing: bool = False,
    on_stage: OnStage = say_nothing,
    command_line: str = "",
    licence: str = "",
    queries: int = 1,
) -> ArraysSummary:
    """Write the store `out` from arrays that `table` names (see `ArrayTable`), caption files and a stream.

    Rows of arrays over all captions are in the order of the caption files' entries, one file after the other; rows of
    arrays over all videos in the stream's order, unless 'videos' names them. Words [T, D] without word_count must be as
    many as entries: one each. Without words, as for images or sounds, captions are compared whole. encoder: what is
    known of where the features came from. dtype: of the stored features. queries: captions that each test video is
    asked for by.
    Raises InputError; VideosMissing, unless `allow_missing`, where videos have no frames.
    """
    if dtype not in FLOATS:
        raise InputError(f"dtype {dtype!r}: stored features are {' or '.join(FLOATS)}")
    sources = read_sources([Path(path) for path in captions], Path(stream), queries=queries)
    arrays = ArrayTable(Path(table))
    for what in ("frames", "pooled"):
        if what not in arrays:
            raise InputError(f"{table}: says nothing of {what}; a store needs frames and pooled. Add a line")
    if "word_count" in arrays and "words" not in arrays:
        raise InputError(f"{table}: counts words and names none; add a line for words, or leave word_count out")
    videos, texts = _frames_by_video(arrays, sources), _captions_by_video(arrays, sources)
    counts = {video: len(frames) for video in sources.structure.video_ids if (frames := videos(video)) is not None}
    missing = dict.fromkeys((v for v in sources.structure.video_ids if not counts.get(v)), "no frames in the arrays")
    refuse_missing(
        f"{table}: {len(missing)} of {len(sources.structure.video_ids)} videos lack frames", missing, allow_missing
    )
    kept = without_videos(sources.structure, missing, str(table))

    lengths = {video: texts(video).lengths for video in kept.video_ids}
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(list(lengths.values())))]).astype(np.int64)
    first = videos(kept.video_ids[0])
    dim = 0 if first is None else first.shape[-1]
    with create_store(
        out, name=name or Path(out).stem, encoder=encoder, command_line=command_line, licence=licence
    ) as writer:
        kept.write(writer)
        frames = writer.allocate("videos/frames", (len(kept.video_ids), max(counts.values()), dim), dtype)
        pooled = writer.allocate("captions/pooled", (len(kept.captions), dim), dtype)
        words = writer.allocate("captions/words", (int(offsets[-1]), dim), dtype)
        row_M = word = 0
        for row, video in enumerate(kept.video_ids):
            told = texts(video)
            some = np.asarray(videos(video))
            frames[row, : counts[video]] = _checked(table, f"frames of {video!r}", some, dim, dtype)
            pooled[row_M : row_M + len(told.pooled)] = _checked(table, f"pooled of {video!r}", told.pooled, dim, dtype)
            words[word : word + len(told.words)] = _checked(table, f"words of {video!r}", told.words, dim, dtype)
            row_M, word = row_M + len(told.pooled), word + len(told.words)
            on_stage("store", row + 1, len(kept.video_ids))
        writer["videos/frame_count"] = np.array([counts[video] for video in kept.video_ids], np.int32)
        writer["captions/word_offsets"] = offsets
    return ArraysSummary(
        path=Path(out),
        videos=len(kept.video_ids),
        frames=max(counts.values()),
        captions=len(kept.captions),
        words=int(offsets[-1]),
        dimension=dim,
        videos_without_caption=len(kept.video_ids) - len(np.unique(kept.caption_video_M)),
        unknown_captions=sources.unknown_captions,
        blank_captions=sources.blank_captions,
        missing=missing,
    )


class _Texts(NamedTuple):
    """The captions of one video: pooled [m, D], words [t, D], lengths [m]."""

    pooled: Array
    words: Array
    lengths: Array


def _frames_by_video(arrays: ArrayTable, sources: Sources) -> Callable[[str], Array | None]:
    """video id -> its real frames [f, D], or None."""
    if arrays.per_video("frames"):

        def of_video(video: str) -> Array | None:
            frames = arrays.of_video("frames", video)
            if frames is not None and frames.ndim != 2:
                raise InputError(f"{arrays.where('frames')}: frames of {video!r} have shape {frames.shape}, not [F, D]")
            return frames

        return of_video
    ids = arrays.video_ids() if "videos" in arrays else list(sources.structure.video_ids)
    frames = arrays.all("frames")
    frames = frames[:, None] if frames.ndim == 2 else frames
    _expect(arrays, "frames", frames, 3, len(ids), "videos")
    counts = arrays.all("frame_count") if "frame_count" in arrays else np.full(len(ids), frames.shape[1])
    _expect(arrays, "frame_count" if "frame_count" in arrays else "frames", counts, 1, len(ids), "videos")
    if counts.size and not (0 <= counts.min() and counts.max() <= frames.shape[1]):
        raise InputError(f"{arrays.where('frame_count')}: counts must lie in 0..{frames.shape[1]}, the frames kept")
    row_of = {video: row for row, video in enumerate(ids)}
    return lambda video: frames[row_of[video], : int(counts[row_of[video]])] if video in row_of else None


def _captions_by_video(arrays: ArrayTable, sources: Sources) -> Callable[[str], _Texts]:
    """video id -> features of its captions in the store's order."""
    entries: dict[str, list[int]] = {video: [] for video in sources.structure.video_ids}
    for entry, row in zip(sources.entry_M.tolist(), sources.structure.caption_video_M.tolist(), strict=True):
        entries[sources.structure.video_ids[row]].append(entry)
    held = [what for what in ("pooled", "words", "word_count") if what in arrays]
    if len({arrays.per_video(what) for what in held}) > 1:
        raise InputError(f"{arrays.path}: gives some of {', '.join(held)} for single videos; give all of them one way")
    if not arrays.per_video("pooled"):
        whole = _Captions(arrays, {what: arrays.all(what) for what in held}, sources.entries, "caption entries")
        return lambda video: whole.take(entries[video])

    def of_video(video: str) -> _Texts:
        number = len(entries[video])
        if not number:
            return _Texts(np.empty((0, 0)), np.empty((0, 0)), np.empty(0, np.int64))
        found = {what: array for what in held if (array := arrays.of_video(what, video)) is not None}
        if len(found) < len(held):
            raise InputError(f"{arrays.path}: {video!r} has captions but not all of {', '.join(held)}; add its files")
        return _Captions(arrays, found, number, f"captions of {video!r}").take(list(range(number)))

    return of_video


class _Captions:
    """Features of `number` captions as they were given: pooled [n, D]; words [n, L, D] or [T, D], word_count [n].

    Without words every count is 0.
    """

    def __init__(self, arrays: ArrayTable, found: Mapping[str, Array], number: int, what: str) -> None:
        self._pooled = found["pooled"]
        _expect(arrays, "pooled", self._pooled, 2, number, what)
        if "words" not in found:
            self._words, self._lengths = self._pooled[:0], np.zeros(number, np.int64)
            self._offsets = np.zeros(number + 1, np.int64)
            return
        self._words = found["words"]
        one_each = np.ones(number, np.int64) if self._words.ndim == 2 else np.full(number, self._words.shape[1])
        self._lengths = np.asarray(found.get("word_count", one_each))
        _expect(arrays, "word_count" if "word_count" in found else "words", self._lengths, 1, number, what)
        padded = self._words.ndim == 3
        words = number if padded else int(self._lengths.sum())
        _expect(arrays, "words", self._words, 3 if padded else 2, words, what if padded else "words by word_count")
        most = self._words.shape[1] if padded else words
        if number and not (0 <= self._lengths.min() and self._lengths.max() <= most):
            raise InputError(f"{arrays.where('word_count')}: counts must lie in 0..{most}, the words kept")
        self._offsets = np.concatenate([[0], np.cumsum(self._lengths)])

    def take(self, rows: Sequence[int]) -> _Texts:
        start = [(self._words[row], 0) if self._words.ndim == 3 else (self._words, self._offsets[row]) for row in rows]
        words = [part[at : at + self._lengths[row]] for (part, at), row in zip(start, rows, strict=True)]
        nothing = np.empty((0, self._words.shape[-1]), self._words.dtype)
        return _Texts(self._pooled[list(rows)], np.concatenate([nothing, *words]), self._lengths[list(rows)])


def _expect(arrays: ArrayTable, what: str, array: Array, axes: int, number: int, unit: str) -> None:
    if array.ndim != axes or len(array) != number:
        raise InputError(
            f"{arrays.where(what)}: {what} has shape {array.shape}; "
            f"it must have {axes} axes, the first of {number} ({unit})"
        )


def _checked(where: Path, what: str, values: Array, dim: int, dtype: str) -> Array:
    """`values` as they are stored; raises InputError unless they are finite rows of `dim` numbers."""
    if values.size and (values.ndim != 2 or values.shape[1] != dim or values.dtype.kind not in "fiu"):
        raise InputError(
            f"{where}: {what} are {values.dtype} of shape {values.shape}; "
            f"all features must be numbers in rows of one length, here {dim}"
        )
    with np.errstate(over="ignore"):
        stored = values.astype(dtype).reshape(len(values), dim)
    if not np.isfinite(stored).all():
        raise InputError(f"{where}: {what} hold NaN, infinity, or numbers past the range of {dtype}; mend them")
    return stored
