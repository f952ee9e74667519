"""The arrows between layers never run back, and each heavy library has one importing file."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = {"features": {"features"}, "methods": {"features", "methods"}, "bench": {"features", "methods", "bench"}}
OWNERS = {
    "h5py": {"features/hdf5.py"},
    "faiss": {"bench/search.py"},
    "matplotlib": {"bench/plots.py"},
    "av": {"features/video.py"},
    "tensorboard": {"bench/tensorboard.py"},
}
NUMPY_ONLY = ("bench/metrics.py", "bench/forgetting.py", "bench/geometry.py")


def imports(path: Path) -> set[str]:
    """Names of all absolute imports of a file, also those inside functions; not those for type checkers alone."""
    names = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tree.body = [
        node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def sources() -> list[Path]:
    return [path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))]


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_only_its_own_layer_and_those_below(path: Path) -> None:
    layer = path.relative_to(ROOT).parts[0]
    used = {name.split(".")[0] for name in imports(path)} & set(LAYERS)
    assert used <= LAYERS[layer]


@pytest.mark.parametrize("library", OWNERS)
def test_a_heavy_library_is_imported_in_one_place(library: str) -> None:
    users = {str(p.relative_to(ROOT)) for p in sources() if library in {name.split(".")[0] for name in imports(p)}}
    assert users <= OWNERS[library]


@pytest.mark.parametrize("name", NUMPY_ONLY)
def test_metric_files_need_numpy_only(name: str) -> None:
    standard = {"__future__", "collections.abc", "typing", "dataclasses", "math"}
    assert imports(ROOT / name) - standard <= {"numpy", "numpy.typing"}
