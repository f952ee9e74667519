"""Names of files that are being written beside where they will lie, and what is left of those whose writer died."""

from __future__ import annotations

import glob
import hashlib
import os
import shutil
import socket
from contextlib import suppress
from pathlib import Path

from ctvr_bench.features.errors import InputError


def partial_of(path: Path) -> Path:
    """The name under which this process writes `path` before it renames it.

    Removes what processes of this machine that are gone, killed or by a power cut, left of the same file.
    """
    mark = f".{path.name}.partial-{_machine()}-"
    for left in path.parent.glob(f"{glob.escape(mark)}*"):
        if not _runs(left.name.removeprefix(mark)):
            with suppress(OSError):  # who may not remove it may still write
                shutil.rmtree(left) if left.is_dir() else left.unlink()
    return path.with_name(f"{mark}{os.getpid()}")


def ensure_writable(path: Path) -> None:
    """Before long work that ends in `path`: raise InputError where it could not be written now."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = partial_of(path)
        try:
            partial.touch()
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error}); choose a writable folder") from error


def _machine() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:6]


def _runs(process: str) -> bool:
    """Whether a process of this number runs ('-' and more may follow); as if it did where it is nobody's to ask."""
    try:
        os.kill(int(process.partition("-")[0]), 0)
    except ProcessLookupError:
        return False
    except (OSError, ValueError, OverflowError):
        return True
    return True
