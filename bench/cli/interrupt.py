"""Ctrl-C that is not lost.

Python raises KeyboardInterrupt wherever the main thread happens to be. Inside a callback of the interpreter (a weak
reference that dies, a `__del__`), of which training has many a second, it cannot be raised further: Python prints
"Exception ignored" and the program goes on as if nobody had pressed a key.
"""

from __future__ import annotations

import _thread
import sys
import threading

_AGAIN = 0.02  # seconds, after which the callback has returned


def keep_interrupts() -> None:
    """From now on, interrupt the main thread again where a KeyboardInterrupt was swallowed by a callback."""
    before = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs, /) -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            before(unraisable)
            return
        again = threading.Timer(_AGAIN, _thread.interrupt_main)
        again.daemon = True
        again.start()

    sys.unraisablehook = hook
