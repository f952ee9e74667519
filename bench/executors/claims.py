"""One owner for each run: a claim file says which process makes it, and whoever comes second leaves it alone.

A claim names host, boot, process and its start, and its file is touched every few seconds. It is stale, and taken over,
where its process is gone, where the host was started again since, or where another host has been silent for long. A
clock may be set while runs are made, and no two hosts' clocks agree: how long another host is silent is what this
process sees of it, by a clock that nobody sets.
On a shared disk this needs renames and links within one folder to be atomic, as they are on NFS, or, where it has no
links, that of two who make a file only one succeeds.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Literal

import pydantic

from ctvr_bench.features.errors import InputError
from ctvr_bench.features.partial import partial_of
from ctvr_bench.features.whole import read_whole

_RENEWED = 10.0  # seconds between two signs of life
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
_SILENT = 180.0  # seconds without one, after which another host's claim is stale
_CONFIRMED = 3 * _RENEWED  # seconds that are enough where the times of files say so too
_GIVEN_UP = 0  # time of the file of a claim that somebody has found stale
_seen: dict[Path, tuple[tuple[str, int], float]] = {}
"""Claims of other hosts: which sign of life was the last, and since when this process knows of no other."""


class Owner(pydantic.BaseModel, frozen=True):
    """Who makes a run. started: of the process, so that a number given out again is no mistake. token: of the claim."""

    host: str
    boot: str
    processes: str
    pid: int
    started: str
    token: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


_UNREADABLE = Owner(host="another host", boot="", processes="", pid=0, started="", token="")


def claim_file(directory: Path) -> Path:
    """Where the claim on a run's folder lies: beside it."""
    return directory.with_name(f".{directory.name}.claim")


@contextmanager
def claimed(directories: Sequence[Path], patient: bool = False) -> Iterator[Owner | None]:
    """Own the runs of these folders within the block. Gives None, or who owns one of them, and then none is ours.

    patient: where a claim seems to be left behind, look at it for as long as it takes to be sure.
    """
    held: list[Path] = []
    mine, other = _myself(), None
    for path in sorted(map(claim_file, directories)):
        other = _take(path, mine)
        while patient and other is not None and _seems_stale(path, other):
            time.sleep(1)
            other = _take(path, mine)
        if other is not None:
            break
        held.append(path)
    if other is not None:
        _release(held, mine)
        held = []
    over = threading.Event()
    if held:
        threading.Thread(target=_renew, args=(held, mine, over), daemon=True).start()
    try:
        yield other
    finally:
        over.set()
        _release(held, mine)


def owner_of(directory: Path) -> Owner | None:
    """Who owns the run of a folder now; None where nobody does, or only a process that is gone.

    Of another host this is known only to who asks again and again; then everyone may know it.
    """
    path = claim_file(directory)
    found = _read(path)
    if found is None or not _is_stale(path, found):
        return found
    if _is_gone(path, found) is None:
        with suppress(OSError), _alone(path.parent):
            if _read(path) == found and _last_sign(path) != _GIVEN_UP:
                _give_up(path)
    return None


def _give_up(path: Path) -> None:
    try:
        os.utime(path, (_GIVEN_UP, _GIVEN_UP))  # its owner, should it live after all, takes this back
    except PermissionError:  # another user's file
        path.unlink()


def shown_owner_of(directory: Path) -> Owner | None:
    """The same at one look, by the times of files, which a clock that was set makes untrue: to be shown, no more."""
    path = claim_file(directory)
    found = _read(path)
    return None if found is None or _seems_stale(path, found) else found


def is_left_behind(directory: Path) -> bool:
    """Whether a process that seems to be gone left its claim on the run of a folder, as one that is killed does."""
    path = claim_file(directory)
    found = _read(path)
    return found is not None and _seems_stale(path, found)


def sweep(folder: Path, finished: Collection[str]) -> None:
    """Remove what processes that are gone left of claims in a folder: those on finished runs, and half-made ones."""
    done = {claim_file(folder / run).name for run in finished}
    left = [path for path in folder.glob(".*.claim") if path.name in done]
    for draft in folder.glob("..*.claim.partial-*"):
        partial_of(folder / draft.name[1:].partition(".partial-")[0])  # removes those of the dead
    with suppress(OSError), _alone(folder):
        for path in left:
            found = _read(path)
            if found is not None and _is_stale(path, found):
                path.unlink(missing_ok=True)


