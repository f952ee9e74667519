"""What a search leaves: its table, its evidence as a file, and the chosen values of all searches of a folder."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from ctvr_bench.bench.authoring.space import Range, Values
from ctvr_bench.bench.authoring.tune import RULE, Candidate, Search
from ctvr_bench.bench.records.environment import environment
from ctvr_bench.bench.records.record import write_json, write_text
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.whole import read_whole

CHOSEN = "chosen.toml"
"""The chosen values of every method, beside the evidence."""


def search_table(search: Search) -> Table:
    """Trials, best first, with mean, difference from the default with its standard error; the chosen one is bold."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for column in search.space:
        table.add_column(column)
    for column in ("validation R@1 (%)", "against the default"):
        table.add_column(column, justify="right")
    table.add_column("")
    default = search.candidates[0]
    for candidate in ranked(search.candidates):
        change, error = against(candidate, default)
        worlds = f" (of {len(candidate.scores)} stores)" if len(candidate.scores) < len(search.asked) else ""
        mean = "not finished" if candidate.mean is None else f"{candidate.mean:.2f}{worlds}"
        moved = "" if change is None else f"{change:+.2f}" + ("" if error is None else f" ± {error:.2f}")
        remarks = [("default", candidate is default), ("chosen", candidate is search.chosen)]
        cells = [escape(str(candidate.values[field])) for field in search.space]
        style = "bold" if candidate is search.chosen else None
        table.add_row(*cells, mean, moved, ", ".join(text for text, true in remarks if true), style=style)
    return table


def against(candidate: Candidate, default: Candidate) -> tuple[float | None, float | None]:
    """Mean difference from the default on the same stores with the same seeds, and its standard error, in points."""
    pairs = [
        (a, b)
        for mine, its in zip(candidate.scores, default.scores, strict=False)
        for a, b in zip(mine, its, strict=True)
    ]
    differences = [a - b for a, b in pairs if a is not None and b is not None]
    if len(differences) < len(pairs) or not pairs:
        return None, None
    error = float(np.std(differences, ddof=1)) / math.sqrt(len(differences)) if len(differences) > 1 else None
    return float(np.mean(differences)), error


def settled(search: Search) -> dict[str, str]:
    """For each constant, where its chosen value lies in its range as it was at the end."""
    return {field: where.where(search.chosen.values[field]) for field, where in search.space.items()}


def evidence_of(search: Search, command: str) -> dict[str, Any]:
    """Ranges, every score, stores, rule and choice, from which the choice can be made again."""
    config, default = search.trials[0].config, search.candidates[0]
    where = settled(search)
    made_by: dict[str, str] = {}
    for trial in search.trials:
        made_by |= trial.made_by
    return {
        "method": search.entry.name,
        "code": search.entry.code,
        "command": command,
        "rule": RULE,
        "chosen": search.chosen.values,
        "default": search.default,
        "fields": {
            field: {"where": where[field], **_range(search.space[field]), "at_first": _range(search.declared[field])}
            for field in search.space
        },
        "candidates": [
            {
                "values": candidate.values,
                "round": candidate.round,
                "scores": candidate.scores,
                "mean": candidate.mean,
                "against_default": against(candidate, default)[0],
                "error": against(candidate, default)[1],
                "together": candidate.together,
            }
            for candidate in search.candidates
        ],
        "seeds": sorted({trial.config.seed for trial in search.trials}),
        "other_values": {k: v for k, v in config.config.items() if k not in search.space},
        "stores": [{**asked.store.model_dump(), "queries": asked.queries} for asked in search.asked],
        "stream": config.stream,
        "options": config.options,
        "protocol": config.protocol,
        "made_by": made_by,
        "environment": environment(search.device),
    }


def write_evidence(search: Search, path: Path, command: str) -> dict[str, Any]:
    """Write the evidence as JSON, and the chosen values of all evidence in its folder; returns the evidence."""
    evidence = evidence_of(search, command)
    write_json(path, evidence)
    write_text(path.with_name(CHOSEN), chosen_values(path.parent))
    return evidence


def chosen_values(folder: Path) -> str:
    """What was chosen for every method with evidence in a folder, as a suite takes it (`tuned`), in TOML."""
    lines = ["# Chosen by `tune`; each method's evidence lies beside this file. A suite takes it as `tuned`."]
    for path in sorted(folder.glob("*.json")):
        found = read_evidence(path)
        lines += ["", f"[{json.dumps(found['method'])}]"]
        lines += [f"{field} = {_toml(value)}" for field, value in found["chosen"].items() if value is not None]
    return "\n".join(lines) + "\n"


def read_evidence(path: Path) -> dict[str, Any]:
    """The evidence of a search. Raises InputError where the file is none."""
    try:
        found: dict[str, Any] = json.loads(read_whole(path).decode())
        if not isinstance(found["method"], str) or not isinstance(found["chosen"], dict):
            raise TypeError("method or chosen")
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"{path}: is no evidence of a search ({error}); remove it, or run tune again") from error
    return found


def ranked(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Best first: those made on all stores, those that were not, and what did not finish."""

    def key(candidate: Candidate) -> tuple[int, float]:
        return (0, 0.0) if candidate.mean is None else (len(candidate.scores), candidate.mean)

    return sorted(candidates, key=key, reverse=True)


def differs(search: Search) -> Mapping[str, Any]:
    """The chosen values that are not the default's."""
    return {field: value for field, value in search.chosen.values.items() if value != search.default[field]}


def _range(where: Range | Values) -> dict[str, Any]:
    if isinstance(where, Values):
        return {"values": list(where.values)}
    return {"low": where.low, "high": where.high, "scale": where.scale, "grown": list(where.grown)}


def _toml(value: Any) -> str:
    return json.dumps(value)
