"""A structure-only store filled with features that were extracted elsewhere: `features merge`.

Axes: N videos, F frames, M captions, T words of all captions, D features.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ctvr_bench.features.clips import refuse_missing, without_videos
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.schema import TEST, VALIDATION, Array
from ctvr_bench.features.stages import OnStage, say_nothing
from ctvr_bench.features.store import FeatureStore, create_store, open_store
from ctvr_bench.features.structure import Structure
from ctvr_bench.features.verification import check_content

_ROWS = 256  # videos or captions copied together


@dataclass(frozen=True)
class MergeSummary:
    """What was filled in. missing: reason by video left out. captions_left_out: of the remaining videos, without
    features. unused_videos, unused_captions: of the feature store, not in the structure."""

    path: Path
    videos: int
    captions: int
    words: int
    captions_left_out: int
    unused_videos: int
    unused_captions: int
    missing: dict[str, str] = field(default_factory=dict)


def merge(
    structure: Path,
    features: Path,
    out: Path,
    *,
    allow_missing: bool = False,
    on_stage: OnStage = say_nothing,
    command_line: str = "",
) -> MergeSummary:
    """Write `out`: videos, captions and streams of the store `structure`, features of the store `features`.

    Videos are matched by id, captions by video id and text. Raises InputError; VideosMissing, unless `allow_missing`,
    where videos, or captions that test videos are asked for by, have no features.
    """
    shell, filled = open_store(structure), open_store(features)
    for store in (shell, filled):
        check_content(store)
    if shell.has_features:
        raise InputError(f"{structure}: has features already; name a store without, from 'features import-ctvr'")
    if not filled.has_features:
        raise InputError(f"{features}: has no features to give; name a store from 'features extract' or import-arrays")
    if out.resolve() in (Path(structure).resolve(), Path(features).resolve()):
        raise InputError(f"{out}: is one of the stores to be read; choose another name")
    plan = Structure.from_store(shell)
    row_of_video = {video: row for row, video in enumerate(filled.video_ids)}
    row_of_caption = {key: row for row, key in reversed(list(enumerate(_captions(filled))))}
    source_M = np.array([row_of_caption.get(key, -1) for key in _captions(shell)], np.int64)
    missing = dict.fromkeys((video for video in plan.video_ids if video not in row_of_video), "no features")
    for stream in plan.streams:
        for row in np.flatnonzero(np.isin(stream.role_of_video_N, (TEST, VALIDATION))):
            if (source_M[stream.asked_of(int(row))] < 0).any():
                missing.setdefault(plan.video_ids[int(row)], "no features of its query caption")
    lacking_M = source_M < 0
    refuse_missing(f"{features}: {len(missing)} of {len(plan.video_ids)} videos lack features", missing, allow_missing)
    if lacking_M.any() and not allow_missing:
        text = plan.captions[int(np.flatnonzero(lacking_M)[0])]
        raise InputError(
            f"{features}: {int(lacking_M.sum())} captions have no features, {text!r} for one; "
            "extract them too, or go on without them with --allow-missing"
        )
    kept = without_videos(plan, missing, str(structure), lacking_M)
    kept_M = ~np.isin(plan.caption_video_M, [row for row, video in enumerate(plan.video_ids) if video in missing])
    lost = int((lacking_M & kept_M).sum())
    rows_N = np.array([row_of_video[video] for video in kept.video_ids], np.int64)
    words = _write(out, shell, filled, kept, rows_N, source_M[kept_M & ~lacking_M], on_stage, command_line)
    return MergeSummary(
        path=out,
        videos=len(kept.video_ids),
        captions=len(kept.captions),
        words=words,
        captions_left_out=lost,
        unused_videos=len(filled.video_ids) - len(rows_N),
        unused_captions=len(filled.captions) - len(np.unique(source_M[source_M >= 0])),
        missing=missing,
    )


def _captions(store: FeatureStore) -> list[tuple[str, str]]:
    ids = store.video_ids
    return [(ids[row], text) for row, text in zip(store.caption_video_M.tolist(), store.captions, strict=True)]


def _write(
    out: Path,
    shell: FeatureStore,
    filled: FeatureStore,
    kept: Structure,
    rows_N: Array,
    rows_M: Array,
    on_stage: OnStage,
    command_line: str,
) -> int:
    from_frames, from_pooled = filled.feature("videos/frames"), filled.feature("captions/pooled")
    from_words, from_offsets = filled.feature("captions/words"), filled.feature("captions/word_offsets")
    offsets = np.concatenate([[0], np.cumsum(np.diff(from_offsets)[rows_M])]).astype(np.int64)
    licences = dict.fromkeys(str(store.provenance["licence"]) for store in (shell, filled))
    with create_store(
        out,
        name=shell.name,
        encoder=filled.provenance["encoder"],
        sampling=filled.provenance["sampling"],
        simulated=filled.simulated,
        command_line=command_line,
        licence="; ".join(licence for licence in licences if licence),
    ) as writer:
        kept.write(writer)
        frames = writer.allocate("videos/frames", (len(rows_N), *from_frames.shape[1:]), from_frames.dtype)
        for start in range(0, len(rows_N), _ROWS):
            frames[start : start + _ROWS] = from_frames[rows_N[start : start + _ROWS]]
            on_stage("store", min(start + _ROWS, len(rows_N)), len(rows_N))
        writer["videos/frame_count"] = filled.feature("videos/frame_count")[rows_N]
        pooled = writer.allocate("captions/pooled", (len(rows_M), from_pooled.shape[1]), from_pooled.dtype)
        words = writer.allocate("captions/words", (int(offsets[-1]), from_words.shape[1]), from_words.dtype)
        for start in range(0, len(rows_M), _ROWS):
            rows = rows_M[start : start + _ROWS]
            pooled[start : start + len(rows)] = from_pooled[rows]
            parts = [from_words[from_offsets[row] : from_offsets[row + 1]] for row in rows]
            words[offsets[start] : offsets[start + len(rows)]] = np.concatenate(parts)
        writer["captions/word_offsets"] = offsets
    return int(offsets[-1])
