"""A registry of results as one static page: a table for each store, stream and setting, each row with its record."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from ctvr_bench.bench.analysis.columns import COSTS, PAPER, Column
from ctvr_bench.bench.audit.registry import Entry, entries
from ctvr_bench.bench.records.record import PROTOCOL, write_text
from ctvr_bench.bench.records.summary import HEADLINE

SHOWN = (*PAPER, *(column for column in COSTS if column.title in ("trainable", "stored", "steps", "training")))
_WIDTH, _HEIGHT = 120, 28
_RANKED = "Continual methods, by R@1"
_APART = (
    "Not ranked: what is not trained, and what sees more than a task at a time",
    "Not ranked: not what their records say",
)
_STATES = {
    "rerun": "made again by whoever keeps this registry, every rank equal",
    "recomputed": "metrics made again from the ranks that were sent",
    "as sent": "not what its records say, see its faults; not ranked",
}


def write_leaderboard(registry: Path, out: Path | None = None) -> Path:
    """Write the page, default `index.html` of the registry, with links relative to it; its path.

    Raises InputError where the registry holds no results.
    """
    out = out or registry / "index.html"
    found = entries(registry)
    groups: dict[str, list[Entry]] = {}
    for entry in found:
        key = json.dumps([entry.values["store"]["digest"], entry.values["stream"], entry.values["setting"]])
        groups.setdefault(key, []).append(entry)
    templates = [Path(__file__).parent / "templates", Path(__file__).parents[1] / "report/templates"]
    script = "".join((folder / name).read_text("utf-8") for folder, name in zip(templates, _SCRIPTS, strict=True))
    jinja = jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    tables = [_table(members, out.parent) for members in groups.values()]
    page = jinja.get_template("leaderboard.html").render(
        tables=tables,
        columns=SHOWN,
        arrows={1: " ↑", -1: " ↓", 0: ""},
        streams=sorted({table["stream"] for table in tables}),
        states=_STATES,
        total=len(found),
        script=script,
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    write_text(out, page)
    return out


_SCRIPTS = ("filter.js", "sort.js")


def _table(members: Sequence[Entry], folder: Path) -> dict[str, Any]:
    """Newest revisions by headline, in groups: ranked, references, and those that are not what they say.

    Earlier revisions are history.
    """
    newest: dict[str, Entry] = {}
    history: dict[str, list[Entry]] = {}
    for entry in sorted(members, key=lambda each: str(each.values["ended"])):
        name = str(entry.values["label"])
        if name in newest:
            history.setdefault(name, []).append(newest[name])
        newest[name] = entry
    first = members[0].values
    ordered = sorted(newest.values(), key=lambda each: _mean(each, HEADLINE), reverse=True)
    top = max(max(entry.values["curve"]) for entry in ordered)
    shown = [round(_mean(each, HEADLINE), 2) for each in ordered if _group(each) == _RANKED]
    rows = [(_group(each), _row(each, history.get(str(each.values["label"]), []), folder, top)) for each in ordered]
    protocol = int(first["protocol"])
    return {
        "store": f"{first['store']['name']} ({first['store']['digest'][:12]})",
        "simulated": first["store"]["simulated"],
        "stream": first["stream"],
        "setting": "; ".join(f"{k}: {_plain(v)}" for k, v in first["setting"].items() if v not in (None, {})),
        "superseded": f"superseded by protocol {PROTOCOL}: run it again" if protocol < PROTOCOL else "",
        "groups": [
            {"title": title, "places": [1 + shown.index(mean) for mean in shown] * (title == _RANKED), "rows": mine}
            for title in (_RANKED, *_APART)
            if (mine := [row for group, row in rows if group == title])
        ],
    }


def _group(entry: Entry) -> str:
    return _APART[1] if entry.state == "as sent" else _APART[0] if entry.reference else _RANKED


def _row(entry: Entry, earlier: Sequence[Entry], folder: Path, top: float) -> dict[str, Any]:
    values = entry.values
    return {
        "label": values["label"],
        "revision": values["revision"],
        "cells": [_cell(entry, column) for column in SHOWN],
        "steps": _mean(entry, "cost/task_steps"),
        "runs": len(values["runs"]),
        "ended": str(values["ended"])[:10],
        "state": entry.state,
        "faults": entry.faults,
        "record": _relative(entry.folder / "result.json", folder),
        "curve": _points(values["curve"], top),
        "curve_text": ", ".join(f"{value:.1f}" for value in values["curve"]),
        "history": [
            {
                "ended": str(each.values["ended"])[:10],
                "revision": each.values["revision"],
                "headline": f"{_mean(each, HEADLINE):.2f}",
                "record": _relative(each.folder / "result.json", folder),
            }
            for each in reversed(earlier)
        ],
    }


def _cell(entry: Entry, column: Column) -> dict[str, Any]:
    found = entry.values["metrics"].get(column.key)
    if found is None:
        return {"value": None, "text": "–", "spread": ""}
    spread = column.text(found["std"]) if column.spread and found["std"] is not None else ""
    return {"value": found["mean"], "text": column.text(found["mean"]), "spread": spread}


def _mean(entry: Entry, key: str) -> float:
    found = entry.values["metrics"].get(key)
    return float("-inf") if found is None else float(found["mean"])


def _points(curve: Sequence[float], top: float) -> str:
    """A curve as the points of an SVG polyline, from 0 to the highest value of its table."""
    step = _WIDTH / max(1, len(curve) - 1)
    return " ".join(f"{k * step:.1f},{_HEIGHT * (1 - value / (top or 1)):.1f}" for k, value in enumerate(curve))


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        changed = {key: each for key, each in value.items() if each and (key, each) != ("long_tail", 1.0)}
        return " ".join(f"{key}={each}" for key, each in changed.items()) or "usual"
    return str(value)
