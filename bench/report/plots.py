"""Figures of a suite, from its records alone; the only file that imports matplotlib.

Every figure says in its caption how its numbers were measured, and whether the features were simulated.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context, rcdefaults, rcParams
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path as Outline
from matplotlib.textpath import TextPath
from PIL import Image

from ctvr_bench.bench.analysis.columns import COLUMNS, is_reference, ranked, references
from ctvr_bench.bench.analysis.findings import rank_test
from ctvr_bench.bench.analysis.queries import confusion
from ctvr_bench.bench.records.aggregate import Row, SuiteResults
from ctvr_bench.bench.records.summary import BWF, HEADLINE
from ctvr_bench.bench.report.drawing import (
    INK,
    STYLE,
    finish,
    key_of_methods,
    label_ends,
    last,
    log_axis,
    looks,
    pareto_front,
    task_axis,
    task_ticks,
)
from ctvr_bench.bench.statistics import indistinct_groups
from ctvr_bench.features.errors import InputError

Floats = npt.NDArray[np.float64]

_KINDS = ("png", "pdf", "svg")
PANELS = 16
"""Heat maps in one figure."""
_SMALLEST = 2.5
"""Points: cells whose number would be smaller than this, those of more than 45 tasks, have none."""
_GEOMETRY = (
    ("modality_gap", "modality gap", "distance of centres (0–2)"),
    ("drift_text", "drift of old queries", "1 − cosine (0–2)"),
    ("drift_video", "drift of old videos", "1 − cosine (0–2)"),
    ("drift_disagreement", "disagreement of the drifts", "0 together … 2 opposite"),
    ("etf_error_text", "ETF error, text", "mean |cosine + 1/(C−1)|"),
    ("etf_error_video", "ETF error, video", "mean |cosine + 1/(C−1)|"),
)


@contextmanager
def _defaults() -> Iterator[None]:
    """matplotlib's own settings, whatever the user's matplotlibrc says (LaTeX for one, which may not be there)."""
    with rc_context():
        rcdefaults()
        yield


@contextmanager
def _style(more: Mapping[Any, Any] = MappingProxyType({})) -> Iterator[None]:
    """The suite's own settings on top of those."""
    with _defaults():
        rcParams.update({**STYLE, **more})
        yield


def accuracy_against_tasks(results: SuiteResults) -> Figure:
    """R@1 over all queries seen so far after every task, one line for each row, band: deviation over runs."""
    style = looks(results)
    with _style():
        height = max(4.2, 0.17 * len(results.rows) + 1.4)
        figure = Figure((7.6, height), layout="constrained")
        axes = draw_curves(results, HEADLINE, figure.add_subplot())
        axes.set_ylabel("R@1 of all queries seen so far (%)")
        label_ends(axes, results.rows, style, height - 1.2)
        note = "stored galleries, seen scope; line: mean, band: ±1 standard deviation over runs (seeds and orders)"
        finish(figure, results, "Accuracy against tasks", note)
    return figure


def draw_curves(results: SuiteResults, metric: str = HEADLINE, axes: Axes | None = None) -> Axes:
    """A metric of the stages after every task, a line for each row, into these axes (default: a new figure of pyplot).

    Raises InputError for an unknown metric.
    """
    if axes is None:
        from matplotlib import pyplot

        axes = pyplot.figure(layout="constrained").add_subplot()
    style = looks(results)
    for row in results.rows:
        curve_RT = np.array([run.curve(metric) for run in row.runs])
        task_T, mean_T, look = np.arange(1, curve_RT.shape[1] + 1), curve_RT.mean(0), style[row.label]
        axes.plot(task_T, mean_T, label=row.label, **look.drawing)
        if len(curve_RT) > 1 and look.highlighted and not is_reference(row):
            std_T = curve_RT.std(0, ddof=1)
            axes.fill_between(task_T, mean_T - std_T, mean_T + std_T, color=look.colour, alpha=0.12, linewidth=0)
    task_axis(axes, "tasks learned", len(task_T))
    axes.set_ylabel(metric)
    return axes


def forgetting_heat_maps(results: SuiteResults) -> Figure:
    """R@1 on every task after every task in its own gallery, one panel for each row, mean over runs."""
    rows, omitted = _panel_rows(results)
    bwf = next(column for column in COLUMNS if column.key == BWF)
    panels = {
        f"{row.label}\nBWF {bwf.cell(row).mean_text}": np.mean([run.matrix() for run in row.runs], axis=0)
        for row in rows
    }
    figure = _heat_maps(panels, "task asked", "after task", "R@1 (%)")
    note = "R@1 in %, stored galleries, own scope; mean over runs; tasks by their place in the learning order"
    finish(figure, results, "What each task's queries find after each task", note + omitted)
    return figure


