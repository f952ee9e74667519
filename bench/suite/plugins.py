"""Methods by what a user may write: a registered name, a file and its class, or an installed package's entry point.

    lwf      my_method.py:MyMethod      my_method.py (if it defines one)      a name of the group ctvr_bench.methods

or by its class, wherever that was written (`known_as`).
A method from outside carries a digest of its code, so that a run made with an earlier version is never taken for one of
the present version.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import inspect
import os
import pickle
import random
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from ctvr_bench.bench.records.code import digest_of_source
from ctvr_bench.bench.suite.classes import source_of_class
from ctvr_bench.features.errors import InputError, unknown_name
from ctvr_bench.features.whole import read_whole
from ctvr_bench.methods.shared.base import Method, MethodConfig
from ctvr_bench.methods.shared.registry import Entry, apart, known_methods

GROUP = "ctvr_bench.methods"
_FILE = re.compile(r"(?P<path>.+\.py)(?::(?P<name>\w*))?", re.DOTALL)
_GENERATORS: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "random": (random.getstate, random.setstate),
    "numpy": (np.random.get_state, np.random.set_state),
    "torch": (
        lambda: torch.get_rng_state().tolist(),
        lambda state: torch.set_rng_state(torch.tensor(state, dtype=torch.uint8)),
    ),
}
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_GIVEN: dict[str, Entry] = {}
"""Classes that were handed over, by the name that `known_as` gave them."""


def names_a_file(name: str) -> bool:
    """Whether a method is named by its file.

    >>> names_a_file("work/my_method.py:MyMethod"), names_a_file("lwf")
    (True, False)
    """
    return _FILE.fullmatch(name) is not None


def file_named(name: str) -> Path | None:
    """The file that names a method; None where it is named otherwise."""
    return Path(match["path"]) if (match := _FILE.fullmatch(name)) else None


def find_method(name: str) -> Entry:
    """The method that a user names. Raises InputError with the nearest known name, or what is wrong in the file."""
    if match := _FILE.fullmatch(name):
        return method_of_file(Path(match["path"]), match["name"] or None)
    if name in _GIVEN:
        return _GIVEN[name]
    known = known_methods()
    if name in known:
        return known[name]
    points = _entry_points()
    if name in points:
        return _installed(points[name])
    raise unknown_name("method", name, {*known, *points})


def known_as(method: type[Method], *, plainly: bool = False) -> str:
    """The name under which `find_method` finds a class from now on, in this process.

    That of a method of the suite is its own. Any other is read as if it stood in a file, with what it uses of its
    module (bench.suite.classes), and is known by its name and digest, with `plainly` by its name alone as well. Raises
    InputError where its source cannot be had, or breaks the rules of a method's file.
    """
    if not (isinstance(method, type) and issubclass(method, Method)):
        raise InputError(f"a method is a class that inherits methods.shared.base.Method; got {method!r}")
    for name, entry in known_methods().items():
        if entry.method is method and not entry.preset:
            return name
    module = sys.modules.get(method.__module__)
    path = getattr(module, "__file__", None)
    if path and method.__module__ != "__main__" and "." not in method.__module__:
        entry = method_of_file(Path(path), method.__name__)
    else:
        entry = _load(f"<{method.__module__}>", source_of_class(method).encode(), method.__name__)
    name = f"{entry.name}@{entry.code[:12]}"
    _GIVEN.update({name: entry, entry.name: entry} if plainly else {name: entry})
    return name


def file_of(entry: Entry) -> tuple[bytes, str] | None:
    """Source and class name of a method that is one file from outside; None of any other."""
    return (entry.source, entry.method.__name__) if isinstance(entry, _FileEntry) else None


def sources_of(entry: Entry) -> list[bytes]:
    """The files of a method from outside; none for one of the suite's own."""
    if isinstance(entry, _FileEntry):
        return [entry.source]
    return [file.read_bytes() for _, file in _package_files(entry.method)] if entry.code else []


def all_methods() -> dict[str, Entry]:
    """Every registered name and every entry point, sorted."""
    installed = {name: _installed(point) for name, point in _entry_points().items()}
    return dict(sorted({**installed, **known_methods()}.items()))


def method_of_file(path: Path, class_name: str | None = None) -> Entry:
    """The method that a file defines; class_name may be left out where it defines one. Raises InputError."""
    try:
        source = read_whole(path)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read ({getattr(error, 'strerror', error)}); --methods takes FILE.py:CLASS"
        ) from error
    for entry in known_methods().values():
        mine = not entry.preset and class_name in (None, entry.method.__name__)
        if mine and Path(inspect.getfile(entry.method)).resolve() == path.resolve():
            return entry
    return _load(str(path), source, class_name)


@dataclasses.dataclass(frozen=True)
class _FileEntry(Entry):
    """A method of a file. A worker process gets the source text, so that it runs what was planned."""

    path: str = ""
    source: bytes = b""

    @property
    def written_as(self) -> str:
        return f"{self.path}:{self.method.__name__}"

    def __reduce__(self) -> tuple[Any, ...]:
        return _load, (self.path, self.source, self.method.__name__)


