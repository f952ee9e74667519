"""The commands on finished work: report, compare, check. Heavy libraries load inside the commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ctvr_bench.bench.cli.where import Executor, Scheduler, Stage
from ctvr_bench.features.errors import InputError, unknown_name

if TYPE_CHECKING:
    from ctvr_bench.bench.report.report import Read

Versions = Annotated[
    bool, typer.Option("--versions", help="Also rows of earlier versions of methods' files: my_method (before).")
]
Json = Annotated[bool, typer.Option("--json", help="Numbers as JSON instead of the table.")]


def report(
    directories: Annotated[
        list[Path],
        typer.Argument(
            help="Folder of a suite, or one of the files under its suites/; several, or that of a suite's stores, "
            "for a table over stores."
        ),
    ],
    format_: Annotated[
        str | None, typer.Option("--format", help="html, md, latex, csv, png or pdf (default: the whole report).")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="File or folder to write (default: text to standard output, else DIR/report).")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(help="Every row against this one; in a md or latex table, marks of what differs beyond noise."),
    ] = None,
    versions: Versions = False,
    methods: Annotated[
        str | None, typer.Option(help="Only these rows, in this order, by label or method: of md, latex, csv, figures.")
    ] = None,
    columns: Annotated[str | None, typer.Option(help="Only these columns: R@1,BWF,memory; of md, latex, csv.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="ROW=NAME: how a row is called; repeatable.")] = None,
    store: Annotated[Path | None, typer.Option(help="The runs' store, for captions and frames in the page.")] = None,
    across: Annotated[
        list[str] | None, typer.Option(help="What rows may differ in and still be ranked: store.")
    ] = None,
    recompute: Annotated[bool, typer.Option("--recompute", help="Derive metrics from ranks.h5 again.")] = False,
    json_: Json = False,
) -> None:
    """Tables and figures of a suite, from its records alone; of several stores' folders, the table over stores."""
    from functools import cache, partial

    from ctvr_bench.bench.cli.console import say
    from ctvr_bench.bench.records.aggregate import read_results
    from ctvr_bench.bench.records.record import write_text
    from ctvr_bench.bench.records.suites import each_store
    from ctvr_bench.bench.records.versions import is_earlier
    from ctvr_bench.bench.report.choice import make_choice
    from ctvr_bench.bench.report.formats import TEXTS, format_of, report_text, write_figures, write_page
    from ctvr_bench.bench.report.report import recompute_metrics, report_with_findings

    for fact in across or ():
        if fact != "store":
            raise unknown_name("fact to rank across", fact, ["store"])
    directories = each_store(directories)
    read = cache(partial(read_results, across_stores=bool(across), versions=versions or is_earlier(against or "")))
    chosen = format_of(format_, out)
    choice = make_choice(methods, columns, label or ()) if methods or columns or label else None
    if choice is not None and chosen in (None, "html"):
        raise InputError(
            "--methods, --columns and --label choose for a table or figures; add --format md, latex, csv, png"
        )
    if against is not None and chosen not in (None, "md", "latex"):
        raise InputError(f"--against speaks in the whole report, and marks rows of md and latex; not of {chosen}")
    if len(directories) > 1 and chosen == "html":
        raise InputError(
            "a page is of one folder; leave --format out for a table over stores, or name md, latex or csv"
        )
    if len(directories) > 1 and chosen is None and (out is not None or json_):
        raise InputError("a table over stores lies beside their folders, as text; leave --out and --json out")
    if chosen is not None and json_:
        raise InputError("--json prints numbers in place of a format; give one of the two")
    for directory in directories if recompute else ():
        recompute_metrics(directory)
    if chosen in TEXTS:
        text = report_text(directories, chosen, against, choice, read)
        if out is None:
            print(text, end="")
            return
        write_text(out, text)
    elif chosen == "html":
        out = out or directories[0] / "report" / "report.html"
        write_page(directories[0], out, store, read)
    elif chosen is not None:
        out = out or directories[0] / "report" / "figures"
        write_figures(directories, chosen, out, choice, read)
    elif len(directories) > 1:
        if against is not None:
            show_contrasts(directories, against, read)
        show_over_stores(directories, read)
        return
    else:
        out, said = report_with_findings(directories[0], store=store, folder=out, against=against, read=read)
        show(directories[:1], json_, read)
        if not json_:
            if against is not None:
                show_contrasts(directories[:1], against, read)
            say_findings(said)
    for directory in directories:
        say_others(directory)
    say(f"report: {out}")


