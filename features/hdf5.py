"""Reading and writing HDF5 files, whole or not at all; the only file that imports h5py.

Numeric datasets are contiguous and uncompressed, so that a reader maps them into memory without a copy. Texts have a
fixed length, so that no damage in a heap of the file can send the HDF5 library astray; heaps of other files are walked.
What a stranger's file may not do: show the content of another file, or promise more than it holds.
"""

from __future__ import annotations

import hashlib
import math
import mmap
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt

from ctvr_bench.features.errors import InputError
from ctvr_bench.features.partial import partial_of

Array = npt.NDArray[Any]
_BLOCK = 1 << 24  # bytes hashed at a time
_DAMAGE = (OSError, RuntimeError, ValueError, KeyError, TypeError, IndexError)  # what h5py raises on a damaged file
_UNPACKED = 1 << 28  # bytes that a dataset may have when it is not laid out as an array, however small its storage
_RATIO = 8  # times its storage that a larger one may have
_HEAP = b"GCOL\1\0\0\0"
_TEXTS = 1 << 28  # bytes of texts of any length that are read together
_NAMES = 1_000_000  # datasets and groups of a file, by all their names
_LINKS = 16  # soft links that may lead to one another
_MARGIN = 1 << 16  # bytes kept free for the file's own tables


@dataclass(frozen=True)
class MappedFile:
    """An HDF5 file as read-only arrays. Numeric datasets are views of one memory map, made when they are asked for.

    arrays: every dataset that is no text; one that cannot be an array (variable lengths, references, values in another
    file) is listed, and raises InputError when it is asked for. Texts are read when asked for.
    """

    path: Path
    attributes: dict[str, str | int]
    arrays: Mapping[str, Array]
    text_lengths: dict[str, int]
    digests: dict[str, str]
    places: dict[str, _Place]

    def text(self, dataset: str) -> list[str]:
        """The strings of a text dataset."""
        place = self.places[dataset]
        try:
            with h5py.File(self.path, "r") as file:
                return [value.decode() for value in _texts(self, file[place.name], place)]
        except _DAMAGE as error:
            raise _unreadable(self.path, error) from error


