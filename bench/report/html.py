"""The HTML page of a report: what the template bench/templates/report.html is filled with."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt
from PIL import Image

from ctvr_bench.bench.analysis.against import all_sentences
from ctvr_bench.bench.analysis.budgets import BUDGET_NOTE, budget_lines
from ctvr_bench.bench.analysis.columns import (
    COLUMNS,
    GROUPS,
    Column,
    columns_of,
    footnotes,
    groups_of,
    note_of,
    places,
    ranked,
    references,
)
from ctvr_bench.bench.analysis.findings import Comparison, Evidence, summary
from ctvr_bench.bench.analysis.queries import LostQuery, lost_queries
from ctvr_bench.bench.records.aggregate import Row, SuiteResults
from ctvr_bench.bench.report.drawing import DESCRIPTIONS
from ctvr_bench.bench.report.reported import HEADS, NOTE, has_reported, reported_cells
from ctvr_bench.bench.report.tables import interval_text
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.store import FeatureStore

_QUERIES = 8
"""Lost queries shown for each method."""
_FIGURE_BYTES, _STRIP_BYTES = 1_900_000, 600_000
"""What figures and frame strips may add to the page, as base64; it stays under 3 MB. Larger figures are linked."""
_SECTIONS = (
    ("ranking", "Ranking"),
    ("curves", "Curves"),
    ("forgetting", "Forgetting"),
    ("why", "Why"),
    ("geometry", "Geometry"),
    ("cost", "Cost"),
    ("queries", "Queries"),
    ("unfinished", "Unfinished"),
    ("measured", "Measured"),
)
_ROWS = "Mean over runs, ± standard deviation. Bold: best; underlined: second; in italics: zero-shot and upper bounds, "
_ROWS += "which are not ranked."


def html_report(
    results: SuiteResults,
    found: Evidence,
    images: dict[str, Path],
    store: FeatureStore | None = None,
    *,
    alone: bool = False,
) -> str:
    """The report as one HTML text.

    images: PNG file of each figure. store: for captions, video ids and frame strips. alone: nothing lies beside it.
    """
    notes = footnotes([*ranked(results), *references(results)])
    figures = _figures(results, images, math.inf if alone else _FIGURE_BYTES)
    explorer = _explorer(results, store)
    hidden = {"queries": not explorer, "unfinished": not results.unfinished}
    folder = Path(__file__).parent / "templates"
    script = (folder / "sort.js").read_text(encoding="utf-8")
    jinja = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    return jinja.get_template("report.html").render(
        name=results.name,
        summary=summary(results),
        simulated=results.measured["features"] == "simulated",
        smoke_test=results.smoke_test,
        unfinished=results.unfinished,
        total=sum(len(row.runs) for row in results.rows) + len(results.unfinished),
        sections=[(anchor, title) for anchor, title in _SECTIONS if not hidden.get(anchor)],
        tables=[_result_table(results, title, columns, notes, found) for title, columns in groups_of(results)],
        intervals=[_interval_table(results, title, columns, found) for title, columns in GROUPS[:2]],
        figures=figures,
        findings=all_sentences(results, found),
        comparisons=[
            _comparison_table(f"{title}: difference in R@1", comparisons)
            for title, comparisons in (
                ("The best continual method against each other", found.against_best),
                ("Every trained method against the same features without training", found.against_zero_shot),
            )
            if comparisons
        ],
        budgets=budget_lines(results),
        budget_note=BUDGET_NOTE,
        explorer=explorer,
        names_known=store is not None,
        alone=alone,
        measured=results.measured,
        columns=columns_of(results),
        notes=list(notes),
        configurations={row.label: _configuration(row) for row in results.rows},
        environment=_environment(results),
        script=script,
        policy=_policy(script),
    )


def _policy(script: str) -> str:
    """The page's Content-Security-Policy: its one script by digest, pictures of its own, nothing from elsewhere."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src 'self' data: file:; "
        "base-uri 'none'; form-action 'none'"
    )