def compare(
    first: Annotated[Path, typer.Argument(help="Folder of a suite.")],
    second: Annotated[Path, typer.Argument(help="Folder of another, or of the same suite at another commit.")],
    across: Annotated[
        list[str] | None, typer.Option(help="What may differ: store, stream, protocol, options, selection; repeatable.")
    ] = None,
    store: Annotated[Path | None, typer.Option(help="The runs' store, for the words of queries.")] = None,
    json_: Json = False,
) -> None:
    """What changed from one suite to another, beyond noise or not, by task and query."""
    import json

    from ctvr_bench.bench.analysis.compare import ACROSS
    from ctvr_bench.bench.analysis.compare import compare as compare_suites
    from ctvr_bench.bench.records.aggregate import read_results
    from ctvr_bench.bench.report.comparison import comparison_numbers, print_comparison
    from ctvr_bench.bench.report.report import open_runs_store

    for name in across or ():
        if name not in ACROSS:
            raise unknown_name("fact to compare across", name, ACROSS)
    results = read_results(first), read_results(second)
    found, opened = compare_suites(*results, across or ()), open_runs_store(results[0], store)
    if json_:
        print(json.dumps(comparison_numbers(found, opened), indent=1))
    else:
        print_comparison(found, opened)


def claims(
    file: Annotated[Path, typer.Argument(help="TOML file of predictions; results/claims/ has the repository's own.")],
    suites: Annotated[
        list[Path], typer.Argument(help="The suite's folder, or those of its stores; or a CSV of --numbers.")
    ],
    numbers: Annotated[
        Path | None, typer.Option(help="CSV to write with what the claims speak of, to judge them without the runs.")
    ] = None,
) -> None:
    """What came of predictions that were written down before a suite was run, as Markdown."""
    from ctvr_bench.bench.analysis.claims import (
        claims_markdown,
        judge,
        numbers_csv,
        numbers_of,
        read_claims,
        read_numbers,
    )
    from ctvr_bench.bench.records.aggregate import read_results
    from ctvr_bench.bench.records.record import write_text
    from ctvr_bench.bench.records.suites import each_store

    asked = read_claims(file)
    found = [
        row
        for suite in each_store(suites)
        for row in (read_numbers(suite) if suite.suffix == ".csv" else numbers_of([read_results(suite)]))
    ]
    text = claims_markdown(asked, judge(asked, found))
    if numbers is not None:
        write_text(numbers, numbers_csv(found))
    print(text, end="")


def check(
    baseline: Annotated[Path, typer.Argument(help="Baseline file, e.g. results/baselines/default.json.")],
    accept: Annotated[
        bool, typer.Option("--accept", help="Write the baseline anew, old and new side by side.")
    ] = False,
    methods: Annotated[
        str | None, typer.Option(help="Only these rows of the baseline, by label, as 'lwf,zero_shot [scoring=fused]'.")
    ] = None,
    suite: Annotated[
        Path | None,
        typer.Option(help="With --accept: suite file of a first or other baseline (default: the old one's)."),
    ] = None,
    noise_seeds: Annotated[
        int | None, typer.Option(help="With --accept: seeds that tolerances are measured from (default 10).")
    ] = None,
    store: Annotated[Path | None, typer.Option(help="Where the baseline's store lies on this machine.")] = None,
    jobs: Annotated[int, typer.Option(help="Runs at the same time (0: one for each core, or each GPU).")] = 0,
    executor: Executor = None,
    scheduler: Scheduler = None,
    stage: Stage = None,
    junit: Annotated[Path | None, typer.Option(help="Also write the verdicts as JUnit XML.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the verdicts.")] = False,
    json_: Json = False,
) -> None:
    """Run a baseline's suite again and compare every metric: exit code 1 where one is not what it was."""
    from ctvr_bench.bench.cli.console import StageBars, SuiteBars, say

    if not accept and (suite is not None or noise_seeds is not None):
        raise InputError("--suite and --noise-seeds make a baseline; add --accept")
    if accept and methods is not None:
        raise InputError("a baseline is accepted whole; leave --methods out")
    say("loading ...", quiet)
    import json
    from dataclasses import replace

    from ctvr_bench.bench.gate.accept import accept as make_anew
    from ctvr_bench.bench.gate.accept import check_noise_seeds, prepare
    from ctvr_bench.bench.gate.baseline import read_baseline
    from ctvr_bench.bench.gate.gate import check as compare_with
    from ctvr_bench.bench.gate.measure import measure, suite_of
    from ctvr_bench.bench.gate.output import print_check, print_side_by_side, write_junit
    from ctvr_bench.bench.report.choice import make_choice
    from ctvr_bench.bench.suite.config import placed

    if noise_seeds is not None:
        check_noise_seeds(noise_seeds)  # before a world is built
    with StageBars(quiet) as stages:
        if accept:
            prepared = prepare(baseline, suite, store, jobs, stages.show)
        else:
            recorded = read_baseline(baseline)
            labels = make_choice(methods, None, ()).methods
            for label in labels:
                if label not in {row.label for row in recorded.rows}:
                    raise unknown_name(f"row of {baseline}:", label, (row.label for row in recorded.rows))
            config = suite_of(baseline, recorded, store, jobs, on_stage=stages.show)
    with SuiteBars(quiet) as progress:
        if accept:
            there = placed(prepared.config, executor, scheduler, stage)
            accepted = make_anew(replace(prepared, config=there), noise_seeds, on_run=progress.finished)
            found = accepted.moved
        else:
            there = placed(config, executor, scheduler, stage)
            found = compare_with(recorded, measure(there, labels, progress.finished), labels)
    if json_:
        print(json.dumps(found and found.as_json(), indent=1))
    elif found is not None:
        print_check(found)
    if junit is not None and found is not None:
        write_junit(junit, baseline.stem, found)
    if accept:
        if not json_:
            print_side_by_side(accepted.old, accepted.new)
        say(f"baseline: {baseline}", quiet)
    elif found is not None and not found.ok:
        say(f"not what it was; if that is meant: run_benchmark.py check {baseline} --accept")
        raise typer.Exit(1)
    elif found is not None and any(row.verdict == "better" for row in found.rows):
        say(f"better than the baseline; to make it the new one: run_benchmark.py check {baseline} --accept")


