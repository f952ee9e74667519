"""Exceptions cross from a worker process to the command: what is raised there must be the same here."""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import pickle
from collections.abc import Iterator

import pytest

from ctvr_bench.bench.cli.interrupt import Stopped
from ctvr_bench.features.clips import VideosMissing
from tests.commands import ROOT

VALUES = {"str": "a\nb", "int": 15, "dict[str, str]": {"a": "is cut off"}}
"""An argument of each type that a constructor asks for; a class that asks for another needs its line here."""


def _exceptions() -> Iterator[type[BaseException]]:
    """Every class of the package that derives from an exception, by what its source says."""
    bases: dict[tuple[str, str], set[str]] = {}
    for layer in ("features", "methods", "bench"):
        for path in sorted((ROOT / layer).rglob("*.py")):
            module = ".".join(("ctvr_bench", *path.relative_to(ROOT).with_suffix("").parts))
            for node in ast.walk(ast.parse(path.read_bytes())):
                if isinstance(node, ast.ClassDef):
                    bases[module, node.name] = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
    known = {name for name, kind in vars(builtins).items() if inspect.isclass(kind) and issubclass(kind, BaseException)}
    found: set[tuple[str, str]] = set()
    while more := {key for key, names in bases.items() if names & known and key not in found}:
        found |= more
        known |= {name for _, name in more}
    for module, name in sorted(found):
        yield getattr(importlib.import_module(module), name)


EXCEPTIONS = list(_exceptions())


def test_all_are_found() -> None:
    assert {VideosMissing, Stopped} < set(EXCEPTIONS)
    assert len(EXCEPTIONS) >= 9


@pytest.mark.parametrize("kind", EXCEPTIONS, ids=lambda kind: kind.__name__)
def test_an_exception_survives_the_way_between_processes(kind: type[BaseException]) -> None:
    asked = inspect.signature(kind.__init__).parameters if inspect.isfunction(kind.__init__) else {"message": None}
    error = kind(*(VALUES[each.annotation] if each else "a" for name, each in asked.items() if name != "self"))
    error.add_note("in worker 3")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert (str(again), again.args, vars(again)) == (str(error), error.args, vars(error))