def _figures(results: SuiteResults, images: dict[str, Path], left: float) -> dict[str, dict[str, str]]:
    """Every figure with its words; the smallest are put into the page first, what does not fit is linked."""
    found = {}
    for name, path in sorted(images.items(), key=lambda item: item[1].stat().st_size):
        data = _base64(path.read_bytes())
        fits = len(data) <= left
        left -= len(data) * fits
        found[name] = {
            "title": name.replace("_", " "),
            "source": f"data:image/png;base64,{data}" if fits else f"figures/{name}.png",
            "pdf": f"figures/{name}.pdf" if path.with_suffix(".pdf").is_file() else "",
            "alt": f"{DESCRIPTIONS[name].alt} {_in_words(results) if name == 'accuracy_against_tasks' else ''}".strip(),
            "reading": DESCRIPTIONS[name].reading,
        }
    return found


def _result_table(
    results: SuiteResults, title: str, columns: Sequence[Column], notes: dict[str, int], found: Evidence
) -> dict[str, Any]:
    """One of the result tables; the interval follows the headline, and what a method keeps its cost."""
    rows = ranked(results)
    best = {column.key: places(rows, column) for column in columns}
    heads = [_head("method", text=True), _head("runs", meaning="orders times seeds")]
    for column in columns:
        arrow = {1: " ↑", -1: " ↓", 0: ""}[column.better]
        heads.append(_head(column.title, column.unit + arrow, column.meaning))
        if column is COLUMNS[0]:
            heads.append(_head("95 % interval", "%", "over seeds and queries, and over orders where there are three"))
    printed = title == "Retrieval" and has_reported(results)
    heads += [_head(head, meaning=NOTE) for head in HEADS] if printed else []
    if title == "Cost":
        heads += [_head("keeps", text=True), _head("fidelity", text=True)]

    def line(row: Row) -> dict[str, Any]:
        record = row.runs[0].record
        cells = [_cell(str(len(row.runs)), len(row.runs))]
        for column in columns:
            cell = column.cell(row)
            style = {1: "best", 2: "second"}.get(best[column.key].get(row.label, 0), "")
            cells.append(_cell(cell.mean_text, cell.mean, style, cell.std_text))
            if column is COLUMNS[0]:
                interval = found.intervals[row.label][column.key]
                cells.append(_cell(interval_text(interval), interval.low))
        cells += [_cell(text) for text in reported_cells(results, row)] if printed else []
        if title == "Cost":
            cells += [_cell(text, style="text") for text in (record.stores_samples, record.fidelity)]
        return {"label": row.label, "note": note_of(row, notes), "cells": cells}

    bodies = [("continual", [line(row) for row in rows]), ("references", [line(row) for row in references(results)])]
    return {"title": title, "caption": _ROWS, "heads": heads, "bodies": bodies}


def _interval_table(results: SuiteResults, title: str, columns: Sequence[Column], found: Evidence) -> dict[str, Any]:
    """The 95 % intervals of every column of a result table."""

    def line(row: Row) -> dict[str, Any]:
        spans = [(column, found.intervals[row.label].get(column.key)) for column in columns]
        cells = [_cell("–") if span is None else _cell(interval_text(span, column), span.low) for column, span in spans]
        return {"label": row.label, "note": None, "cells": cells}

    heads = [_head("method", text=True), *(_head(column.title, column.unit, column.meaning) for column in columns)]
    bodies = [
        (kind, [line(row) for row in rows(results)])
        for kind, rows in (("continual", ranked), ("references", references))
    ]
    caption = "95 % intervals over seeds and queries, and over orders where there are three. "
    caption += (
        "Of medians, forgetting from the best moment, intransigence and gap to joint: over runs alone, from two on."
    )
    return {"title": f"{title}: intervals", "caption": caption, "heads": heads, "bodies": bodies}