def say_others(directory: Path) -> None:
    """A line for each suite of the folder that was run with other settings, and how to see it."""
    from ctvr_bench.bench.cli.console import say
    from ctvr_bench.bench.records.suites import other_suites

    for other in other_suites(directory):
        say(f"also there: report {other}")


def say_findings(sentences: list[str]) -> None:
    """What the runs allow to say, to standard output, under the table."""
    print("\n".join(f"- {sentence}" for sentence in sentences))


def show(directories: list[Path], json_: bool, read: Read | None = None) -> None:
    """The result table of each suite's folder, or every run's metrics as one JSON document, to standard output.

    The document of one suite is an object; of several, a list of them.
    """
    import json

    from ctvr_bench.bench.cli.console import print_table
    from ctvr_bench.bench.records.aggregate import read_results
    from ctvr_bench.bench.report.tables import console_table

    suites = [(read or read_results)(directory) for directory in directories]
    if not json_:
        for results in suites:
            print_table(console_table(results), results.measured)
        return
    numbers = [
        {
            **({"smoke_test": results.smoke_test} if results.smoke_test else {}),
            "measured": results.measured,
            "runs": [
                {
                    "label": row.label,
                    "order": run.record.config.options["order"],
                    "seed": run.record.config.seed,
                    **run.final,
                }
                for row in results.rows
                for run in row.runs
            ],
        }
        for results in suites
    ]
    print(json.dumps(numbers[0] if len(numbers) == 1 else numbers, indent=1))


def show_contrasts(directories: list[Path], against: str, read: Read | None = None) -> list[Path]:
    """Print the differences from one row, and write them beside the suite, or beside the suites of all stores.

    Returns the files.
    """
    from rich.console import Console

    from ctvr_bench.bench.analysis.contrasts import contrast_csv, contrast_markdown, contrast_table
    from ctvr_bench.bench.cli.console import say
    from ctvr_bench.bench.records.aggregate import read_results
    from ctvr_bench.bench.records.record import write_text
    from ctvr_bench.bench.records.suites import CONTRASTS

    results = [(read or read_results)(directory) for directory in directories]
    folder = directories[0].parent if len(directories) > 1 else directories[0]
    files = [folder / name for name in CONTRASTS]
    write_text(files[0], contrast_markdown(results, against))
    write_text(files[1], contrast_csv(results, against))
    Console().print(contrast_table(results, against))
    say(f"differences: {files[0]}")
    return files


def show_over_stores(directories: list[Path], read: Read | None = None) -> list[Path]:
    """Print the table over all stores of a suite and what they tell, and write it beside their folders.

    Returns the files. Raises InputError where two folders are of one store.
    """
    from rich.console import Console

    from ctvr_bench.bench.analysis.over_stores import (
        over_stores,
        store_csv,
        store_markdown,
        store_sentences,
        store_table,
    )
    from ctvr_bench.bench.cli.console import say
    from ctvr_bench.bench.records.aggregate import read_results
    from ctvr_bench.bench.records.record import write_text
    from ctvr_bench.bench.records.suites import OVER_STORES

    found = over_stores([(read or read_results)(directory) for directory in directories])
    files = [directories[0].parent / name for name in OVER_STORES]
    write_text(files[0], store_markdown(found))
    write_text(files[1], store_csv(found))
    Console().print(store_table(found))
    say_findings(store_sentences(found))
    say(f"over stores: {files[0]}")
    return files
