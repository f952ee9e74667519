"""Names of rows in a sentence, or how many they are."""

from __future__ import annotations

from collections.abc import Collection, Sequence

NAMED = 12
"""Rows that a sentence names one by one where the table names them too."""


def listed(names: Sequence[str]) -> str:
    """Names in a sentence.

    >>> listed(["er", "lwf", "ewc"])
    'er, lwf and ewc'
    """
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def grouped(names: Sequence[str], among: Collection[str], what: str) -> str:
    """The names; where there are many, those of `among` that are not meant, or how many are.

    >>> rows = [f"row {number}" for number in range(20)]
    >>> grouped(rows[:18], rows, "others")
    'all 20 others but row 18 and row 19'
    """
    if len(names) <= NAMED:
        return listed(names)
    left = [name for name in among if name not in set(names)]
    if len(left) > NAMED:
        return f"{len(names)} of {len(among)} {what}"
    return f"all {len(among)} {what}" + (f" but {listed(left)}" if left else "")
