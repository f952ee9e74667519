"""What a campaign has tried so far, kept in a file, so that it can be run in portions."""

from __future__ import annotations

import json
import resource
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple


class Tried(NamedTuple):
    """kind: 'kill', 'damage' or 'bytes'. of: a command, use or reader. which: kind of kill or file. came: of it."""

    kind: str
    of: str
    which: str
    came: str


@dataclass
class Ledger:
    """Counts of everything tried, and a line for each that broke something. path: None keeps them in memory alone.

    limit: CPU seconds of this process and its children after which no other portion is begun.
    """

    path: Path | None = None
    limit: float = float("inf")
    counts: Counter[Tried] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.path is not None and self.path.is_file():
            kept = json.loads(self.path.read_text())
            self.counts = Counter({Tried(*key): times for *key, times in kept["counts"]})
            self.broken = kept["broken"]

    def done(self, kind: str, of: str) -> int:
        """How many of a command or use were tried; the next one has this number."""
        return sum(times for tried, times in self.counts.items() if (tried.kind, tried.of) == (kind, of))

    def add(self, tried: Tried, number: int, sound: bool, times: int = 1) -> None:
        """Count what came. number: the first of these times, named where it broke something."""
        self.counts[tried] += times
        if not sound:
            self.broken.append(f"{tried.kind} {number} of {tried.of} ({tried.which}): {tried.came}")

    def save(self) -> None:
        if self.path is not None:
            counts = [[*tried, times] for tried, times in sorted(self.counts.items())]
            self.path.write_text(json.dumps({"counts": counts, "broken": self.broken}, indent=1) + "\n")

    @property
    def over(self) -> bool:
        """Whether the CPU time is spent."""
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(usage.ru_utime + usage.ru_stime for usage in used) > self.limit

    def portions(self, kind: str, names: list[str], times: int, size: int) -> list[tuple[int, range]]:
        """The next portion of each name that has not had its share of `times`: its place, and its numbers."""
        found = []
        for place, name in enumerate(names):
            share, done = times // len(names) + (place < times % len(names)), self.done(kind, name)
            if done < share:
                found.append((place, range(done, min(done + size, share))))
        return found

    def campaign(
        self,
        kind: str,
        names: list[str],
        times: int,
        size: int,
        folder: Path,
        attempt: Callable[[int, Path, range], Iterable[tuple[str, str]]],
        sound: Collection[str],
    ) -> None:
        """Portions of each name in turn, until there are `times` of all or the time is over.

        attempt: makes the numbers of a place in a folder of their own; which, and what came, of each. sound: what may.
        """
        while portions := self.portions(kind, names, times, size):
            for place, numbers in portions:
                if self.over:
                    return
                work = folder / f"{place}-{numbers.start}"
                for number, (which, came) in zip(numbers, attempt(place, work, numbers), strict=True):
                    self.add(Tried(kind, names[place], which, came), number, came in sound)
                self.save()
                shutil.rmtree(work)
