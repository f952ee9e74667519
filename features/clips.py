"""Where the videos of a structure are on disk, and the structure without those that are not.

Axes: N videos, M captions, C categories.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from ctvr_bench.features.errors import InputError
from ctvr_bench.features.schema import TEST, TRAIN, UNUSED, Array
from ctvr_bench.features.sources import Segment
from ctvr_bench.features.structure import Structure
from ctvr_bench.features.tables import is_file, plain_id, spellings, stays_inside

_SUFFIXES = tuple(
    f".{suffix}"
    for suffix in (
        "mp4",
        "mkv",
        "webm",
        "avi",
        "mov",
        "m4v",
        "mpg",
        "mpeg",
        "ts",
        "m2ts",
        "flv",
        "wmv",
        "3gp",
        "ogv",
        "gif",
        "3g2",
        "asf",
        "mts",
        "qt",
        "divx",
        "vob",
        "rm",
        "rmvb",
        "f4v",
    )
)


class VideosMissing(InputError):  # noqa: N818 - reads as what it is
    """Videos that are not there or give no frame: `videos` has the reason of each."""

    def __init__(self, message: str, videos: dict[str, str]) -> None:
        super().__init__(message)
        self.videos = videos

    def __reduce__(self) -> tuple[Any, ...]:
        return VideosMissing, (str(self), self.videos), vars(self)


class Clip(NamedTuple):
    """Where the frames of a video are: a file, or a part of it."""

    path: Path
    segment: Segment | None = None


def find_clips(
    folder: Path, video_ids: Iterable[str], segments: Mapping[str, Segment]
) -> tuple[dict[str, Clip], dict[str, str]]:
    """The clip of each video id, and why the others have none.

    A video is the file of that name, else the one file of that name with a video suffix, in any folder below where its
    id names none (MSR-VTT's TrainValVideo and TestVideo). Links are followed. Of a video with a segment the
    file ID_1 is taken whole where it exists (CTVR's first clip), else the segment of ID. Raises InputError where two
    files would do.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; name the folder that holds the videos")
    listed: dict[str, list[Path]] = {}
    below: dict[str, list[Path]] = {}
    for path in _files_below(folder):
        name = plain_id(path.relative_to(folder).as_posix())
        for key in dict.fromkeys((name, str(PurePosixPath(name).with_suffix("")))):
            listed.setdefault(key, []).append(path)
            if "/" in key:
                below.setdefault(key.rpartition("/")[2], []).append(path)

    def find(video: str) -> Path | None:
        for name in spellings(video) if stays_inside(video) else ():
            if is_file(folder / name):
                return folder / name
        files = listed.get(video) or below.get(video, [])
        if len({file.resolve() for file in files}) > 1:
            raise InputError(
                f"{folder}: video {video!r} may be {' or '.join(str(f.relative_to(folder)) for f in files[:4])}; "
                "keep one of them"
            )
        return files[0] if files else None

    clips, missing = {}, {}
    for video in video_ids:
        cut = find(f"{video}_1") if video in segments else None
        whole = find(video)
        if cut:
            clips[video] = Clip(cut)
        elif whole:
            clips[video] = Clip(whole, segments.get(video))
        else:
            missing[video] = "no such file"
    return clips, missing


def _files_below(folder: Path) -> Iterator[Path]:
    """Files with a video suffix in the folder and those below it, sorted; links that lead back up are not followed."""
    above: dict[str, frozenset[tuple[int, int]]] = {}
    for name, folders, files in os.walk(folder, followlinks=True):
        status = Path(name).stat()
        place = (status.st_dev, status.st_ino)
        mine = above.pop(name, frozenset())
        if place in mine:
            folders.clear()
            continue
        folders.sort()
        above |= {os.path.join(name, inner): mine | {place} for inner in folders}  # noqa: PTH118 - as os.walk names them
        yield from (Path(name) / file for file in sorted(files) if Path(file).suffix.lower() in _SUFFIXES)


def refuse_missing(message: str, missing: Mapping[str, str], allowed: bool) -> None:
    """Raise VideosMissing, its message beginning with `message`, where videos are missing that may not be."""
    if missing and not allowed:
        video, reason = next(iter(missing.items()))
        raise VideosMissing(
            f"{message}, {video!r} for one ({reason}); mend them, or go on without them with --allow-missing",
            dict(missing),
        )


def first_videos(structure: Structure, limit: int, where: str) -> Structure:
    """The structure cut down to at most `limit` videos of each category in each role, in every stream.

    Raises InputError, which begins with `where`, for a limit below 1.
    """
    if limit < 1:
        raise InputError(f"{where}: the limit is {limit}; it must be at least 1. Raise it, or leave it out")
    kept = set()
    for stream in structure.streams:
        taken: Counter[tuple[int, int]] = Counter()
        for row, (category, role) in enumerate(zip(structure.category_N, stream.role_of_video_N, strict=True)):
            if role != UNUSED and taken[category, role] < limit:
                taken[category, role] += 1
                kept.add(row)
    return without_videos(structure, [video for row, video in enumerate(structure.video_ids) if row not in kept], where)


def without_videos(structure: Structure, missing: Iterable[str], where: str, lost_M: Array | None = None) -> Structure:
    """The structure less some videos and their captions, and less the captions `lost_M` [M] bool (none is asked).

    A category that loses its last train or test video of a stream leaves that stream's task; raises InputError, which
    begins with `where`, where a task is left without categories.
    """
    gone = set(missing)
    kept_N = np.array([video not in gone for video in structure.video_ids])
    kept_M = kept_N[structure.caption_video_M]
    if lost_M is not None:
        kept_M = kept_M & ~lost_M
    row_N, row_M = np.cumsum(kept_N) - 1, np.cumsum(kept_M) - 1
    streams = []
    for stream in structure.streams:
        task_C = stream.task_of_category_C.copy()
        role_N = stream.role_of_video_N[kept_N].copy()
        category_N = structure.category_N[kept_N]
        for category in np.flatnonzero(task_C >= 0):
            roles = role_N[category_N == category]
            if not {TRAIN, TEST} <= set(roles.tolist()):
                task_C[category] = -1
                role_N[category_N == category] = UNUSED
        for task in range(stream.num_tasks):
            if not (task_C == task).any():
                raise InputError(
                    f"{where}: without {len(gone)} missing videos task {task + 1} of stream {stream.name!r} has no "
                    "category with train and test videos; bring those videos or take the task out of the stream"
                )
        query_N = stream.query_of_video_N[kept_N].copy()
        query_N[role_N == UNUSED] = -1
        query_N[query_N >= 0] = row_M[query_N[query_N >= 0]]
        further_NK = stream.further_queries_NK
        if further_NK is not None:
            further_NK = np.where(role_N[:, None] == UNUSED, -1, further_NK[kept_N])
            further_NK[further_NK >= 0] = row_M[further_NK[further_NK >= 0]]
        streams.append(
            replace(
                stream,
                task_of_category_C=task_C,
                role_of_video_N=role_N,
                query_of_video_N=query_N,
                further_queries_NK=further_NK,
            )
        )
    return Structure(
        [video for video in structure.video_ids if video not in gone],
        structure.category_N[kept_N],
        structure.category_names,
        [text for text, kept in zip(structure.captions, kept_M, strict=True) if kept],
        row_N[structure.caption_video_M[kept_M]],
        streams,
    )
