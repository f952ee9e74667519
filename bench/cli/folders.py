"""The commands on folders of runs: how far a suite is, and several folders made one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_SHOWN = 20  # runs of a kind


def status(
    runs: Annotated[Path, typer.Argument(help="Folder of a suite, or one of the files under its suites/.")],
    json_: Annotated[bool, typer.Option("--json", help="Every run, as JSON.")] = False,
) -> None:
    """What of a suite is done, running, begun, failed or missing, and how long the rest will take."""
    import json

    from ctvr_bench.bench.suite.folders import standing_of

    found = standing_of(runs)
    if json_:
        print(json.dumps(found.as_json(), indent=1))
        return
    print(f"{runs}: {len(found.done)} of {found.total} runs done")
    for kind in ("running", "begun", "failed", "diverged", "missing"):
        which = getattr(found, kind)
        if which:
            print(f"{kind}: {len(which)}")
        for name in list(which)[:_SHOWN]:
            print(f"  {name}{f': {which[name]}' if isinstance(which, dict) else ''}")
        if len(which) > _SHOWN:
            print(f"  and {len(which) - _SHOWN} more")
    left = found.total - len(found.done) - len(found.diverged)
    if left:
        by = f"{found.makers} processes" if found.makers > 1 else "one process"
        print("no run has ended yet, so how long the rest takes is not known" if found.seconds_left is None else
              f"about {found.seconds_left:.0f} s left by {by}")  # fmt: skip
    if found.begun or found.failed or found.missing:
        print("the same 'run' makes what is begun, failed or missing")
    if found.peak_memory:
        from ctvr_bench.bench.executors.order import memory_limit

        limit = memory_limit(found.peak_memory)
        print(f"memory of a process: {found.peak_memory / 1e6:.0f} MB at most; a cluster's: --memory-limit {limit}")


def merge(
    runs: Annotated[list[Path], typer.Argument(help="Folders of suites, as 'run' wrote them on several machines.")],
    into: Annotated[Path, typer.Option(help="Folder that gets all their runs; may be one that has some.")],
) -> None:
    """Join folders of runs into one, every result checked; refused where one run has two results."""
    from ctvr_bench.bench.cli.console import say
    from ctvr_bench.bench.suite.folders import merge as join

    merged = join(runs, into)
    print(f"{into}: {merged.copied} runs copied, {merged.present} were there")
    if merged.unfinished:
        say(f"{merged.unfinished} runs are finished in none of the folders; the same 'run' on {into} makes them")
