"""The one error that a user can cause."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


class InputError(ValueError):
    """Something a person typed or gave breaks a rule; the message says the rule, what arrived, and the next step.

    The message is one line, whatever names of a file or of a person are in it. The command line prints it and exits
    with 2; it never shows a traceback for it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


_LONGEST = 1500  # letters of a message
_NAME = 200  # letters of a name that may be a misspelling
_LINES_AND_COLOURS = re.compile(r"(\n|\x1b\[[0-9;]{0,20}m)")


def one_line(text: str) -> str:
    """Text as a terminal shows it in one line: nothing in it moves the cursor, changes colours or breaks the line.

    >>> print(one_line("a\\x1b[31mb\\nc"))
    a\\x1b[31mb\\nc
    """
    shown = _spelled(text)
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 200]} ... {shown[-200:]}"


def in_lines(text: str) -> str:
    """Text of any length as a terminal shows it: line breaks and colours stay, all else is as in `one_line`.

    >>> print(in_lines("a\\x1b]0;title\\x07\\nb"))
    a\\x1b]0;title\\x07
    b
    """
    parts = enumerate(_LINES_AND_COLOURS.split(text))
    return "".join(part if place % 2 else _spelled(part) for place, part in parts)


def _spelled(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """The error for a name that is not in a registry, with the nearest known one.

    >>> str(unknown_name("method", "lwff", ["lwf", "er"]))
    "unknown method 'lwff'; did you mean 'lwf'? Known: er, lwf"
    """
    known = sorted(known)
    nearest = difflib.get_close_matches(name, known, n=1) if len(name) < _NAME else []
    hint = f"; did you mean {nearest[0]!r}?" if nearest else "."
    return InputError(f"unknown {kind} {name!r}{hint} Known: {', '.join(known) or 'none'}")
