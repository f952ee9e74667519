"""The command that asks a run for words. Heavy libraries load inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def search(
    directory: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a suite, or of one of its runs.")],
    words: Annotated[str, typer.Argument(help="What to look for, as 'a red circle moves left'.")],
    row: Annotated[
        str | None, typer.Option(help="Which row of the suite (default: the best that is not trained or kept weights).")
    ] = None,
    task: Annotated[int | None, typer.Option(help="As it was after this task, from 1 (default: the last).")] = None,
    order: Annotated[int | None, typer.Option(help="Which task order (default: the row's first).")] = None,
    seed: Annotated[int | None, typer.Option(help="Which seed (default: the row's first).")] = None,
    store: Annotated[Path | None, typer.Option(help="Where the run's store lies now.")] = None,
    count: Annotated[int, typer.Option(help="Videos to show.")] = 10,
    json_: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """The videos that a run finds for some words, with score, task and category; a trained row needs --keep weights."""
    import json
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table

    from ctvr_bench.bench.api.searching import search as look_for
    from ctvr_bench.bench.cli.console import say
    from ctvr_bench.features.errors import one_line

    found = look_for(directory, words, label=row, task=task, order=order, seed=seed, store=store, count=count)
    if json_:
        print(json.dumps(asdict(found), indent=1))
        return
    if found.note:
        say(f"note: {found.note}")
    table = Table(title=one_line(f"“{found.query}”, {found.of}"), title_justify="left")
    for name in ("place", "score", "task"):
        table.add_column(name, justify="right")
    table.add_column("category")
    table.add_column("video")
    for item in found.items:
        named = f"{item.video}{'  ← the caption is of this one' if item.asked_for else ''}"
        cells = (str(item.place), f"{item.score:.3f}", str(item.task), one_line(item.category), one_line(named))
        table.add_row(*cells)
    Console(markup=False).print(table)
