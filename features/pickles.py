"""Reading a pickle from a stranger: plain containers, strings and numbers come out, or nothing does.

A pickle is a program. This reader lets it name five harmless types and no other, so that whatever else it asks for is
refused, by name, before it could run. Afterwards every object that came out is looked at once.
"""

from __future__ import annotations

import collections
import io
import os
import pickle
import pickletools
from pathlib import Path
from typing import Any, NoReturn

from ctvr_bench.features.errors import InputError

_PLAIN = (dict, list, tuple, set, frozenset, collections.defaultdict, str, bytes, int, float, bool, type(None))
_NAMEABLE = {
    ("builtins", "list"): list,
    ("builtins", "dict"): dict,
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("collections", "defaultdict"): collections.defaultdict,
}
_RULE = "it may hold only dict, list, tuple, set, text, numbers and collections.defaultdict(list or dict)"


def read_plain_pickle(path: str | os.PathLike[str]) -> Any:
    """The content of a pickle file of plain containers, text and numbers; nothing in the file is executed.

    Admitted: dict, list, tuple, set, frozenset, str, bytes, int, float, bool, None, and collections.defaultdict whose
    factory is list or dict. Raises InputError, naming what was found, for anything else and for a damaged file.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); name a pickle file") from error
    try:
        _check_memo(path, content)
        value = _PlainUnpickler(path, content).load()
    except InputError:
        raise
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise InputError(f"{path}: is no whole pickle ({type(error).__name__}); copy the file again") from error
    _check_plain(path, value)
    return value


class _PlainUnpickler(pickle.Unpickler):
    def __init__(self, path: Path, content: bytes) -> None:
        super().__init__(io.BytesIO(content))
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        key = ("builtins" if module == "__builtin__" else module, name)  # __builtin__: protocols 0 to 2
        if key not in _NAMEABLE:
            _refuse(self._path, f"{module}.{name}")
        return _NAMEABLE[key]

    def persistent_load(self, pid: Any) -> NoReturn:
        _refuse(self._path, "a persistent id")


def _check_memo(path: Path, content: bytes) -> None:
    """Refuse memo indices past the file's length: the C unpickler would allocate a table of that size first."""
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > len(content):
            _refuse(path, f"memo index {argument}")


def _check_plain(path: Path, value: Any) -> None:
    """Look at every object once, however often it is referred to and however deep it lies."""
    seen: set[int] = set()
    todo = [value]
    while todo:
        item = todo.pop()
        if type(item) not in _PLAIN:  # a named type that was left as it is, for example
            found = item if isinstance(item, type) else type(item)
            _refuse(path, f"{found.__module__}.{found.__qualname__}")
        if id(item) in seen or isinstance(item, (str, bytes, int, float, type(None))):
            continue
        seen.add(id(item))
        if isinstance(item, collections.defaultdict) and item.default_factory not in (list, dict):
            _refuse(path, "collections.defaultdict with another factory than list or dict")
        if isinstance(item, dict):
            todo.extend(item.keys())
            todo.extend(item.values())
        else:
            todo.extend(item)


def _refuse(path: Path, what: str) -> NoReturn:
    shown = what.encode("unicode_escape").decode()  # names in a hostile file may hold line breaks
    raise InputError(f"{path}: asks for {shown}; {_RULE}. Nothing was run; get the file from its publisher")
