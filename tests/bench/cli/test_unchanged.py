"""A command that was given before says what it said, unless something that it was made from has changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ctvr_bench.bench.cli import unchanged
from ctvr_bench.bench.suite import suite
from ctvr_bench.bench.suite.config import SuiteConfig
from ctvr_bench.features.errors import InputError
from tests.commands import called
from tests.stores import small_store

METHOD = """
from ctvr_bench.methods.zero_shot import ZeroShot

class Mine(ZeroShot):
    name = "mine"
"""
RUN = ("run", "--suite", "s.toml", "--jobs", 1, "--out", "o")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite of two methods whose report has been written, in a folder with all that it was made from."""
    folder = tmp_path_factory.mktemp("unchanged")
    shutil.copy(small_store().path, folder / "store.h5")
    (folder / "mine.py").write_text(METHOD)
    (folder / "tuned.toml").write_text("")
    (folder / "s.toml").write_text(
        "stores = ['store.h5']\nmethods = ['zero_shot', 'mine.py']\ntuned = 'tuned.toml'\nagainst = 'mine'\n"
    )
    return folder


@pytest.fixture(scope="module")
def first(folder: Path, figures_once: None) -> str:
    result = called(*RUN, cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "[2/2] mine (order 0, seed 0): done" in result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def figures_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ctvr_bench.bench.report.plots.save_figures", lambda *_: {})
        yield


@pytest.fixture
def no_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise InputError("asked anew")

    monkeypatch.setattr(suite, "run_suite", refuse)


def test_the_same_command_says_the_same(folder: Path, first: str, no_runs: None) -> None:
    again = called(*RUN, cwd=folder)
    assert (again.returncode, again.stdout) == (0, first)
    assert "mine" in first
    assert first.count("- ") > 1
    assert "all 2 runs are there, and nothing has changed" in again.stderr
    assert "report: o/s/report/index.html" in again.stderr
    assert "differences: o/s/differences.md" in again.stderr


@contextmanager
def other_bytes(path: Path) -> Iterator[None]:
    before = path.read_bytes()
    path.write_bytes(before + b"\n")
    yield
    path.write_bytes(before)


@contextmanager
def gone(path: Path) -> Iterator[None]:
    before = path.read_bytes()
    path.unlink()
    yield
    path.write_bytes(before)


@contextmanager
def another(path: Path) -> Iterator[None]:
    path.write_text("{}")
    yield
    path.unlink()


@contextmanager
def another_letter(path: Path) -> Iterator[None]:
    before = path.read_text()
    assert "R@1" in before
    path.write_text(before.replace("R@1", "R@7"))
    yield
    path.write_text(before)


CHANGES = {
    "the suite file": ("s.toml", other_bytes),
    "the tuned values": ("tuned.toml", other_bytes),
    "the method's file": ("mine.py", other_bytes),
    "the store": ("store.h5", other_bytes),
    "a record": ("o/s/mine-*/run.json", other_bytes),
    "ranks": ("o/s/mine-*/ranks.h5", other_bytes),
    "metrics": ("o/s/zero_shot-*/metrics.json", gone),
    "the last suite": ("o/s/suite.json", other_bytes),
    "the page": ("o/s/report/index.html", other_bytes),
    "a table": ("o/s/report/table.tex", gone),
    "the differences": ("o/s/differences.csv", gone),
    "the note": ("o/s/said.json", gone),
    "a letter of what the note says": ("o/s/said.json", another_letter),
}


def test_what_changed_is_seen(folder: Path, first: str, no_runs: None) -> None:
    for what, (pattern, change) in CHANGES.items():
        (path,) = folder.glob(pattern)
        with change(path):
            assert "asked anew" in called(*RUN, cwd=folder).stderr, what
    assert called(*RUN, cwd=folder).stdout == first  # everything is back as it was


@contextmanager
def forged(path: Path, **values: object) -> Iterator[None]:
    """A note with other values and the digest that they have, as of one who means it."""
    before = path.read_text()
    note = {**json.loads(before), **values}
    note.pop("digest")
    path.write_text(json.dumps({**note, "digest": unchanged._digest_of_note(note)}))
    yield
    path.write_text(before)


def test_what_a_note_says_moves_no_cursor(folder: Path, first: str, no_runs: None) -> None:
    evil = "\x1b]0;title\x07\x1b[2Ja\r\u202eb\ud800\n\x1b[1mbold\x1b[0m\n"
    with forged(folder / "o/s/said.json", said=[["out", evil], ["err", "\x1b[1A"]]):
        again = called(*RUN, cwd=folder)
    assert again.stdout == "\\x1b]0;title\\x07\\x1b[2Ja\\r\\u202eb\\ud800\n\x1b[1mbold\x1b[0m\n"
    assert again.stderr.endswith("\\x1b[1A")
    with forged(folder / "o/s/said.json", runs=float("inf")):
        assert "asked anew" in called(*RUN, cwd=folder).stderr


@pytest.mark.parametrize("what", ["an option", "the screen", "the code", "another suite of the folder", "verbose"])
def test_other_ways_to_ask_are_seen(
    what: str, folder: Path, first: str, no_runs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Callable[[], object]] = {
        "the screen": lambda: monkeypatch.setenv("COLUMNS", "133"),
        "the code": lambda: monkeypatch.setattr(unchanged, "_LAYERS", ("features",)),
    }
    changes.get(what, lambda: None)()
    more = {"an option": ("--seeds", 2), "verbose": ("--verbose",)}.get(what, ())
    with another(folder / ("o/s/suites/00000000.json" if what.startswith("another") else "unrelated.json")):
        assert "asked anew" in called(*RUN, *more, cwd=folder).stderr


def test_nothing_is_kept_of_methods_whose_files_are_not_known(
    folder: Path, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = unchanged.Said({}, folder / "elsewhere")
    monkeypatch.setattr("ctvr_bench.methods.shared.registry.known_methods", dict)
    said.made_from_suite(SuiteConfig(store=folder / "store.h5", methods=["zero_shot"]), None)  # type: ignore[arg-type]
    said.keep([])
    assert not (folder / "elsewhere").exists()
