"""The command line. Heavy libraries load inside the commands, so that `--help` answers at once.

Tables go to standard output, everything else to standard error. Exit codes: see `bench.cli.start`.
"""

from __future__ import annotations

import sys
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any

import typer

from ctvr_bench.bench.cli.features import features
from ctvr_bench.bench.cli.folders import merge, status
from ctvr_bench.bench.cli.methods import add_commands
from ctvr_bench.bench.cli.records import add_commands as add_record_commands
from ctvr_bench.bench.cli.results import (
    Versions,
    check,
    claims,
    compare,
    report,
    say_findings,
    say_others,
    show,
    show_contrasts,
    show_over_stores,
)
from ctvr_bench.bench.cli.search import search
from ctvr_bench.bench.cli.unchanged import Said, place_of
from ctvr_bench.bench.cli.where import Executor, Scheduler, Stage
from ctvr_bench.features.errors import InputError

app = typer.Typer(
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Continual text-to-video retrieval on precomputed features. Without a command: the default suite.",
)
app.add_typer(features, name="features", help="Make, import, look into and check feature stores.")

Store = Annotated[Path | None, typer.Option(help="Feature store (default: the embedded one).")]
Out = Annotated[Path | None, typer.Option(help="Folder for runs (default: results/runs).")]


def _print_version(asked: bool) -> None:
    if asked:
        from importlib import metadata

        try:
            print(f"ctvr-bench {metadata.version('ctvr-bench')}")
        except metadata.PackageNotFoundError:
            print("ctvr-bench, source tree, not installed")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def default(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Version.")
    ] = False,
) -> None:
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
    variant: Annotated[
        list[str] | None,
        typer.Option(help="Of the stream, repeatable: long_tail=50, shots=4, split=true, blurred=0.3, validation=2."),
    ] = None,
    limit: Annotated[
        str | None,
        typer.Option(help="A smoke test on a part of the stream, as tasks=2,queries=100 (of each task): no result."),
    ] = None,
    selection: Annotated[
        str | None, typer.Option(help="Epoch kept: last (default), validation, or test-oracle as the papers did.")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Learning rate and steps: fixed (the defaults), or auto, found on the first task "
            "(default: fixed on the embedded worlds, auto elsewhere)."
        ),
    ] = None,
    tuned: Annotated[
        Path | None, typer.Option(help="Values by method that `tune` chose, as results/tuning/chosen.toml.")
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="A row; at the end every other is compared with it, as my_method or finetune.")
    ] = None,
    versions: Versions = False,
    name: Annotated[str | None, typer.Option(help="Name of the suite, a folder under --out.")] = None,
    device: Annotated[str | None, typer.Option(help="auto (default), cpu or cuda.")] = None,
    jobs: Annotated[
        int | None, typer.Option(help="Runs at the same time (default: one for each core, or each GPU).")
    ] = None,
    ensemble: Annotated[
        str | None,
        typer.Option(help="auto (default): runs that differ in seed or numbers train as one stack; off: each alone."),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(help="What makes exact ranks: auto (default), count, or faiss for one vector a side."),
    ] = None,
    measure: Annotated[
        str | None,
        typer.Option(help="Galleries encoded again are ranked as a whole after the last task (default) or every."),
    ] = None,
    index: Annotated[
        str | None, typer.Option(help="Also ask a FAISS index: flat, ivf, hnsw or pq; its loss stands next to R@K.")
    ] = None,
    rerank: Annotated[
        int | None, typer.Option(help="Items of the index that the method's own scores order again (default: none).")
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            help="Leave more than ranks in a run's folder: weights, embeddings, top=100 (first items of each query); "
            "finished runs that did not keep it are made again."
        ),
    ] = None,
    executor: Executor = None,
    scheduler: Scheduler = None,
    stage: Stage = None,
    out: Out = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the table.")] = False,
    verbose: Annotated[
        bool,
        typer.Option("--verbose", "-v", help="Also what would be made, and what each task of each run has learned."),
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Metrics as JSON instead of the table.")] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say which runs are there, which would be made, and how long; run nothing."),
    ] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also write every run as TensorBoard events: --log tensorboard.")
    ] = False,
    log: Annotated[
        list[str] | None, typer.Option(help="Also log every run: tensorboard, wandb or mlflow; repeatable.")
    ] = None,
) -> None:
    """Run methods over a stream, only what is missing, and report."""
    said = Said(locals(), None if verbose or dry_run or log or tensorboard else place_of(suite, name, out))
    from ctvr_bench.bench.cli.console import StageBars, SuiteBars, say

    if quiet and verbose:
        raise InputError("--quiet says less and --verbose more; give one of the two")
    say("loading ...", quiet)
    if said.again(quiet):
        return
    loggers = list(dict.fromkeys([*(["tensorboard"] if tensorboard else []), *(log or [])]))
    if loggers:
        from ctvr_bench.bench.report.loggers import check_loggers, logged

        check_loggers(loggers)
    from ctvr_bench.bench.cli.values import parse_limit, parse_methods, parse_settings, parse_variant
    from ctvr_bench.bench.records.aggregate import read_results
    from ctvr_bench.bench.records.versions import is_earlier
    from ctvr_bench.bench.suite.config import check_values, make_suite, read_suites
    from ctvr_bench.bench.suite.controls import that_fit, with_controls
    from ctvr_bench.bench.suite.stores import DEFAULT_WORLD, is_unbuilt_world
    from ctvr_bench.bench.suite.suite import run_suite

    options: dict[str, Any] = {
        "store": store,
        "stream": stream,
        "methods": methods and parse_methods(methods),
        "seeds": seeds,
        "orders": orders,
        "set": set_ and parse_settings(set_),
        "limit": limit and parse_limit(limit),
        "selection": selection,
        "recipe": recipe,
        "tuned": tuned,
        "against": against,
        "name": name,
        "device": device,
        "jobs": jobs,
        "ensemble": ensemble,
        "engine": engine,
        "measure": measure,
        "index": index,
        "rerank": rerank,
        "keep": keep,
        "executor": executor,
        "scheduler": scheduler,
        "stage": stage,
        "out": out,
        **parse_variant(variant or []),
    }
    given = {key: value for key, value in options.items() if value is not None}

    def left_out(named: str) -> bool:
        """Whether a dry run leaves a world out: nobody builds one to hear that nothing of it is done."""
        if not (dry_run and is_unbuilt_world(named)):
            return False
        print(f"{named}: not built, so that none of its runs is there; `run` builds it first, in about a minute")
        return True

    if suite is None:
        check_values(given, "command line")
        if left_out(str(store or DEFAULT_WORLD)):
            return
        configs = [make_suite({**given, "store": _store(store, quiet)}, "command line")]
    else:
        with StageBars(quiet) as stages:
            configs = read_suites(suite, given, stages.show, left_out)
        if not configs:
            return
    of_versions = versions or is_earlier(configs[0].against or "")
    records, reported, written = [], list[Path](), list[Path]()

    def tell(line: str) -> None:
        say(line, quiet)
        if not quiet:
            said.tell(line)

    configs = [with_controls(that_fit(config, tell), tell) for config in configs]
    if dry_run:
        from ctvr_bench.bench.suite.outlook import outlook

        for config in configs:
            print(outlook(config))
        return
    for config in configs:
        if verbose:
            from ctvr_bench.bench.suite.outlook import outlook

            print(outlook(config), file=sys.stderr)
        said.made_from_suite(config, suite)
        with SuiteBars(quiet, verbose) as progress:
            finished = logged(loggers, config.directory, progress.finished) if loggers else progress.finished
            made = run_suite(config, progress.watch, finished, tell)
        records += made
        if not any(record.status == "done" for record in made):
            continue  # nothing to show but the reasons, which follow
        reported.append(config.directory)
        said.made_from_runs(config, made)
        read = cache(partial(read_results, versions=of_versions))  # of what is there now
        with said.listening():
            if not json_:
                show([config.directory], json_, read)
            from ctvr_bench.bench.report.report import report_with_findings  # brings statistics, for which no run waits

            against_here = config.against if len(configs) == 1 else None
            page, found = report_with_findings(config.directory, store=config.store, against=against_here, read=read)
            if not (json_ or quiet):
                say_findings(found)
            say(f"report: {page}", quiet)
            if not quiet:
                say_others(config.directory)
    with said.listening():
        if json_ and reported:
            show(reported, json_, read)
        if configs[0].against is not None and reported and not json_:
            written += show_contrasts(reported, configs[0].against, read)
        if len(reported) > 1 and not json_:
            written += show_over_stores(reported, read)
    unfinished = [record for record in records if record.status != "done"]
    for record in unfinished:
        say(f"{record.label} (order {record.config.options['order']}, seed {record.config.seed}): {record.reason}")
    if unfinished and not reported:
        say("no run ended well, so there is no report; the reasons are above")
    if unfinished:
        raise typer.Exit(1)
    if not of_versions:  # which are made of other runs too
        said.keep([*written, *(directory / "report" for directory in reported)])


app.command()(report)
app.command()(compare)
app.command()(claims)
app.command()(check)
app.command()(status)
app.command()(merge)
app.command()(search)


add_commands(app)
add_record_commands(app)


def _store(named: Path | None, quiet: bool) -> Path:
    from ctvr_bench.bench.cli.console import StageBars, say
    from ctvr_bench.bench.suite.stores import DEFAULT_WORLD, store_path

    if named is None:
        say("default store: moving shapes, world 0 (built on first use)", quiet)
    with StageBars(quiet) as stages:
        return store_path(named or DEFAULT_WORLD, stages.show)
