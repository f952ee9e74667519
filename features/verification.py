"""What is wrong with a store: every byte against its digest, numbers that are none, frames in train and test alike."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from ctvr_bench.features import hdf5
from ctvr_bench.features.cache import cache_folder
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.leakage import shared_frames
from ctvr_bench.features.partial import partial_of
from ctvr_bench.features.schema import Array
from ctvr_bench.features.store import (
    ATTRIBUTES_DIGEST,
    DESCRIBED,
    FeatureStore,
    content_of,
    digest_of_attributes,
    open_store,
    refuse_duplicates,
)

_NUMBERS = ("videos/frames", "captions/pooled", "captions/words", "reference/captions", "reference/frames")
_DAY = 86_400.0  # seconds
_LARGE = 1 << 25  # bytes from which on reading a store takes long enough to be remembered
_ROWS = 2048  # videos or words looked at together when every byte is checked


class Finding(NamedTuple):
    """One thing that `verify_store` found: an 'error' makes the store unfit, a 'warning' is worth knowing."""

    severity: Literal["error", "warning"]
    message: str


def verify_store(path: str | os.PathLike[str]) -> list[Finding]:
    """Everything wrong with a store, every byte looked at; empty when it is sound.

    Digests (one flipped bit is found), NaN and infinities, zero vectors, duplicated ids, captions without words, and
    leakage: the same frames in a train and in a test video. Raises InputError where it cannot be opened at all.
    """
    store = open_store(path)
    file = store.file
    findings = list(_check_digests(file))
    for dataset in _NUMBERS:
        if dataset in file.arrays:
            findings += _check_numbers(dataset, file.arrays[dataset])
    for dataset in ("videos/id", "categories/name"):
        try:
            refuse_duplicates(str(path), dataset, file.text(dataset))
        except InputError as error:
            findings.append(Finding("error", str(error)))
    blank = [row for row, text in enumerate(store.captions) if not text.strip()]
    if blank:
        findings.append(Finding("warning", f"captions/text: {len(blank)} captions are empty, first row {blank[0]}"))
    if store.has_features:
        wordless = np.flatnonzero(np.diff(store.feature("captions/word_offsets")) == 0)
        if store.has_words and wordless.size:
            message = f"captions/words: {wordless.size} captions have no word, first row {wordless[0]}; they score 0"
            findings.append(Finding("warning", message))
        findings += _check_leakage(store)
    return findings


def check_content(store: FeatureStore) -> None:
    """Raise InputError where a store is not what its digests say, or a feature is NaN or infinite; a run begins so.

    Everything is read once. A large store that has not changed since (file, size, times) is not read again for a day.
    """
    digest = store.digest
    if _was_checked(store.path, digest):
        return
    found = [_check_numbers(dataset, store.feature(dataset)) for dataset in _NUMBERS if dataset in store.file.arrays]
    for finding in itertools.chain(*found, _check_digests(store.file)):
        if finding.severity == "error":
            raise InputError(f"{store.path}: {finding.message}")
    _remember_checked(store.path, digest)


def _check_numbers(dataset: str, values: Array) -> list[Finding]:
    bad_rows: list[int] = []
    zero_rows = 0
    for start in range(0, len(values), _ROWS):
        block = values[start : start + _ROWS]
        block = block.reshape(len(block), -1)
        finite = np.isfinite(block).all(axis=1)
        bad_rows += (start + np.flatnonzero(~finite)).tolist()
        zero_rows += int((block == 0).all(axis=1).sum())
    findings = []
    if bad_rows:
        message = f"{dataset}: {len(bad_rows)} rows hold NaN or infinity, first row {bad_rows[0]}; extract them again"
        findings.append(Finding("error", message))
    if zero_rows:
        findings.append(Finding("warning", f"{dataset}: {zero_rows} rows are all zero; such an item scores 0"))
    return findings


def _check_leakage(store: FeatureStore) -> list[Finding]:
    found = {name: rows for name in store.stream_names if (rows := leaked_videos(store, name))}
    return [
        Finding(
            "error", f"stream {name!r}: {len(rows)} test videos have the frames of a train video, first row {rows[0]}"
        )
        for name, rows in found.items()
    ]


def leaked_videos(store: FeatureStore, stream: str) -> list[int]:
    """Rows of test videos of a stream that hold the frames of one of its training videos."""
    frames, count = store.feature("videos/frames"), store.feature("videos/frame_count")
    return shared_frames(frames, count, store.stream(stream).role_of_video_N)


def _check_digests(file: hdf5.MappedFile) -> Iterator[Finding]:
    for dataset in (*file.arrays, *file.text_lengths):
        if file.digests.get(dataset) != hdf5.digest_of(content_of(file, dataset)):
            yield Finding("error", f"{dataset}: content does not match its digest; copy or build it again")
    if file.attributes.get(ATTRIBUTES_DIGEST, digest_of_attributes(file)) != digest_of_attributes(file):
        yield Finding("error", f"attributes {', '.join(DESCRIBED)} do not match their digest; copy or build it again")


def _state_of(path: Path) -> tuple[Path, list[int]]:
    """Where it is remembered that a store was checked, and what of its file must be as it was then."""
    real = path.resolve()
    state = real.stat()
    name = hashlib.sha256(str(real).encode()).hexdigest()[:24]
    facts = [state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns]
    return cache_folder() / "checked" / f"{name}.json", facts


def _was_checked(path: Path, digest: str) -> bool:
    remembered, facts = _state_of(path)
    try:
        known = json.loads(remembered.read_text(encoding="utf-8"))
        recent = 0 <= time.time() - known["at"] < _DAY  # noqa: TID251 - who sets the clock has the store read again
        return bool(recent and known["facts"] == facts and known["digest"] == digest)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _remember_checked(path: Path, digest: str) -> None:
    remembered, facts = _state_of(path)
    if path.stat().st_size < _LARGE:
        return
    partial = partial_of(remembered)
    with suppress(OSError):  # where nothing can be remembered, the store is read again
        remembered.parent.mkdir(parents=True, exist_ok=True)
        noted = {"facts": facts, "digest": digest, "at": time.time()}  # noqa: TID251
        partial.write_text(json.dumps(noted), encoding="utf-8")
        partial.replace(remembered)
