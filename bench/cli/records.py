"""The commands on what lies in a folder: verify, rerun, export, submit, leaderboard. Heavy libraries load inside."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ctvr_bench.features.errors import unknown_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctvr_bench.bench.audit.rerun import Rerun

Place = Annotated[Path, typer.Argument(help="Folder of a suite, or one of the files under its suites/.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]
Store = Annotated[Path | None, typer.Option(help="Where the runs' store lies now.")]
Jobs = Annotated[int, typer.Option(help="Runs at the same time (0: one for each core, or each GPU).")]


def verify(
    directories: Annotated[list[Path], typer.Argument(help="Folders of suites, or registries (one with --rerun).")],
    again: Annotated[
        bool, typer.Option("--rerun", help="Also make the runs again, and note beside them that they came out.")
    ] = False,
    store: Store = None,
    jobs: Jobs = 0,
    json_: Json = False,
) -> None:
    """Check that runs are what was written and can be: digests, ranks, metrics made again; exit code 1 where not."""
    import json
    from dataclasses import asdict

    from ctvr_bench.bench.audit.registry import check, folders, record_rerun, rerun_entries
    from ctvr_bench.bench.audit.rerun import rerun as make_again
    from ctvr_bench.bench.audit.verify import Verified
    from ctvr_bench.bench.audit.verify import verify as look

    if again and len(directories) == 1 and (directories[0] / "results").is_dir():
        made = rerun_entries(directories[0], store, jobs)
        for folder, runs in made:
            print(f"{folder}:")
            _say(runs)
        if not all(each.same for _, runs in made for each in runs):
            raise typer.Exit(1)
        return
    found: dict[Path, Verified] = {}
    for place in directories:
        found |= {each: check(each) for each in folders(place)} or {place: look(place)}
    if json_:
        print(json.dumps({str(place): asdict(each) for place, each in found.items()}, indent=1))
    else:
        for place, each in found.items():
            for fault in each.faults:
                print(f"FAULT {place}/{fault}")
            print(f"{place}: {each.runs} runs, {each.done} done, {len(each.faults) or 'no'} faults")
    good = not any(each.faults for each in found.values())
    for directory in directories if again and good else ():
        runs = list(make_again(directory, store=store, jobs=jobs))
        good = record_rerun(directory, runs) and good
        if not json_:
            _say(runs)
    if not good:
        raise typer.Exit(1)


def rerun(
    directory: Place,
    run: Annotated[str | None, typer.Argument(help="Id of one run: the name of its folder (default: all).")] = None,
    store: Store = None,
    jobs: Jobs = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the verdicts.")] = False,
) -> None:
    """Make runs again from their folder alone and compare every rank; exit code 1 where one differs."""
    from ctvr_bench.bench.cli.console import StageBars, SuiteBars, say

    say("loading ...", quiet)
    from ctvr_bench.bench.audit.rerun import rerun as make_again

    with StageBars(quiet) as stages, SuiteBars(quiet) as progress:
        shown = (progress.watch, progress.finished, stages.show)
        found = list(make_again(directory, run, store, jobs, *shown))
    _say(found)
    if not all(each.same for each in found):
        raise typer.Exit(1)


def export(
    directory: Place,
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    format_: Annotated[
        str, typer.Option("--format", help="csv, json, parquet, or trec (run files and qrels).")
    ] = "csv",
) -> None:
    """Runs, queries and curves as tables for other programs, or rankings for TREC evaluators."""
    from ctvr_bench.bench.analysis.queries import rank_table
    from ctvr_bench.bench.api.results import load, write_frame
    from ctvr_bench.bench.audit.exchange import kept_items, write_trec

    formats = ("csv", "json", "parquet", "trec")
    if format_ not in formats:
        raise unknown_name("format", format_, formats)
    results = load(directory)
    if format_ == "trec":
        for row in results.suite.rows:
            for run in row.runs:
                folder = out / f"order-{run.record.config.options['order']}"
                write_trec(rank_table(run), folder, run.record.run_id, kept_items(run))
    else:
        frames = {"runs": results.to_dataframe(), "queries": results.queries(), "curves": results.curve()}
        for name, frame in frames.items():
            write_frame(frame, out / f"{name}.{format_}", format_)
    print(f"wrote {out}")


def history(
    directories: Annotated[list[Path], typer.Argument(help="Folders of suites, each made at a commit.")],
    metric: Annotated[str, typer.Option(help="Title or key of a column, as R@1, BWF, training.")] = "R@1",
    plot: Annotated[Path | None, typer.Option(help="Also draw it, as .png, .svg or .pdf.")] = None,
    json_: Json = False,
) -> None:
    """How a metric of every row went over commits."""
    import json
    from functools import partial

    from ctvr_bench.bench.audit.history import draw_history, history_lines
    from ctvr_bench.bench.audit.history import history as over_commits
    from ctvr_bench.bench.records.aggregate import read_results
    from ctvr_bench.bench.report.choice import column_of

    found = over_commits([read_results(directory) for directory in directories], column_of(metric))
    if plot is not None:
        from ctvr_bench.bench.report.canvas import save_drawing

        save_drawing(partial(draw_history, found=found), plot)
    print(json.dumps(found, indent=1) if json_ else "\n".join(history_lines(found)))


def submit(
    directory: Place,
    to: Annotated[Path, typer.Option(help="Folder of the registry; made if it is not there.")],
) -> None:
    """Put every row of a suite into a registry of results, with its ranks and all that is needed to make it again."""
    from ctvr_bench.bench.audit.registry import submit as put

    for folder in put(directory, to):
        print(f"wrote {folder}")


def leaderboard(
    registry: Annotated[Path, typer.Argument(help="Folder that 'submit' wrote.")],
    out: Annotated[Path | None, typer.Option(help="Page to write (default: index.html of the registry).")] = None,
) -> None:
    """A static page of a registry: every result checked, with its state, curve, history and a link to its record."""
    from ctvr_bench.bench.audit.leaderboard import write_leaderboard

    print(f"wrote {write_leaderboard(registry, out)}")


def schema(
    out: Annotated[Path | None, typer.Option(help="File to write (default: standard output).")] = None,
) -> None:
    """The JSON schema of suite files, for editors: '#:schema suite.schema.json' in a file's first line."""
    from ctvr_bench.bench.records.record import write_text
    from ctvr_bench.bench.suite.schema import suite_schema

    if out is None:
        print(suite_schema(), end="")
    else:
        write_text(out, suite_schema())


def _say(found: Sequence[Rerun]) -> None:
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


def add_commands(app: typer.Typer) -> None:
    """Put them on the command line."""
    for command in (verify, rerun, export, history, submit, leaderboard):
        app.command()(command)
    app.command(name="suite-schema")(schema)
