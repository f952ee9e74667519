"""What all figures share: the look of each method, captions, labels that do not overlap. Needs no matplotlib itself.

Colours are Okabe and Ito's, told apart by the colour-blind; every method also has a marker and a line style of its own,
so that figures read in black and white. With many methods the best are coloured and the rest are grey but named.
"""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ctvr_bench.bench.analysis.columns import is_reference, ranked, references
from ctvr_bench.bench.records.aggregate import Row, SuiteResults
from ctvr_bench.bench.records.summary import HEADLINE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GREY, INK, TICK = "#8c8c8c", "#222222", "#444444"
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "font.family": "DejaVu Sans",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.titley": 1.0,  # else it is looked for among the tick labels
    "axes.edgecolor": "#666666",
    "axes.grid": True,
    "image.composite_image": False,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "lines.markersize": 5.5,
    "xtick.color": TICK,
    "ytick.color": TICK,
    "hatch.linewidth": 0.6,
    "pdf.fonttype": 42,
    "text.parse_math": False,  # names are shown as they are
}
MARKERS = "osD^v<>PXphd"
_HEAD = 0.32
"""Inches of a figure's title."""
_NARROWEST = 2.0
"""Inches that words leave to axes: a figure whose words take more grows."""
_LONGEST = 40
"""Letters of a method's name in a figure."""
HIGHLIGHTED = len(MARKERS)
"""Continual methods drawn in colour: the best by headline. All others are grey."""
_REFERENCE_LINES = (":", "-.", (0, (6, 2)), (0, (1, 3)), (0, (3, 1, 1, 1, 1, 1)))


@dataclass(frozen=True)
class Look:
    """How a method is drawn in every figure."""

    colour: str
    line: Any
    marker: str
    highlighted: bool

    @property
    def drawing(self) -> dict[str, Any]:
        """Keywords of `Axes.plot`."""
        return {
            "color": self.colour,
            "linestyle": self.line,
            "marker": self.marker,
            "markeredgecolor": self.colour if self.marker in "|_+x" else "white",
            "markeredgewidth": 1.0 if self.marker in "|_+x" else 0.5,
            "linewidth": 1.5 if self.highlighted else 0.8,
            "zorder": 3 if self.highlighted else 2,
        }


def looks(results: SuiteResults) -> dict[str, Look]:
    """The look of every label: references in black, the best continual methods in colour, the rest in grey."""
    found = {}
    for place, row in enumerate(ranked(results)):
        if place < HIGHLIGHTED:
            line = "-" if place < len(COLOURS) else "--"
            found[row.label] = Look(COLOURS[place % len(COLOURS)], line, MARKERS[place], True)
        else:
            found[row.label] = Look(GREY, "-", ".", False)
    for place, row in enumerate(references(results)):
        found[row.label] = Look(INK, _REFERENCE_LINES[place % len(_REFERENCE_LINES)], "+x|_"[place % 4], True)
    return found


def last(row: Row) -> float:
    """Headline after the last task, mean over runs."""
    return float(np.mean(row.values(HEADLINE)))


def caption(results: SuiteResults, note: str) -> str:
    """How the numbers of a figure were measured, in one line."""
    measured = results.measured
    parts = [
        "SIMULATED FEATURES" if measured["features"] == "simulated" else "",
        results.smoke_test.upper(),
        note,
        f"text to item, selection: {measured['selection']}",
        f"seeds {measured['seeds']}; orders {measured['orders']}",
        f"stream {measured['stream']}; store {measured['store']}",
    ]
    return "; ".join(filter(None, parts))


def with_short_names(results: SuiteResults) -> SuiteResults:
    """The results as figures show them: long names are cut, and numbered where that makes two alike.

    Tables have the whole names. A row of many changed constants would leave its figure no room.
    """
    rows, taken = [], Counter[str]()
    for row in results.rows:
        name = row.label if len(row.label) <= _LONGEST else row.label[: _LONGEST - 1].rstrip(" ,") + "…"
        taken[name] += 1
        rows.append(replace(row, label=f"{name} ({taken[name]})" if taken[name] > 1 else name))
    return replace(results, rows=tuple(rows))


@dataclass(frozen=True)
class Margins:
    """Inches at the sides of a figure's axes, for the words there."""

    left: float
    right: float
    bottom: float = 0.42
    top: float = 0.04


def finish(figure: Figure, results: SuiteResults, title: str, note: str, margins: Margins) -> None:
    """Put a title above the figure and a caption below, wrapped to its width; it grows by their height.

    What stands where is known, so that matplotlib need not find out: its layouts take as long as drawing.
    """
    width, body = figure.get_size_inches()
    width = max(width, margins.left + margins.right + _NARROWEST)
    lines = textwrap.fill(caption(results, note), int(width * 18))
    foot = 0.18 + 0.115 * (lines.count("\n") + 1)
    height = _HEAD + body + foot
    figure.set_size_inches(width, height)
    figure.text(0.09 / width, 1 - 0.05 / height, title, fontsize=11, fontweight="bold", va="top")
    figure.text(0.09 / width, 0.06 / height, lines, fontsize=7, color=TICK)
    figure.subplots_adjust(
        left=margins.left / width,
        right=1 - margins.right / width,
        bottom=(foot + margins.bottom) / height,
        top=1 - (_HEAD + margins.top) / height,
    )


def task_ticks(tasks: int) -> list[int]:
    """Tasks from 1 that get a tick: all, or the first and every second, fifth, tenth ...

    >>> task_ticks(4), task_ticks(20)
    ([1, 2, 3, 4], [1, 5, 10, 15, 20])
    """
    step = next(step for step in (1, 2, 5, 10, 20, 50, tasks) if tasks <= 10 * step and (step != 2 or tasks < 16))
    return sorted({1, *range(step, tasks + 1, step)})


