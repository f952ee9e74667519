"""The command line. Heavy libraries load inside the commands, so that `--help` answers at once.

Tables go to standard output, everything else to standard error. Exit codes: 0 done, 1 a check failed or a run did not
finish well, 2 the input was wrong, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.cli_features import features
from features.errors import InputError

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Continual text-to-video retrieval on precomputed features. Without a command: the default suite.",
)
app.add_typer(features, name="features", help="Make, import, look into and check feature stores.")

Store = Annotated[Path | None, typer.Option(help="Feature store (default: the embedded one).")]
Out = Annotated[Path | None, typer.Option(help="Folder for runs (default: results/runs).")]


@app.callback(invoke_without_command=True)
def default(context: typer.Context) -> None:
    """Run the default suite when no command is given."""
    if context.invoked_subcommand is None:
        run()


@app.command()
def run(
    store: Store = None,
    stream: Annotated[str | None, typer.Option(help="Stream of the store (default: its only one).")] = None,
    methods: Annotated[
        str | None, typer.Option(help="Comma-separated, values in brackets: lwf,zero_shot[scoring=fused].")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Runs of each trained method (default 3).")] = None,
    orders: Annotated[int | None, typer.Option(help="Task orders: the published one and permutations.")] = None,
    suite: Annotated[Path | None, typer.Option(help="TOML file with the fields of SuiteConfig.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="method.field=value, repeatable.")] = None,
    selection: Annotated[
        str | None, typer.Option(help="Epoch kept: last (default), validation, or test-oracle as the papers did.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the suite, a folder under --out.")] = None,
    device: Annotated[str | None, typer.Option(help="auto (default), cpu or cuda.")] = None,
    jobs: Annotated[int | None, typer.Option(help="Runs at the same time (default: one for each core).")] = None,
    out: Out = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, only the table.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Metrics as JSON instead of the table.")] = False,
) -> None:
    """Run methods over a stream, only what is missing, and report."""
    from bench.console import SuiteProgress, say

    say("loading ...", quiet)
    from bench.cli_values import parse_methods, parse_settings
    from bench.report import write_report
    from bench.suite import make_suite, read_suite, run_suite

    options: dict[str, Any] = {
        "store": store,
        "stream": stream,
        "methods": methods and parse_methods(methods),
        "seeds": seeds,
        "orders": orders,
        "set": set_ and parse_settings(set_),
        "selection": selection,
        "name": name,
        "device": device,
        "jobs": jobs,
        "out": out,
    }
    given = {key: value for key, value in options.items() if value is not None}
    if suite is not None:
        config = read_suite(suite, given)
    else:
        config = make_suite({"store": store or _default_store(quiet), **given}, "command line")
    with SuiteProgress(quiet) as progress:
        records = run_suite(config, progress.watch, progress.finished)
    report = write_report(config.directory, store=config.store)
    _show(config.directory, json_)
    say(f"report: {report}", quiet)
    unfinished = [record for record in records if record.status != "done"]
    for record in unfinished:
        say(f"{record.label} (order {record.config.options['order']}, seed {record.config.seed}): {record.reason}")
    if unfinished:
        raise typer.Exit(1)


@app.command()
def report(
    directory: Annotated[Path, typer.Argument(help="Folder of a suite, e.g. results/runs/default.")],
    store: Annotated[Path | None, typer.Option(help="The runs' store, for captions and frames in the page.")] = None,
    recompute: Annotated[bool, typer.Option("--recompute", help="Derive metrics from ranks.h5 again.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Metrics as JSON instead of the table.")] = False,
) -> None:
    """Tables and figures of a suite, from its records alone."""
    from bench.console import say
    from bench.report import write_report

    path = write_report(directory, recompute=recompute, store=store)
    _show(directory, json_)
    say(f"report: {path}")


@app.command(name="methods")
def methods_(name: Annotated[str | None, typer.Argument(help="Show the card of one method.")] = None) -> None:
    """The methods, or the card of one: paper, idea, fields with defaults, what it may keep."""
    from bench.console import print_card, print_methods
    from methods.registry import find_method, known_methods

    if name is None:
        print_methods(known_methods())
    else:
        print_card(find_method(name))


def main() -> None:
    """Entry point: one line and exit code 2 for anything a user typed or gave."""
    try:
        app()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; finished tasks are kept, the same command goes on from there", file=sys.stderr)
        sys.exit(130)


def _default_store(quiet: bool) -> Path:
    from bench.console import say
    from features.default_store import default_store

    say("default store: simulated features (not real video)", quiet)
    return default_store()


def _show(directory: Path, json_: bool) -> None:
    import json

    from bench.aggregate import read_results
    from bench.console import print_table
    from bench.tables import console_table

    results = read_results(directory)
    if json_:
        rows = [
            {
                "label": row.label,
                "order": run.record.config.options["order"],
                "seed": run.record.config.seed,
                **run.final,
            }
            for row in results.rows
            for run in row.runs
        ]
        print(json.dumps({"measured": results.measured, "runs": rows}, indent=1))
    else:
        print_table(console_table(results), results.measured)
