"""Ctrl-C where Python cannot raise it."""

from __future__ import annotations

import signal
import subprocess
import sys

from tests.commands import ROOT, hear_ctrl_c

SWALLOWED = """
import signal, time, weakref
{keep}
class Thing: pass
thing = Thing()
reference = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGINT))
try:
    del thing
    deadline = time.monotonic() + {seconds}
    while time.monotonic() < deadline:
        pass
    print("went on")
except KeyboardInterrupt:
    print("stopped")
"""


def run(keep: str, seconds: float) -> subprocess.CompletedProcess[str]:
    script = SWALLOWED.format(keep=keep, seconds=seconds)
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, timeout=60, preexec_fn=hear_ctrl_c
    )


def test_python_alone_loses_an_interrupt_in_a_callback() -> None:
    result = run("", 0.2)
    assert result.stdout == "went on\n"
    assert "Exception ignored" in result.stderr


def test_an_interrupt_in_a_callback_is_raised_again() -> None:
    result = run("from ctvr_bench.bench.cli.interrupt import keep_interrupts; keep_interrupts()", 30)
    assert result.stdout == "stopped\n"
    assert result.stderr == ""


def test_other_errors_in_callbacks_are_still_shown() -> None:
    keep = "from ctvr_bench.bench.cli.interrupt import keep_interrupts; keep_interrupts()\n"
    keep += "signal.raise_signal = lambda number: 1 / 0"
    result = run(keep, 0.2)
    assert result.stdout == "went on\n"
    assert "ZeroDivisionError" in result.stderr
    assert signal.SIGINT.name not in result.stderr
