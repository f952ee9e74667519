"""Digests of source files by what they say: comments, docstrings, layout and the words of a card do not count.

Nor does where `tune` searches a field, which stands beside it.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

DERIVES_METRICS = ("bench/forgetting.py", "bench/metrics.py", "bench/records/summary.py")
"""What makes metrics of ranks. It names no run: metrics that other code derived are derived again."""
_NO_NUMBERS = {"methods/__init__.py", "methods/shared/__init__.py", "methods/shared/registry.py"}
_CARD = {"paper", "idea", "fidelity", "deviations"}
"""Attributes of a method's class that only describe it."""
_SEARCHED = {"Search", "Among"}
"""What in an annotation says where a field is searched."""
_ROOT = Path(__file__).resolve().parents[2]


def digests_of(paths: Iterable[str]) -> dict[str, str]:
    """Digest of each of these files and of what they import of `methods/`, by path in the repository, sorted."""
    found: dict[str, str] = {}
    waiting = list(paths)
    while waiting:
        path = waiting.pop()
        if path not in found and path not in _NO_NUMBERS:
            state = (_ROOT / path).stat()
            found[path], imported = _read(path, state.st_mtime_ns, state.st_size)
            waiting += imported
    return dict(sorted(found.items()))


def digest_of_code(files: Mapping[str, str]) -> str:
    """One digest of all of them."""
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def metrics_code() -> str:
    """Digest of the code that derives metrics now."""
    return digest_of_code(digests_of(DERIVES_METRICS))[:16]


def digest_of_source(source: bytes) -> str:
    """Digest of what a file says; of its bytes where that is no Python."""
    try:
        return hashlib.sha256(repr(_meaning(ast.parse(source))).encode()).hexdigest()
    except (SyntaxError, ValueError, RecursionError):
        return hashlib.sha256(source).hexdigest()


def imported_methods(source: bytes) -> list[str]:
    """Files of `methods/` that a file imports, wherever in it."""
    return list(_imported(ast.parse(source)))


@cache
def _read(path: str, modified: int, size: int) -> tuple[str, tuple[str, ...]]:
    """Digest of a file in this state, and the files of `methods/` that it imports."""
    source = (_ROOT / path).read_bytes()
    try:
        tree = ast.parse(source)
    except SyntaxError:  # is being edited
        return hashlib.sha256(source).hexdigest()[:16], ()
    return hashlib.sha256(repr(_meaning(tree)).encode()).hexdigest()[:16], tuple(_imported(tree))


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in _statements(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            path = name.removeprefix("ctvr_bench.").replace(".", "/") + ".py"
            if name.startswith("ctvr_bench.methods.") and (_ROOT / path).is_file():
                yield path


def _statements(tree: ast.Module) -> Iterator[ast.stmt]:
    """Every statement, in any other; expressions, which are most of a tree, are not looked into."""
    waiting: list[Any] = [tree]
    while waiting:
        node = waiting.pop()
        for name in ("body", "orelse", "finalbody", "handlers", "cases"):
            inner = getattr(node, name, ())
            if isinstance(inner, list):
                waiting += inner
        if isinstance(node, ast.stmt):
            yield node


def _meaning(node: Any) -> Any:
    """A syntax tree as nested tuples, without places, docstrings, and what is empty."""
    if isinstance(node, ast.Subscript) and (held := _without_search(node)) is not node:
        return _meaning(held)
    if isinstance(node, ast.AST):
        said: list[Any] = [type(node).__name__]
        for name in node._fields:
            value = getattr(node, name, None)
            if value is not None and value != [] and name not in ("kind", "type_comment"):
                said.append((name, _meaning(value)))
        return tuple(said)
    if isinstance(node, list):
        return tuple(_meaning(each) for each in node if not _only_describes(each))
    return node


def _without_search(node: ast.Subscript) -> ast.expr:
    """`Annotated[T, ...]` without where T is searched; T alone if that was all. Any other node as it is."""
    if not (isinstance(node.value, ast.Name) and node.value.id == "Annotated" and isinstance(node.slice, ast.Tuple)):
        return node
    parts = [part for part in node.slice.elts if not _says_where(part)]
    if len(parts) == len(node.slice.elts):
        return node
    return parts[0] if len(parts) == 1 else ast.Subscript(node.value, ast.Tuple(parts, ast.Load()), node.ctx)


def _says_where(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _SEARCHED


def _only_describes(node: Any) -> bool:
    """A string that stands alone, or a line of a method's card."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant | ast.BinOp | ast.JoinedStr):
        return all(isinstance(target, ast.Name) and target.id in _CARD for target in node.targets)
    return False
