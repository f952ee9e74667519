"""Figures of a suite, from its records alone.

Every figure says in its caption how its numbers were measured, and whether the features were simulated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ctvr_bench.bench.analysis.columns import COLUMNS, is_reference, ranked, references
from ctvr_bench.bench.analysis.findings import rank_test
from ctvr_bench.bench.analysis.queries import confusion
from ctvr_bench.bench.executors.forked import in_processes
from ctvr_bench.bench.records.aggregate import Row, SuiteResults
from ctvr_bench.bench.records.summary import BWF, HEADLINE
from ctvr_bench.bench.report.canvas import Axes, Figure, Numbers, axes_of_pyplot, round_numbers, save, style, widest
from ctvr_bench.bench.report.drawing import (
    INK,
    STYLE,
    TICK,
    Margins,
    finish,
    label_ends,
    last,
    log_axis,
    looks,
    pareto_front,
    task_axis,
    task_ticks,
    with_short_names,
)
from ctvr_bench.bench.statistics import indistinct_groups

Floats = npt.NDArray[np.float64]

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


def accuracy_against_tasks(results: SuiteResults) -> Figure:
    """R@1 over all queries seen so far after every task, one line for each row, band: deviation over runs."""
    shown = looks(results)
    with style():
        height = max(3.6, 0.17 * len(results.rows) + 0.8)
        figure = Figure((7.6, height))
        axes = draw_curves(results, HEADLINE, figure.add_subplot())
        axes.set_ylabel("R@1 of all queries seen so far (%)")
        label_ends(axes, results.rows, shown, height - 0.45)
        note = "stored galleries, seen scope; line: mean, band: ±1 standard deviation over runs (seeds and orders)"
        names = widest([f"{row.label}  {last(row):.2f}" for row in results.rows], 7.5)
        left = _beside(axes)
        margins = Margins(left, 7.6 - left - (7.6 - left - names - 0.1) / 1.105)  # the names begin at 1.105 of the axes
        finish(figure, results, "Accuracy against tasks", note, margins)
    return figure


def draw_curves(results: SuiteResults, metric: str = HEADLINE, axes: Axes | None = None) -> Axes:
    """A metric of the stages after every task, a line for each row, into these axes (default: a new figure of pyplot).

    Raises InputError for an unknown metric.
    """
    axes = axes or axes_of_pyplot()
    shown = looks(results)
    for row in results.rows:
        curve_RT = np.array([run.curve(metric) for run in row.runs])
        task_T, mean_T, look = np.arange(1, curve_RT.shape[1] + 1), curve_RT.mean(0), shown[row.label]
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
    with style():
        figure = _heat_maps(panels, "task asked", "after task", "R@1 (%)")
        note = "R@1 in %, stored galleries, own scope; mean over runs; tasks by their place in the learning order"
        finish(figure, results, "What each task's queries find after each task", note + omitted, Margins(0, 0, 0, 0))
    return figure


def cost_against_accuracy(results: SuiteResults) -> Figure:
    """Headline R@1 against training seconds and against trainable parameters, with the Pareto front."""
    shown = looks(results)
    free = [row for row in results.rows if is_reference(row) and row.cost("trainable") == 0]
    rows = [row for row in results.rows if row not in free]
    with style():
        figure = Figure((8.8, max(3.4, 0.17 * len(results.rows) + 0.8)))
        left, right = figure.subplots(1, 2, sharey=True)
        figure.subplots_adjust(wspace=0.05)
        for axes, field, name in ((left, "train_s", "training time (s)"), (right, "trainable", "trainable parameters")):
            costs = [row.cost(field) for row in rows]
            for row, cost in zip(rows, costs, strict=True):
                values = row.values(HEADLINE)
                spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
                drawing = shown[row.label].drawing | {"markersize": 8, "linestyle": "none", "elinewidth": 0.9}
                axes.errorbar(cost, last(row), spread, **drawing)
            for row in free:
                axes.axhline(last(row), color=INK, linestyle=shown[row.label].line, linewidth=0.9, zorder=1)
            points = [(cost, last(row)) for cost, row in zip(costs, rows, strict=True) if not is_reference(row)]
            if points:
                x, y = zip(*pareto_front(points), strict=True)
                axes.plot(x, y, color="#8c8c8c", linewidth=1.3, drawstyle="steps-post", zorder=1.5)
            log_axis(axes, costs)
            axes.set_xlabel(name)
        left.set_ylabel("R@1 after the last task (%)")
        names = _key_of_methods(figure, left, results)
        note = "stored galleries, seen scope; bar: ±1 standard deviation over runs; grey steps: Pareto front"
        note += " of the continual methods" + "; horizontal lines: no training at all" * bool(free)
        finish(figure, results, "Cost against accuracy", note, Margins(_beside(left), names))
    return figure


def loss_split(results: SuiteResults) -> Figure:
    """Where the hits of old queries went: gallery growth and query drift stacked, staleness beside them."""
    rows = [*references(results)[::-1], *ranked(results)[::-1]]
    with style():
        figure = Figure((7.6, 0.3 * len(rows) + 1.2))
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
        figure.legend(loc="upper right", fontsize=8, frameon=False)
        note = "stored galleries, seen scope, after the last task, against the end of each query's own task; mean over"
        margins = Margins(left=0.22 + widest([row.label for row in rows], STYLE["font.size"]), right=1.85)
        finish(figure, results, "Why old queries are lost", f"{note} runs; left of 0: a gain", margins)
    return figure


def cross_task_confusion(results: SuiteResults) -> Figure:
    """Which task's gallery takes rank 1 from which task's queries after the last task, one panel for each row."""
    rows, omitted = _panel_rows(results)
    panels = {row.label: confusion(row) for row in rows}
    with style():
        figure = _heat_maps(panels, "task of the item at rank 1", "task of the query", "share of queries (%)")
        note = "in % of a task's queries, stored galleries, seen scope, after the last task; mean over runs; off the"
        note += f" diagonal: taken by another task{omitted}"
        finish(figure, results, "Which task takes rank 1", note, Margins(0, 0, 0, 0))
    return figure


def geometry_over_tasks(results: SuiteResults) -> Figure:
    """Modality gap, drift of both modalities, their disagreement, and ETF error after each task."""
    shown = looks(results)
    with style():
        figure = Figure((9.2, max(4.6, 0.17 * len(results.rows) + 0.8)))
        panels = figure.subplots(2, 3, sharex=True)
        for axes, (key, title, unit) in zip(panels.flat, _GEOMETRY, strict=True):
            for row in results.rows:
                value_RT = np.array([[stage.get(key) for stage in run.record.geometry] for run in row.runs], np.float64)
                known_T = ~np.isnan(value_RT).all(0)
                if known_T.any():
                    mean_T = np.nanmean(value_RT[:, known_T], axis=0)
                    axes.plot(np.flatnonzero(known_T) + 1, mean_T, **shown[row.label].drawing | {"markersize": 4})
            axes.set_title(title)
            axes.set_ylabel(unit, fontsize=7.5)
        task_axis(axes, "", max(len(run.record.geometry) for row in results.rows for run in row.runs))  # shared
        for axes in panels[1]:
            axes.set_xlabel("tasks learned")
        right, left = _key_of_methods(figure, panels[0, 0], results), max(map(_beside, panels.flat))
        figure.subplots_adjust(wspace=3 * (left + 0.05) / (9.1 - right - 3 * left), hspace=0.2)
        note = "pooled embeddings of test pairs; mean over runs"
        finish(figure, results, "Geometry of the embedding space", note, Margins(left, right, top=0.22))
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
    groups, shown = indistinct_groups(test.mean_rank_M, test.critical_difference), looks(results)
    half = math.ceil(len(rows) / 2)
    start = 0.5 + 0.22 * len(groups)
    with style():
        figure = Figure((8.0, 0.24 * (half + start * 2) + 1.0))
        axes = figure.add_subplot()
        axes.set_axis_off()
        axes.set_xlim(0.75, len(rows) + 0.25)
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
            axes.plot([rank, rank, edge], [0, low, low], color=shown[row.label].colour, linewidth=1, zorder=1)
            axes.text(edge, low, f" {row.label}  {rank:.2f} ", ha="right" if left else "left", va="center", fontsize=8)
        note = f"mean rank of R@1 (1 is best) over {test.blocks} runs, these test queries; Friedman p = {test.p:.2g};"
        note += " a bar joins methods that Nemenyi's test does not tell apart (5 %)"
        named = [f" {row.label}  {rank:.2f} " for rank, row in by_rank]
        margins = Margins(0.1 + widest(named[:half], 8), 0.1 + widest(named[half:], 8), 0, 0)
        finish(figure, results, "Critical differences", note, margins)
    return figure


def save_figures(results: SuiteResults, directory: Path, kinds: Sequence[str] = ("png",)) -> dict[str, Path]:
    """Write every figure; returns the files of the first kind by name. The same records give the same bytes."""
    directory.mkdir(parents=True, exist_ok=True)
    results = with_short_names(results)

    def made(number: int) -> str | None:
        draw = _FIGURES[number]
        figure = draw(results)
        if figure is None:
            return None
        save(figure, directory / draw.__name__, kinds)
        return draw.__name__

    names = in_processes(made, len(_FIGURES))
    return {name: directory / f"{name}.{kinds[0]}" for name in names if name is not None}


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


def _key_of_methods(figure: Figure, axes: Axes, results: SuiteResults) -> float:
    """A legend of all methods at the right of the figure; returns the inches that it takes."""
    rows, shown = [*ranked(results), *references(results)], looks(results)
    handles = [axes.plot([], [], label=row.label, **shown[row.label].drawing)[0] for row in rows]
    taken = 0.7 + widest([row.label for row in rows], 7.5)
    at = (1 - (taken - 0.1) / figure.get_figwidth(), 0.5)
    figure.legend(handles=handles, loc="center left", bbox_to_anchor=at, fontsize=7.5, frameon=False, handlelength=3.2)
    return taken


def _beside(axes: Axes) -> float:
    """The inches that the numbers and the name of the axis at the left take."""
    return 0.33 + widest(axes.yaxis.get_major_formatter().format_ticks(list(axes.get_yticks())), STYLE["font.size"])


def _heat_maps(panels: dict[str, Floats], x: str, y: str, bar: str) -> Figure:
    """Small multiples of square matrices with one scale, the number in every cell where it can be read.

    They lie in one axes whose unit is the inch, from the top left: an axes for each panel takes a tenth of a second.
    """
    tasks = max(len(matrix) for matrix in panels.values())
    titles = [line for title in panels for line in title.split("\n")]
    side = max(1.7 if tasks <= 6 else 2.35 if tasks <= 12 else 4.1, min(3.0, widest(titles, 7.5)))
    columns = min(len(panels), max(2, int(9.0 / (side + 0.2))))
    lines = math.ceil(len(panels) / columns)
    above = 0.18 + 0.13 * max(title.count("\n") for title in panels)
    top = max(float(np.nanmax(matrix)) for matrix in panels.values())
    low = math.floor(min(float(np.nanmin(matrix)) for matrix in panels.values()))
    high = max(top, low + 1)
    size = min(7.5, side * 26 / tasks)
    width, height = columns * (side + 0.15) + 1.3, lines * (side + above + 0.1) + 0.28
    figure = Figure((width, height))
    axes = figure.add_subplot()
    axes.set_axis_off()
    numbers = Numbers()
    for place, (title, matrix) in enumerate(panels.items()):
        left, upper = 0.45 + place % columns * (side + 0.15), place // columns * (side + above + 0.1) + above
        lower, cell = upper + side, side / len(matrix)
        extent = (left, left + side, lower, upper)
        axes.imshow(matrix, cmap="Blues", vmin=low, vmax=high, aspect="auto", extent=extent)
        axes.plot([left, left, left + side], [upper, lower, lower], color=STYLE["axes.edgecolor"], linewidth=0.8)
        axes.text(left, upper - 0.05, title, fontsize=7.5)
        if size >= _SMALLEST:
            for (row, column), value in np.ndenumerate(matrix):
                if not np.isnan(value):
                    ink = "white" if value > low + 0.6 * (top - low) else "black"
                    at = left + (column + 0.5) * cell, upper + (row + 0.5) * cell
                    numbers.add(f"{value:.{0 if tasks > 6 else 1}f}", *at, size, ink)
        for tick in task_ticks(len(matrix)):
            if place % columns == 0:
                numbers.add(str(tick), left - 0.1, upper + (tick - 0.5) * cell, 7, TICK)
            if place >= len(panels) - columns:
                numbers.add(str(tick), left + (tick - 0.5) * cell, lower + 0.1, 7, TICK)
        if place % columns == 0:
            axes.text(left - 0.22, upper + side / 2, y, fontsize=8, rotation=90, ha="right", va="center")
        if place >= len(panels) - columns:
            axes.text(left + side / 2, lower + 0.2, x, fontsize=8, ha="center", va="top")
    _colour_bar(axes, numbers, width - 0.75, low, high, min(3.0, height - 0.6), bar)
    numbers.draw(axes)
    axes.set(xlim=(0, width), ylim=(height, 0))
    return figure


def _colour_bar(axes: Axes, numbers: Numbers, left: float, low: float, high: float, length: float, name: str) -> None:
    """What the colours of heat maps say, at the right of them; all in inches."""
    upper, shade = 0.3, np.linspace(high, low, 40)[:, np.newaxis]  # each common enough to be one of 256 colours
    axes.imshow(shade, cmap="Blues", extent=(left, left + 0.16, upper + length, upper), aspect="auto")
    for value in round_numbers(low, high):
        numbers.add(f"{value:g}", left + 0.3, upper + length * (high - value) / (high - low), 7, TICK)
    axes.text(left + 0.45, upper + length / 2, name, fontsize=8, rotation=90, va="center")
