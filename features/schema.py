"""What a feature store holds: names, axes and dtypes of its datasets (schema 1), and the rules between them.

Axes: N videos, F frames, M captions, T words of all captions together, D feature dimensions, C categories, K further
captions asked of each test video, Y x X pixels in B = 3 colours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from ctvr_bench.features.errors import InputError

SCHEMA = "ctvr-features"
SCHEMA_VERSION = 1

UNUSED, TRAIN, TEST, VALIDATION = 0, 1, 2, 3
LIMITS = ("queries", "tasks")
"""Options of a stream that leave out a part of what is asked: numbers under one are no result."""
ROLES = {UNUSED: "unused", TRAIN: "train", TEST: "test", VALIDATION: "validation"}

Array = npt.NDArray[Any]
Fail = Callable[[str], NoReturn]


class Dataset(NamedTuple):
    """One dataset of the schema: its axes, the kinds of dtype it may have, and whether a store can do without it."""

    axes: str
    dtypes: tuple[str, ...]
    optional: bool = False


FLOATS = ("float16", "float32")
DATASETS: Mapping[str, Dataset] = {
    "videos/id": Dataset("N", ("str",)),
    "videos/category": Dataset("N", ("int32",)),
    "videos/frames": Dataset("NFD", FLOATS, optional=True),
    "videos/frame_count": Dataset("N", ("int32",), optional=True),
    "videos/strip": Dataset("NYXB", ("uint8",), optional=True),  # a few frames side by side, for reports
    "captions/video": Dataset("M", ("int64",)),
    "captions/text": Dataset("M", ("str",)),
    "captions/pooled": Dataset("MD", FLOATS, optional=True),
    "captions/words": Dataset("TD", FLOATS, optional=True),
    "captions/word_offsets": Dataset("O", ("int64",), optional=True),
    # Rows of all videos that a caption truly describes, where that is known; none: not known for this caption.
    "captions/fit_offsets": Dataset("O", ("int64",), optional=True),
    "captions/fit_videos": Dataset("V", ("int64",), optional=True),
    "categories/name": Dataset("C", ("str",)),
    "reference/captions": Dataset("RD", FLOATS, optional=True),
    "reference/frames": Dataset("SD", FLOATS, optional=True),
}
STREAM_DATASETS: Mapping[str, Dataset] = {
    "task_of_category": Dataset("C", ("int32",)),
    "role_of_video": Dataset("N", ("int8",)),
    "query_of_video": Dataset("N", ("int64",)),
    # Captions asked of a test video beside that one, as many of each; -1 in the rows of all other videos.
    "further_queries": Dataset("NK", ("int64",), optional=True),
}
REQUIRED_OF_STREAM = tuple(name for name, dataset in STREAM_DATASETS.items() if not dataset.optional)
FEATURES = ("videos/frames", "videos/frame_count", "captions/pooled", "captions/words", "captions/word_offsets")


def stream_names(paths: Mapping[str, object]) -> list[str]:
    """Names of the streams that appear in dataset paths `streams/<name>/...`, sorted."""
    return sorted({path.split("/")[1] for path in paths if path.startswith("streams/")})


def expected_datasets(paths: Mapping[str, object]) -> dict[str, Dataset]:
    """The schema's datasets with those of every stream that appears in `paths`."""
    streams = {f"streams/{s}/{k}": d for s in stream_names(paths) for k, d in STREAM_DATASETS.items()}
    return {**DATASETS, **streams}


def check_structure(where: str, arrays: Mapping[str, Array], text_lengths: Mapping[str, int]) -> None:
    """Raise InputError unless the datasets agree with the schema and with each other.

    arrays: numeric datasets by path (memory maps will do: frames and words are not read).
    text_lengths: number of entries of each text dataset. `where` begins every message.
    """

    def fail(message: str) -> NoReturn:
        raise InputError(f"{where}: {message}")

    held = dict.fromkeys((*text_lengths, *arrays))
    expected = expected_datasets(held)  # what else a file holds is not looked at
    present = {path: "str" if path in text_lengths else str(arrays[path].dtype) for path in expected if path in held}
    sizes: dict[str, tuple[int, str]] = {}
    for path, dataset in expected.items():
        if path not in present:
            if not dataset.optional:
                fail(
                    f"dataset {path} is missing; a store of schema {SCHEMA_VERSION} must have it. Build the store again"
                )
            continue
        if present[path] not in dataset.dtypes:
            fail(f"{path} has dtype {present[path]}; it must be {' or '.join(dataset.dtypes)}. Build the store again")
        shape = (text_lengths[path],) if path in text_lengths else arrays[path].shape
        if len(shape) != len(dataset.axes):
            fail(f"{path} has {len(shape)} axes; it must have {len(dataset.axes)} ({dataset.axes})")
        for axis, size in zip(dataset.axes, shape, strict=True):
            first_size, first_path = sizes.setdefault(axis, (size, path))
            if size != first_size:
                both = "both must come from one encoder" if axis == "D" else "both must have the same length"
                fail(f"{path} has {size} along {axis} but {first_path} has {first_size}; {both}")
    _check_feature_group(fail, present, arrays)
    _check_extras(fail, present, arrays)
    _check_rows(fail, arrays, sizes)
    for name in stream_names(present):
        _check_stream(fail, name, arrays)


