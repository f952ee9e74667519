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
    folder.mkdir()
    (folder / "curves.pdf").write_text("of an earlier report")
    first = figures_of(read_results(suite), folder)
    assert first == {"curves": folder / "curves.png"}
    changes: dict[str, Callable[[], object]] = {
        "nothing": lambda: None,
        "a figure": lambda: (folder / "curves.png").write_text("scribbled"),
        "a figure's PDF": lambda: (folder / "curves.pdf").write_text("scribbled"),
        "the note": lambda: (folder / "drawn.json").write_text("[]"),
        "a run's metrics": lambda: _append_space(next(suite.glob("*/metrics.json"))),
        "the code": lambda: monkeypatch.setattr(drawn, "_CODE", Path(__file__).parent),
    }
    changes[what]()
    assert figures_of(read_results(suite), folder) == first
    assert drawings == (1 if what == "nothing" else 2)
    assert (folder / "curves.png").read_text() == "drawn"


def test_pdfs_are_drawn_where_there_are_some_so_that_none_shows_what_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds_drawn = []

    def draw(results: object, folder: Path, kinds: Sequence[str]) -> dict[str, Path]:
        kinds_drawn.append(kinds)
        folder.mkdir(exist_ok=True)
        for kind in kinds:
            (folder / f"curves.{kind}").write_text(str(len(kinds_drawn)))
        return {"curves": folder / "curves.png"}

    monkeypatch.setattr(plots, "save_figures", draw)
    suite, folder = write_suite(tmp_path / "suite", ["lwf"], seeds=1), tmp_path / "figures"
    for _ in range(2):
        figures_of(read_results(suite), folder)
    (folder / "curves.pdf").write_text("of --format pdf")
    for _ in range(2):
        figures_of(read_results(suite), folder)
    assert kinds_drawn == [("png",), ("png", "pdf")]
    _append_space(next(suite.glob("*/metrics.json")))
    figures_of(read_results(suite), folder)
    assert (folder / "curves.pdf").read_text() == "3"


def _append_space(path: Path) -> None:
    path.write_text(path.read_text() + " ")