def _take(path: Path, mine: Owner) -> Owner | None:
    """None where the claim is now ours, else whose it is. Raises InputError where the folder cannot be written to."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while not _create(path, mine):
            with _alone(path.parent):
                found = _read(path)
                if found is None:  # whoever looked before removed it, and somebody's new one may be there by now
                    continue
                if not _is_stale(path, found):
                    return found
                path.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f"{path.parent}: cannot be written ({error.strerror or error}); choose a writable folder"
        ) from error
    return None


def _create(path: Path, mine: Owner) -> bool:
    """Write the claim whole, or not at all where there is one."""
    draft = partial_of(path)
    draft = draft.with_name(f"{draft.name}-{mine.token}")  # threads of a process may want the same run
    try:
        _write_through(draft, "w", mine)
        os.link(draft, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _create_alone(path, mine)
    finally:
        draft.unlink(missing_ok=True)
    return True


def _create_alone(path: Path, mine: Owner) -> bool:
    """The same where the file system has no links; one that is read before it is written counts as another host's."""
    try:
        _write_through(path, "x", mine)
    except FileExistsError:
        return False
    return True


def _write_through(path: Path, mode: Literal["w", "x"], mine: Owner) -> None:
    """To the disk: a claim that a power cut leaves half-written would pass for another host's, and be waited for."""
    with path.open(mode, encoding="utf-8") as file:
        file.write(mine.model_dump_json())
        file.flush()
        os.fsync(file.fileno())


def _release(paths: Sequence[Path], mine: Owner) -> None:
    for path in paths:
        with suppress(OSError), _alone(path.parent):
            if _read(path) == mine:
                path.unlink()


def _renew(paths: Sequence[Path], mine: Owner, over: threading.Event) -> None:
    while not over.wait(_RENEWED):
        for path in paths:
            with suppress(OSError):
                if _read(path) == mine:  # not one that was taken over while this process was stopped
                    os.utime(path)


def _read(path: Path) -> Owner | None:
    try:
        return Owner.model_validate_json(read_whole(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return _UNREADABLE


def _is_stale(path: Path, owner: Owner) -> bool:
    """Whether whoever wrote a claim is gone for certain."""
    gone, sign = _is_gone(path, owner), _last_sign(path)
    if gone is not None or sign == _GIVEN_UP:
        return gone is not False
    last, now = (owner.token, sign), time.monotonic()
    if path not in _seen or _seen[path][0] != last:
        _seen[path] = (last, now)
    return now - _seen[path][1] > (_CONFIRMED if _age(path, sign) > _SILENT else _SILENT)


def _seems_stale(path: Path, owner: Owner) -> bool:
    """The same by the times of files alone."""
    gone = _is_gone(path, owner)
    return _age(path, _last_sign(path)) > _SILENT if gone is None else gone


def _is_gone(path: Path, owner: Owner) -> bool | None:
    """None of another host's process, of which only its silence tells."""
    mine = _myself()
    if (owner.host, owner.boot, owner.processes) == (mine.host, mine.boot, mine.processes):
        return _started(owner.pid) != owner.started
    was_booted = owner.host == mine.host and owner.boot != mine.boot
    return True if was_booted and _age(path, _last_sign(path)) > time.clock_gettime(time.CLOCK_BOOTTIME) else None


def _last_sign(path: Path) -> int:
    """When a claim was last touched, in ns of the disk's clock."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return _GIVEN_UP


def _age(path: Path, sign: int) -> float:
    """Seconds since then, by the clock of the disk as it is now."""
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".clock-") as file:
            now = os.fstat(file.fileno()).st_mtime_ns
    except OSError:  # a disk that is only read
        now = time.time_ns()  # noqa: TID251 - files have its times
    return (now - sign) / 1e9


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Only one process at a time looks for stale claims of a folder, where the file system knows locks."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _myself() -> Owner:
    host, boot, processes = _machine()
    pid = os.getpid()
    return Owner(
        host=host, boot=boot, processes=processes, pid=pid, started=_started(pid) or "", token=uuid.uuid4().hex
    )


@cache
def _machine() -> tuple[str, str, str]:
    """Host, its boot, and the space of process numbers, of which containers have their own."""
    boot, processes = "", ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        processes = str(Path("/proc/self/ns/pid").readlink())
    return socket.gethostname(), boot, processes


def _started(pid: int) -> str | None:
    """When a process was started; None of one that is gone, or ended and not yet fetched by its parent."""
    if Path("/proc/self/stat").exists():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in "ZX" else fields[19]
    found = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return found.stdout.strip() or None