def _comparison_table(title: str, comparisons: Sequence[Comparison]) -> dict[str, Any]:
    heads = [
        _head("first minus second", text=True),
        _head("difference", "points", "R@1 of the first minus R@1 of the second, over the runs that both have"),
        _head("95 % interval", "points", "holds together with those of all pairs of rows; over what p speaks of"),
        _head("p", "all pairs", "of no difference on other queries, seeds and (from three on) orders, corrected"),
        _head("p, here", "all pairs", "the same for these orders alone; with one run, for these trained models alone"),
        _head("p, runs only", "sign flips", "exact, on these test queries, not corrected"),
        _head("effect", "d_z", "difference in standard deviations over runs, Hedges' correction"),
        _head("wins", "% of queries", "queries that the first ranks better; ties count half"),
        _head("runs", "", "of both with the same order and seed"),
        _head("runs needed", "80 % power", "for a difference of this size at this correction"),
    ]
    lines = []
    for c in comparisons:
        style = "best" if c.differs else ""
        needed = "enough" if c.differs else "more queries" if c.needed is None and c.p is not None else "–"
        cells = [
            _cell(_number(c.interval.estimate, 2), c.interval.estimate, style),
            _cell(interval_text(c.interval, shift=True), c.interval.low),
            _cell(_p(c.p), c.p, style),
            _cell(_p(c.p_here), c.p_here, "best" if c.differs_here else ""),
            _cell(_p(c.exact_p), c.exact_p),
            _cell(_number(c.effect, 1), c.effect),
            _cell(_number(c.wins, 1), c.wins),
            _cell(str(c.runs), c.runs),
            _cell(needed if c.differs or c.needed is None else f"about {c.needed}", None if c.differs else c.needed),
        ]
        lines.append({"label": f"{c.first} − {c.second}", "note": None, "cells": cells})
    caption = f"{title}. Bold: beyond noise at 5 %."
    return {"title": title, "caption": caption, "heads": heads, "bodies": [("continual", lines)]}


def _explorer(results: SuiteResults, store: FeatureStore | None) -> list[dict[str, Any]]:
    """The deepest falls of each method's first run, in words and frames where the store is open."""
    left, entries, strips = _STRIP_BYTES, [], _strips(store)

    def strip(video: int) -> str:
        nonlocal left
        if strips is None:
            return ""
        data = _base64(_png(strips[video]))
        if len(data) > left:
            return ""
        left -= len(data)
        return data

    def line(query: LostQuery) -> dict[str, Any]:
        return {
            "caption": store.captions[query.caption] if store else f"caption {query.caption}",
            "video": store.video_ids[query.video] if store else f"item {query.video}",
            "thief": store.video_ids[query.thief] if store else f"item {query.thief}",
            "task": query.task,
            "now": query.now,
            "thief_task": query.thief_task,
            "strip": strip(query.video),
            "thief_strip": strip(query.thief),
        }

    for row in ranked(results):
        run = row.runs[0]
        queries, lost, old = lost_queries(run, _QUERIES)
        config = run.record.config
        where = f"order {config.options['order']}, seed {config.seed}"
        lines = [line(query) for query in queries]
        entries.append({"label": row.label, "where": where, "lost": lost, "old": old, "queries": lines})
    return entries


def _strips(store: FeatureStore | None) -> npt.NDArray[np.uint8] | None:
    """Frame strips of all videos, [N, height, width, 3], where the store has them."""
    try:
        return None if store is None else store.feature("videos/strip")
    except InputError:
        return None


def _head(title: str, unit: str = "", meaning: str = "", *, text: bool = False) -> dict[str, Any]:
    return {"title": title, "unit": unit, "meaning": meaning, "text": text}


def _cell(text: str, value: float | None = None, style: str = "", spread: str = "") -> dict[str, Any]:
    if value is not None:
        text = text.replace("-", "−")
    return {"text": text, "value": value, "style": style, "spread": spread}


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{round(value, digits) + 0.0:.{digits}f}"


def _p(value: float | None) -> str:
    return "–" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _in_words(results: SuiteResults) -> str:
    """The ends of the accuracy curves."""
    ends = [f"{row.label} {COLUMNS[0].cell(row).mean_text} %" for row in [*ranked(results), *references(results)]]
    return f"After the last task: {', '.join(ends)}."


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _configuration(row: Row) -> str:
    config = row.runs[0].record.config
    return json.dumps({"method": config.method, **config.config}, indent=1)


def _environment(results: SuiteResults) -> dict[str, str]:
    """Everything that was recorded about the machine and the versions; several values where runs differ."""
    found: dict[str, dict[str, None]] = {}
    for row in results.rows:
        for run in row.runs:
            for key, value in run.record.environment.items():
                found.setdefault(key, {})[str(value) or "none"] = None
    return {key: ", ".join(values) for key, values in found.items()}


def _png(image_YXB: npt.NDArray[np.uint8]) -> bytes:
    """A picture (uint8, red, green, blue) as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image_YXB).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
