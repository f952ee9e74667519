"""Reading and writing HDF5 files, whole or not at all; the only file that imports h5py.

Numeric datasets are contiguous and uncompressed, so that a reader maps them into memory without a copy.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from ctvr_bench.features.errors import InputError

Array = npt.NDArray[Any]
_BLOCK = 1 << 24  # bytes hashed at a time
_DAMAGE = (OSError, RuntimeError, ValueError, KeyError, TypeError, IndexError)  # what h5py raises on a damaged file


@dataclass(frozen=True)
class MappedFile:
    """An HDF5 file as read-only arrays. Numeric datasets are views of one memory map; texts are read when asked for."""

    path: Path
    attributes: dict[str, str | int]
    arrays: dict[str, Array]
    text_lengths: dict[str, int]
    digests: dict[str, str]

    def text(self, dataset: str) -> list[str]:
        """The strings of a text dataset."""
        try:
            with h5py.File(self.path, "r") as file:
                return [value.decode() for value in file[dataset][:]]
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
    except _DAMAGE as error:
        raise _unreadable(path, error) from error


class FileWriter:
    """Fills an HDF5 file that does not yet have its final name; see `create_file`."""

    def __init__(self, file: h5py.File) -> None:
        self._file = file

    def __setitem__(self, name: str, values: Array | Sequence[str]) -> None:
        if isinstance(values, np.ndarray):
            self._file.create_dataset(name, data=np.ascontiguousarray(values))
        else:
            self._file.create_dataset(name, data=list(values), shape=(len(values),), dtype=h5py.string_dtype())

    def allocate(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> h5py.Dataset:
        """A dataset to be filled in slices, for arrays that do not fit into memory."""
        return self._file.create_dataset(name, shape, dtype)

    def map_content(self) -> MappedFile:
        """What has been written so far, as `map_file` would show it."""
        self._file.flush()
        return _map(Path(self._file.filename), self._file)

    def set_attributes(self, attributes: Mapping[str, str | int]) -> None:
        self._file.attrs.update({key: _stored(value) for key, value in attributes.items()})

    def set_digest(self, name: str, digest: str) -> None:
        self._file[name].attrs["digest"] = _stored(digest)


@contextmanager
def create_file(path: str | os.PathLike[str]) -> Iterator[FileWriter]:
    """Write an HDF5 file beside its final name and rename it when the block ends; nothing is left after an error.

    Raises InputError where the folder cannot be written to.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give the name of a file to write")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The format of HDF5 1.8 has checksums over its own tables; aligned numbers can be used where they lie.
        file = h5py.File(partial, "w", libver="v108", alignment_threshold=1, alignment_interval=64)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error}); choose a writable folder") from error
    try:
        with file:
            yield FileWriter(file)
        with partial.open("rb+") as done:
            os.fsync(done.fileno())
        partial.replace(path)
    finally:
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


def _map(path: Path, file: h5py.File) -> MappedFile:
    datasets: dict[str, h5py.Dataset] = {}
    file.visititems(lambda name, item: datasets.update({name: item}) if isinstance(item, h5py.Dataset) else None)
    attributes = {key: _plain(value) for key, value in file.attrs.items()}
    digests = {name: str(_plain(ds.attrs["digest"])) for name, ds in datasets.items() if "digest" in ds.attrs}
    text = {name: ds.shape[0] for name, ds in datasets.items() if h5py.check_string_dtype(ds.dtype)}
    whole = np.memmap(path, np.uint8, "r")
    arrays = {name: _view(whole, ds) for name, ds in datasets.items() if name not in text}
    return MappedFile(path, attributes, arrays, text, digests)


def _view(whole: npt.NDArray[np.uint8], dataset: h5py.Dataset) -> Array:
    """A dataset as a view of the mapped file; a chunked or empty one as a small copy."""
    offset = dataset.id.get_offset()
    if offset is None:
        values = np.asarray(dataset[...])
        values.flags.writeable = False
        return values
    view = whole[offset : offset + dataset.id.get_storage_size()].view(dataset.dtype).reshape(dataset.shape)
    return np.asarray(view)


def _stored(value: str | int) -> np.bytes_ | int:
    """Text of fixed length lies in the file's tables, under their checksums."""
    return np.bytes_(value.encode()) if isinstance(value, str) else value


def _plain(value: Any) -> str | int:
    if isinstance(value, bytes):
        return value.decode()
    return int(value) if isinstance(value, np.integer) else str(value)


def _unreadable(path: Path, error: Exception) -> InputError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return InputError(f"{path}: cannot be read as HDF5 ({reason}); copy or build it again")