def task_axis(axes: Axes, name: str, tasks: int) -> None:
    """Whole tasks from 1, with room for the markers at both ends."""
    axes.set_xticks(task_ticks(tasks))
    axes.set_xlim(1 - 0.03 * tasks, tasks * 1.015)
    axes.set_xlabel(name)


def log_axis(axes: Axes, values: Sequence[float]) -> None:
    """Logarithmic costs with ticks at 1, 2, 5, 10 ...; linear below the smallest positive one where some are zero."""
    positive = [value for value in values if value > 0]
    if not positive:
        return
    low, high = min(positive), max(positive)
    if len(positive) < len(values):
        axes.set_xscale("symlog", linthresh=low)
        ticks = [0.0]
    else:
        axes.set_xscale("log")
        axes.set_xlim(low / 1.6, high * 1.6)
        ticks = []
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if len(decades) < 5 else (1,)
    ticks += [
        step * 10.0**decade for decade in decades for step in steps if low / 1.6 <= step * 10.0**decade <= high * 1.6
    ]
    axes.set_xticks(ticks, [short(tick) for tick in ticks])
    axes.set_xticks([], minor=True)


def short(value: float) -> str:
    """A tick's number with k, M or G.

    >>> short(20000), short(0.5)
    ('20k', '0.5')
    """
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def label_ends(axes: Axes, rows: Sequence[Row], style: dict[str, Look], height: float) -> None:
    """Names beside the ends of the lines, moved apart, each with its marker and a thread to its line.

    height: of the axes in inches, about.
    """
    low, high = axes.get_ylim()
    ordered = sorted(rows, key=last, reverse=True)
    wanted = [(last(row) - low) / (high - low) for row in ordered]
    placed = spread(wanted, 0.155 / height)
    end = len(rows[0].runs[0].metrics["stages"])
    left, right = axes.get_xlim()
    beside: dict[str, Any] = {"transform": axes.transAxes, "clip_on": False}
    for row, at, to in zip(ordered, wanted, placed, strict=True):
        look = style[row.label]
        axes.plot([(end - left) / (right - left), 1.02], [at, to], color=look.colour, linewidth=0.5, **beside)
        axes.plot([1.025, 1.0575, 1.09], [to, to, to], markevery=[1], **look.drawing, **beside)
        axes.text(
            1.105, to, f"{row.label}  {last(row):.2f}", transform=axes.transAxes, va="center", fontsize=7.5,
            color=INK if look.highlighted else "#666666", style="italic" if is_reference(row) else "normal",
        )  # fmt: skip
    axes.set_xlim(left, right)
    axes.set_ylim(low, high)


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Places near the wanted ones (falling, 0 to 1), at least `gap` apart: what collides is centred on its mean.

    >>> spread([0.5, 0.5, 0.0], 0.25), spread([1.0, 1.0], 0.25)
    ([0.625, 0.375, 0.0], [1.0, 0.75])
    """
    groups: list[list[float]] = []
    for place in wanted:
        groups.append([place])
        while len(groups) > 1 and _bottom(groups[-2], gap) - _top(groups[-1], gap) < gap - 1e-12:
            groups[-2:] = [groups[-2] + groups[-1]]
    return [_top(group, gap) - i * gap for group in groups for i in range(len(group))]


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The (cost, score) points that no other beats in both: dearer ones stay only where they score higher.

    >>> pareto_front([(1, 50), (2, 40), (3, 60)])
    [(1, 50), (3, 60)]
    """
    front: list[tuple[float, float]] = []
    for cost, score in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or score > front[-1][1]:
            front.append((cost, score))
    return front


def _top(group: Sequence[float], gap: float) -> float:
    """Place of the first of a group that is centred on its mean but stays within 0 to 1."""
    length = gap * (len(group) - 1)
    return min(1.0, max(length, sum(group) / len(group) + length / 2))


def _bottom(group: Sequence[float], gap: float) -> float:
    return _top(group, gap) - gap * (len(group) - 1)


class Description(NamedTuple):
    """alt: what a figure shows, for those who cannot see it. reading: how to read it."""

    alt: str
    reading: str


DESCRIPTIONS = {
    "accuracy_against_tasks": Description(
        "Line chart: R@1 over all queries seen so far after every task, one line a method.",
        "Lines fall because the gallery grows with every task, and further where a method forgets.",
    ),
    "forgetting_heat_maps": Description(
        "Heat maps, one a method: R@1 on each task (columns) after each task (rows).",
        "Read a column downwards: what becomes of one task while others are learned.",
    ),
    "loss_split": Description(
        "Stacked bars, one a method: loss of old queries by gallery growth and by query drift, and staleness.",
        "A bar to the left of zero is a gain; the vertical mark is the sum.",
    ),
    "cross_task_confusion": Description(
        "Heat maps, one a method: task of the query (rows) and of the item at rank 1 (columns).",
        "Off the diagonal another task's item came first; a strong last column: the newest task does it.",
    ),
    "geometry_over_tasks": Description(
        "Line charts over tasks: modality gap, drifts of text and video, their disagreement, ETF errors.",
        "Drift: queries and items of earlier tasks since their task ended. Disagreement of 1: in unrelated ways.",
    ),
    "critical_difference": Description(
        "Critical-difference diagram: mean rank of every continual method over runs.",
        "Methods under one bar are not told apart by their ranks over runs on these test queries.",
    ),
    "cost_against_accuracy": Description(
        "Scatter plots: R@1 against training time and against trainable parameters.",
        "Up and to the left is better.",
    ),
}
