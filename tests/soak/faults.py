"""A file layer that at a call ends the process, as a kill or a power cut would, fails, or sets the clock."""

from __future__ import annotations

import datetime
import os
import random
import stat
import sys
import time
import types
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.soak.child import STOPPED

CALLS = ("replace", "rename", "fsync", "unlink", "rmdir", "mkdir", "link")


def counting(log: Path) -> Callable[[], None]:
    """Lets everything happen and leaves in `log` which calls there were and of what, one a line."""

    def patch() -> None:
        for name in CALLS:
            _wrap(name, lambda name, real, args, kwargs: (_write(log, f"{name} {args[0]}"), real(*args, **kwargs))[1])

    return patch


def stopping(at: int, after: bool, folder: Path, power_cut: bool) -> Callable[[], None]:
    """Ends the process at the call of that number (from 0), before it or just after it.

    power_cut: what was written in `folder` and not brought to the disk is then only half there.
    """

    def patch() -> None:
        seen, synced = 0, {}
        before = {entry.ino: entry for entry in _files(folder)}

        def end() -> None:
            if power_cut:
                for file in _files(folder):
                    unchanged = file == before.get(file.ino)
                    if not unchanged and synced.get(file.ino) != (file.size, file.mtime):
                        os.truncate(file.path, file.size // 2)
            os._exit(STOPPED)

        def call(name: str, real: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            nonlocal seen
            seen += 1
            if seen == at + 1 and not after:
                end()
            result = real(*args, **kwargs)
            if name == "fsync":
                found = os.fstat(args[0])
                synced[found.st_ino] = (found.st_size, found.st_mtime_ns)
            if seen == at + 1:
                end()
            return result

        def touch(_: str, real: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            earlier = Path(args[0]).stat()  # times alone: what was on the disk is there still
            real(*args, **kwargs)
            if synced.get(earlier.st_ino) == (earlier.st_size, earlier.st_mtime_ns):
                synced[earlier.st_ino] = (earlier.st_size, Path(args[0]).stat().st_mtime_ns)

        for name in CALLS:
            _wrap(name, call)
        _wrap("utime", touch)

    return patch


def failing(at: int, error: int) -> Callable[[], None]:
    """The call of that number (from 0) does nothing and raises OSError with this errno, as a bad disk's would."""

    def patch() -> None:
        seen = 0

        def call(name: str, real: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            nonlocal seen
            seen += 1
            if seen == at + 1:
                raise OSError(error, os.strerror(error), args[0] if isinstance(args[0], str) else None)
            return real(*args, **kwargs)

        for name in CALLS:
            _wrap(name, call)

    return patch


def jumping(seed: int) -> Callable[[], None]:
    """The clock is set at every call, by up to ten hours forward or back; files have their times by it."""

    def patch() -> None:
        rng, ahead = random.Random(seed), 0.0
        now, now_ns, touch = time.time, time.time_ns, os.utime

        def call(name: str, real: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            nonlocal ahead
            ahead = rng.uniform(-36_000, 36_000)
            result = real(*args, **kwargs)
            if name in ("replace", "rename", "link"):
                with suppress(OSError):
                    touch(args[1], (time.time(), time.time()))
            return result

        class Set(datetime.datetime):
            @classmethod
            def now(cls, tz: datetime.tzinfo | None = None) -> Set:
                return super().now(tz) + datetime.timedelta(seconds=ahead)

        def touched(_: str, real: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            real(*args, **(kwargs or {"times": (time.time(), time.time())} if len(args) == 1 else kwargs))

        for name in CALLS:
            _wrap(name, call)
        _wrap("utime", touched)
        time.time, time.time_ns = lambda: now() + ahead, lambda: now_ns() + int(ahead * 1e9)
        ours = types.SimpleNamespace(**{**vars(datetime), "datetime": Set})  # others' C code knows the type
        for name, module in list(sys.modules.items()):
            if name.startswith("ctvr_bench.") and getattr(module, "datetime", None) is datetime:
                module.datetime = ours  # type: ignore[attr-defined]

    return patch


class _File:
    def __init__(self, path: Path, found: os.stat_result) -> None:
        self.path, self.ino, self.size, self.mtime = path, found.st_ino, found.st_size, found.st_mtime_ns

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _File) and (self.ino, self.size, self.mtime) == (other.ino, other.size, other.mtime)

    __hash__ = None  # type: ignore[assignment]


def _files(folder: Path) -> list[_File]:
    found = [(path, path.lstat()) for path in folder.rglob("*")]
    return [_File(path, status) for path, status in found if stat.S_ISREG(status.st_mode)]


def _wrap(name: str, call: Callable[[str, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]) -> None:
    real = getattr(os, name)
    setattr(os, name, lambda *args, **kwargs: call(name, real, args, kwargs))


def _write(log: Path, call: str) -> None:
    with log.open("a") as file:
        file.write(f"{call}\n")