def map_file(path: str | os.PathLike[str]) -> MappedFile:
    """Open an HDF5 file without reading its numbers.

    Raises InputError where the file is missing, is not HDF5, or ends too early.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; name an existing store or build one with 'features synth'")
    if not h5py.is_hdf5(path):
        raise InputError(f"{path}: not an HDF5 file (wrong signature); name a store written by this suite")
    try:
        with h5py.File(path, "r") as file:
            return _map(path, file)
    except InputError:
        raise
    except _DAMAGE as error:
        raise _unreadable(path, error) from error


class FileWriter:
    """Fills an HDF5 file that does not yet have its final name; see `create_file`.

    The space of everything that is written is reserved first: the HDF5 library does not survive a disk that is full.
    """

    def __init__(self, path: Path, file: h5py.File) -> None:
        self._path, self._file = path, file
        self._reserved = 0
        self._groups: dict[str, h5py.Group] = {}
        self._reserve(0)

    def __setitem__(self, name: str, values: Array | Sequence[str]) -> None:
        if isinstance(values, np.ndarray):
            self._reserve(values.nbytes)
            self._create(name, data=np.ascontiguousarray(values))
            return
        encoded = [value.encode() for value in values]
        longest, total = max((1, *map(len, encoded))), sum(map(len, encoded))
        if longest * len(encoded) <= _RATIO * total + _UNPACKED:
            self._reserve(longest * len(encoded))
            self._create(name, data=np.array(encoded, f"S{longest}"))
        else:  # one text is far longer than the others
            self._reserve(2 * total + 64 * len(encoded))
            self._create(name, data=list(values), shape=(len(values),), dtype=h5py.string_dtype())

    def allocate(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> h5py.Dataset:
        """A dataset to be filled in slices, for arrays that do not fit into memory."""
        self._reserve(math.prod(shape) * np.dtype(dtype).itemsize)
        return self._create(name, shape=shape, dtype=dtype)

    def map_content(self) -> MappedFile:
        """What has been written so far, as `map_file` would show it."""
        self._file.flush()
        return _map(Path(self._file.filename), self._file)

    def set_attributes(self, attributes: Mapping[str, str | int]) -> None:
        stored = {key: _stored(value) for key, value in attributes.items()}
        self._reserve(sum(len(value) for value in stored.values() if isinstance(value, bytes)))
        self._file.attrs.update(stored)

    def set_digest(self, name: str, digest: str) -> None:
        self._file[name].attrs["digest"] = _stored(digest)

    def _create(self, name: str, **given: Any) -> h5py.Dataset:
        """A dataset in its group, which is looked up once: h5py looks for every part of the path again each time."""
        group, _, last = name.rpartition("/")
        if group not in self._groups:
            self._groups[group] = self._file.require_group(group) if group else self._file
        return self._groups[group].create_dataset(last, **given)

    def _reserve(self, size: int) -> None:
        """Make sure of room for `size` bytes more; raises InputError where there is none."""
        if not hasattr(os, "posix_fallocate"):
            return
        end = self._file.id.get_filesize() + size + _MARGIN
        try:
            if end > self._reserved:
                os.posix_fallocate(self._file.id.get_vfd_handle(), self._reserved, end - self._reserved)
        except OSError as error:
            raise _unwritable(self._path, error) from error
        self._reserved = max(end, self._reserved)


@contextmanager
def create_file(path: str | os.PathLike[str]) -> Iterator[FileWriter]:
    """Write an HDF5 file beside its final name and rename it when the block ends; nothing is left after an error.

    Raises InputError where the folder cannot be written to, or the disk is full.
    """
    path = Path(path)
    partial = partial_of(path)
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give the name of a file to write")
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _check_room(partial)
            # The format of HDF5 1.8 has checksums over its own tables; aligned numbers can be used where they lie.
            file = h5py.File(partial, "w", libver="v108", alignment_threshold=1, alignment_interval=64)
        except OSError as error:
            raise _unwritable(path, error) from error
        with file:
            yield FileWriter(path, file)
            file.flush()
            used = file.id.get_filesize()
        try:
            with partial.open("rb+") as done:
                done.truncate(used)  # what was reserved and is not needed
                os.fsync(done.fileno())
            partial.replace(path)
        except OSError as error:
            raise _unwritable(path, error) from error
    finally:
        with suppress(OSError):  # a disk that turned read-only must not hide what went wrong
            partial.unlink(missing_ok=True)


def digest_of(values: Array | Sequence[str]) -> str:
    """SHA-256 over dtype, shape and values (texts: UTF-8, each preceded by its length in bytes), as 64 hex digits."""
    sha = hashlib.sha256()
    if isinstance(values, np.ndarray):
        sha.update(f"{values.dtype.str}{values.shape}".encode())
        flat = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        for start in range(0, flat.size, _BLOCK):
            sha.update(flat[start : start + _BLOCK].data)
    else:
        sha.update(f"text({len(values)},)".encode())
        for value in values:
            encoded = value.encode()
            sha.update(len(encoded).to_bytes(8, "little"))
            sha.update(encoded)
    return sha.hexdigest()


class _Place(NamedTuple):
    """Where a dataset lies. name: without soft links. offset: in the file, None where it is not laid out as an array.

    refusal: why it cannot be read, else ''.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Any
    offset: int | None
    stored: int
    refusal: str

    @property
    def size(self) -> int:
        return math.prod(self.shape) * int(self.dtype.itemsize)