def cost_against_accuracy(results: SuiteResults) -> Figure:
    """Headline R@1 against training seconds and against trainable parameters, with the Pareto front."""
    style = looks(results)
    free = [row for row in results.rows if is_reference(row) and row.cost("trainable") == 0]
    rows = [row for row in results.rows if row not in free]
    with _style():
        figure = Figure((8.8, max(4.0, 0.17 * len(results.rows) + 1.4)), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        for axes, field, name in ((left, "train_s", "training time (s)"), (right, "trainable", "trainable parameters")):
            costs = [row.cost(field) for row in rows]
            for row, cost in zip(rows, costs, strict=True):
                values = row.values(HEADLINE)
                spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
                drawing = style[row.label].drawing | {"markersize": 8, "linestyle": "none", "elinewidth": 0.9}
                axes.errorbar(cost, last(row), spread, **drawing)
            for row in free:
                axes.axhline(last(row), color=INK, linestyle=style[row.label].line, linewidth=0.9, zorder=1)
            points = [(cost, last(row)) for cost, row in zip(costs, rows, strict=True) if not is_reference(row)]
            if points:
                x, y = zip(*pareto_front(points), strict=True)
                axes.plot(x, y, color="#8c8c8c", linewidth=1.3, drawstyle="steps-post", zorder=1.5)
            log_axis(axes, costs)
            axes.set_xlabel(name)
        left.set_ylabel("R@1 after the last task (%)")
        key_of_methods(figure, left, [*ranked(results), *references(results)], style)
        note = "stored galleries, seen scope; bar: ±1 standard deviation over runs; grey steps: Pareto front"
        note += " of the continual methods" + "; horizontal lines: no training at all" * bool(free)
        finish(figure, results, "Cost against accuracy", note)
    return figure


def loss_split(results: SuiteResults) -> Figure:
    """Where the hits of old queries went: gallery growth and query drift stacked, staleness beside them."""
    rows = [*references(results)[::-1], *ranked(results)[::-1]]
    with _style():
        figure = Figure((7.6, 0.3 * len(rows) + 1.9), layout="constrained")
        axes = figure.add_subplot()
        place_R = np.arange(len(rows))
        growth, drift, stale = (
            np.array([np.mean(row.values(key) or [0.0]) for row in rows])
            for key in ("loss/gallery-growth", "loss/query-drift", "staleness")
        )
        start = np.where(np.sign(drift) == np.sign(growth), growth, 0.0)
        axes.barh(place_R, growth, 0.6, color="#56B4E9", edgecolor=INK, linewidth=0.5, label="gallery growth")
        axes.barh(
            place_R, drift, 0.6, start, color="#E69F00", edgecolor=INK, linewidth=0.5, hatch="////", label="query drift"
        )
        axes.plot(growth + drift, place_R, "|", color=INK, markersize=15, markeredgewidth=2, label="total loss")
        axes.plot(
            stale, place_R, "D", color="white", markeredgecolor=INK, markersize=5, label="staleness (not part of it)"
        )
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set_yticks(place_R, [row.label for row in rows])
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("R@1 lost by queries of earlier tasks (points)")
        figure.legend(loc="outside right upper", fontsize=8, frameon=False)
        note = "stored galleries, seen scope, after the last task, against the end of each query's own task; mean over"
        finish(figure, results, "Why old queries are lost", f"{note} runs; left of 0: a gain")
    return figure


def cross_task_confusion(results: SuiteResults) -> Figure:
    """Which task's gallery takes rank 1 from which task's queries after the last task, one panel for each row."""
    rows, omitted = _panel_rows(results)
    panels = {row.label: confusion(row) for row in rows}
    figure = _heat_maps(panels, "task of the video at rank 1", "task of the query", "share of queries (%)")
    note = "in % of a task's queries, stored galleries, seen scope, after the last task; mean over runs; off the"
    finish(figure, results, "Which task takes rank 1", f"{note} diagonal: taken by another task{omitted}")
    return figure


def geometry_over_tasks(results: SuiteResults) -> Figure:
    """Modality gap, drift of both modalities, their disagreement, and ETF error after each task."""
    style = looks(results)
    with _style():
        figure = Figure((9.2, max(5.2, 0.17 * len(results.rows) + 1.4)), layout="constrained")
        panels = figure.subplots(2, 3, sharex=True)
        for axes, (key, title, unit) in zip(panels.flat, _GEOMETRY, strict=True):
            for row in results.rows:
                value_RT = np.array([[stage.get(key) for stage in run.record.geometry] for run in row.runs], np.float64)
                known_T = ~np.isnan(value_RT).all(0)
                if known_T.any():
                    mean_T = np.nanmean(value_RT[:, known_T], axis=0)
                    axes.plot(np.flatnonzero(known_T) + 1, mean_T, **style[row.label].drawing | {"markersize": 4})
            task_axis(axes, "", max(len(run.record.geometry) for row in results.rows for run in row.runs))
            axes.set_title(title)
            axes.set_ylabel(unit, fontsize=7.5)
        for axes in panels[1]:
            axes.set_xlabel("tasks learned")
        key_of_methods(figure, panels[0, 0], [*ranked(results), *references(results)], style)
        finish(figure, results, "Geometry of the embedding space", "pooled embeddings of test pairs; mean over runs")
    return figure


def critical_difference(results: SuiteResults) -> Figure | None:
    """Mean ranks of the continual methods over runs; bars join those that Nemenyi's test does not tell apart.

    None where there are too few methods or runs for the test.
    """
    rows = ranked(results)
    test = rank_test(rows)
    if test is None:
        return None
    by_rank = sorted(zip(test.mean_rank_M, rows, strict=True), key=lambda pair: pair[0])
    groups, style = indistinct_groups(test.mean_rank_M, test.critical_difference), looks(results)
    half = math.ceil(len(rows) / 2)
    start = 0.5 + 0.22 * len(groups)
    with _style():
        figure = Figure((8.0, 0.24 * (half + start * 2) + 1.6), layout="constrained")
        axes = figure.add_subplot()
        axes.set_axis_off()
        axes.set_xlim(0.2 - 0.28 * len(rows), 0.8 + 1.28 * len(rows))
        axes.set_ylim(-start - half - 0.2, 2.2)
        axes.plot([1, len(rows)], [0, 0], color=INK, linewidth=1.2)
        for tick in range(1, len(rows) + 1, math.ceil(len(rows) / 15)):
            axes.plot([tick, tick], [0, 0.18], color=INK, linewidth=1)
            axes.text(tick, 0.3, str(tick), ha="center", fontsize=8)
        axes.plot([1, 1 + test.critical_difference], [1.5, 1.5], "|-", color=INK, linewidth=1.5)
        axes.text(1, 1.7, f"critical difference {test.critical_difference:.2f}", fontsize=8)
        for number, (first, final) in enumerate(groups):
            axes.plot([first, final], [-0.35 - 0.22 * number] * 2, color=INK, linewidth=3, solid_capstyle="butt")
        for place, (rank, row) in enumerate(by_rank):
            left = place < half
            low = -start - (place if left else len(rows) - 1 - place) - 0.3
            edge = 0.8 if left else len(rows) + 0.2
            axes.plot([rank, rank, edge], [0, low, low], color=style[row.label].colour, linewidth=1, zorder=1)
            axes.text(edge, low, f" {row.label}  {rank:.2f} ", ha="right" if left else "left", va="center", fontsize=8)
        note = f"mean rank of R@1 (1 is best) over {test.blocks} runs, these test queries; Friedman p = {test.p:.2g};"
        note += " a bar joins methods that Nemenyi's test does not tell apart (5 %)"
        finish(figure, results, "Critical differences", note)
    return figure


def save_figures(results: SuiteResults, directory: Path, kinds: Sequence[str] = ("png", "pdf")) -> dict[str, Path]:
    """Write every figure; returns the files of the first kind by name. The same records give the same bytes."""
    directory.mkdir(parents=True, exist_ok=True)
    files = {}
    for draw in _FIGURES:
        with _defaults():
            figure, name = draw(results), draw.__name__
        if figure is not None:
            files[name] = directory / f"{name}.{kinds[0]}"
            _save(figure, directory / name, kinds)
    return files


def save_drawing(draw: Callable[[Figure], None], file: Path) -> None:
    """Write what `draw` puts into an empty figure of the suite's style, as PNG, PDF or SVG by the file's ending.

    Raises InputError for another ending.
    """
    if (kind := file.suffix.lower().removeprefix(".")) not in _KINDS:
        raise InputError(f"{file}: a figure's name ends in .{', .'.join(_KINDS)}; choose one of them")
    with _style():
        figure = Figure(layout="constrained")
        draw(figure)
    file.parent.mkdir(parents=True, exist_ok=True)
    _save(figure, file, (kind,))


def _save(figure: Figure, file: Path, kinds: Sequence[str]) -> None:
    with _style():
        if "png" in kinds:
            figure.savefig(buffer := io.BytesIO(), dpi=150)
            quantised = Image.open(buffer).convert("RGB").quantize(256)  # a third of the bytes
            quantised.save(file.with_suffix(".png"), optimize=True)
            figure.set_layout_engine("none")  # the layout is done; a second pass would give the same
        if "pdf" in kinds:
            figure.savefig(file.with_suffix(".pdf"), metadata={"CreationDate": None})
        if "svg" in kinds:
            with rc_context({"svg.hashsalt": "ctvr"}):
                figure.savefig(file.with_suffix(".svg"), metadata={"Date": None})


_FIGURES: tuple[Callable[[SuiteResults], Figure | None], ...] = (
    accuracy_against_tasks,
    forgetting_heat_maps,
    loss_split,
    cross_task_confusion,
    geometry_over_tasks,
    critical_difference,
    cost_against_accuracy,
)


def _panel_rows(results: SuiteResults) -> tuple[list[Row], str]:
    """The rows that get a panel, references last, and the words for those left out, the lowest in the ranking."""
    rows, below = ranked(results), references(results)
    room = max(1, PANELS - len(below))
    left_out = len(rows) - room
    words = f"; without the {left_out} lowest in the ranking, which are in the runs' metrics.json"
    return [*rows[:room], *below][:PANELS], words if left_out > 0 else ""


def _heat_maps(panels: dict[str, Floats], x: str, y: str, bar: str) -> Figure:
    """Small multiples of square matrices with one scale, the number in every cell where it can be read."""
    tasks = max(len(matrix) for matrix in panels.values())
    side = 1.9 if tasks <= 6 else 2.6 if tasks <= 12 else 4.4
    columns = min(len(panels), max(2, int(9.4 / side)))
    lines = math.ceil(len(panels) / columns)
    top = max(float(np.nanmax(matrix)) for matrix in panels.values())
    low = math.floor(min(float(np.nanmin(matrix)) for matrix in panels.values()))
    size = min(7.5, side * 26 / tasks)
    with _style({"axes.grid": False}):
        figure = Figure((columns * side + 1.0, lines * (side + 0.3) + 0.9), layout="constrained")
        grid = figure.subplots(lines, columns, squeeze=False)
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        for number, (axes, (title, matrix)) in enumerate(zip(grid.flat, panels.items(), strict=False)):
            image = axes.imshow(matrix, cmap="Blues", vmin=low, vmax=max(top, low + 1))
            if size >= _SMALLEST:
                _write_numbers(axes, matrix, size, dark=low + 0.6 * (top - low), digits=0 if tasks > 6 else 1)
            ticks = task_ticks(tasks)
            left, bottom = number % columns == 0, number >= len(panels) - columns
            axes.set_xticks([tick - 1 for tick in ticks], map(str, ticks) if bottom else [], fontsize=7)
            axes.set_yticks([tick - 1 for tick in ticks], map(str, ticks) if left else [], fontsize=7)
            axes.set_title(title, fontsize=7.5)
            axes.set_ylabel(y if left else "", fontsize=8)
            axes.set_xlabel(x if bottom else "", fontsize=8)
        figure.colorbar(
            image, ax=grid, label=bar, shrink=min(1.0, 2 / lines), aspect=30, fraction=0.05, location="right"
        )
    return figure


def _write_numbers(axes: Axes, matrix: Floats, size: float, dark: float, digits: int) -> None:
    """The number of every cell in its middle, `size` points high, white on cells above `dark`.

    As outlines of one artist: thousands of text artists take seconds to lay out and draw.
    """
    cells = [(place, value) for place, value in np.ndenumerate(matrix) if not np.isnan(value)]
    numbers = PathCollection(
        [_outline(f"{value:.{digits}f}", size) for _, value in cells],
        offsets=[(column, row) for (row, column), _ in cells],
        offset_transform=axes.transData,
        facecolors=["white" if value > dark else "black" for _, value in cells],
        edgecolors="none",
    )
    numbers.set_transform(axes.figure.dpi_scale_trans)
    numbers.set_in_layout(False)  # inside the axes anyway
    axes.add_collection(numbers, autolim=False)


@cache
def _outline(text: str, size: float) -> Outline:
    """A number's outline in inches around its middle, in the font of the figures."""
    path = TextPath((0, 0), text, size=size, prop=FontProperties(family=STYLE["font.family"]))
    box = path.get_extents()
    middle = ((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2)
    return Outline((path.vertices - middle) / 72, path.codes)
