"""Commands killed at calls that change the disk, at random moments and by power cuts, and then gone on with."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.soak import child
from tests.soak.facts import facts_of
from tests.soak.faults import counting, stopping
from tests.soak.scenes import SCENES, Scene

Kinds = tuple[str, ...]
KINDS: Kinds = ("before a call", "after a call", "power cut", "any moment")


def kill(
    scene: Scene, folder: Path, times: int, rng: np.random.Generator, kinds: Kinds = KINDS
) -> Iterator[tuple[str, str]]:
    """Kill a command so many times, each in a fresh folder; yields the kind of kill and what came of it.

    'as if nothing had been': the same command then ends with 0 and leaves every file, and every bit of every result,
    that it leaves where nothing ends it. Else what differs.
    """
    made, log = _ready(scene, folder / "whole"), folder / "calls"
    whole = child.run(scene.arguments, made, counting(log))
    assert whole.status == 0, whole.output
    expected, calls = facts_of(made), len(log.read_text().splitlines())
    for number in range(times):
        kind = kinds[number % len(kinds)]
        place = _ready(scene, folder / f"{number}")
        if kind == "any moment":
            cut = _killed_at(scene, place, rng.uniform(0, whole.seconds))
        else:
            fault = stopping(int(rng.integers(calls)), kind == "after a call", place, kind == "power cut")
            cut = child.run(scene.arguments, place, fault)
        again = child.run(scene.arguments, place)
        yield kind, _what_came(cut, again, expected, place)
        shutil.rmtree(place)


def _ready(scene: Scene, folder: Path) -> Path:
    folder.mkdir(parents=True)
    scene.prepare(folder)
    return folder


def _killed_at(scene: Scene, place: Path, seconds: float) -> child.Ended:
    def patch() -> None:
        threading.Thread(target=_end_after, args=(seconds,), daemon=True).start()

    return child.run(scene.arguments, place, patch)


def _end_after(seconds: float) -> None:
    time.sleep(seconds)
    os.kill(os.getpid(), signal.SIGKILL)


def _what_came(cut: child.Ended, again: child.Ended, expected: dict[str, str], place: Path) -> str:
    if cut.traceback or again.traceback:
        return "a traceback: " + (cut.output if cut.traceback else again.output).strip().splitlines()[-1]
    if again.status != 0:
        return f"ended with {again.status}: {again.output.strip().splitlines()[-1]}"
    found = facts_of(place)
    if missing := sorted(expected.keys() - found.keys()):
        return f"lacks {missing[0]}"
    if more := sorted(found.keys() - expected.keys()):
        return f"left over: {more[0]}"
    if other := [name for name in expected if expected[name] != found[name]]:
        return f"differs: {other[0]}"
    return "as if nothing had been"


def campaign(times: int, folder: Path, seed: int = 0) -> Counter[tuple[str, str, str]]:
    """Kills of every scene, shared out evenly: how often what came of which kind."""
    found: Counter[tuple[str, str, str]] = Counter()
    for number, scene in enumerate(SCENES):
        share = times // len(SCENES) + (number < times % len(SCENES))
        for kind, came in kill(scene, folder / str(number), share, np.random.default_rng([seed, number])):
            found[scene.name, kind, came] += 1
    return found
