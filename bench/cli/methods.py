"""The commands on methods: their cards, a new one, its check, tuning. Heavy libraries load inside the commands."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ctvr_bench.bench.cli.where import Executor, Scheduler, Stage
from ctvr_bench.features.errors import InputError

Named = "A registered name, FILE.py:CLASS, or an installed entry point."


def methods(name: Annotated[str | None, typer.Argument(help=f"Show the card of one. {Named}")] = None) -> None:
    """The methods, or the card of one: paper, idea, fields with defaults, what it may keep and costs."""
    from ctvr_bench.bench.authoring.cards import print_card, print_methods
    from ctvr_bench.bench.suite.plugins import all_methods, find_method

    if name is None:
        print_methods(all_methods())
    else:
        print_card(find_method(name))


def new_method(
    name: Annotated[str, typer.Argument(help="In lower case, as in my_method.")],
    folder: Annotated[Path, typer.Option(help="Where to write; made if it is not there.")] = Path(),
) -> None:
    """Write a method of your own and its test, commented, ready to run; nothing is overwritten."""
    from ctvr_bench.bench.authoring.scaffold import class_name, write_method

    method, test = write_method(name, folder)
    named = f"{method}:{class_name(name)}"
    print(f"wrote {method} and {test}; next:")
    print(f"  run_benchmark.py check-method {named}")
    print(f"  run_benchmark.py run --methods finetune,{named}")
    print(f"  python -m pytest {test}")


def check_method(
    name: Annotated[str, typer.Argument(help=Named)],
    values: Annotated[list[str] | None, typer.Option("--set", help="field=value, repeatable.")] = None,
) -> None:
    """Run the contract's checks on a method and say in plain words what is wrong; exit code 1 where something is."""
    from ctvr_bench.bench.cli.console import say

    say("loading ...")
    from dataclasses import replace

    from ctvr_bench.bench.authoring.contract import check_method as findings
    from ctvr_bench.bench.cli.values import parse_pairs
    from ctvr_bench.bench.suite.plugins import find_method

    entry = find_method(name)
    preset = parse_pairs(values or [], "--set")
    entry.config(preset)
    broken = 0
    for finding in findings(replace(entry, preset={**entry.preset, **preset})):
        broken += finding.fault is not None
        print(f"{'ok   ' if finding.fault is None else 'FAULT'} {finding.check.promise}", flush=True)
        if finding.fault is not None:
            print(f"      {finding.check.name}: {finding.fault}")
    if broken:
        print(f"{entry.name} breaks {broken} of the contract's promises")
        raise typer.Exit(1)
    print(f"{entry.name} keeps the contract")


def tune(
    name: Annotated[str, typer.Argument(help=f"{Named} Or 'all': every method of the file of grids.")],
    grid: Annotated[list[str] | None, typer.Option(help="field=value,value, repeatable; the product is tried.")] = None,
    grids: Annotated[Path, typer.Option(help="Where no --grid is given.")] = Path("results/tuning/grids.toml"),
    store: Annotated[
        Path | None, typer.Option(help="Feature store, one that no table reports (default: moving-shapes:1001).")
    ] = None,
    stream: Annotated[str | None, typer.Option(help="Stream of the store (default: its only one).")] = None,
    seeds: Annotated[int, typer.Option(help="Runs of each candidate.")] = 3,
    validation: Annotated[
        int, typer.Option(help="Training videos per category held out, where the store marks none of its own.")
    ] = 2,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    jobs: Annotated[int, typer.Option(help="Trials at the same time (0: one for each core).")] = 0,
    ensemble: Annotated[
        str, typer.Option(help="auto: trials that differ in seed or numbers train as one stack; off: each alone.")
    ] = "auto",
    executor: Executor = None,
    scheduler: Scheduler = None,
    stage: Stage = None,
    out: Annotated[Path, typer.Option(help="Folder of the evidence.")] = Path("results/tuning"),
    runs: Annotated[Path, typer.Option(help="Folder of the trials, which are made only once.")] = Path("results/runs"),
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, only the tables.")] = False,
) -> None:
    """Search a grid on validation queries of the training videos, never on test rows; write choice and evidence."""
    from ctvr_bench.bench.cli.console import StageBars, SuiteBars, say

    say("loading ...", quiet)
    from rich.console import Console

    from ctvr_bench.bench.authoring.tune import checked_grid, search
    from ctvr_bench.bench.authoring.tune_evidence import differs, read_grids, search_table, write_evidence
    from ctvr_bench.bench.cli.values import parse_grid
    from ctvr_bench.bench.suite.plugins import find_method
    from ctvr_bench.bench.suite.stores import TUNING_WORLD, store_path
    from ctvr_bench.bench.suite.suite import check_values, make_suite

    wanted = {name: parse_grid(grid)} if grid else read_grids(grids)
    if name == "all" and grid:
        raise InputError("--grid searches one method; name it in place of 'all', or write a file of grids")
    if name != "all":
        if name not in wanted:
            raise InputError(f"{grids}: has no grid of {name!r}; give --grid field=value,value")
        wanted = {name: wanted[name]}
    entries = {method: find_method(method) for method in wanted}
    for method, entry in entries.items():
        checked_grid(entry, wanted[method])
    options: dict[str, Any] = {"name": "tuning", "stream": stream, "seeds": seeds, "validation": validation}
    options |= {"device": device, "jobs": jobs, "ensemble": ensemble, "out": runs}
    places = {"executor": executor, "scheduler": scheduler, "stage": stage}
    options |= {field: value for field, value in places.items() if value is not None}
    check_values(options, "command line")
    with StageBars(quiet) as stages:
        path = store_path(store or TUNING_WORLD, stages.show)
    suite = make_suite({**options, "store": path}, "command line")
    failed = 0
    for method, entry in entries.items():
        with SuiteBars(quiet) as progress:
            found = search(
                entry, wanted[method], suite, progress.watch, progress.finished, lambda line: say(line, quiet)
            )
        Console().print(f"\n{entry.name}", style="bold", markup=False)
        Console().print(search_table(found))
        write_evidence(found, out / f"{entry.name}.json", " ".join(["run_benchmark.py", *sys.argv[1:]]))
        changed = ", ".join(f"{field}={value}" for field, value in differs(found).items())
        print(f"chosen: {changed or 'the present default'}   evidence: {out / f'{entry.name}.json'}")
        for trial in found.trials:
            failed += trial.status == "failed"
            if trial.status != "done":
                say(f"{trial.label} (seed {trial.config.seed}): {trial.status}: {trial.reason}")
    if failed:
        raise typer.Exit(1)


def add_commands(app: typer.Typer) -> None:
    """Put them on the command line."""
    app.command()(methods)
    app.command(name="new-method")(new_method)
    app.command(name="check-method")(check_method)
    app.command()(tune)
