"""Each line of SECURITY.md's threat table has tests, and they are there."""

from __future__ import annotations

import ast
import re

from tests.commands import ROOT


def named_tests(line: str) -> list[tuple[str, str]]:
    """File and function of each test that a line of the table names; '::x' alone is of the file before it."""
    found, file = [], ""
    for name in re.findall(r"`((?:tests/\S+)?(?:::\w+)?)`", line.rpartition("|")[0].rpartition("|")[2]):
        path, _, function = name.partition("::")
        file = path or file
        found.append((file, function))
    return [each for each in found if each != ("", "")]


def functions_of(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_every_threat_has_tests_that_are_there() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("| ")][1:]
    assert len(lines) > 10
    missing = [line[:60] for line in lines if not named_tests(line)]
    missing += [
        f"{file}::{function}"
        for line in lines
        for file, function in named_tests(line)
        if not (functions_of(file) if not function else function in functions_of(file))
    ]
    assert missing == []


def test_a_test_that_is_not_there_is_found() -> None:
    line = "| a | b | `tests/docs/test_security.py::test_of_nothing`, `::test_a_test_that_is_not_there_is_found` |"
    assert [function in functions_of(file) for file, function in named_tests(line)] == [False, True]
