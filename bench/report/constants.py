"""How a method's score depends on each of its constants, from the evidence of a search. Needs no matplotlib itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ctvr_bench.bench.report.drawing import COLOURS, GREY, INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH, _HEIGHT = 2.6, 2.5  # inches of a panel
_COLUMNS = 4
_NEIGHBOURS = 8  # pieces of a range, in each of which the line takes the best trial


def draw_constants(figure: Figure, evidence: Mapping[str, Any]) -> None:
    """A panel for each constant: every trial's difference from the default, on the stores and seeds that it has.

    Filled: made on every store. Hollow: stopped after the first. The line joins the best trials of neighbouring values:
    the other constants differ too, so that what lies below it may be their fault.
    """
    fields: Mapping[str, Any] = evidence["fields"]
    columns = min(_COLUMNS, len(fields))
    lines = math.ceil(len(fields) / columns)
    figure.set_size_inches(max(4.2, _WIDTH * columns + 0.4), _HEIGHT * lines + 0.9)
    panels = figure.subplots(lines, columns, squeeze=False, sharey=True).flat
    for axes, (field, said) in zip(panels, fields.items(), strict=False):
        _draw(axes, evidence, field, said)
    for axes in list(panels)[len(fields) :]:
        axes.set_axis_off()
    queries = ", ".join(f"{store['name']} ({store['queries']} queries)" for store in evidence["stores"])
    figure.suptitle(f"{evidence['method']}: score against each constant", x=0.01, ha="left", fontweight="bold")
    figure.supylabel("R@1 against the default (points)", fontsize=8)
    figure.supxlabel(
        f"validation queries; {queries}; seeds {', '.join(map(str, evidence['seeds']))}; "
        "hollow: on the first store only; cross: chosen; square: default",
        x=0.01, ha="left", fontsize=6.5, color="#444444", wrap=True,
    )  # fmt: skip


def _draw(axes: Axes, evidence: Mapping[str, Any], field: str, said: Mapping[str, Any]) -> None:
    made = [each for each in evidence["candidates"] if each["against_default"] is not None]
    if "values" in said:
        names = [str(value) for value in said["values"]]
        places = [(float(names.index(str(e["values"][field]))), e) for e in made if str(e["values"][field]) in names]
        axes.set_xticks(range(len(names)), names)
        axes.set_xlim(-0.5, len(names) - 0.5)
    else:
        places = [(float(e["values"][field]), e) for e in made if e["values"][field] is not None]
        axes.set_xscale(said["scale"])
    stores = len(evidence["stores"])
    for value, each in places:
        whole = len(each["scores"]) == stores
        axes.plot([value], [each["against_default"]], "o", color=COLOURS[0] if whole else GREY,
                  markerfacecolor=COLOURS[0] if whole else "none", markersize=4)  # fmt: skip
    best = best_of_neighbours(
        [(value, e["against_default"]) for value, e in places if len(e["scores"]) == stores], said
    )
    axes.plot([value for value, _ in best], [score for _, score in best], "-", color=COLOURS[0], linewidth=0.9)
    for values, marker, colour in ((evidence["default"], "s", INK), (evidence["chosen"], "x", COLOURS[1])):
        for value, each in places:
            if each["values"] == values:
                axes.plot(
                    [value], [each["against_default"]], marker, color=colour, markersize=9, markerfacecolor="none"
                )
    axes.axhline(0, color=GREY, linewidth=0.8, zorder=0)
    axes.set_title(f"{field}: {said['where']}")


def best_of_neighbours(points: list[tuple[float, float]], said: Mapping[str, Any]) -> list[tuple[float, float]]:
    """The best trial in each piece of a range, or of each value of a switch, from left to right.

    >>> best_of_neighbours([(1, 5.0), (1, 7.0), (10, 2.0)], {"low": 1, "high": 10, "scale": "linear"})
    [(1, 7.0), (10, 2.0)]
    """

    def piece(value: float) -> int:
        if "values" in said:
            return int(value)
        scaled = math.log if said["scale"] == "log" else float
        low, high = scaled(said["low"]), scaled(said["high"])
        return min(_NEIGHBOURS - 1, int(_NEIGHBOURS * (scaled(value) - low) / (high - low)))

    best: dict[int, tuple[float, float]] = {}
    for point in points:
        key = piece(point[0])
        if key not in best or point[1] > best[key][1]:
            best[key] = point
    return sorted(best.values())
