"""The commands that check what lies in a folder: verify, rerun. Heavy libraries load inside the commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Place = Annotated[Path, typer.Argument(help="Folder of a suite, or one of the files under its suites/.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]


def verify(directories: Annotated[list[Path], typer.Argument(help="Folders of suites.")], json_: Json = False) -> None:
    """Check that runs are what was written and can be: digests, ranks, metrics made again; exit code 1 where not."""
    import json
    from dataclasses import asdict

    from ctvr_bench.bench.audit.verify import verify as look

    found = {str(directory): look(directory) for directory in directories}
    if json_:
        print(json.dumps({place: asdict(each) for place, each in found.items()}, indent=1))
    else:
        for place, each in found.items():
            for fault in each.faults:
                print(f"FAULT {place}/{fault}")
            print(f"{place}: {each.runs} runs, {each.done} done, {len(each.faults) or 'no'} faults")
    if any(each.faults for each in found.values()):
        raise typer.Exit(1)


def rerun(
    directory: Place,
    run: Annotated[str | None, typer.Argument(help="Id of one run: the name of its folder (default: all).")] = None,
    store: Annotated[Path | None, typer.Option(help="Where the runs' store lies now.")] = None,
    jobs: Annotated[int, typer.Option(help="Runs at the same time (0: one for each core).")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, only the verdicts.")] = False,
) -> None:
    """Make runs again from their folder alone and compare every rank; exit code 1 where one differs."""
    from ctvr_bench.bench.cli.console import StageBars, SuiteBars, say

    say("loading ...", quiet)
    from ctvr_bench.bench.audit.rerun import rerun as again

    with StageBars(quiet) as stages, SuiteBars(quiet) as progress:
        found = list(
            again(
                directory, run, store, jobs=jobs, watch=progress.watch, on_run=progress.finished, on_stage=stages.show
            )
        )
    for each in found:
        config = each.record.config
        named = f"{each.record.label} (order {config.options['order']}, seed {config.seed})"
        if each.now is None:
            print(f"FAILED  {named}: {each.reason}")
        elif each.same:
            print(f"same    {named}: every rank is equal, R@1 {each.now:.2f}")
        else:
            print(
                f"DIFFERS {named}: {each.moved} of {each.queries} final ranks, R@1 {each.before:.2f} → {each.now:.2f}"
            )
        if each.changed and not each.same:
            print(f"        changed since: {', '.join(each.changed)}")
    if not all(each.same for each in found):
        raise typer.Exit(1)


def add_commands(app: typer.Typer) -> None:
    """Put them on the command line."""
    app.command()(verify)
    app.command()(rerun)
