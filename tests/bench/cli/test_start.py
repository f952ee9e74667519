"""How the program begins and ends: terminals, disks that are full, names that nobody may take for markup."""

from __future__ import annotations

import errno
import io
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from ctvr_bench.bench.cli.console import SuiteBars, print_table
from ctvr_bench.bench.escaping import csv_text, markdown_lines, markdown_text
from ctvr_bench.bench.report.latex import latex_text
from ctvr_bench.bench.run.jobs import Progress
from ctvr_bench.bench.run.training import Epoch
from ctvr_bench.features.errors import one_line
from tests.commands import called

EVIL = "a[/red] [bold]b\x1b[31m\nc|d <script>*_`$x$\\input{y}"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_disk_that_takes_no_more_is_one_line(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def full(*_: object) -> None:
        raise OSError(number, "No room", "some/file")

    monkeypatch.setattr("ctvr_bench.bench.authoring.cards.print_methods", full)
    result = called("methods")
    assert result.returncode == 2
    assert result.stderr == "error: some/file: No room; make room there, or choose a writable folder\n"


def test_a_fault_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr("ctvr_bench.bench.authoring.cards.print_methods", broken)
    with pytest.raises(OSError, match="Bad file descriptor"):
        called("methods")


def test_a_terminal_that_is_not_utf8_gets_question_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    def arrows(*_: object) -> None:
        print("R@1 ↑")

    out = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr("ctvr_bench.bench.authoring.cards.print_methods", arrows)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "argv", ["run_benchmark.py", "methods"])
    from ctvr_bench.bench.cli.start import main

    with pytest.raises(SystemExit) as stop:
        main()
    out.flush()
    assert stop.value.code == 0
    assert out.buffer.getvalue() == b"R@1 ?\n"  # type: ignore[attr-defined]


def test_a_message_stays_on_one_line_and_moves_no_cursor(tmp_path: Path) -> None:
    result = called("features", "inspect", tmp_path / "x\x1b[31m\ny.h5")
    (line,) = result.stderr.splitlines()
    assert "\x1b" not in line
    assert r"x\x1b[31m\ny.h5" in line
    assert len(one_line("x" * 10**6)) < 2000


def test_the_console_shows_names_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.table import Table

    print_table(Table(), {"store": EVIL})
    shown = capsys.readouterr().out
    assert "[/red]" in shown
    assert "[bold]" in shown
    assert "\x1b[31m" not in shown


def test_progress_bars_take_no_label_for_markup() -> None:
    with SuiteBars(quiet=False) as progress:
        progress._live = True
        progress.watch(Progress(EVIL, 1, 2))
        console = Console(file=io.StringIO(), width=300)
        console.print(progress._bars.get_renderable())
    assert "a[/red] [bold]b" in console.file.getvalue()  # type: ignore[attr-defined]


def test_markdown_latex_and_spreadsheets_show_names_as_they_are() -> None:
    line = markdown_lines([[markdown_text(EVIL), "1"]])
    assert "\n" not in line
    assert line.replace("\\|", "").count("|") == 3
    assert "<script>" not in line.replace("\\<", "")
    for text in ("=1+1", "+1", "-x", "@a", "\tx"):
        assert csv_text(text) == f"'{text}"
    assert csv_text("finetune [lr=-1]") == "finetune [lr=-1]"
    shown = latex_text(EVIL)
    assert "\\input" not in shown
    assert "\n" not in shown


def test_time_left_is_told_by_runs_that_were_made_and_not_by_those_that_were_there(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([100.0, 110.0, 120.0])
    monkeypatch.setattr("ctvr_bench.bench.cli.console.time", SimpleNamespace(monotonic=lambda: next(clock)))
    config = SimpleNamespace(options={"order": 0}, seed=0)
    record: Any = SimpleNamespace(label="er", config=config, status="done")
    progress = SuiteBars(quiet=False)
    assert not progress._bars.tasks[0].visible
    for number in (1, 2):
        progress.finished(number, 5, record)
    progress.watch(Progress("er", 1, 2))
    progress.finished(3, 5, record)
    progress.finished(4, 5, record)
    assert [line.partition("done")[2] for line in capsys.readouterr().err.splitlines()] == [
        "",
        "",
        ", about 20 s left",
        ", about 10 s left",
    ]
    assert progress._bars.tasks[0].visible


def test_verbose_says_what_a_task_has_learned(capsys: pytest.CaptureFixture[str]) -> None:
    progress = SuiteBars(quiet=False, verbose=True)
    for epoch in (1, 2):
        progress.watch(Progress("lwf", 2, 3, Epoch(epoch, 2, 5, {"global": 0.5 / epoch, "distillation": 1.0})))
    progress.watch(Progress("lwf", 2, 3))
    progress.watch(Progress("zero_shot", 1, 3))
    SuiteBars(quiet=False).watch(Progress("lwf", 2, 3))
    said = capsys.readouterr().err.splitlines()
    assert said == ["lwf, task 2 of 3: 2 of 2 epochs, 5 steps in the last; global 0.2500, distillation 1.0000"]
