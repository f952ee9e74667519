"""`make soak`: KILLS kills, DAMAGES damages and MINUTES of bytes for readers, and one table of what came of them.

python -m tests.soak [--kills 500] [--damages 2000] [--minutes 60] [--seed 0] [--ledger FILE] [--cpu-minutes N]

Exit status 1: something broke.
With a ledger the same command goes on from where it was stopped.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from tests.soak import child, damage, kills, searches
from tests.soak.ledger import Ledger


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--damages", type=int, default=2000)
    parser.add_argument("--minutes", type=float, default=60, help="of a core, for all readers together")
    parser.add_argument("--corpus", type=Path, default=Path("build/fuzz"), help="of bytes that reached new code")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ledger", type=Path, help="file in which what was tried is kept")
    parser.add_argument("--cpu-minutes", type=float, default=float("inf"), help="then no other portion is begun")
    options = parser.parse_args()
    start = time.perf_counter()
    ledger = Ledger(options.ledger, 60 * options.cpu_minutes)
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        child.get_ready()
        damage.campaign(options.damages, Path(folder) / "damages", ledger, options.seed)
        kills.campaign(options.kills, Path(folder) / "kills", ledger, options.seed)
        searches.campaign(options.minutes, options.corpus.absolute(), ledger)
    _show(ledger)
    tried = sum(times for tried, times in ledger.counts.items() if tried.kind != searches.SECONDS)
    print(f"\n{tried} tried, {time.perf_counter() - start:.0f} s of this portion, {len(ledger.broken)} broke something")
    print("\n".join(ledger.broken))
    return 1 if ledger.broken else 0


def _show(ledger: Ledger) -> None:
    print("| what | of | which | what came of it | times |\n|---|---|---|---|--:|")
    for tried, times in sorted(ledger.counts.items()):
        print(f"| {tried.kind} | {tried.of} | {tried.which} | {tried.came} | {times} |")


if __name__ == "__main__":
    sys.exit(main())