def _load(path: str, source: bytes, class_name: str | None) -> Entry:
    module_name = f"ctvr_file_{Path(path).stem}_{hashlib.sha256(source).hexdigest()[:12]}"
    module = sys.modules.get(module_name) or _execute(path, source, module_name)
    found = {name: value for name, value in vars(module).items() if _is_method_of(value, module)}
    if not found:
        raise InputError(
            f"{path}: defines no method; write a class that inherits methods.shared.base.Method (see 'new-method')"
        )
    if class_name is None and len(found) > 1:
        raise InputError(f"{path}: defines several methods; name one of {', '.join(sorted(found))} as {path}:CLASS")
    if class_name is not None and class_name not in found:
        raise unknown_name(f"method class in {path}:", class_name, found)
    method = found[class_name or next(iter(found))]
    _check_class(method, f"{path}:{method.__name__}")
    return _FileEntry(method.name, method, {}, digest_of_source(source), path, source)


def _execute(path: str, source: bytes, module_name: str) -> ModuleType:
    spec = importlib.util.spec_from_loader(module_name, loader=None, origin=path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    module.__file__ = path
    sys.modules[module_name] = module
    try:
        with apart(), _untouched(path):
            exec(compile(source, path, "exec"), vars(module))
    except InputError:
        del sys.modules[module_name]
        raise
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        del sys.modules[module_name]
        raise InputError(f"{path}: cannot be loaded: {type(error).__name__}: {error}{_line_of(error, path)}") from error
    return module


@contextmanager
def _untouched(path: str) -> Iterator[None]:
    """Put back what loading a file may not change for everybody else, and raise InputError where it did."""
    folder, states = Path.cwd(), [read() for read, _ in _GENERATORS.values()]
    yield
    if Path.cwd() != folder:
        os.chdir(folder)
        raise InputError(f"{path}: changes the working folder when it is loaded; name files from Path(__file__).parent")
    for (name, (read, restore)), state in zip(_GENERATORS.items(), states, strict=True):
        if pickle.dumps(read()) != pickle.dumps(state):
            restore(state)
            raise InputError(
                f"{path}: seeds or draws from the global generator of {name} when it is loaded; "
                "draw from the generator that a method is given"
            )


def _line_of(error: BaseException, path: str) -> str:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    return f" (line {lines[-1]})" if lines else ""


def _is_method_of(value: object, module: ModuleType) -> bool:
    return isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__


def _check_class(method: type[Method], where: str) -> None:
    for attribute in ("name", "paper", "idea"):
        if not isinstance(getattr(method, attribute, None), str):
            raise InputError(f"{where}: a method says its {attribute}; add the line {attribute} = '...' to the class")
    if not _NAME.fullmatch(method.name):
        raise InputError(f"{where}: a name has lower-case letters, digits and _ only; got {method.name!r}; rename it")
    if (clash := known_methods().get(method.name)) is not None and clash.method is not method:
        raise InputError(
            f"{where}: a method of the suite is called {method.name!r} already; give your class another `name`, "
            "which is how tables call it"
        )
    config = method.Config
    if not (dataclasses.is_dataclass(config) and issubclass(config, MethodConfig) and _is_frozen(config)):
        raise InputError(
            f"{where}: Config must be a dataclass with frozen=True that inherits MethodConfig, TrainedConfig or "
            f"another method's Config; got {config.__name__}"
        )


def _is_frozen(config: type[Any]) -> bool:
    return bool(config.__dataclass_params__.frozen)


def _entry_points() -> dict[str, metadata.EntryPoint]:
    return {point.name: point for point in metadata.entry_points(group=GROUP)}


def _installed(point: metadata.EntryPoint) -> Entry:
    where = f"entry point {point.name} = {point.value!r}"
    try:
        with apart():
            method = point.load()
    except Exception as error:
        raise InputError(
            f"{where} cannot be loaded: {type(error).__name__}: {error}; mend or uninstall its package"
        ) from error
    if not (isinstance(method, type) and issubclass(method, Method)):
        raise InputError(f"{where} must name a class that inherits methods.shared.base.Method; got {method!r}")
    _check_class(method, where)
    if method.name != point.name:
        raise InputError(f"{where}: its class is called {method.name!r}; give both the same name")
    return Entry(method.name, method, {}, _package_digest(method))


def _package_digest(method: type[Method]) -> str:
    sha = hashlib.sha256()
    for relative, file in _package_files(method):
        sha.update(f"{relative}\0{digest_of_source(file.read_bytes())}".encode())
    return sha.hexdigest()


def _package_files(method: type[Method]) -> list[tuple[Path, Path]]:
    """Every Python file of the package that defines the class, or its one file; where each lies in the package."""
    top = method.__module__.split(".")[0]
    folders = [Path(folder) for folder in getattr(sys.modules[top], "__path__", ())]
    files = sorted((file.relative_to(folder), file) for folder in folders for file in folder.rglob("*.py"))
    return files or [(Path(), Path(inspect.getfile(method)))]