def _check_feature_group(fail: Fail, present: Mapping[str, str], arrays: Mapping[str, Array]) -> None:
    held = [path for path in FEATURES if path in present]
    if held and len(held) < len(FEATURES):
        missing = ", ".join(path for path in FEATURES if path not in present)
        fail(f"features are half there: {missing} missing; a store has all of {', '.join(FEATURES)} or none")
    if not held:
        return
    offsets, words = arrays["captions/word_offsets"], arrays["captions/words"]
    rises = (
        len(offsets) == len(arrays["captions/video"]) + 1 and offsets[0] == 0 and bool(np.all(np.diff(offsets) >= 0))
    )
    if not rises or offsets[-1] != len(words):
        fail("captions/word_offsets must rise from 0 to the number of words, one more entry than captions")
    count = arrays["videos/frame_count"]
    if count.size and not (1 <= int(count.min()) and int(count.max()) <= arrays["videos/frames"].shape[1]):
        fail(
            f"videos/frame_count lies in {int(count.min())}..{int(count.max())}; "
            f"it must lie in 1..{arrays['videos/frames'].shape[1]} (frames kept for every video)"
        )


def _check_extras(fail: Fail, present: Mapping[str, str], arrays: Mapping[str, Array]) -> None:
    if "videos/strip" in present and arrays["videos/strip"].shape[3] != 3:
        fail(f"videos/strip has {arrays['videos/strip'].shape[3]} colours; it must have 3 (red, green, blue)")
    if ("captions/fit_offsets" in present) != ("captions/fit_videos" in present):
        fail("captions/fit_offsets and captions/fit_videos belong together; one is missing. Build the store again")
    if "captions/fit_offsets" in present:
        offsets, rows = arrays["captions/fit_offsets"], arrays["captions/fit_videos"]
        if len(offsets) != len(arrays["captions/video"]) + 1 or offsets[0] != 0 or np.any(np.diff(offsets) < 0):
            fail("captions/fit_offsets must rise from 0, one more entry than captions")
        if offsets[-1] != len(rows) or np.any((rows < 0) | (rows >= len(arrays["videos/category"]))):
            fail("captions/fit_videos must hold rows of videos, as many as captions/fit_offsets ends with")


def _check_rows(fail: Fail, arrays: Mapping[str, Array], sizes: Mapping[str, tuple[int, str]]) -> None:
    for path, axis, kind in (("videos/category", "C", "categories"), ("captions/video", "N", "videos")):
        rows, limit = arrays[path], sizes[axis][0]
        bad = np.flatnonzero((rows < 0) | (rows >= limit))
        if bad.size:
            fail(f"{path}[{bad[0]}] is {rows[bad[0]]}, but there are {limit} {kind}; {bad.size} rows point at nothing")


def _check_stream(fail: Fail, name: str, arrays: Mapping[str, Array]) -> None:
    task_C, role_N, query_N = (arrays[f"streams/{name}/{key}"] for key in REQUIRED_OF_STREAM)
    category_N, video_M = arrays["videos/category"], arrays["captions/video"]
    where = f"stream {name!r}"
    tasks = np.unique(task_C[task_C >= 0])
    if not tasks.size or not np.array_equal(tasks, np.arange(tasks.size)):
        fail(f"{where}: task numbers must be 0, 1, 2, ... without a gap; got {tasks.tolist()} (a gap is an empty task)")
    if not np.isin(role_N, list(ROLES)).all():
        fail(f"{where}: role_of_video must be one of {ROLES}; got {np.unique(role_N).tolist()}")
    task_N = task_C[category_N]
    for role in (TRAIN, TEST):
        empty = np.setdiff1d(tasks, task_N[role_N == role])
        if empty.size:
            fail(f"{where}: task {empty[0]} has no {ROLES[role]} video; every task needs train and test videos")
    stray = np.flatnonzero((role_N != UNUSED) & (task_N < 0))
    if stray.size:
        fail(f"{where}: video row {stray[0]} has role {ROLES[int(role_N[stray[0]])]} but its category is in no task")
    asked = np.flatnonzero((role_N == TEST) | (role_N == VALIDATION))
    query = query_N[asked]
    dangling = (query < 0) | (query >= len(video_M))
    dangling[~dangling] = video_M[query[~dangling]] != asked[~dangling]
    if dangling.any():
        row = asked[dangling][0]
        fail(f"{where}: query_of_video[{row}] is {query_N[row]}, no caption of that video; a test video needs one")
    if (further_NK := arrays.get(f"streams/{name}/further_queries")) is not None:
        _check_further(fail, where, further_NK, query_N, role_N, video_M)


def _check_further(fail: Fail, where: str, further_NK: Array, query_N: Array, role_N: Array, video_M: Array) -> None:
    stray = np.flatnonzero((further_NK != -1).any(1) & (role_N != TEST))
    if stray.size:
        fail(f"{where}: further_queries[{stray[0]}] asks of a video that is no test video; -1 belongs there")
    for row in np.flatnonzero(role_N == TEST).tolist():
        asked = [int(query_N[row]), *further_NK[row].tolist()]
        if len(set(asked)) < len(asked):
            fail(f"{where}: further_queries[{row}] asks caption {max(asked, key=asked.count)} twice; name others")
        odd = [caption for caption in asked if not (0 <= caption < len(video_M) and video_M[caption] == row)]
        if odd:
            fail(
                f"{where}: further_queries[{row}] holds {odd[0]}, no caption of that video; every test video needs "
                f"{further_NK.shape[1]} of its own"
            )
