"""The one error that a user can cause."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Something a person typed or gave breaks a rule; the message says the rule, what arrived, and the next step.

    The command line prints the message on one line and exits with 2; it never shows a traceback for it.
    """


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """The error for a name that is not in a registry, with the nearest known one.

    >>> str(unknown_name("method", "lwff", ["lwf", "er"]))
    "unknown method 'lwff'; did you mean 'lwf'? Known: er, lwf"
    """
    known = sorted(known)
    nearest = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else "."
    return InputError(f"unknown {kind} {name!r}{hint} Known: {', '.join(known) or 'none'}")
