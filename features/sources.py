"""Captions and a task stream, as a person has them on disk, as a `Structure`.

Axes: N videos, M captions, C categories.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from ctvr_bench.features import ctvr
from ctvr_bench.features.errors import InputError, unknown_name
from ctvr_bench.features.schema import ROLES, TEST, TRAIN, VALIDATION, Array
from ctvr_bench.features.structure import Structure, empty_stream
from ctvr_bench.features.tables import Row, columns_of, plain_id, read_json, read_pairs, read_table

Segment = tuple[float, float]

_NAME = 200  # letters of an id that may be a misspelling
_DIGITS = 9  # of a task's number
_ROLE_CODES = {name: code for code, name in ROLES.items()}


@dataclass(frozen=True)
class Sources:
    """A structure, and what was noticed while it was read.

    segments: of videos whose captions tell of one part, (start, end) in seconds (ActivityNet Captions).
    odd_segments: what stood there of videos whose first segment is no part of time; they are taken whole.
    unknown_captions, blank_captions: left out of a published file, which may hold more than the stream.
    entries: of all caption files together. entry_M: place of each caption among them.
    """

    structure: Structure
    segments: Mapping[str, Segment] = field(default_factory=dict)
    odd_segments: Mapping[str, str] = field(default_factory=dict)
    unknown_captions: int = 0
    blank_captions: int = 0
    entries: int = 0
    entry_M: Array = field(default_factory=lambda: np.empty(0, np.int64))


def read_sources(captions: Sequence[Path], *streams: Path, queries: int = 1) -> Sources:
    """Read captions and one or more streams over the same videos, check that they fit together; raises InputError.

    streams: each a published pickle, or a CSV with the columns video, category, task, role (train, test, validation,
    unused); tasks count from 0 or 1. A category has one task, and train and test videos. The same CSV may hold the
    captions.
    captions: CSV with the columns video and caption; JSON {video: caption or [captions]}; or a published file (CSV with
    video_id and sentence, MSR-VTT's annotations, ActivityNet Captions: first sentence and first segment). Only the
    published may tell of videos that the stream lacks, or be blank in places: they are cut down to the stream.
    A test video is asked for by its first caption from a published query file, else by its first caption; queries:
    captions that it is asked for by, of every test video as many, that one and its next.
    """
    plans = [
        _read_pickle(path) if path.suffix.lower() in (".pkl", ".pickle") else _read_stream(path) for path in streams
    ]
    plan = plans[0]
    for path, other in zip(streams[1:], plans[1:], strict=True):
        _check_same_videos(path, plan, other)
    if len({each.name for each in plans}) < len(plans):
        raise InputError(f"two streams are called {plans[-1].name!r}; each needs a file name of its own. Rename one")
    told = [_read_captions(Path(path), plan) for path in captions]
    found = _gather(told, plan)
    structure = _assemble(plans, found.texts, found.query, queries)
    where = ", ".join(str(path) for path in (*streams, *captions))
    asked = [video for each in plans for video, role in each.role_of_video.items() if role in (TEST, VALIDATION)]
    if silent := [video for video in asked if not found.texts[video]]:
        raise InputError(
            f"{where}: {len(silent)} test videos have no caption, {silent[0]!r} for one; "
            "a test video is asked for by its caption. Add them"
        )
    tested = [video for each in plans for video, role in each.role_of_video.items() if role == TEST]
    if few := [video for video in tested if queries > 1 and len(set(found.texts[video])) < queries]:
        raise InputError(
            f"{where}: {len(few)} test videos have fewer than {queries} different captions to be asked for by, "
            f"{few[0]!r} for one; add some, or ask fewer with --queries"
        )
    structure.check(where)
    entry_M = np.array([entry for entries in found.entries.values() for entry in entries], np.int64)
    entries = sum(len(part.entries.videos) for part in told)
    odd = {video: what for video, what in found.odd.items() if video in plan.role_of_video}
    return Sources(structure, found.segments, odd, found.unknown, found.blank, entries, entry_M)


class _Plan(NamedTuple):
    """A stream as it was given; tasks from 0, -1 for none; dicts keep the order of first appearance."""

    name: str
    task_of_category: dict[str, int]
    category_of_video: dict[str, str]
    role_of_video: dict[str, int]


class _Told(NamedTuple):
    """What a caption file says."""

    entries: ctvr.CaptionFile
    segments: dict[str, Segment]
    odd: dict[str, str]


class _Gathered(NamedTuple):
    """What the caption files say of the stream's videos; `entries` are the places of `texts` in all files."""

    texts: dict[str, list[str]]
    entries: dict[str, list[int]]
    query: dict[str, str]
    segments: dict[str, Segment]
    odd: dict[str, str]
    unknown: int
    blank: int


def _gather(told: Sequence[_Told], plan: _Plan) -> _Gathered:
    texts: dict[str, list[str]] = {video: [] for video in plan.role_of_video}
    entries: dict[str, list[int]] = {video: [] for video in plan.role_of_video}
    query: dict[str, str] = {}
    segments: dict[str, Segment] = {}
    odd: dict[str, str] = {}
    unknown = blank = before = 0
    for part in told:
        held = {video: (known, entries[video], frozenset(known)) for video, known in texts.items()}
        pairs, asked = zip(part.entries.videos, part.entries.texts, strict=True), part.entries.asked
        for entry, (video, text) in enumerate(pairs, before):
            mine = held.get(video)
            if mine is None:
                unknown += 1
            elif not text:
                blank += 1
            else:
                known, places, earlier = mine
                if not earlier or text not in earlier:
                    known.append(text)
                    places.append(entry)
                if asked and video not in query:
                    query[video] = text
        before += len(part.entries.videos)
        segments |= part.segments
        odd |= part.odd
    return _Gathered(texts, entries, query, segments, odd, unknown, blank)


def _read_pickle(path: Path) -> _Plan:
    split = ctvr.read_split(path)
    roles = {video: TRAIN if role == "train" else TEST for video, role in split.role_of_video.items()}
    tasks = {category: task - 1 for category, task in split.task_of_category.items()}
    return _Plan(split.stream, tasks, split.category_of_video, roles)


def _read_stream(path: Path) -> _Plan:
    plan = _Plan(path.stem, {}, {}, {})
    number_of_category: dict[str, int] = {}
    seen: dict[str, Row] = {}
    for row in read_table(path, "video", "category", "task", "role"):
        video, category, task, role = (row.cells[column] for column in ("video", "category", "task", "role"))
        video = plain_id(video)
        if not video or not category:
            row.fail("has no video or no category; fill both in")
        if role not in _ROLE_CODES:
            raise InputError(f"{row.where}: {unknown_name('role', role, _ROLE_CODES)}")
        if video in seen:
            same = all(row.cells[key] == seen[video].cells[key] for key in ("category", "task", "role"))
            if "caption" in row.cells and same:
                continue
            row.fail(f"video {video!r} is there already, {seen[video].where}; a video has one category, task and role")
        seen[video] = row
        plan.category_of_video[video], plan.role_of_video[video] = category, _ROLE_CODES[role]
        plan.task_of_category.setdefault(category, -1)
        if role == "unused":
            continue
        if not (task.isascii() and task.isdecimal() and len(task) <= _DIGITS):
            row.fail(f"has task {task[:20]!r}; a task is a whole number, counted from 0 or 1")
        if number_of_category.setdefault(category, int(task)) != int(task):
            row.fail(
                f"category {category!r} is in task {number_of_category[category]} and {task}; it belongs to one task"
            )
    numbers = sorted(set(number_of_category.values()))
    if not numbers or numbers not in ([*range(len(numbers))], [*range(1, len(numbers) + 1)]):
        raise InputError(
            f"{path}: has tasks {str(numbers)[:80]}; number them 0, 1, 2, ... or 1, 2, 3, ... without a gap"
        )
    plan.task_of_category.update({category: number - numbers[0] for category, number in number_of_category.items()})
    _check_categories(path, plan)
    return plan


def _check_same_videos(path: Path, first: _Plan, other: _Plan) -> None:
    for video in (*first.category_of_video, *other.category_of_video):
        here, there = other.category_of_video.get(video), first.category_of_video.get(video)
        if here != there:
            raise InputError(
                f"{path}: video {video!r} is in {'no category' if here is None else f'category {here!r}'}, but in "
                f"stream {first.name!r} in {'none' if there is None else repr(there)}; streams of one store have the "
                "same videos and categories. Extract into two stores"
            )


def _check_categories(path: Path, plan: _Plan) -> None:
    roles: dict[str, set[int]] = {}
    for video, category in plan.category_of_video.items():
        roles.setdefault(category, set()).add(plan.role_of_video[video])
    for category, task in plan.task_of_category.items():
        for role in (TRAIN, TEST):
            if task >= 0 and role not in roles[category]:
                raise InputError(
                    f"{path}: category {category!r} has no {ROLES[role]} videos; "
                    "a category needs train and test videos. Add some, or give its videos the role unused"
                )


def _read_captions(path: Path, plan: _Plan) -> _Told:
    """Published files are read by the reader of `import-ctvr`; the rest here, strictly."""
    segments: dict[str, Segment] = {}
    odd: dict[str, str] = {}
    roles = plan.role_of_video

    def id_of(name: str) -> str:
        return name if name in roles else video if (video := plain_id(name)) in roles else ""

    def check(line: int, name: str, text: str) -> None:
        _refuse_caption(f"{path} line {line}", plain_id(name), roles)

    if path.suffix.lower() == ".csv":
        if {"video_id", "sentence"} <= set(columns_of(path)):
            return _Told(ctvr.read_captions(path), segments, odd)
        entries = ctvr.CaptionFile(*read_pairs(path, "video", "caption", id_of, check), asked=False)
    elif path.suffix.lower() == ".json":
        content = read_json(path)
        if _is_published(content):
            segments, odd = _first_segments(content)
            return _Told(ctvr.read_captions(path), segments, odd)
        entries = _plain_json(path, content, id_of, roles)
    else:
        raise InputError(
            f"{path}: is no kind of caption file that is read: .csv (columns video and caption, or video_id and "
            "sentence) or .json; convert it"
        )
    return _Told(entries, segments, odd)


def _refuse_caption(where: str, video: str, ids: Collection[str]) -> NoReturn:
    if video in ids:
        raise InputError(f"{where}: the caption of {video!r} is empty; write one or take the line out")
    near = difflib.get_close_matches(video, ids, n=1) if len(video) < _NAME else []
    hint = f"; did you mean {near[0]!r}?" if near else "."
    raise InputError(f"{where}: video {video!r} is not in the stream{hint} Take the line out or add the video")


def _is_published(content: Any) -> bool:
    """Whether a JSON file is MSR-VTT's annotations or ActivityNet Captions, rather than {video: captions}."""
    if not isinstance(content, dict):
        return False
    first = next(iter(content.values()), None)
    return isinstance(content.get("sentences"), list) or isinstance(first, dict)


def _first_segments(content: Mapping[str, Any]) -> tuple[dict[str, Segment], dict[str, str]]:
    """The time of the first sentence of each video of ActivityNet Captions, or what stands there that is no time."""
    found: dict[str, Segment] = {}
    odd = {}
    for name, entry in content.items():
        video = plain_id(name)
        match entry:
            case {"timestamps": [[int() | float() as start, int() | float() as end], *_]} if start < end:
                found[video] = (float(start), float(end))
            case {"timestamps": times}:
                first = times[0] if isinstance(times, list) and times else times
                odd[video] = f"first segment {first!a:.60} is no part of time; the whole video was taken"
    return found, odd


def _plain_json(path: Path, content: Any, id_of: Callable[[str], str], ids: Collection[str]) -> ctvr.CaptionFile:
    def fail() -> NoReturn:
        raise InputError(f"{path}: must be {{video: caption or [captions]}} or a published caption file; write it so")

    if not isinstance(content, dict):
        fail()
    entries = ctvr.CaptionFile([], [], asked=False)
    for name, told in content.items():
        texts = [told] if isinstance(told, str) else told
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            fail()
        texts = [text.strip() for text in texts]
        video = id_of(name)
        if not video or not all(texts):
            _refuse_caption(str(path), plain_id(name), ids)
        entries.videos.extend([video] * len(texts))
        entries.texts.extend(texts)
    return entries


def _assemble(
    plans: Sequence[_Plan], texts: Mapping[str, list[str]], query: Mapping[str, str], queries: int
) -> Structure:
    categories = {category: row for row, category in enumerate(plans[0].task_of_category)}
    first: dict[str, int] = {}  # caption of each video
    captions: list[str] = []
    for video, known in texts.items():
        first[video] = len(captions)
        captions += known
    streams = []
    for plan in plans:
        stream = empty_stream(plan.name, len(categories), len(texts))
        stream.task_of_category_C[[categories[name] for name in plan.task_of_category]] = [
            *plan.task_of_category.values()
        ]
        further_NK = np.full((len(texts), queries - 1), -1)
        for row, (video, known) in enumerate(texts.items()):
            stream.role_of_video_N[row] = plan.role_of_video[video]
            if known and plan.role_of_video[video] in (TEST, VALIDATION):
                asked = islice(dict.fromkeys([query.get(video, known[0]), *known]), queries)
                stream.query_of_video_N[row], *further = [first[video] + known.index(text) for text in asked]
                if plan.role_of_video[video] == TEST:
                    further_NK[row, : len(further)] = further
        streams.append(replace(stream, further_queries_NK=further_NK) if queries > 1 else stream)
    return Structure(
        list(texts),
        np.array([categories[category] for category in plans[0].category_of_video.values()], np.int32),
        list(categories),
        captions,
        np.repeat(np.arange(len(texts)), [len(known) for known in texts.values()]),
        streams,
    )