class _Arrays(Mapping[str, Array]):
    """Datasets by name: views of the mapped file; one that is chunked, compressed or empty is a copy."""

    def __init__(self, path: Path, places: Mapping[str, _Place]) -> None:
        self._path, self._places = path, places
        self._whole = np.memmap(path, np.uint8, "r")
        self._read: dict[str, Array] = {}

    def __getitem__(self, name: str) -> Array:
        if name not in self._read:
            self._read[name] = self._array(name, self._places[name])
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def _array(self, name: str, place: _Place) -> Array:
        if place.refusal:
            raise InputError(f"{self._path}: {name} {place.refusal}; write it again as plain numbers")
        try:
            if place.offset is not None:
                part = self._whole[place.offset : place.offset + place.stored]
                return np.asarray(part.view(place.dtype).reshape(place.shape))
            _check_size(self._path, name, place)
            with h5py.File(self._path, "r") as file:
                values = np.asarray(file[place.name][...])
        except _DAMAGE as error:
            raise error if isinstance(error, InputError) else _unreadable(self._path, error) from error
        values.flags.writeable = False
        return values


def _map(path: Path, file: h5py.File) -> MappedFile:
    datasets, outside = _datasets(path, file)
    if any(map(_has_heap, [file, *datasets.values()])):
        _check_heaps(path)
    attributes = {key: _plain(value) for key, value in file.attrs.items()}
    places: dict[str, _Place] = {}
    digests, lengths = {}, {}
    for name, dataset in datasets.items():
        places[name] = place = _place(dataset)
        if "digest" in dataset.attrs:
            digests[name] = str(_plain(dataset.attrs["digest"]))
        if not place.refusal and len(place.shape) == 1 and h5py.check_string_dtype(place.dtype):
            lengths[name] = place.shape[0]
    leads_out = _Place("", (), np.dtype(np.uint8), None, 0, "leads into another file, which is not followed")
    places |= dict.fromkeys(outside, leads_out)
    numbers = {name: place for name, place in places.items() if name not in lengths}
    return MappedFile(path, attributes, _Arrays(path, numbers), lengths, digests, places)


def _has_heap(holder: h5py.File | h5py.Dataset) -> bool:
    """Whether texts of any length, or references, are among the values or attributes; nothing is read."""
    own = isinstance(holder, h5py.Dataset) and _object_type(holder)
    return own or any(holder.attrs.get_id(name).dtype.hasobject for name in holder.attrs)


def _object_type(dataset: h5py.Dataset) -> bool:
    try:
        return bool(dataset.dtype.hasobject)
    except TypeError:  # a type of numbers that is not known
        return False


