"""Commands that are ended, or fail, at calls that change the disk, at any moment or by power cuts, and are then gone on
with.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from tests.soak import child
from tests.soak.facts import facts_of
from tests.soak.faults import counting, failing, jumping, stopping
from tests.soak.ledger import Ledger
from tests.soak.scenes import SCENES, Scene

Kinds = tuple[str, ...]
KINDS: Kinds = ("before a call", "after a call", "power cut", "any moment", "a call fails", "the clock jumps")
_ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES)
_MISSED = "had ended before the kill"
SOUND = "as if nothing had been"
_PORTION = 10


def kill(
    scene: Scene, folder: Path, numbers: Iterable[int], seed: int = 0, kinds: Kinds = KINDS
) -> Iterator[tuple[str, str]]:
    """End a command once for each number, each time in a fresh folder; yields how, and what came of it.

    Where the clock jumps it does so in both lives: before the end, which comes at a call, and when it is gone on with.

    'as if nothing had been': the same command then ends with 0 and leaves every file, and every bit of every result,
    that it leaves where nothing ends it. Else what differs. Equal numbers are equal kills, but those at any moment: a
    SIGKILL of the process group from outside.
    """
    ready, made, log = folder / "ready", folder / "whole", folder / "calls"
    ready.mkdir(parents=True)
    scene.prepare(ready)
    shutil.copytree(ready, made, symlinks=True)
    whole = child.run(scene.arguments, made, _all(scene.patch, counting(log)))
    assert whole.status == 0, whole.output
    expected, calls = facts_of(made), len(log.read_text().splitlines())
    for number in numbers:
        kind, rng = kinds[number % len(kinds)], np.random.default_rng([seed, number])
        place = folder / str(number)
        shutil.copytree(ready, place, symlinks=True)
        clock = jumping(number) if kind == "the clock jumps" else child.nothing
        if kind == "any moment":
            cut = child.run(scene.arguments, place, scene.patch, kill_after=rng.uniform(0, whole.cpu))
            kind = kind if cut.status is None else _MISSED
        elif kind == "a call fails":
            fault = failing(int(rng.integers(calls)), _ERRORS[int(rng.integers(len(_ERRORS)))])
            cut = child.run(scene.arguments, place, _all(scene.patch, fault))
        else:
            at, power_cut = int(rng.integers(calls)), kind == "power cut"
            after = kind == "after a call" or (power_cut and at == calls - 1)
            fault = stopping(at, after, place, power_cut)
            cut = child.run(scene.arguments, place, _all(scene.patch, clock, fault))
        again = child.run(scene.arguments, place, _all(scene.patch, clock))
        yield kind, _what_came(cut, again, expected, place)
        shutil.rmtree(place)


def _all(*patches: child.Patch) -> child.Patch:
    def patch() -> None:
        for each in patches:
            each()

    return patch


def _what_came(cut: child.Ended, again: child.Ended, expected: dict[str, str], place: Path) -> str:
    if cut.traceback or again.traceback:
        return "a traceback: " + (cut.output if cut.traceback else again.output).strip().splitlines()[-1]
    if cut.status and not cut.output.strip():
        return "ended without a word"
    if again.status != 0:
        if again.status is None:
            return "did not end"
        return f"ended with {again.status}: {(again.output.strip().splitlines() or ['nothing'])[-1]}"
    found = facts_of(place)
    if missing := sorted(expected.keys() - found.keys()):
        return f"lacks {missing[0]}"
    if more := sorted(found.keys() - expected.keys()):
        return f"left over: {more[0]}"
    if other := [name for name in expected if expected[name] != found[name]]:
        return f"differs: {other[0]}"
    return SOUND


def campaign(times: int, folder: Path, ledger: Ledger, seed: int = 0) -> None:
    """Kills of every scene, shared out evenly, until there are so many or the ledger's time is over."""

    def kill_some(place: int, work: Path, numbers: range) -> Iterator[tuple[str, str]]:
        return kill(SCENES[place], work, numbers, seed + 1000 * place)

    ledger.campaign("kill", [scene.name for scene in SCENES], times, _PORTION, folder, kill_some, {SOUND})
