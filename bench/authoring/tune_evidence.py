"""What a search leaves: its table, its evidence as a file, and the files of grids that it starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from ctvr_bench.bench.authoring.tune import RULE, Candidate, Search
from ctvr_bench.bench.records.environment import environment
from ctvr_bench.bench.records.record import write_json
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.tables import read_toml

Grids = dict[str, dict[str, list[Any]]]


def read_grids(path: Path) -> Grids:
    """Grids by method from a TOML file: a table for each method, a list of values for each field."""
    grids = read_toml(path, "a file of grids")
    for method, grid in grids.items():
        if not isinstance(grid, dict) or not all(isinstance(values, list) and values for values in grid.values()):
            raise InputError(f"{path}: {method}: a grid is a table with a list of values for each field; got {grid!r}")
    return grids


def search_table(search: Search) -> Table:
    """Candidates, best first, with mean and deviation of the selection score; the chosen one is bold."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for column in search.grid:
        table.add_column(column)
    table.add_column("validation R@1 (%)", justify="right")
    table.add_column("")
    for candidate in ranked(search.candidates):
        mean, std = candidate.mean, candidate.std
        score = "not finished" if mean is None else f"{mean:.2f}" + ("" if std is None else f" ± {std:.2f}")
        remarks = [("default", candidate.values == search.default), ("chosen", candidate is search.chosen)]
        cells = [escape(str(candidate.values[field])) for field in search.grid]
        style = "bold" if candidate is search.chosen else None
        table.add_row(*cells, score, ", ".join(text for text, true in remarks if true), style=style)
    return table


def write_evidence(search: Search, path: Path, command: str) -> None:
    """Grid, every score, store, rule and choice as JSON, from which the choice can be made again."""
    config = search.trials[0].config
    write_json(
        path,
        {
            "method": search.entry.name,
            "code": search.entry.code,
            "command": command,
            "rule": RULE,
            "chosen": search.chosen.values,
            "default": search.default,
            "grid": {field: list(values) for field, values in search.grid.items()},
            "candidates": [
                {"values": c.values, "scores": c.scores, "mean": c.mean, "std": c.std, "together": c.together}
                for c in ranked(search.candidates)
            ],
            "seeds": sorted({trial.config.seed for trial in search.trials}),
            "other_values": {k: v for k, v in config.config.items() if k not in search.grid},
            "store": config.store.model_dump(),
            "stream": config.stream,
            "options": config.options,
            "protocol": config.protocol,
            "environment": environment(search.device),
        },
    )


def ranked(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Best first; unfinished last."""
    return sorted(candidates, key=lambda candidate: -1.0 if candidate.mean is None else candidate.mean, reverse=True)


def differs(search: Search) -> Mapping[str, Any]:
    """The chosen values that are not the default's."""
    return {field: value for field, value in search.chosen.values.items() if value != search.default[field]}
