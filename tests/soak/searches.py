"""Bytes that atheris looks for, for every reader of a stranger's files: so many seconds of a core, in portions."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from tests.commands import ROOT
from tests.soak.coverage_guided import READERS
from tests.soak.ledger import Ledger, Tried

INPUTS, SECONDS = "bytes", "seconds of a core"
"""Kinds of what is tried, and of what that took."""
SOUND = "read, or refused in one line"
_PORTION = 300.0  # seconds of a core; beginning one costs ten
_SAID = re.compile(r"(?P<verdict>sound|broken).* (?P<inputs>\d+) inputs, (?P<seconds>\d+) s of a core")

Ended = tuple[bool, int, int, str]
"""Whether a search ended sound, its inputs, its seconds of a core, and its last line."""


def search(reader: str, corpus: Path, seconds: float) -> Ended:
    """Give bytes to a reader in another process. What breaks it, and what reached new code, stays in the corpus."""
    line = [sys.executable, "-m", "tests.soak.coverage_guided", reader, str(corpus), str(seconds)]
    return ended(subprocess.run(line, cwd=ROOT, capture_output=True, text=True, errors="replace", check=False))


def ended(search: subprocess.CompletedProcess[str]) -> Ended:
    """What a search says at its end; one that hung or filled the memory was ended by the fuzzer, whose word it is."""
    said = search.stdout.strip().splitlines() or [""]
    found = _SAID.search(said[-1])
    if found is None:
        return False, 0, 0, (search.stderr.strip() or "ended without a word").splitlines()[-1]
    sound = search.returncode == 0 and found["verdict"] == "sound"
    return sound, int(found["inputs"]), int(found["seconds"]), said[-1]


def campaign(
    minutes: float, corpus: Path, ledger: Ledger, search: Callable[[str, Path, float], Ended] = search
) -> None:
    """Portions of each reader in turn, until all together had so many minutes of a core or the ledger's time is over.

    A reader that was broken is left alone. Where atheris is not installed the ledger says that nothing was tried.
    """
    if minutes and find_spec("atheris") is None:
        ledger.counts[Tried(INPUTS, "every reader", "none", "not tried: atheris is not installed")] = 1
        return
    share = 60 * minutes / len(READERS)
    broken: set[str] = set()
    while left := [reader for reader in READERS if reader not in broken and ledger.done(SECONDS, reader) < share]:
        for reader in left:
            if ledger.over:
                return
            seconds = min(_PORTION, share - ledger.done(SECONDS, reader))
            sound, inputs, spent, last = search(reader, corpus, seconds)
            if not sound:
                broken.add(reader)
            ledger.add(
                Tried(INPUTS, reader, "atheris", SOUND if sound else last), ledger.done(INPUTS, reader), sound, inputs
            )
            ledger.add(Tried(SECONDS, reader, "atheris", "spent"), 0, True, max(spent, 1))
            ledger.save()
