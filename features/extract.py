"""Videos and captions through a frozen encoder into a feature store.

Videos are encoded one by one and captions in blocks of fixed composition, both in batches of fixed size, so that the
store's bytes depend neither on where an earlier run was killed nor on how fast files were decoded. A kill can cost a
video, or a block of captions.
Axes: N videos, F frames, M captions, T words, D features.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from ctvr_bench.features.assemble import write_captions, write_videos
from ctvr_bench.features.blocks import Blocks, WorkFolder
from ctvr_bench.features.clips import Clip, find_clips, first_videos, refuse_missing, without_videos
from ctvr_bench.features.dual_encoder import Encoder
from ctvr_bench.features.encode import CAPTION_BATCH, FRAME_BATCH, encode_caption_block, encode_video
from ctvr_bench.features.encoders import load_encoder
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.hdf5 import FileWriter
from ctvr_bench.features.partial import ensure_writable
from ctvr_bench.features.read_ahead import Reading, read_ahead
from ctvr_bench.features.schema import FLOATS
from ctvr_bench.features.side_by_side import Map, side_by_side
from ctvr_bench.features.sources import Sources, read_sources
from ctvr_bench.features.stages import OnStage, say_nothing
from ctvr_bench.features.store import create_store
from ctvr_bench.features.structure import Structure
from ctvr_bench.features.video import Sampling

_CAPTION_BLOCK = 2048


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
    streams: Sequence[Path],
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
    limit: int = 0,
    queries: int = 1,
) -> ExtractSummary:
    """Write the store `out` from a folder of videos, caption files and streams (see `read_sources`).

    model: see `load_encoder`. dtype: of the stored features. workers: decoding threads, 0 for one a core, at most 8.
    limit: for a try, at most so many training, validation and test videos of each category, 0 for all. The store's name
    says so; what was encoded is kept for the extraction of all. queries: captions that each test video is asked for by.
    Killed and started again with the same inputs it goes on where it was, and ends with the same bytes.
    Raises InputError; VideosMissing, unless `allow_missing`, where videos give no frame: then no store is written, but
    what was encoded is kept for the next start. KeyboardInterrupt stops the threads and passes.
    """
    sources = read_sources([Path(path) for path in captions], *map(Path, streams), queries=queries)
    find_clips(Path(videos), (), {})  # a wrong folder is said before the model is loaded
    ensure_writable(Path(out))
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
        limit=limit,
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
    limit: int = 0,
    apart: int = 1,
    blocks: Blocks | None = None,
    also: Callable[[FileWriter, Structure], None] = lambda writer, structure: None,
) -> ExtractSummary:
    """`extract`, for sources and an encoder that are at hand; videos are looked for in `folder`.

    apart: threads that each encode captions, or decode and encode videos, of their own, with one thread of torch; for a
    small encoder, which leaves most of several threads waiting. With 1, `workers` decode ahead of one that encodes.
    blocks: where what was encoded is kept until the store is written; None for a folder beside `out`, from which a
    later extraction goes on. also: may add datasets of its own to the store.
    """
    if dtype not in FLOATS:
        raise InputError(f"dtype {dtype!r}: stored features are {' or '.join(FLOATS)}")
    out, structure = Path(out), first_videos(sources.structure, limit, str(out)) if limit else sources.structure
    number = len(structure.video_ids)
    clips, missing = find_clips(folder, structure.video_ids, sources.segments)
    refuse_missing(f"{folder}: {len(missing)} of {number} videos are not there", missing, allow_missing)
    without_videos(structure, missing, str(out))  # a task without videos is said before the long work
    described = {**sampling.describe(), "decoder": f"PyAV {metadata.version('av')}"}
    sizes = [FRAME_BATCH, _CAPTION_BLOCK, CAPTION_BATCH]
    depends = {"encoder": encoder.provenance, "sampling": described, "dtype": dtype, "sizes": sizes}
    work: Blocks = blocks or WorkFolder(out, depends)

    texts = [structure.captions[i : i + _CAPTION_BLOCK] for i in range(0, len(structure.captions), _CAPTION_BLOCK)]
    inputs = {video: _inputs(video, clip) for video, clip in clips.items()}
    _encode_captions(work, texts, encoder, dtype, apart, on_stage)
    listed = {video: clips[video] for video, given in inputs.items() if work.find("videos", given, "count") is None}
    on_stage("videos", len(inputs) - len(listed), len(inputs))
    with _readings(list(listed.values()), encoder, sampling, workers, apart) as (each, readings):

        def encode(video: str, reading: Reading) -> None:
            work.save("videos", inputs[video], encode_video(reading, encoder, dtype))

        done = len(inputs) - len(listed)
        for number, _ in enumerate(each(encode, listed, readings), done + 1):
            on_stage("videos", number, len(inputs))

    read = {video: work.load("videos", given, "count", "reason", "damage") for video, given in inputs.items()}
    missing |= {video: str(found["reason"]) for video, found in read.items() if found["reason"]}
    refuse_missing(f"{folder}: {len(missing)} of {number} videos gave no frame", missing, allow_missing)
    kept = without_videos(structure, missing, str(out))
    widest = max(int(found["count"]) for found in read.values())
    frames = sampling.frames if sampling.mode == "uniform" else widest

    with create_store(
        out,
        name=(name or out.stem) + (f", at most {limit} videos a category and role" if limit else ""),
        encoder=encoder.provenance,
        sampling=described,
        command_line=command_line,
        licence=licence,
    ) as writer:
        kept.write(writer)
        write_videos(
            writer,
            work,
            [given for video, given in inputs.items() if video not in missing],
            (len(kept.video_ids), frames, encoder.dim),
            dtype,
            on_stage,
        )
        kept_M = ~np.isin(structure.caption_video_M, [i for i, v in enumerate(structure.video_ids) if v in missing])
        truncated, words = write_captions(writer, work, texts, kept_M, encoder.dim, dtype)
        also(writer, kept)
    if not limit:
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
        damaged={
            video: str(found["damage"]) for video, found in read.items() if found["damage"] and video not in missing
        },
    )


def _inputs(video: str, clip: Clip) -> list[Any]:
    """What a video's features depend on: its file as it is now, and the segment."""
    status = clip.path.stat()
    return [video, status.st_size, status.st_mtime_ns, os.access(clip.path, os.R_OK), clip.segment]


def _encode_captions(
    work: Blocks, texts: Sequence[Sequence[str]], encoder: Encoder, dtype: str, apart: int, on_stage: OnStage
) -> None:
    todo = [block for block in texts if work.find("captions", list(block), "lengths") is None]
    total = sum(map(len, texts))
    done = total - sum(map(len, todo))
    on_stage("captions", done, total)

    def encode(block: Sequence[str]) -> int:
        work.save("captions", list(block), encode_caption_block(block, encoder, dtype))
        return len(block)

    with side_by_side(apart, "captions") as each:
        for number in each(encode, todo):
            on_stage("captions", done := done + number, total)


@contextmanager
def _readings(
    clips: Sequence[Clip], encoder: Encoder, sampling: Sampling, workers: int, apart: int
) -> Iterator[tuple[Map, Iterable[Reading]]]:
    """A `map` for the work on each clip, and what it reads; threads end with the block."""
    if apart > 1:
        with side_by_side(apart, "videos") as each:
            yield each, [Reading(clip, encoder.prepare, sampling) for clip in clips]
    else:
        workers = workers or min(8, os.cpu_count() or 1)
        with read_ahead(clips, encoder.prepare, sampling, workers=workers, ahead=2 * FRAME_BATCH) as readings:
            yield map, readings
