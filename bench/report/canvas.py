"""What figures are drawn on, and saved as; the only file that imports matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context, rcdefaults, rcParams
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path as Outline
from matplotlib.textpath import TextPath, text_to_path
from matplotlib.ticker import MaxNLocator
from PIL import Image

from ctvr_bench.bench.report.drawing import STYLE
from ctvr_bench.features.errors import InputError

__all__ = ["Axes", "Figure", "Numbers", "axes_of_pyplot", "round_numbers", "save", "save_drawing", "style", "widest"]
_KINDS = ("png", "pdf", "svg")


@contextmanager
def style() -> Iterator[None]:
    """The suite's settings on top of matplotlib's own, whatever the user's matplotlibrc says (LaTeX for one)."""
    with rc_context():
        rcdefaults()
        rcParams.update(STYLE)
        yield


def axes_of_pyplot() -> Axes:
    """Axes in a new figure of pyplot, which a notebook shows."""
    from matplotlib import pyplot

    return pyplot.figure(layout="constrained").add_subplot()


def save_drawing(draw: Callable[[Figure], None], file: Path) -> None:
    """Write what `draw` puts into an empty figure of the suite's style, as PNG, PDF or SVG by the file's ending.

    Raises InputError for another ending.
    """
    if (kind := file.suffix.lower().removeprefix(".")) not in _KINDS:
        raise InputError(f"{file}: a figure's name ends in .{', .'.join(_KINDS)}; choose one of them")
    with style():
        figure = Figure(layout="constrained")
        draw(figure)
    file.parent.mkdir(parents=True, exist_ok=True)
    save(figure, file, (kind,))


def save(figure: Figure, file: Path, kinds: Sequence[str]) -> None:
    """Write a figure as each of these kinds: png, pdf, svg. file: without an ending."""
    with style():
        if "png" in kinds:
            figure.set_dpi(150)
            canvas = FigureCanvasAgg(figure)
            canvas.draw()  # type: ignore[no-untyped-call]
            picture = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
            _paletted(picture[..., :3]).save(file.with_suffix(".png"))
            figure.set_layout_engine("none")  # the layout is done; a second pass would give the same
        if "pdf" in kinds:
            figure.savefig(file.with_suffix(".pdf"), metadata={"CreationDate": None})
        if "svg" in kinds:
            with rc_context({"svg.hashsalt": "ctvr"}):
                figure.savefig(file.with_suffix(".svg"), metadata={"Date": None})


def _paletted(picture_YX3: npt.NDArray[np.uint8]) -> Image.Image:
    """The picture in 256 colours, a third of its bytes: its commonest as they are, the others as the nearest of these.

    An eighth of the time of Pillow's quantize, and flat colours stay what they are.
    """
    packed_YX = picture_YX3.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    colour_C, count_C = np.unique(packed_YX, return_counts=True)
    colour_C3 = (colour_C[:, None] >> np.array([16, 8, 0], np.uint32) & 255).astype(np.float32)
    palette_P3 = colour_C3[np.argsort(-count_C, kind="stable")[:256]]
    nearest_C = ((palette_P3**2).sum(1) - 2 * colour_C3 @ palette_P3.T).argmin(1)
    place = np.zeros(1 << 24, np.uint8)
    place[colour_C] = nearest_C
    image = Image.fromarray(place[packed_YX], "P")
    image.putpalette(palette_P3.astype(np.uint8).tobytes())
    return image


def widest(texts: Sequence[str], size: float) -> float:
    """Inches of the widest of these texts, `size` points high, in the font of the figures."""
    prop = FontProperties(family=STYLE["font.family"], size=size)
    return max(float(text_to_path.get_text_width_height_descent(text, prop, False)[0]) for text in texts) / 72


def round_numbers(low: float, high: float) -> list[float]:
    """About seven round numbers from low to high, for the ticks of a scale."""
    found = MaxNLocator(7, steps=[1, 2, 5, 10]).tick_values(low, high)
    return [float(value) for value in found if low <= value <= high]


class Numbers:
    """Numbers as outlines of one artist: thousands of text artists take seconds to lay out and draw."""

    def __init__(self) -> None:
        self._outlines: list[Outline] = []
        self._places: list[tuple[float, float]] = []
        self._inks: list[str] = []

    def add(self, text: str, x: float, y: float, size: float, ink: str) -> None:
        """Put a number's middle there, `size` points high."""
        self._outlines.append(_outline(text, size))
        self._places.append((x, y))
        self._inks.append(ink)

    def draw(self, axes: Axes) -> None:
        """Draw all of them."""
        drawn = PathCollection(
            self._outlines, offsets=self._places, offset_transform=axes.transData, facecolors=self._inks,
            edgecolors="none",
        )  # fmt: skip
        drawn.set_transform(axes.figure.dpi_scale_trans)
        axes.add_collection(drawn, autolim=False)


@cache
def _outline(text: str, size: float) -> Outline:
    """A number's outline in inches around its middle, in the font of the figures."""
    path = TextPath((0, 0), text, size=size, prop=FontProperties(family=STYLE["font.family"]))
    drawn = path.vertices[path.codes != Outline.CLOSEPOLY]  # of a digit's curves the ends lie outermost
    middle = (drawn.min(0) + drawn.max(0)) / 2
    return Outline((path.vertices - middle) / 72, path.codes)
