"""What `new-method` writes runs as it is, and `check-method` tells what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctvr_bench.bench.authoring.scaffold import write_method
from ctvr_bench.bench.suite.plugins import find_method
from ctvr_bench.features.errors import InputError
from tests.commands import ROOT, called, python
from tests.stores import small_store


def test_both_files_run_at_once(tmp_path: Path) -> None:
    method, test = write_method("my_method", tmp_path / "new")
    assert find_method(f"{method}:MyMethod").name == "my_method"
    result = python(tmp_path, "-m", "pytest", "-q", "--assert=plain", "-p", "no:cacheprovider", test)
    assert result.returncode == 0, result.stdout
    assert "2 passed" in result.stdout
    for linter in (("check", "--ignore", "D103,I001"), ("format", "--check")):
        result = python(ROOT, "-m", "ruff", *linter, method, test)
        assert result.returncode == 0, result.stdout


def test_from_new_method_to_a_row_in_the_table(tmp_path: Path, no_figures: None) -> None:
    assert called("new-method", "tilt", cwd=tmp_path).returncode == 0
    named = ("--methods", "tilt.py:Tilt[epochs=1]", "--set", "tilt.weight=2")
    result = called("run", "--store", small_store().path, *named, "--seeds", 2, "--jobs", 1, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "tilt [epochs=1, weight=2.0]" in " ".join(result.stdout.split())
    card = called("methods", "tilt.py", cwd=tmp_path)
    assert "weight = 1.0" in card.stdout
    assert "weight: of the term that keeps captions near their frozen features." in card.stdout


def test_check_method_says_what_is_wrong(tmp_path: Path) -> None:
    method, _ = write_method("tilt", tmp_path)
    text = method.read_text()
    sound = called("check-method", "tilt.py", "--set", "weight=0", cwd=tmp_path)
    assert sound.returncode == 0, sound.stdout
    assert sound.stdout.endswith("tilt keeps the contract\n")
    method.write_text(text.replace("moved_N.mean()", "moved_N.var() / 0"))
    broken = called("check-method", "tilt.py", cwd=tmp_path)
    assert broken.returncode == 1
    assert "Traceback" not in broken.stderr
    assert "FAULT loss and gradients are finite" in broken.stdout
    assert "lower the lr" in broken.stdout


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    method, test = write_method("tilt", tmp_path)
    method.unlink()
    test.write_text("mine")
    with pytest.raises(InputError, match="is there already"):
        write_method("tilt", tmp_path)
    assert test.read_text() == "mine"
    assert not method.exists()


@pytest.mark.parametrize(
    ("name", "folder", "words"),
    [("My-Method", ".", "lower-case"), ("lwf", ".", "called 'lwf' already"), ("new", ROOT / "methods", "suite's own")],
)
def test_names_and_folders_that_cannot_be_are_refused(name: str, folder: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        write_method(name, tmp_path / folder)
    assert list(tmp_path.iterdir()) == []


def test_the_same_command_writes_what_a_cut_off_one_had_not_yet(tmp_path: Path) -> None:
    method, test = write_method("tilt", tmp_path)
    written = test.read_text()
    test.unlink()
    assert write_method("tilt", tmp_path) == (method, test)
    assert test.read_text() == written
