"""`make soak`: KILLS kills and DAMAGES damages, and one table of what came of them. Exit status 1: something broke.

python -m tests.soak [--kills 500] [--damages 2000] [--seed 0]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.soak import damage, kills

SOUND = {
    "as if nothing had been",
    "said",
    "made again, or no difference",
    "no difference in what is shown",
    "not damaged",
}
SOUND |= {"said, or taken as it is written"}


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--damages", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        found = {
            "kill": kills.campaign(options.kills, Path(folder) / "kills", options.seed),
            "damage": damage.campaign(options.damages, Path(folder) / "damages", options.seed),
        }
    for kind, counts in found.items():
        _show(kind, counts)
    broken = sum(n for counts in found.values() for (_, _, came), n in counts.items() if came not in SOUND)
    tried = sum(sum(counts.values()) for counts in found.values())
    print(f"\n{tried} tried in {time.perf_counter() - start:.0f} s, {broken} broke something")
    return 1 if broken else 0


def _show(kind: str, counts: Counter[tuple[str, str, str]]) -> None:
    print(f"\n| {kind} of | which | what came of it | times |\n|---|---|---|--:|")
    for (what, which, came), times in sorted(counts.items()):
        print(f"| {what} | {which} | {came} | {times} |")


if __name__ == "__main__":
    sys.exit(main())
