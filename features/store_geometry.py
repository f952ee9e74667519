"""Whether a store lies in its space as real CLIP features do: measured, compared, and told in plain sentences.

Axes: N test videos with their first caption, F frames, D features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ctvr_bench.features import geometry
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.real_clip import COMPARABLE, KNOWN, Known
from ctvr_bench.features.schema import TEST, Array
from ctvr_bench.features.store import FeatureStore

_GROUPS = 100  # videos whose frames and captions, and captions whose words, are held against each other
_MOST_CAPTIONS = 20  # of one video
_LEAST_PAIRS = 10
_SHOWN = tuple(known.name for known in KNOWN)
_FURTHER = {
    "centred_matched": "centred cosine of a text and its own video",
    "frame_mean_length": "length of the mean of a video's unit frames",
    "recall_1": "R@1 of these texts, %",
}


@dataclass(frozen=True)
class StoreGeometry:
    """What was measured. pairs: test videos looked at. faults: what no statistic is needed to see, as sentences."""

    name: str
    pairs: int
    measured: Mapping[str, float]
    faults: Sequence[str] = field(default_factory=tuple)

    def off(self) -> list[Known]:
        """The statistics that lie outside of what real CLIP measures; none where the pairs are too few to compare."""
        if self.pairs < COMPARABLE:
            return []
        return [k for k in KNOWN if k.name in self.measured and not k.low <= self.measured[k.name] <= k.high]

    def sentences(self) -> list[str]:
        """One sentence for each fault and for each statistic that is off, with its likely cause."""
        told = list(self.faults)
        for known in self.off():
            value = self.measured[known.name]
            far, cause = ("low", known.below) if value < known.low else ("high", known.above)
            told.append(
                f"{known.label} is {_number(known, value)}, too {far}: real CLIP has {_number(known, known.low)} to "
                f"{_number(known, known.high)}. Likely cause: {cause}"
            )
        if self.pairs < COMPARABLE:
            told.append(f"{self.pairs} test videos are too few to compare with real CLIP, which takes {COMPARABLE}")
        return told


def measure(store: FeatureStore, count: int = 500) -> StoreGeometry:
    """Statistics of up to `count` test videos of a store's first stream, each the mean of its raw frames, and of their
    first captions, frames and words.

    Raises InputError for a store without features or with fewer than ten test videos that can be used.
    """
    frames, frame_count = store.feature("videos/frames"), store.feature("videos/frame_count")
    pooled = store.feature("captions/pooled")
    role_N = store.stream(store.stream_names[0]).role_of_video_N
    asked = np.random.default_rng(0).permutation(np.flatnonzero(role_N == TEST))[:count]
    captions_of = _captions_by_video(store)
    asked = np.array([video for video in asked if video in captions_of], np.int64)
    clips = [frames[video][: frame_count[video]].astype(np.float32) for video in asked]
    texts = [pooled[captions_of[video][0]].astype(np.float32) for video in asked]
    sound = np.array([np.isfinite(c).all() and np.isfinite(t).all() for c, t in zip(clips, texts, strict=True)], bool)
    if sound.sum() < _LEAST_PAIRS:
        raise InputError(
            f"{store.path}: its geometry needs at least {_LEAST_PAIRS} test videos with finite features and a caption; "
            f"got {int(sound.sum())} of {len(asked)}. Run 'features verify' to see which are broken"
        )
    clips = [clip for clip, is_sound in zip(clips, sound, strict=True) if is_sound]
    text_ND = np.stack([text for text, is_sound in zip(texts, sound, strict=True) if is_sound])
    used = asked[sound]
    told = _words(store, [captions_of[video][0] for video in used[:_GROUPS]])
    words = [group for group, _ in told]
    measured = geometry.pair_statistics(np.stack([clip.mean(axis=0) for clip in clips]), text_ND) | {
        "frames_one_video": geometry.cosine_within(clips[:_GROUPS]),
        "frames_two_videos": geometry.cosine_between(clips[:_GROUPS]),
        "frame_mean_length": geometry.mean_length(clips[:_GROUPS]) if frames.shape[1] > 1 else math.nan,
        "captions_one_video": geometry.cosine_within(_caption_groups(pooled, captions_of)),
        "words_one_caption": geometry.cosine_within(words),
        "frame_norm": geometry.norm_range(np.concatenate(clips))[1],
        "caption_norm": geometry.norm_range(text_ND)[1],
        "word_norm": geometry.norm_range(np.concatenate(words))[1] if words else math.nan,
    }
    return StoreGeometry(
        store.name,
        len(used),
        {name: value for name, value in measured.items() if not math.isnan(value)},
        _faults(clips, told, len(asked) - len(used)),
    )


def table(stores: Sequence[StoreGeometry], *, markdown: bool = False) -> str:
    """One line a statistic: each store, the real COCO pairs, the range of real CLIP; `*` (in Markdown bold): off."""
    head = ["", *(store.name for store in stores), "COCO, ViT-B/16 (real)", "real CLIP"]
    rows = [head, ["pairs", *(str(store.pairs) for store in stores), "500", ""]]
    by_name = {known.name: known for known in KNOWN}
    marks = [{known.name for known in store.off()} for store in stores]
    for name in (*_SHOWN, *_FURTHER):
        known = by_name.get(name)
        cells = []
        for store, off in zip(stores, marks, strict=True):
            text = _number(known, store.measured[name]) if name in store.measured else "-"
            cells.append((f"**{text}**" if markdown else f"{text}*") if name in off else text)
        real = _FURTHER_COCO.get(name) if known is None else known.coco
        span = f"{_number(known, known.low)} to {_number(known, known.high)}" if known else ""
        label = known.label if known else _FURTHER[name]
        rows.append([label, *cells, "-" if real is None else _number(known, real), span])
    if markdown:
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        return "\n".join([lines[0], "| --- " + "| --: " * (len(head) - 1) + "|", *lines[1:]])
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]).rstrip()
        for row in rows
    )


_FURTHER_COCO = {"centred_matched": 0.315, "recall_1": 50.6}


def _number(known: Known | None, value: float) -> str:
    """As many digits as it is worth: three for a cosine or a share, one for a rank, a length or a percent."""
    return f"{value:.1f}" if abs(value) >= 5 or (known is not None and known.high >= 5) else f"{value:.3f}"


def _captions_by_video(store: FeatureStore) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for caption, video in enumerate(store.caption_video_M.tolist()):
        found.setdefault(video, []).append(caption)
    return found


def _caption_groups(pooled_MD: Array, captions_of: Mapping[int, Sequence[int]]) -> list[Array]:
    """Captions of up to 100 videos that have several."""
    several = [rows for rows in captions_of.values() if len(rows) > 1]
    chosen = np.random.default_rng(0).permutation(len(several))[:_GROUPS]
    groups = [pooled_MD[several[row][:_MOST_CAPTIONS]].astype(np.float32) for row in chosen]
    return [group for group in groups if np.isfinite(group).all()]


def _words(store: FeatureStore, captions: Sequence[int]) -> list[tuple[Array, Array]]:
    """Words [L, D] and pooled feature [D] of each caption that has finite words."""
    words, offsets, pooled = (store.feature(f"captions/{name}") for name in ("words", "word_offsets", "pooled"))
    pairs = [(words[offsets[r] : offsets[r + 1]].astype(np.float32), pooled[r].astype(np.float32)) for r in captions]
    return [(group, pooled_D) for group, pooled_D in pairs if len(group) and np.isfinite(group).all()]


def _faults(clips: Sequence[Array], words: Sequence[tuple[Array, Array]], broken: int) -> list[str]:
    """What an extraction gone wrong leaves behind, where it can be seen without comparing anything."""
    told = []
    if broken:
        told.append(
            f"{broken} of {len(clips) + broken} test videos or captions hold NaN or infinity. Likely cause: float16 "
            "overflow; extract with --dtype float32, or scale the features"
        )
    low, _, high = geometry.norm_range(np.concatenate(clips))
    if max(abs(low - 1), abs(high - 1)) < 0.005 and max(len(clip) for clip in clips) > 1:
        told.append(
            "all frames have length 1: they were normalised before they were stored, and the mean of raw frames, which "
            "CLIP's scores are made with, can no longer be taken; store raw features"
        )
    several = [group for group, _ in words if len(group) > 1]
    if words and all(_same(group, pooled_D) for group, pooled_D in words):
        told.append(
            "the words of a caption are its pooled feature: pooled instead of token outputs were stored; scores with "
            "words will equal those without"
        )
    elif len(several) > len(words) / 2 and np.mean([_same(group[-2:-1], group[-1]) for group in several]) > 0.5:
        told.append("most captions end in the same word twice: padding is counted as words; store real words only")
    elif len(several) >= _LEAST_PAIRS and len({len(group) for group, _ in words}) == 1:
        told.append(f"every caption has {len(several[0])} words: padding is counted as words; store real words only")
    return told


def _same(rows_XD: Array, row_D: Array) -> bool:
    return bool((geometry.unit(rows_XD) @ geometry.unit(row_D) > 0.9999).all())
