"""The list of planted faults fits the code: `make mutants` plants them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from ctvr_bench.methods.shared.registry import known_methods
from tests.mutants import ROOT, Mutant, MutantError, chosen, known_survivors, outcome, read_mutants

MUTANTS = read_mutants()
MEASURES = ("bench/metrics.py", "bench/forgetting.py", "bench/geometry.py")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_fault_can_be_planted_once_and_is_code(mutant: Mutant) -> None:
    ast.parse(mutant.planted((ROOT / mutant.file).read_text(encoding="utf-8")))
    assert all((ROOT / path).is_file() for path in mutant.tests)


def test_there_are_sixty_faults_of_different_names() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 60
    assert known_survivors().keys() <= {mutant.name for mutant in MUTANTS}


def test_every_method_has_a_fault() -> None:
    files = {f"methods/{entry.method.__module__.rsplit('.', 1)[1]}.py" for entry in known_methods().values()}
    assert files <= {mutant.file for mutant in MUTANTS}


@pytest.mark.parametrize("file", MEASURES)
def test_every_public_function_of_a_metrics_file_has_a_fault(file: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    functions = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    before = [mutant.before for mutant in MUTANTS if mutant.file == file]
    public = {node.name: ast.get_source_segment(text, node) or "" for node in functions if node.name[0] != "_"}
    assert public
    assert [name for name, source in public.items() if not any(snippet in source for snippet in before)] == []


def test_a_snippet_that_is_gone_or_there_twice_is_an_error() -> None:
    mutant = Mutant("a sign", "x.py", "a - b", "a + b", ("tests/x.py",))
    assert mutant.planted("c = a - b") == "c = a + b"
    for text in ("c = a + b", "c = a - b + a - b"):
        with pytest.raises(MutantError, match=r"a sign: its snippet stands [02] times in x.py"):
            mutant.planted(text)


def test_tests_that_see_a_fault_kill_it_and_leave_the_tree_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # starts in a tenth of the time
    (tmp_path / "pair.py").write_text("def minus(a, b):\n    return a - b\n")
    (tmp_path / "test_pair.py").write_text("import pair\n\ndef test_it():\n    assert pair.minus(3, 0) == 3\n")
    seen = Mutant("swapped", "pair.py", "a - b", "b - a", ("test_pair.py",))
    unseen = Mutant("sign", "pair.py", "a - b", "a + b", ("test_pair.py",))
    assert outcome(tmp_path, seen, seen.tests, 60) == "killed"
    assert outcome(tmp_path, unseen, unseen.tests, 60) == "survived"
    assert (tmp_path / "pair.py").read_text() == "def minus(a, b):\n    return a - b\n"
    with pytest.raises(MutantError, match="ended with status 4"):
        outcome(tmp_path, seen, ("nowhere.py::x",), 60)


def test_faults_are_chosen_by_a_part_of_their_name_or_file() -> None:
    assert {mutant.file for mutant in chosen(MUTANTS, ["methods/ewc", "si: "])} == {"methods/ewc.py", "methods/si.py"}
    assert chosen(MUTANTS, []) == MUTANTS
