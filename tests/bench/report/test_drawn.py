from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from ctvr_bench.bench.records.aggregate import read_results
from ctvr_bench.bench.report import drawn, plots
from ctvr_bench.bench.report.drawn import figures_of
from tests.bench.fake_suite import write_suite


@pytest.mark.parametrize("what", ["nothing", "a figure", "a figure's PDF", "the note", "a run's metrics", "the code"])
def test_figures_are_drawn_again_where_something_they_show_changed(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawings = 0

    def draw(results: object, folder: Path, kinds: Sequence[str]) -> dict[str, Path]:
        nonlocal drawings
        drawings += 1
        folder.mkdir(exist_ok=True)
        for kind in kinds:
            (folder / f"curves.{kind}").write_text("drawn")
        return {"curves": folder / "curves.png"}

    monkeypatch.setattr(plots, "save_figures", draw)
    suite = write_suite(tmp_path / "suite", seeds=1)
    folder = tmp_path / "figures"
    first = figures_of(read_results(suite), folder)
    assert first == {"curves": folder / "curves.png"}
    changes: dict[str, Callable[[], object]] = {
        "nothing": lambda: None,
        "a figure": lambda: (folder / "curves.png").write_text("scribbled"),
        "a figure's PDF": (folder / "curves.pdf").unlink,
        "the note": lambda: (folder / "drawn.json").write_text("[]"),
        "a run's metrics": lambda: _append_space(next(suite.glob("*/metrics.json"))),
        "the code": lambda: monkeypatch.setattr(drawn, "_CODE", Path(__file__).parent),
    }
    changes[what]()
    assert figures_of(read_results(suite), folder) == first
    assert drawings == (1 if what == "nothing" else 2)
    assert (folder / "curves.png").read_text() == "drawn"


def test_pdfs_are_drawn_where_they_are_asked_for_and_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds_drawn = []

    def draw(results: object, folder: Path, kinds: Sequence[str]) -> dict[str, Path]:
        kinds_drawn.append(kinds)
        folder.mkdir(exist_ok=True)
        for kind in kinds:
            (folder / f"curves.{kind}").write_text(str(len(kinds_drawn)))
        return {"curves": folder / "curves.png"}

    monkeypatch.setattr(plots, "save_figures", draw)
    suite, folder = write_suite(tmp_path / "suite", ["lwf"], seeds=1), tmp_path / "figures"
    for pdf in (False, False, True, False):
        figures_of(read_results(suite), folder, pdf=pdf)
    assert kinds_drawn == [("png",), ("png", "pdf")]
    _append_space(next(suite.glob("*/metrics.json")))
    figures_of(read_results(suite), folder, pdf=False)
    assert (folder / "curves.pdf").read_text() == "3"  # none is left that shows what was


def _append_space(path: Path) -> None:
    path.write_text(path.read_text() + " ")
