"""Reading a pickle from a stranger: plain containers, strings and numbers come out, or nothing does.

A pickle is a program. This reader lets it name five harmless types and no other, so that whatever else it asks for is
refused, by name, before it could run. Its opcodes are counted before any of them is run: a few hundred bytes can ask
for work without end. Afterwards every object that came out is looked at once.
"""

from __future__ import annotations

import collections
import io
import os
import pickle
import pickletools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from ctvr_bench.features.errors import InputError
from ctvr_bench.features.whole import read_whole

_PLAIN = (dict, list, tuple, set, frozenset, collections.defaultdict, str, bytes, int, float, bool, type(None))
_NAMEABLE = {
    ("builtins", "list"): list,
    ("builtins", "dict"): dict,
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("collections", "defaultdict"): collections.defaultdict,
}
_BYTES = 1 << 28
_OPCODES = 1_000_000  # some 400,000 video ids
_DEPTH = 100  # of tuples in tuples: what has no limit for lists is the C stack's when a key is hashed
_WORK = 10_000_000  # objects that hashing or copying touches, each as often as it is referred to
_BITS = 1024
_RULE = "it may hold only dict, list, tuple, set, text, numbers and collections.defaultdict(list or dict)"


def read_plain_pickle(path: str | os.PathLike[str]) -> Any:
    """The content of a pickle file of plain containers, text and numbers; nothing in the file is executed.

    Admitted: dict, list, tuple, set, frozenset, str, bytes, int, float, bool, None, and collections.defaultdict whose
    factory is list or dict. Raises InputError, naming what was found, for anything else and for a damaged file.
    """
    path = Path(path)
    try:
        content = read_whole(path, _BYTES)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); name a pickle file") from error
    try:
        check_opcodes(path, io.BytesIO(content), len(content))
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


@dataclass(slots=True)
class _Item:
    """What is known of an object on the stack: tuples in it, what hashing it touches, and how many items it has."""

    depth: int = 0
    work: int = 1
    length: int = 0


def check_opcodes(path: Path, stream: BinaryIO, size: int, most: int = _OPCODES) -> None:
    """Read one pickle from `stream` and refuse what would need too much depth, work or memory; nothing is run.

    size: bytes of the file. A memo index past it would make the C unpickler allocate a table of that size.
    """
    stack: list[_Item | None] = []  # None: a mark
    memo: dict[int, _Item] = {}
    spent = 0
    for number, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        name = opcode.name
        if number >= most:
            _too_much(path, f"has over {most:,} opcodes")
        if name in _SIMPLE:
            stack.append(_SIMPLE[name])
        elif name in _EMPTY:
            stack.append(_Item())
        elif name in _PUT:
            index = len(memo) if name == "MEMOIZE" else int(argument or 0)
            if index > size:
                _refuse(path, f"memo index {argument}")
            memo[index] = stack[-1] or _LEAF
        elif name in _GET:
            stack.append(memo.get(int(argument or 0), _LEAF))
        elif name == "DUP":
            stack.append(stack[-1])
        else:
            popped = _pop(stack, opcode)
            if name in _TUPLES:
                depth = 1 + max((item.depth for item in popped), default=0)
                made = _Item(depth, 1 + sum(item.work for item in popped), sum(1 + item.length for item in popped))
                if made.depth > _DEPTH or made.work > _WORK:
                    _too_much(path, "holds tuples in tuples past all need")
                stack.append(made)
            elif name in _FILL:
                spent += sum(item.work for item in popped[1:])
                popped[0].length += len(popped) - 1
                stack.append(popped[0])
            else:
                spent += sum(item.work + item.length for item in popped)
                stack += [_Item(length=len(popped)) for _ in opcode.stack_after]
            if spent > _WORK:
                _too_much(path, "asks for more work than its size warrants")


def _pop(stack: list[_Item | None], opcode: pickletools.OpcodeInfo) -> list[_Item]:
    """Take from the stack what the opcode takes, without its mark."""
    before = opcode.stack_before
    number = len(before)
    if pickletools.markobject in before:
        mark = len(stack) - 1
        while stack[mark] is not None:
            mark -= 1
        del stack[mark]
        number = before.index(pickletools.markobject) + len(stack) - mark
    if number > len(stack):
        raise IndexError("the stack is empty")
    popped = stack[len(stack) - number :]
    del stack[len(stack) - number :]
    return [item or _LEAF for item in popped]


_LEAF = _Item()
# Opcodes that take nothing from the stack and put one thing there, a mark for one.
_SIMPLE = {
    opcode.name: None if opcode.name == "MARK" else _LEAF
    for opcode in pickletools.opcodes
    if not opcode.stack_before
    and len(opcode.stack_after) == 1
    and "GET" not in opcode.name
    and "EMPTY" not in opcode.name
}
_EMPTY = frozenset({"EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET", "EMPTY_TUPLE"})
_PUT = frozenset({"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"})
_GET = frozenset({"GET", "BINGET", "LONG_BINGET"})
_TUPLES = frozenset({"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "FROZENSET"})
_FILL = frozenset({"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS"})


def _check_plain(path: Path, value: Any) -> None:
    """Look at every object once, however often it is referred to and however deep it lies."""
    seen: set[int] = set()
    todo = [value]
    while todo:
        item = todo.pop()
        if type(item) not in _PLAIN:  # a named type that was left as it is, for example
            found = item if isinstance(item, type) else type(item)
            _refuse(path, f"{found.__module__}.{found.__qualname__}")
        if isinstance(item, int) and item.bit_length() > _BITS:
            _too_much(path, f"holds a number of {item.bit_length()} bits")
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


def _too_much(path: Path, what: str) -> NoReturn:
    raise InputError(f"{path}: {what}; nothing in it was run. Get the file from its publisher")