def _check_heaps(path: Path) -> None:
    """Walk the heaps that hold texts of any length: in a damaged one the HDF5 library may go round for ever.

    A heap begins with GCOL, its version and its size; an item has its index, 0 that of free space, and its size.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        heap = whole.find(_HEAP)
        while 0 <= heap <= len(whole) - 16:
            (size,) = struct.unpack_from("<8xQ", whole, heap)
            item, end = heap + 16, heap + size
            while item + 16 <= end <= len(whole):
                index, length = struct.unpack_from("<H6xQ", whole, item)
                item += length if index == 0 else 16 + (length + 7) // 8 * 8
                if item > end or (index == 0 and length < 16):
                    raise InputError(f"{path}: a heap of texts is damaged at byte {heap:,}; copy or build it again")
            heap = whole.find(_HEAP, item)


def _datasets(path: Path, file: h5py.File) -> tuple[dict[str, h5py.Dataset], list[str]]:
    """Every dataset by each of its names, through hard and soft links; and the names of links to other files."""
    found: dict[str, h5py.Dataset] = {}
    outside: list[str] = []
    soft: dict[str, str] = {}
    names = 0

    def look(group: h5py.Group, prefix: str, above: frozenset[int]) -> None:
        nonlocal names
        for name in group:
            names += 1
            if names > _NAMES:
                raise InputError(f"{path}: holds over {_NAMES:,} names; keep what is needed in a file of its own")
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.SoftLink):
                soft[prefix + name] = (link.path if link.path.startswith("/") else prefix + link.path).strip("/")
            elif isinstance(link, h5py.HardLink):
                item = group[name]
                if isinstance(item, h5py.Dataset):
                    found[prefix + name] = item
                elif isinstance(item, h5py.Group) and (place := h5py.h5o.get_info(item.id).addr) not in above:
                    look(item, f"{prefix}{name}/", above | {place})
            else:
                outside.append(prefix + name)

    look(file, "", frozenset([h5py.h5o.get_info(file["/"].id).addr]))
    for _ in range(_LINKS):
        before = len(found)
        for name, target in soft.items():
            within = {
                other[len(target) :]: item for other, item in found.items() if f"{other}/".startswith(f"{target}/")
            }
            found |= {name + rest: item for rest, item in within.items() if name + rest not in found}
        if len(found) == before or len(found) > _NAMES:
            break
    return found, outside


def _place(dataset: h5py.Dataset) -> _Place:
    name = str(dataset.name)
    try:
        shape, dtype = dataset.shape, dataset.dtype
    except TypeError as error:
        return _Place(name, (), np.dtype(np.uint8), None, 0, f"has a type of numbers that is not known here ({error})")
    refusal = ""
    if dataset.external or dataset.is_virtual:
        refusal = "has its values in another file, which is not followed"
    elif shape is None:
        refusal = "holds no values"
    elif dtype.hasobject and not h5py.check_string_dtype(dtype):
        refusal = "has values of variable length, or references"
    elif h5py.check_string_dtype(dtype) and len(shape) != 1:
        refusal = "is a text, or a table of texts, where a list of texts or numbers is expected"
    return _Place(name, shape or (), dtype, dataset.id.get_offset(), dataset.id.get_storage_size(), refusal)


def _check_size(path: Path, name: str, place: _Place) -> None:
    """Refuse what is small in the file and large in memory, before it is read."""
    if place.size > max(_UNPACKED, _RATIO * place.stored):
        raise InputError(
            f"{path}: {name} would fill {place.size:,} bytes but holds {place.stored:,}; "
            "write it again without compression, or no longer than it is"
        )


def _texts(mapped: MappedFile, dataset: h5py.Dataset, place: _Place) -> Iterator[bytes]:
    """The strings of a dataset in blocks; those of any length may share their bytes, and are not believed."""
    _check_size(mapped.path, place.name, place)
    if not place.dtype.hasobject:
        yield from dataset[:].tolist()
        return
    whole = mapped.path.stat().st_size
    heap = whole - sum(other.stored for other in {other.name: other for other in mapped.places.values()}.values())
    rows = min(max(1, _TEXTS // max(heap, 1)), 1 << 16)
    total = 0
    for start in range(0, place.shape[0], rows):
        block = dataset[start : start + rows]
        total += sum(map(len, block))
        if total > whole:
            raise InputError(f"{mapped.path}: {place.name} holds more text than the file has bytes; build it again")
        yield from block


def _check_room(partial: Path) -> None:
    """Raise OSError where not even the file's tables fit; the HDF5 library would end the process."""
    with partial.open("wb") as file:
        file.write(bytes(_MARGIN))
        file.flush()
        os.fsync(file.fileno())


def _unwritable(path: Path, error: OSError) -> InputError:
    return InputError(f"{path}: cannot be written ({error.strerror or error}); choose a writable folder with room")


def _stored(value: str | int) -> np.bytes_ | int:
    """Text of fixed length lies in the file's tables, under their checksums."""
    return np.bytes_(value.encode()) if isinstance(value, str) else value


def _plain(value: Any) -> str | int:
    if isinstance(value, bytes):
        return value.decode()
    return int(value) if isinstance(value, np.integer) else str(value)


def _unreadable(path: Path, error: Exception) -> InputError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    if "unable to lock file" in reason:
        return InputError(
            f"{path}: another process holds a lock on it, or its disk knows none; wait, or set the variable "
            "HDF5_USE_FILE_LOCKING to FALSE"
        )
    return InputError(f"{path}: cannot be read as HDF5 ({reason}); copy or build it again")
