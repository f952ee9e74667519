"""Ctrl-C where Python cannot raise it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from ctvr_bench.bench.cli.interrupt import stoppable, what_is_kept
from tests.commands import ROOT, called, hear_ctrl_c

SWALLOWED = """
import contextlib, signal, time, weakref
from ctvr_bench.bench.cli.interrupt import Stopped, stoppable
class Thing: pass
thing = Thing()
reference = weakref.ref(thing, lambda _: {call})
try:
    with {within}:
        del thing
        deadline = time.monotonic() + {seconds}
        while time.monotonic() < deadline:
            pass
        print("went on")
except (KeyboardInterrupt, Stopped) as error:
    print("stopped by", error)
"""


RAISED = "signal.raise_signal(signal.SIGTERM)"


def run(within: str, seconds: float, call: str = "signal.raise_signal(signal.SIGINT)") -> tuple[str, str]:
    script = SWALLOWED.format(within=within, seconds=seconds, call=call)
    result = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        timeout=60,
        preexec_fn=hear_ctrl_c,
    )
    return result.stdout, result.stderr


def test_python_alone_loses_an_interrupt_in_a_callback() -> None:
    out, err = run("contextlib.nullcontext()", 0.2)
    assert out == "went on\n"
    assert "Exception ignored" in err


@pytest.mark.parametrize(("call", "name"), [("signal.raise_signal(signal.SIGINT)", "SIGINT"), (RAISED, "SIGTERM")])
def test_an_interrupt_in_a_callback_is_raised_again(call: str, name: str) -> None:
    assert run("stoppable()", 30, call) == (f"stopped by {name}\n", "")


def test_other_errors_in_callbacks_are_still_shown() -> None:
    out, err = run("stoppable()", 0.2, "1 / 0")
    assert out == "went on\n"
    assert "ZeroDivisionError" in err


def test_afterwards_signals_are_as_they_were() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with stoppable():
        assert signal.getsignal(signal.SIGTERM) is not before[1]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_signal_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stoppable():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_ends_with_one_line_and_the_signals_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    def at_work(*_: object) -> None:
        signal.raise_signal(number)

    monkeypatch.setattr("ctvr_bench.bench.authoring.cards.print_methods", at_work)
    before = signal.signal(number, signal.default_int_handler)  # a job in the background begins with SIGINT ignored
    try:
        result = called("methods")
    finally:
        signal.signal(number, before)
    assert result.returncode == 128 + number
    assert result.stderr == "stopped; nothing is left half-written, and the same command begins anew\n"
    assert result.stdout == ""


def test_what_is_kept_is_said_of_each_command() -> None:
    assert "finished tasks" in what_is_kept(["run", "--store", "x"])
    assert "finished tasks" in what_is_kept([])
    assert "finished tasks" in what_is_kept(["--help"])
    assert "what was encoded" in what_is_kept(["features", "extract"])
    assert "finished trials" in what_is_kept(["tune", "all"])
    assert "begins anew" in what_is_kept(["features", "synth"])


def test_the_first_instant_is_covered() -> None:
    # What is loaded before the handlers stand is a few small files of the standard library and the messages.
    script = "import sys; before = set(sys.modules); import ctvr_bench.bench.cli.start\n"
    script += (
        "print(*sorted({n.split('.')[0] for n in set(sys.modules) - before} & {'typer', 'numpy', 'torch', 'rich'}))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )
    assert (result.stdout, result.stderr) == ("\n", "")
