"""A notebook's cells run inside this process, as a kernel runs them, and what they print beside what is kept in it."""

from __future__ import annotations

import ast
import io
import json
import linecache
import sys
import types
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any


def code_cells(path: Path) -> list[dict[str, Any]]:
    """The code cells of a notebook file, in order."""
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def kept(cell: dict[str, Any]) -> str:
    """What the cell showed when the notebook was last executed: text alone, figures and tables in HTML left out."""
    texts = (out["text"] if out["output_type"] == "stream" else _plain(out) for out in cell["outputs"])
    return "".join(_joined(text) for text in texts).strip()


def shown(cells: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What each cell shows now, and all names after it; its text lies where classes look for their source."""
    module = types.ModuleType("a_tutorial")
    sys.modules[module.__name__] = module
    files = []
    try:
        for number, cell in enumerate(cells, start=1):
            source, file = _joined(cell["source"]), f"/tmp/ipykernel_2/{number}.py"
            linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
            files.append(file)
            yield _run(source, file, vars(module)).strip(), vars(module)
    finally:
        del sys.modules[module.__name__]
        for file in files:
            linecache.cache.pop(file, None)


def _run(source: str, file: str, names: dict[str, Any]) -> str:
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(compile(tree, file, "exec", dont_inherit=True), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), file, "eval", dont_inherit=True), names)
            if value is not None:
                print(repr(value))
    return printed.getvalue()


def _plain(out: dict[str, Any]) -> str:
    return "" if out["output_type"] == "display_data" else _joined(out["data"]["text/plain"])


def _joined(text: str | list[str]) -> str:
    return text if isinstance(text, str) else "".join(text)
