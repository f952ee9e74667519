"""Installed, everything is one package: nothing generic enters an environment, and nothing generic there shadows it."""

from __future__ import annotations

import fnmatch
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGE = ROOT / "src/ctvr_bench"


def python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(cwd), str(ROOT / "src")])}
    return subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True)


def test_the_package_holds_the_folders_of_the_repository_and_nothing_else() -> None:
    found = {path.name: path.resolve() for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert {name: path for name, path in found.items() if path.is_dir()} == {
        name: ROOT / name for name in ("bench", "features", "methods")
    }
    assert {name for name, path in found.items() if path.is_file()} == {"__init__.py", "py.typed"}
    assert {path.name for path in (ROOT / "src").iterdir() if path.suffix != ".egg-info"} == {"ctvr_bench"}


def test_every_folder_with_code_is_a_package() -> None:
    for folder in ("bench", "features", "methods"):
        for path in (ROOT / folder).rglob("*.py"):
            assert (path.parent / "__init__.py").is_file(), f"{path.parent} would be missing from the wheel"


def test_the_wheel_has_every_file_that_code_reads() -> None:
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["*"]
    for folder in ("bench", "features", "methods"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.suffix not in (".py", ".pyc"):
                packages = [parent for parent in path.parents if (parent / "__init__.py").is_file()]
                names = [str(path.relative_to(package)) for package in packages]
                assert any(fnmatch.fnmatch(name, pattern) for name in names for pattern in patterns), path


def test_names_that_are_installed_lead_into_the_package() -> None:
    assert PROJECT["tool"]["setuptools"]["packages"]["find"] == {"where": ["src"]}
    entries = [*PROJECT["project"]["scripts"].values(), *PROJECT["project"]["entry-points"]["pytest11"].values()]
    assert all(entry.startswith("ctvr_bench.") for entry in entries)


def test_a_users_own_packages_of_generic_names_shadow_nothing(tmp_path: Path) -> None:
    for name in ("bench", "features", "methods"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('not yours')\n")
    used = "import ctvr_bench.bench.gate.pytest_plugin, ctvr_bench.bench.cli.app, ctvr_bench.bench.suite.suite"
    done = python("-c", used, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_clone_runs_its_own_code_whatever_is_installed(tmp_path: Path) -> None:
    (tmp_path / "ctvr_bench").mkdir()
    (tmp_path / "ctvr_bench" / "__init__.py").write_text("raise RuntimeError('another version')\n")
    done = python(str(ROOT / "run_benchmark.py"), "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "check-method" in done.stdout


def test_every_dependency_and_extra_is_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    pins = {line.partition("==")[0].lower().replace("_", "-") for line in lines}
    project = PROJECT["project"]
    needed = [
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
    ]
    names = {re.split(r"[\[<>=!~; ]", requirement)[0].lower().replace("_", "-") for requirement in needed}
    assert names <= pins, f"without a pin: {sorted(names - pins)}"
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
