"""Arrays in other people's files: npy, npz, pt (tensors only) and HDF5, found by a table that says what is what.

Nothing in a file is executed: object arrays and pickled objects other than tensors are refused.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ctvr_bench.features import hdf5
from ctvr_bench.features.errors import InputError, unknown_name
from ctvr_bench.features.pickles import check_opcodes
from ctvr_bench.features.schema import Array
from ctvr_bench.features.tables import Row, is_file, plain_id, read_table, read_text, spellings, stays_inside

WHAT = ("frames", "frame_count", "pooled", "words", "word_count", "videos")
_SUFFIXES = (".npy", ".npz", ".pt", ".pth", ".h5", ".hdf5")
_VIDEO = "{video}"
_UNPACKED, _RATIO = 1 << 28, 8  # bytes in memory that any file may ask for, and times its size that a larger one may
_NESTED, _DEPTH = 1_000_000, 100  # dicts, lists and tensors of a file, and one in another
_OPCODES = 4_000_000  # of a pickle of tensors: some 150,000 tensors
_LEGACY = 4  # pickles before the tensors in a file of torch before 1.6
_SHOWN = 20  # keys that a message lists
_WIDENED = frozenset(
    getattr(torch, name)
    for name in ("bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz")
    if hasattr(torch, name)
)


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
            video = plain_id(video)
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
        place = self._all["videos"]
        ids = [plain_id(line) for line in read_text(place.file_of("")).splitlines() if line.strip()]
        if len(set(ids)) < len(ids):
            twice = Counter(ids).most_common(1)[0][0]
            place.row.fail(f"{place.file} names video {twice!r} more than once; a row of frames is of one video")
        return ids

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
        return self._spelling(video) is not None

    def load(self, video: str) -> Array:
        video = self._spelling(video) or video
        path, key = self.file_of(video), self.key.replace(_VIDEO, video)
        arrays = self.open(path)
        if not key and len(arrays) == 1:
            key = next(iter(arrays))
        if key not in arrays:
            names = sorted(arrays)
            held = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
            self.row.fail(
                f"{path} holds {held or 'nothing'}; name one of these as its key" + (f", not {key!r}" if key else "")
            )
        try:
            return np.asarray(arrays[key])
        except Exception as error:  # a damaged file can raise nearly anything
            raise _refused(path, error, f"{key} cannot be read", "write it again as plain numbers") from error

    def _spelling(self, video: str) -> str | None:
        """How the file or key of a video is written; None where there is none. An id cannot lead out of the folder."""
        if _VIDEO in self.file and not stays_inside(video):
            return None
        for name in spellings(video):
            if _VIDEO in self.file:
                if is_file(self.file_of(name)):
                    return name
            elif _VIDEO not in self.key or self.key.replace(_VIDEO, name) in self.open(self.file_of(name)):
                return name
        return None


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
        return _Tensors(path)
    except Exception as error:  # a damaged file can raise nearly anything
        raise _refused(path, error, "cannot be read", "it must hold plain arrays or tensors") from error


def _refused(path: Path, error: Exception, what: str, advice: str) -> InputError:
    if isinstance(error, InputError):
        return error
    reason = (str(error).splitlines() or [""])[0][:150] or type(error).__name__
    return InputError(f"{path}: {what} ({reason}); {advice}")


def _check_size(path: Path, name: str, size: int, stored: int) -> None:
    """Refuse what is small in the file and large in memory, before it is made."""
    if size > max(_UNPACKED, _RATIO * stored):
        raise InputError(
            f"{path}: {name or 'its array'} would fill {size:,} bytes but holds {stored:,}; "
            "write it again without compression, or no longer than it is"
        )


class _Npz(Mapping[str, Array]):
    """The arrays of an npz file, which is open only while one is read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with zipfile.ZipFile(path) as archive:
            self._members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}

    def __getitem__(self, name: str) -> Array:
        member = self._members[name]
        _check_size(self._path, name, member.file_size, member.compress_size)
        with zipfile.ZipFile(self._path) as archive, archive.open(member) as stream:
            version = np.lib.format.read_magic(stream)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = header(stream)
            if math.prod(shape) * dtype.itemsize > member.file_size:
                raise ValueError(f"its header promises {shape} of {dtype}, more than it holds")
        with self._path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            return np.asarray(arrays[name])

    def __contains__(self, name: object) -> bool:
        return name in self._members

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)


class _Tensors(Mapping[str, Array]):
    """The tensors of a file of torch, by their keys joined with '/'; a list of tensors of one shape is one array."""

    def __init__(self, path: Path) -> None:
        self._path, self._stored = path, path.stat().st_size
        _check_pickles(path, self._stored)
        with torch.sparse.check_sparse_tensor_invariants():  # indices out of bounds would be written to
            self._held = _tensors(torch.load(path, map_location="cpu", weights_only=True))

    def __getitem__(self, name: str) -> Array:
        held = self._held[name]
        if isinstance(held, torch.Tensor):
            return self._array(name, held, 1)
        if len({(part.shape, part.dtype) for part in held}) > 1:
            raise ValueError(f"it is a list of {len(held)} tensors of several shapes: save a dict of them by video id")
        return np.stack([self._array(name, part, len(held)) for part in held])

    def _array(self, name: str, tensor: torch.Tensor, number: int) -> Array:
        if tensor.is_meta:
            raise ValueError("a tensor without values")
        _check_size(self._path, name, number * tensor.numel() * 4, self._stored)
        tensor = tensor.detach()
        if tensor.layout is not torch.strided:
            tensor = tensor.to_dense()
        if tensor.is_quantized:
            tensor = tensor.dequantize()
        if tensor.dtype in _WIDENED:
            tensor = tensor.float()
        return np.asarray(tensor.resolve_conj().resolve_neg().numpy())

    def __contains__(self, name: object) -> bool:
        return name in self._held

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)


def _check_pickles(path: Path, stored: int) -> None:
    """Count the opcodes of what torch would unpickle: of a zip archive its data.pkl, of an older file its pickles."""
    if not zipfile.is_zipfile(path):
        with path.open("rb") as stream:
            for _ in range(_LEGACY):
                check_opcodes(path, stream, stored, _OPCODES)
        return
    with zipfile.ZipFile(path) as archive:
        _check_size(path, "it", sum(member.file_size for member in archive.infolist()), stored)
        for member in archive.infolist():
            if member.filename.endswith("data.pkl"):
                with archive.open(member) as stream:
                    check_opcodes(path, io.BytesIO(stream.read()), stored, _OPCODES)


def _tensors(content: Any) -> dict[str, torch.Tensor | list[torch.Tensor]]:
    """Every tensor, and every list of tensors, in nested dicts and lists, by its keys joined with '/'."""
    found: dict[str, torch.Tensor | list[torch.Tensor]] = {}
    todo, looked = [("", content, 0)], 0
    while todo:
        key, value, depth = todo.pop()
        if (looked := looked + 1) > _NESTED or depth > _DEPTH:
            raise ValueError("it nests without end")
        if isinstance(value, torch.Tensor):
            found[key] = value
        elif isinstance(value, (list, tuple)) and value and all(isinstance(part, torch.Tensor) for part in value):
            found[key] = list(value)
        elif isinstance(value, (dict, list, tuple)):
            inner = value.items() if isinstance(value, dict) else enumerate(value)
            todo += [(f"{key}/{name}".strip("/"), part, depth + 1) for name, part in inner][::-1]
    return found
