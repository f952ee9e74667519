"""Videos and captions through a frozen encoder into a feature store.

Videos and captions are encoded in blocks of fixed composition, and within a block in batches of fixed size, so that the
store's bytes depend neither on where an earlier run was killed nor on how fast files were decoded.
Axes: N videos, F frames, M captions, T words, D features.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ctvr_bench.features.assemble import write_captions, write_videos
from ctvr_bench.features.blocks import WorkFolder
from ctvr_bench.features.clips import Clip, find_clips, refuse_missing, without_videos
from ctvr_bench.features.dual_encoder import Encoder
from ctvr_bench.features.encode import CAPTION_BATCH, FRAME_BATCH, encode_caption_block, encode_video_block
from ctvr_bench.features.encoders import load_encoder
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.hdf5 import FileWriter
from ctvr_bench.features.read_ahead import Reading, read_ahead
from ctvr_bench.features.schema import FLOATS
from ctvr_bench.features.sources import Sources, read_sources
from ctvr_bench.features.stages import OnStage, say_nothing
from ctvr_bench.features.store import create_store
from ctvr_bench.features.structure import Structure
from ctvr_bench.features.video import Sampling

_VIDEO_BLOCK, _CAPTION_BLOCK = 32, 2048  # what a kill can cost
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class ExtractSummary:
    """What an extraction did. missing: reason by video left out. damaged: what was wrong with a video that was used.

    odd_segments: of videos whose first segment is no part of time, what stood there; they were taken whole.
    """

    path: Path
    videos: int
    frames: int
    captions: int
    words: int
    dimension: int
    encoder: dict[str, Any]
    truncated_captions: int
    videos_without_caption: int
    unknown_captions: int
    blank_captions: int
    missing: dict[str, str] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)
    odd_segments: dict[str, str] = field(default_factory=dict)


def extract(
    videos: Path,
    captions: Sequence[Path],
    stream: Path,
    model: str,
    sampling: Sampling,
    out: Path,
    *,
    name: str = "",
    allow_missing: bool = False,
    device: str = "auto",
    dtype: str = "float16",
    workers: int = 0,
    on_stage: OnStage = say_nothing,
    command_line: str = "",
    licence: str = "",
) -> ExtractSummary:
    """Write the store `out` from a folder of videos, caption files and a stream (see `read_sources`).

    model: see `load_encoder`. dtype: of the stored features. workers: decoding threads, 0 for one a core, at most 8.
    Killed and started again with the same inputs it goes on where it was, and ends with the same bytes.
    Raises InputError; VideosMissing, unless `allow_missing`, where videos give no frame: then no store is written, but
    what was encoded is kept for the next start. KeyboardInterrupt stops the threads and passes.
    """
    sources = read_sources([Path(path) for path in captions], Path(stream))
    find_clips(Path(videos), (), {})  # a wrong folder is said before the model is loaded
    return extract_sources(
        sources,
        Path(videos),
        load_encoder(model, device),
        sampling,
        out,
        name=name,
        allow_missing=allow_missing,
        dtype=dtype,
        workers=workers,
        on_stage=on_stage,
        command_line=command_line,
        licence=licence,
    )


def extract_sources(
    sources: Sources,
    folder: Path,
    encoder: Encoder,
    sampling: Sampling,
    out: Path,
    *,
    name: str = "",
    allow_missing: bool = False,
    dtype: str = "float16",
    workers: int = 0,
    on_stage: OnStage = say_nothing,
    command_line: str = "",
    licence: str = "",
    also: Callable[[FileWriter, Structure], None] = lambda writer, structure: None,
) -> ExtractSummary:
    """`extract`, for sources and an encoder that are at hand; videos are looked for in `folder`.

    also: may add datasets of its own to the store.
    """
    if dtype not in FLOATS:
        raise InputError(f"dtype {dtype!r}: stored features are {' or '.join(FLOATS)}")
    out, structure = Path(out), sources.structure
    number = len(structure.video_ids)
    clips, missing = find_clips(folder, structure.video_ids, sources.segments)
    refuse_missing(f"{folder}: {len(missing)} of {number} videos are not there", missing, allow_missing)
    without_videos(structure, missing, str(out))  # a task without videos is said before the long work
    described = {**sampling.describe(), "decoder": f"PyAV {metadata.version('av')}"}
    sizes = [_VIDEO_BLOCK, FRAME_BATCH, _CAPTION_BLOCK, CAPTION_BATCH]
    work = WorkFolder(out, {"encoder": encoder.provenance, "sampling": described, "dtype": dtype, "sizes": sizes})

    texts = _cut(structure.captions, _CAPTION_BLOCK)
    videos = [_VideoBlock.of(block) for block in _cut(list(clips.items()), _VIDEO_BLOCK)]
    _encode_captions(work, texts, encoder, dtype, on_stage)
    _encode_videos(work, videos, encoder, sampling, dtype, workers or min(8, os.cpu_count() or 1), on_stage)

    read = [work.load("videos", block.inputs, "counts", "reasons", "damage") for block in videos]
    ids = [video for block in videos for video in block.ids]
    reasons, damage = (np.concatenate([block[key] for block in read]).tolist() for key in ("reasons", "damage"))
    missing |= {video: reason for video, reason in zip(ids, reasons, strict=True) if reason}
    refuse_missing(f"{folder}: {len(missing)} of {number} videos gave no frame", missing, allow_missing)
    kept = without_videos(structure, missing, str(out))
    widest = max(int(block["counts"].max()) for block in read)
    frames = sampling.frames if sampling.mode == "uniform" else widest

    with create_store(
        out,
        name=name or out.stem,
        encoder=encoder.provenance,
        sampling=described,
        command_line=command_line,
        licence=licence,
    ) as writer:
        kept.write(writer)
        write_videos(
            writer,
            work,
            [block.inputs for block in videos],
            (len(kept.video_ids), frames, encoder.dim),
            dtype,
            on_stage,
        )
        kept_M = ~np.isin(structure.caption_video_M, [i for i, v in enumerate(structure.video_ids) if v in missing])
        truncated, words = write_captions(writer, work, texts, kept_M, encoder.dim, dtype)
        also(writer, kept)
    work.remove()
    return ExtractSummary(
        path=out,
        videos=len(kept.video_ids),
        frames=frames,
        captions=len(kept.captions),
        words=words,
        dimension=encoder.dim,
        encoder=encoder.provenance,
        truncated_captions=truncated,
        videos_without_caption=len(kept.video_ids) - len(np.unique(kept.caption_video_M)),
        unknown_captions=sources.unknown_captions,
        blank_captions=sources.blank_captions,
        missing=missing,
        odd_segments={video: what for video, what in sources.odd_segments.items() if video not in missing},
        damaged={video: what for video, what in zip(ids, damage, strict=True) if what and video not in missing},
    )


class _VideoBlock(NamedTuple):
    """Videos encoded together, and what their features depend on: files as they are now, and segments."""

    ids: list[str]
    clips: list[Clip]
    inputs: list[list[Any]]

    @classmethod
    def of(cls, listed: Sequence[tuple[str, Clip]]) -> _VideoBlock:
        inputs = []
        for video, clip in listed:
            status = clip.path.stat()
            readable = os.access(clip.path, os.R_OK)
            inputs.append([video, status.st_size, status.st_mtime_ns, readable, clip.segment])
        return cls([video for video, _ in listed], [clip for _, clip in listed], inputs)


def _encode_captions(
    work: WorkFolder, texts: Sequence[Sequence[str]], encoder: Encoder, dtype: str, on_stage: OnStage
) -> None:
    todo = [block for block in texts if work.find("captions", list(block), "lengths") is None]
    total = sum(map(len, texts))
    done = total - sum(map(len, todo))
    on_stage("captions", done, total)
    for block in todo:
        work.save("captions", list(block), encode_caption_block(block, encoder, dtype))
        on_stage("captions", done := done + len(block), total)


def _encode_videos(
    work: WorkFolder,
    blocks: Sequence[_VideoBlock],
    encoder: Encoder,
    sampling: Sampling,
    dtype: str,
    workers: int,
    on_stage: OnStage,
) -> None:
    todo = [block for block in blocks if work.find("videos", block.inputs, "counts") is None]
    total = sum(len(block.ids) for block in blocks)
    done = total - sum(len(block.ids) for block in todo)
    on_stage("videos", done, total)
    clips = [clip for block in todo for clip in block.clips]
    with read_ahead(clips, encoder.prepare, sampling, workers=workers, ahead=2 * FRAME_BATCH) as readings:
        for block in todo:
            mine = _told(islice(readings, len(block.ids)), done, total, on_stage)
            work.save("videos", block.inputs, encode_video_block(mine, encoder, dtype))
            done += len(block.ids)


def _told(readings: Iterator[Reading], done: int, total: int, on_stage: OnStage) -> Iterator[Reading]:
    for number, reading in enumerate(readings, done + 1):
        yield reading
        on_stage("videos", number, total)


def _cut(items: Sequence[_Item], size: int) -> list[Sequence[_Item]]:
    return [items[i : i + size] for i in range(0, len(items), size)]
