"""Ctrl-C and SIGTERM that are not lost, from the first instant, and end with one line.

Python raises KeyboardInterrupt wherever the main thread happens to be. Inside a callback of the interpreter (a weak
reference that dies, a `__del__`), of which training has many a second, it cannot be raised further: Python prints
"Exception ignored" and the program goes on as if nobody had pressed a key. And a library that catches KeyboardInterrupt
for itself, as command line libraries do, would keep it from those who know what to say.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

_AGAIN = 0.02  # seconds, after which the callback has returned
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """The process was asked to stop, by the signal `number`."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return Stopped, (self.number,), vars(self)


@contextmanager
def stoppable() -> Iterator[None]:
    """Within, SIGINT and SIGTERM raise Stopped in the main thread, once; a second one ends the process on the spot.

    A signal that is ignored (as SIGINT is behind nohup) stays so. Afterwards everything is as it was.
    """
    asked = False

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        nonlocal asked
        if asked:
            os._exit(128 + number)
        asked = True
        raise Stopped(number)

    def hook(unraisable: sys.UnraisableHookArgs, /) -> None:
        nonlocal asked
        if not isinstance(unraisable.exc_value, Stopped):
            hook_before(unraisable)
            return
        asked = False
        again = threading.Timer(_AGAIN, _thread.interrupt_main, (unraisable.exc_value.number,))
        again.daemon = True
        again.start()

    hook_before = sys.unraisablehook
    before: dict[int, Any] = {number: signal.getsignal(number) for number in _SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, stop)
    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = hook_before
        for number, handler in before.items():
            signal.signal(number, handler)


_KEPT = {
    "run": "finished tasks are kept, the same command goes on from there",
    "tune": "finished trials are kept, the same command goes on from there",
    "extract": "what was encoded is kept, the same command goes on from there",
    "check": "nothing was written, and a check begins anew",
}
_OTHER = "nothing is left half-written, and the same command begins anew"


def what_is_kept(arguments: list[str]) -> str:
    """What a stopped command leaves and how to go on, from the words it was started with.

    >>> what_is_kept(["features", "extract", "--videos", "v"]) == _KEPT["extract"]
    True
    >>> what_is_kept([]) == _KEPT["run"]
    True
    """
    words = [word for word in arguments[:2] if not word.startswith("-")]
    command = words[1] if words[:1] == ["features"] and len(words) > 1 else words[0] if words else "run"
    return _KEPT.get(command, _OTHER)
