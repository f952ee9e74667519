"""Files that are whole or not there, also after a power cut."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from ctvr_bench.features.errors import InputError
from ctvr_bench.features.partial import partial_of

SAID = "said.json"
"""In a suite's folder: what its command said, and what that was made from (bench.cli.unchanged)."""


def write_bytes(path: Path, content: bytes) -> str:
    """Write a file beside its name, bring it to the disk, and rename it; returns its SHA-256.

    Raises InputError where the folder cannot be written to, or the disk is full; nothing is left then.
    """
    partial = partial_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error}); choose a writable folder") from error
    return hashlib.sha256(content).hexdigest()


def check_below(folder: Path, path: Path) -> None:
    """Raise InputError where `path`, a name in `folder`, leads out of it through a link: nothing is written there."""
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{path}: leads out of {folder} through a link, and is not written to; remove the link")


def sync_folder(folder: Path) -> None:
    """Bring a folder's names to the disk, so that a rename in it outlives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
