"""The source of a class that was written in a notebook or a script, as a file that defines it by itself.

The class, what it uses of its own module (functions, classes, plain numbers and texts), and imports of the rest. So it
is digested like the file of a method, reaches worker processes, and lies in the folder of its runs.
"""

from __future__ import annotations
import __future__

import ast
import builtins
import inspect
import linecache
import symtable
import sys
import textwrap
from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

from ctvr_bench.features.errors import InputError


def source_of_class(cls: type[Any]) -> str:
    """Python source that defines the class and whatever of its module it uses.

    Raises InputError where there is no source (a class typed at the >>> prompt), where it uses variables of the
    function around it, or a value of its module that cannot be written down.
    """
    if "<locals>" in cls.__qualname__:
        raise InputError(
            f"{cls.__name__}: is defined inside a function, whose variables nobody else has; define it at the top of a "
            "notebook cell, a script or a file"
        )
    pieces = _Pieces(cls)
    pieces.add(cls.__name__, cls)
    future = ["from __future__ import annotations"] if _postpones_annotations(cls) else []
    parts = [[*future, *sorted(pieces.imports)], [pieces.values[name] for name in sorted(pieces.values)]]
    return "\n\n".join(["\n".join(part) for part in parts if part] + pieces.definitions) + "\n"


class _Pieces:
    """What a file needs to define a class: imports, values, definitions, each after what it uses."""

    def __init__(self, cls: type[Any]) -> None:
        self.where = cls.__name__
        self.module = cls.__module__
        self.names: dict[str, Any] = vars(sys.modules[cls.__module__])
        self.imports: set[str] = set()
        self.values: dict[str, str] = {}
        self.definitions: list[str] = []
        self._begun: set[str] = set()

    def add(self, name: str, value: Any) -> None:
        """Take up what a name of the module stands for."""
        if name in self._begun:
            return
        self._begun.add(name)
        if isinstance(value, ModuleType):
            self.imports.add(f"import {value.__name__}" + (f" as {name}" if name != value.__name__ else ""))
        elif getattr(value, "__module__", None) == self.module and isinstance(value, type | FunctionType):
            source = _source(value)
            for used in _names_used(source):
                if used in self.names and used != name:
                    self.add(used, self.names[used])
            self.definitions.append(source.rstrip())
        elif home := _home(value):
            self.imports.add(f"from {home[0]} import {home[1]}" + (f" as {name}" if name != home[1] else ""))
        elif _is_plain(value):
            self.values[name] = f"{name} = {value!r}"
        else:
            raise InputError(
                f"{self.where}: uses {name}, a {type(value).__name__} that cannot be written down for its runs; make "
                "it a field of Config, define it inside the class, or put the class into a file"
            )


def _source(value: type[Any] | FunctionType) -> str:
    node, lines = _node(value)
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    return textwrap.dedent("".join(lines[first - 1 : node.end_lineno]))


def _node(value: type[Any] | FunctionType) -> tuple[ast.ClassDef | ast.FunctionDef, list[str]]:
    """The definition in the text that it was read from. Raises InputError where that is not known."""
    kind = ast.ClassDef if isinstance(value, type) else ast.FunctionDef
    for lines in _texts(value):
        try:
            nodes = [node for node in ast.walk(ast.parse("".join(lines))) if isinstance(node, kind)]
        except SyntaxError:  # a notebook's magic lines
            continue
        found = [node for node in nodes if node.name == value.__name__ and _is_of(node, value)]
        if found:
            return found[-1], lines
    raise InputError(
        f"{value.__name__}: its source cannot be read, and a run's record names what was run; write it in a notebook "
        "cell, a script or a file (what is typed at the >>> prompt or made by exec leaves no source)"
    )


def _texts(value: type[Any] | FunctionType) -> Iterator[list[str]]:
    """Lines of the files and cells that may define it, the likeliest first."""
    codes = [value.__code__] if isinstance(value, FunctionType) else list(_codes(value))
    names = [code.co_filename for code in codes]
    try:
        names.append(inspect.getfile(value))
    except (TypeError, OSError):  # a notebook has no file
        names += [name for name in reversed(linecache.cache) if "ipykernel" in name or "ipython-input" in name]
    for name in dict.fromkeys(names):
        if lines := linecache.getlines(name, vars(sys.modules[value.__module__])):
            yield lines


def _codes(cls: type[Any]) -> Iterator[CodeType]:
    """Code of the methods that the class defines itself; not what `dataclass` made."""
    for value in vars(cls).values():
        value = getattr(value, "__func__", getattr(value, "fget", value))
        if isinstance(value, FunctionType) and value.__code__.co_qualname.startswith(f"{cls.__qualname__}."):
            yield value.__code__


def _is_of(node: ast.ClassDef | ast.FunctionDef, value: type[Any] | FunctionType) -> bool:
    """Whether a definition of this name is the one that was run, and not an earlier version in another cell."""
    if isinstance(value, FunctionType):
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        return first <= value.__code__.co_firstlineno <= (node.end_lineno or first)
    codes = list(_codes(value))
    if codes:
        return any(node.lineno <= code.co_firstlineno <= (node.end_lineno or 0) for code in codes)
    fields = [each for each in node.body if isinstance(each, ast.AnnAssign)]
    named = {each.target.id: each.value for each in fields if isinstance(each.target, ast.Name)}
    defaults = {name: default for name, default in named.items() if isinstance(default, ast.Constant)}
    return set(named) == set(vars(value).get("__annotations__", {})) and all(
        getattr(value, name, None) == default.value for name, default in defaults.items()
    )


def _names_used(source: str) -> set[str]:
    """Names that a definition looks up in its module."""
    found: set[str] = set()
    tables = [symtable.symtable(source, "definition", "exec")]
    while tables:
        table = tables.pop()
        at_top = table.get_type() == "module"
        found |= {s.get_name() for s in table.get_symbols() if s.is_referenced() and (s.is_global() or at_top)}
        tables += table.get_children()
    annotations = [node.annotation for node in ast.walk(ast.parse(source)) if isinstance(node, ast.AnnAssign)]
    found |= {name.id for each in annotations for name in ast.walk(each) if isinstance(name, ast.Name)}
    return {name for name in found if not hasattr(builtins, name)}


def _home(value: Any) -> tuple[str, str] | None:
    """The module, and the name in it, where a value can be imported from."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if isinstance(module, str) and isinstance(name, str) and getattr(sys.modules.get(module), name, None) is value:
        return module, name
    return None


def _is_plain(value: Any) -> bool:
    """Whether it is a number or a text, or a collection of such, that its repr gives back."""
    try:
        return bool(ast.literal_eval(repr(value)) == value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return False


def _postpones_annotations(cls: type[Any]) -> bool:
    return any(code.co_flags & __future__.annotations.compiler_flag for code in _codes(cls))
