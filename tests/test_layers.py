"""Imports run downwards: between layers, between the wings of `bench`; each heavy library has one importing file."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ("features", "methods", "bench")
WINGS = (
    *(
        "leaves",
        "records",
        "evaluation",
        "run",
        "executors",
        "suite",
        "authoring",
        "analysis",
        "report",
        "audit",
        "gate",
        "api",
        "cli",
    ),
)
"""Of `bench`, from the lowest up; its leaves are the files beside its folders."""
OWNERS = {
    "h5py": {"features/hdf5.py"},
    "faiss": {"bench/evaluation/search.py"},
    "matplotlib": {"bench/report/canvas.py"},
    "pandas": {"bench/api/results.py"},
    "av": {"features/video.py"},
    "tensorboard": {"bench/report/loggers.py"},
    "wandb": {"bench/report/loggers.py"},
    "mlflow": {"bench/report/loggers.py"},
    "dask": {"bench/executors/cluster.py"},
    "distributed": {"bench/executors/cluster.py"},
    "optuna": {"bench/authoring/proposals.py"},
}
NUMPY_ONLY = ("bench/metrics.py", "bench/forgetting.py", "bench/geometry.py", "features/geometry.py")


@cache
def imports(path: Path) -> frozenset[str]:
    """Names of all absolute imports of a file, also those inside functions; not those for type checkers alone."""
    names = set[str]()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tree.body = [
        node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{path}: imports are written in full"
            assert node.level == 0, f"{path}: imports are written in full"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


@cache
def own_imports(path: Path) -> frozenset[Path]:
    """Files and folders of the repository that a file imports."""
    found = set[Path]()
    for name in imports(path):
        top, *rest = name.split(".")
        if top == "ctvr_bench":
            place = ROOT.joinpath(*rest)
            found.add(
                next(
                    p
                    for p in (place, place.with_suffix(".py"), place.parent, place.parent.with_suffix(".py"))
                    if p.exists()
                )
            )
    return frozenset(found)


def sources() -> list[Path]:
    return [path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))]


def wing(path: Path) -> str:
    parts = path.relative_to(ROOT / "bench").parts
    return "leaves" if parts and parts[0].endswith(".py") else parts[0]


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_only_its_own_layer_and_those_below(path: Path) -> None:
    layers = {name.split(".")[0] for name in imports(path)} & {*LAYERS}
    assert not layers, "the packages are called ctvr_bench.features, ctvr_bench.methods and ctvr_bench.bench"
    layer = LAYERS.index(path.relative_to(ROOT).parts[0])
    used = {place.relative_to(ROOT).parts[0] for place in own_imports(path) if place != ROOT}
    assert used <= set(LAYERS[: layer + 1])


@pytest.mark.parametrize(
    "path", [path for path in sources() if path.is_relative_to(ROOT / "bench")], ids=lambda p: str(p.relative_to(ROOT))
)
def test_a_file_imports_only_its_own_wing_and_those_below(path: Path) -> None:
    if path == ROOT / "bench/__init__.py":
        assert not imports(path)
        return
    used = {wing(place) for place in own_imports(path) if place.is_relative_to(ROOT / "bench")}
    assert used <= set(WINGS[: WINGS.index(wing(path)) + 1])


@pytest.mark.parametrize("name", WINGS[1:])
def test_a_wing_can_be_overlooked(name: str) -> None:
    files = sorted((ROOT / "bench" / name).rglob("*.py"))
    assert len([file for file in files if file.name != "__init__.py"]) <= 14
    assert sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files) <= 2500


def test_a_method_is_read_in_one_sitting() -> None:
    files = [path for path in (ROOT / "methods").glob("*.py") if path.name != "__init__.py"]
    lines = [len(path.read_text(encoding="utf-8").splitlines()) for path in files]
    assert max(lines) <= 200
    assert median(lines) <= 80


def test_every_folder_of_bench_is_a_wing() -> None:
    folders = {path.name for path in (ROOT / "bench").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == set(WINGS[1:])


@pytest.mark.parametrize("library", OWNERS)
def test_a_heavy_library_is_imported_in_one_place(library: str) -> None:
    users = {str(p.relative_to(ROOT)) for p in sources() if library in {name.split(".")[0] for name in imports(p)}}
    assert users <= OWNERS[library]


@pytest.mark.parametrize("name", NUMPY_ONLY)
def test_metric_files_need_numpy_only(name: str) -> None:
    standard = {"__future__", "collections", "typing", "dataclasses", "math"}
    assert {name.split(".")[0] for name in imports(ROOT / name)} - standard <= {"numpy"}


@pytest.mark.parametrize("layer", LAYERS)
def test_no_files_import_each_other_in_a_circle(layer: str) -> None:
    """Imports inside functions count; `importlib.import_module` is how a registry finds what it does not import."""
    below = {path: own_imports(path) - {path} for path in sorted((ROOT / layer).rglob("*.py"))}
    while leaves := [path for path, used in below.items() if not used & below.keys()]:
        for path in leaves:
            del below[path]
    assert not below, f"in a circle: {sorted(str(path.relative_to(ROOT)) for path in below)}"
