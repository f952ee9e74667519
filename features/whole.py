"""Files read whole, where they are files: a pipe or device in a file's place would keep a reader for ever."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path

MOST = 1 << 30
"""Bytes of a file of text or records: far past any that is written, far below what fills the memory."""


def read_whole(path: Path, most: int = MOST) -> bytes:
    """The bytes of an ordinary file of at most `most`. Raises OSError for anything else."""
    check_ordinary(path, most)
    return path.read_bytes()


def check_ordinary(path: Path, most: int | None = None) -> None:
    """Raise OSError unless `path` is a file, or a link to one, of at most `most` bytes."""
    found = path.stat()
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "no ordinary file", str(path))
    if most is not None and found.st_size > most:
        raise OSError(errno.EFBIG, f"over {most:,} bytes", str(path))


def digest_of_file(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hex digits. Raises OSError where it cannot be read, or is no ordinary file."""
    check_ordinary(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
