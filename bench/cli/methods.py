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
    name: Annotated[str, typer.Argument(help=f"{Named} Several with commas; 'all': every method that learns.")],
    search: Annotated[
        list[str] | None,
        typer.Option(
            help="field=low:high (field=low:high:linear, field=value,value), repeatable, in place of what the method's "
            "Config says beside its fields."
        ),
    ] = None,
    trials: Annotated[int, typer.Option(help="Of every method.", min=3, max=1000)] = 24,
    store: Annotated[
        list[Path] | None,
        typer.Option(
            help="Feature store, one that no table reports, repeatable; its validation queries are asked (default: "
            "moving-shapes:1001, 1002 and 1003)."
        ),
    ] = None,
    stream: Annotated[str | None, typer.Option(help="Stream of the stores (default: their only one).")] = None,
    seeds: Annotated[int, typer.Option(help="Runs of each trial on each store.")] = 2,
    validation: Annotated[
        int, typer.Option(help="Training videos per category held out, where a store marks none of its own.")
    ] = 2,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    jobs: Annotated[int, typer.Option(help="Runs at the same time (0: one for each core, or each GPU).")] = 0,
    ensemble: Annotated[
        str, typer.Option(help="auto: runs that differ in seed or numbers train as one stack; off: each alone.")
    ] = "auto",
    executor: Executor = None,
    scheduler: Scheduler = None,
    stage: Stage = None,
    out: Annotated[Path, typer.Option(help="Folder of evidence, curves and chosen values.")] = Path("results/tuning"),
    runs: Annotated[Path, typer.Option(help="Folder of the trials, which are made only once.")] = Path("results/runs"),
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the tables.")] = False,
) -> None:
    """Search a method's constants on validation queries, by the same number of trials for every method."""
    from ctvr_bench.bench.cli.console import StageBars, SuiteBars, say

    say("loading ...", quiet)
    from functools import partial

    from rich.console import Console

    from ctvr_bench.bench.authoring.space import space_of
    from ctvr_bench.bench.authoring.tune import search as search_method
    from ctvr_bench.bench.authoring.tune_evidence import differs, search_table, settled, write_evidence
    from ctvr_bench.bench.cli.values import parse_searches
    from ctvr_bench.bench.report.canvas import save_drawing
    from ctvr_bench.bench.report.constants import draw_constants
    from ctvr_bench.bench.suite.config import check_values, make_suite
    from ctvr_bench.bench.suite.plugins import find_method
    from ctvr_bench.bench.suite.stores import TUNING_WORLDS, store_path
    from ctvr_bench.features.partial import ensure_writable
    from ctvr_bench.methods.shared.base import learns
    from ctvr_bench.methods.shared.registry import known_methods

    names = [part.strip() for part in name.split(",")]
    if names == ["all"]:
        names = [known for known, entry in known_methods().items() if learns(entry.method)]
    said = parse_searches(search) if search else None
    if said and len(names) > 1:
        raise InputError("--search is for one method; name one, or say the ranges beside the fields of the Configs")
    entries = [find_method(each) for each in names]
    spaces = [space_of(entry, said) for entry in entries]
    options: dict[str, Any] = {"name": "tuning", "stream": stream, "seeds": seeds, "validation": validation}
    options |= {"device": device, "jobs": jobs, "ensemble": ensemble, "out": runs}
    places = {"executor": executor, "scheduler": scheduler, "stage": stage}
    options |= {field: value for field, value in places.items() if value is not None}
    check_values(options, "command line")
    for entry in entries:
        ensure_writable(out / f"{entry.name}.json")
    with StageBars(quiet) as stages:
        paths = [store_path(each, stages.show) for each in store or TUNING_WORLDS]
    suite = make_suite({**options, "store": paths[0]}, "command line")
    failed = 0
    for entry, space in zip(entries, spaces, strict=True):
        with SuiteBars(quiet) as progress:
            found = search_method(
                entry, space, suite, paths, trials, progress.watch, progress.finished, lambda line: say(line, quiet)
            )
        Console().print(f"\n{entry.name}", style="bold", markup=False)
        Console().print(search_table(found))
        evidence = write_evidence(found, out / f"{entry.name}.json", " ".join(["run_benchmark.py", *sys.argv[1:]]))
        save_drawing(partial(draw_constants, evidence=evidence), out / f"{entry.name}.png")
        changed = ", ".join(f"{field}={value}" for field, value in differs(found).items())
        print(f"chosen: {changed or 'the present default'}   evidence: {out / f'{entry.name}.json'}")
        print("; ".join(f"{field} {where}" for field, where in settled(found).items()))
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
