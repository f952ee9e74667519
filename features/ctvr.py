"""Import of the published CTVR task streams (pickles) and captions (CSV, JSON) into a store without features.

A pickle is {'train': {task: {category: [video ids]}}, 'val': the same}: tasks count from 1, 'val' is the test set.
Several pickles that divide the same videos (10 and 20 tasks) become streams of one store.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from ctvr_bench.features.errors import InputError
from ctvr_bench.features.pickles import read_plain_pickle
from ctvr_bench.features.schema import TEST, TRAIN, Array, Fail
from ctvr_bench.features.store import StoredStream, create_store
from ctvr_bench.features.structure import Structure, empty_stream
from ctvr_bench.features.tables import plain_id, read_json, read_pairs

_ROLES = {"train": TRAIN, "val": TEST}
_LICENCE = "ids and captions keep the terms of the files they came from; the CTVR release carries no licence"


@dataclass(frozen=True)
class ImportSummary:
    """What an import found. Captions left out belong to videos of no stream, or are blank."""

    path: Path
    videos: int
    categories: int
    captions: int
    tasks_of_stream: dict[str, int]
    train_videos_without_caption: int
    captions_of_unknown_videos: int
    blank_captions: int

    def __str__(self) -> str:
        streams = ", ".join(f"{name} ({tasks} tasks)" for name, tasks in self.tasks_of_stream.items())
        return (
            f"{self.path}: {self.videos} videos in {self.categories} categories, {self.captions} captions, "
            f"streams {streams}\n"
            f"without a caption: {self.train_videos_without_caption} train videos; left out: "
            f"{self.captions_of_unknown_videos} captions of videos in no stream, {self.blank_captions} blank ones"
        )


def import_ctvr(
    pickles: Sequence[Path], captions: Sequence[Path], out: Path, *, name: str, command_line: str = ""
) -> ImportSummary:
    """Write the structure-only store `out` from task pickles and caption files, and say what was found.

    pickles: each becomes a stream named after its file, MSRVTT_10_dataset.pkl -> 'MSRVTT-10'. The categories of all of
    them must hold the same train and test videos.
    captions: a CSV with the columns video_id and sentence; a query JSON {video id: {"sentences": [...]}}, of which CTVR
    takes the first sentence; or MSR-VTT's annotation JSON {"sentences": [{"video_id", "caption"}, ...]}, all of it. A
    caption that an earlier file gave a video already is not added again. A test video is asked for by its first caption
    from a CSV or query JSON, else by its first caption. Train videos may lack captions; test videos may not.
    Raises InputError, and writes nothing, for anything that breaks these rules.
    """
    if not pickles:
        raise InputError("no task pickle given; name at least one, e.g. MSRVTT_10_dataset.pkl")
    splits = [read_split(Path(path)) for path in pickles]
    for other in splits[1:]:
        _check_same_division(splits[0], other)
    names = [split.stream for split in splits]
    if len(set(names)) < len(names):
        raise InputError(f"the pickles give streams {', '.join(names)}; each needs a file name of its own")

    videos = {video: row for row, video in enumerate(splits[0].role_of_video)}
    categories = {category: row for row, category in enumerate(splits[0].task_of_category)}
    found = _gather_captions([Path(path) for path in captions], videos)
    _check_queries(splits[0], found.query)
    texts_M: list[str] = []
    query_N = np.full(len(videos), -1, np.int64)
    for video, texts in found.of_video.items():
        if texts:
            query_N[videos[video]] = len(texts_M) + texts.index(found.query[video])
        texts_M += texts
    structure = Structure(
        list(videos),
        np.array([categories[category] for category in splits[0].category_of_video.values()], np.int32),
        list(categories),
        texts_M,
        np.repeat(np.arange(len(videos)), [len(texts) for texts in found.of_video.values()]),
        [_stream(split, videos, categories, query_N) for split in splits],
    )
    structure.check(", ".join(str(path) for path in (*pickles, *captions)))
    with create_store(out, name=name, command_line=command_line, licence=_LICENCE) as writer:
        structure.write(writer)
    return ImportSummary(
        path=Path(out),
        videos=len(videos),
        categories=len(categories),
        captions=len(texts_M),
        tasks_of_stream={stream.name: stream.num_tasks for stream in structure.streams},
        train_videos_without_caption=sum(not texts for texts in found.of_video.values()),
        captions_of_unknown_videos=found.unknown,
        blank_captions=found.blank,
    )


class Split(NamedTuple):
    """One pickle, checked and turned around; dicts keep the order of first appearance, train before test."""

    path: Path
    stream: str
    task_of_category: dict[str, int]
    category_of_video: dict[str, str]
    role_of_video: dict[str, str]

    def place(self, video: str) -> str:
        """Where a video is, in words."""
        if video not in self.role_of_video:
            return "no category"
        return f"{self.role_of_video[video]!r} category {self.category_of_video[video]!r}"


def read_split(path: Path) -> Split:
    """A published pickle: its videos with category, task and role. Raises InputError."""

    def fail(message: str) -> NoReturn:
        raise InputError(f"{path}: {message}")

    split = Split(path, path.stem.removesuffix("_dataset").replace("_", "-"), {}, {}, {})
    tasks: dict[str, dict[str, int]] = {role: {} for role in _ROLES}
    for role, task, category, videos in _cells(read_plain_pickle(path), fail):
        if category in tasks[role]:
            fail(
                f"{role!r} has category {category!r} in task {tasks[role][category]} and in task {task}; "
                "a category belongs to one task. Remove it from one"
            )
        tasks[role][category] = task
        for video in map(plain_id, videos):
            if video in split.role_of_video:
                fail(
                    f"video {video!r} is in {split.place(video)} and in {role!r} category {category!r}; "
                    "a video has one category and one role. Remove it from one"
                )
            split.category_of_video[video] = category
            split.role_of_video[video] = role
    for category, task in (tasks["train"] | tasks["val"]).items():
        for role in _ROLES:
            if tasks[role].get(category) != task:
                fail(
                    f"category {category!r} of task {task} has no {role!r} videos there; "
                    "a category needs train and test videos in its one task. Add them or drop the category"
                )
    split.task_of_category.update(tasks["train"])
    return split


def _cells(roles: Any, fail: Fail) -> Iterator[tuple[str, int, str, list[str]]]:
    """(role, task, category, video ids) of everything in a task pickle, train first, tasks in order."""
    if not isinstance(roles, dict) or set(roles) != set(_ROLES):
        found = list(roles) if isinstance(roles, dict) else type(roles).__name__
        fail(f"must be a dict with the keys 'train' and 'val'; got {found!a:.80}. Name a CTVR task pickle")
    for role in _ROLES:
        tasks = roles[role]
        if not isinstance(tasks, dict):
            fail(f"{role!r} must be a dict of tasks; got {type(tasks).__name__}. Name a CTVR task pickle")
        numbers = list(range(1, len(tasks) + 1))
        if not tasks or any(number not in tasks for number in numbers):
            fail(f"{role!r} must number its tasks 1, 2, 3, ... without a gap; got {list(tasks)!a:.80}. Renumber them")
        for task in numbers:
            if not isinstance(tasks[task], dict) or not tasks[task]:
                fail(f"{role!r} task {task} is empty; a task is a dict of categories and their videos. Fill or drop it")
            for category, videos in tasks[task].items():
                if not isinstance(category, str | int) or category == "":
                    fail(f"{role!r} task {task} has category {category!a:.80}; a category is a number or a name")
                if not isinstance(videos, list) or not all(isinstance(video, str) and video for video in videos):
                    fail(f"{role!r} task {task} category {str(category)!r} must be a list of video ids (text)")
                if not videos:
                    fail(
                        f"{role!r} task {task} category {str(category)!r} has no videos. Add some or drop the category"
                    )
                yield role, task, str(category), videos


def _check_same_division(first: Split, other: Split) -> None:
    """Pickles imported together differ in tasks only."""
    for video in (*first.role_of_video, *other.role_of_video):
        if first.place(video) != other.place(video):
            raise InputError(
                f"{other.path}: video {video!r} is in {other.place(video)} but in {first.path} it is in "
                f"{first.place(video)}; pickles of one store must divide the same videos. Import them into two stores"
            )


class _Captions(NamedTuple):
    of_video: dict[str, list[str]]  # every video of the streams, in their order
    query: dict[str, str]
    unknown: int
    blank: int


def _gather_captions(paths: Sequence[Path], videos: Iterable[str]) -> _Captions:
    of_video: dict[str, list[str]] = {video: [] for video in videos}
    query: dict[str, str] = {}
    unknown = blank = 0
    for path in paths:
        names, captions, asked = read_captions(path)
        held = {video: (texts, frozenset(texts)) for video, texts in of_video.items()}
        for video, text in zip(names, captions, strict=True):
            mine = held.get(video)
            if mine is None:
                unknown += 1
            elif not text:
                blank += 1
            else:
                texts, earlier = mine
                if not earlier or text not in earlier:
                    texts.append(text)
                if asked and video not in query:
                    query[video] = text
    for video, texts in of_video.items():
        if texts:
            query.setdefault(video, texts[0])
    return _Captions(of_video, query, unknown, blank)


def _check_queries(split: Split, query: Mapping[str, str]) -> None:
    missing = [video for video, role in split.role_of_video.items() if role == "val" and video not in query]
    if missing:
        raise InputError(
            f"{split.path}: {len(missing)} test videos have no caption, {missing[0]!r} for one; "
            "a test video is asked for by its caption. Give the file that has them with --captions"
        )


class CaptionFile(NamedTuple):
    """The entries of a caption file: ids and stripped texts. asked: whether CTVR asks for the videos by them."""

    videos: list[str]
    texts: list[str]
    asked: bool


def read_captions(path: Path) -> CaptionFile:
    """Every caption of a published file. Raises InputError."""

    def fail(message: str) -> NoReturn:
        raise InputError(f"{path}: {message}; give the CTVR caption CSV, query JSON, or MSR-VTT's annotation JSON")

    def check(line: int, name: str, text: str) -> None:
        if not name:
            raise InputError(f"{path} line {line}: has no video_id; fill it in or take the line out")

    if path.suffix.lower() == ".csv":
        return CaptionFile(*read_pairs(path, "video_id", "sentence", plain_id, check), asked=True)
    content = read_json(path)
    if not isinstance(content, dict):
        fail(f"must be a JSON object; got {type(content).__name__}")
    asked = not isinstance(content.get("sentences"), list)
    told = list(_queries(content, fail) if asked else _annotations(content["sentences"], fail))
    return CaptionFile([plain_id(video) for video, _ in told], [text.strip() for _, text in told], asked)


def _annotations(sentences: list[Any], fail: Fail) -> Iterator[tuple[str, str]]:
    for number, entry in enumerate(sentences):
        match entry:
            case {"video_id": str(video), "caption": str(text)}:
                yield video, text
            case _:
                fail(f"sentences[{number}] needs a video_id and a caption, both text; got {entry!a:.80}")


def _queries(content: Mapping[str, Any], fail: Fail) -> Iterator[tuple[str, str]]:
    for video, entry in content.items():
        match entry:
            case {"sentences": [str(text), *_]}:
                yield video, text
            case _:
                fail(f"{video!a:.80} needs a list of sentences; got {entry!a:.80}")


def _stream(split: Split, videos: Mapping[str, int], categories: Mapping[str, int], query_N: Array) -> StoredStream:
    stream = empty_stream(split.stream, len(categories), len(videos))
    for category, task in split.task_of_category.items():
        stream.task_of_category_C[categories[category]] = task - 1
    for video, role in split.role_of_video.items():
        stream.role_of_video_N[videos[video]] = _ROLES[role]
    asked_N = stream.role_of_video_N == TEST
    stream.query_of_video_N[asked_N] = query_N[asked_N]
    return stream
