"""Arrays in other people's files: npy, npz, pt (tensors only) and HDF5, found by a table that says what is what.

Nothing in a file is executed: object arrays and pickled objects other than tensors are refused.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ctvr_bench.features import hdf5
from ctvr_bench.features.errors import InputError, unknown_name
from ctvr_bench.features.schema import Array
from ctvr_bench.features.tables import Row, read_table, read_text

WHAT = ("frames", "frame_count", "pooled", "words", "word_count", "videos")
_SUFFIXES = (".npy", ".npz", ".pt", ".pth", ".h5", ".hdf5")
_VIDEO = "{video}"


class ArrayTable:
    """A CSV with the columns what and file, and where needed key and video; files are named from the CSV's folder.

    what: frames [N, F, D] or [N, D]; frame_count [N]; pooled [M, D]; words [M, L, D] or [T, D]; word_count [M];
    videos: a text file, one video id a line, where the rows of frames are not in the stream's order.
    key: the array in an npz, pt or HDF5 file that holds several. A line whose file or key contains {video}, or whose
    video cell is filled, is of one video: frames [F, D], and pooled, words and word_count of its captions, in order.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._all: dict[str, _Place] = {}
        self._each: dict[str, dict[str, _Place]] = {}
        opened = lru_cache(maxsize=4)(_open)
        for row in read_table(path, "what", "file"):
            what, file, key, video = (row.cells.get(name, "") for name in ("what", "file", "key", "video"))
            if what not in WHAT:
                raise InputError(f"{row.where}: {unknown_name('array', what, WHAT)}")
            if not file:
                row.fail("names no file; fill it in")
            lines = self._each.setdefault(what, {}) if video else self._all
            if (video or what) in lines:
                row.fail(f"tells a second time where the {what} {'of ' + repr(video) if video else ''} are; keep one")
            lines[video or what] = _Place(row, path.parent, file, key, opened)
        for what in WHAT:
            if what in self._all and what in self._each:
                raise InputError(f"{path}: gives {what} both for single videos and for all; keep one way")

    def __contains__(self, what: str) -> bool:
        return what in self._all or what in self._each

    def per_video(self, what: str) -> bool:
        return what in self._each or (what in self._all and self._all[what].has_pattern)

    def all(self, what: str) -> Array:
        """The array of all videos or captions."""
        return self._all[what].load("")

    def of_video(self, what: str, video: str) -> Array | None:
        """The array of one video, or None where there is no such file."""
        place = self._all[what] if what in self._all else self._each[what].get(video)
        return place.load(video) if place and place.exists(video) else None

    def video_ids(self) -> list[str]:
        """The ids that name the rows of frames."""
        return [line.strip() for line in read_text(self._all["videos"].file_of("")).splitlines() if line.strip()]

    def where(self, what: str) -> str:
        """How a message names the place of an array."""
        return self._all[what].row.where if what in self._all else str(self.path)


class _Place(NamedTuple):
    row: Row
    folder: Path
    file: str
    key: str
    open: Callable[[Path], Any]

    @property
    def has_pattern(self) -> bool:
        return _VIDEO in self.file + self.key

    def file_of(self, video: str) -> Path:
        return self.folder / self.file.replace(_VIDEO, video)

    def exists(self, video: str) -> bool:
        if _VIDEO in self.file:
            return self.file_of(video).is_file()
        return _VIDEO not in self.key or self.key.replace(_VIDEO, video) in self.open(self.file_of(video))

    def load(self, video: str) -> Array:
        path, key = self.file_of(video), self.key.replace(_VIDEO, video)
        arrays = self.open(path)
        if not key and len(arrays) == 1:
            key = next(iter(arrays))
        if key not in arrays:
            held = ", ".join(sorted(arrays)) or "nothing"
            self.row.fail(f"{path} holds {held}; name one of these as its key" + (f", not {key!r}" if key else ""))
        try:
            return np.asarray(arrays[key])
        except (ValueError, zipfile.BadZipFile) as error:
            raise InputError(f"{path}: {key} cannot be read ({error}); write it again as plain numbers") from error


def _open(path: Path) -> Any:
    """The arrays of a file by key, read when they are asked for; a file of one array has the key ''."""
    if path.suffix.lower() not in _SUFFIXES:
        raise InputError(f"{path}: is none of the kinds that are read: {', '.join(_SUFFIXES)}; convert it")
    if not path.is_file():
        raise InputError(f"{path}: no such file; mend its line in the table")
    if path.suffix.lower() in (".h5", ".hdf5"):
        return hdf5.map_file(path).arrays
    try:
        if path.suffix.lower() == ".npy":
            return {"": np.load(path, mmap_mode="r", allow_pickle=False)}
        if path.suffix.lower() == ".npz":
            return _Npz(path)
        return dict(_tensors(torch.load(path, map_location="cpu", weights_only=True)))
    except (OSError, ValueError, EOFError, RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0][:150]
        raise InputError(f"{path}: cannot be read ({reason}); it must hold plain arrays or tensors") from error


class _Npz(Mapping[str, Array]):
    """The arrays of an npz file, which is open only while one is read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            self._names = list(arrays.files)

    def __getitem__(self, name: str) -> Array:
        with self._path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            return np.asarray(arrays[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _tensors(content: Any, key: str = "") -> list[tuple[str, Array]]:
    """Every tensor in nested dicts, by its keys joined with '/'."""
    if isinstance(content, torch.Tensor):
        content = content.float() if content.dtype is torch.bfloat16 else content
        return [(key, content.detach().numpy())]
    if not isinstance(content, dict):
        return []
    return [pair for name, value in content.items() for pair in _tensors(value, f"{key}/{name}".strip("/"))]
