"""Names that somebody else chose, in a table of ours: shown as they are, never taken for a sign of the format."""

from __future__ import annotations

from collections.abc import Sequence

from ctvr_bench.features.errors import one_line

_MARKDOWN = "\\`|*_<[]"
_FORMULAS = ("=", "+", "-", "@", "\t", "\r")


def markdown_text(text: str) -> str:
    """Text in one line with everything escaped that markdown takes for a sign.

    >>> print(markdown_text("zero_shot [x](http://e) <b>"))
    zero\\_shot \\[x\\](http://e) \\<b>
    """
    return "".join("\\" + letter if letter in _MARKDOWN else letter for letter in one_line(text))


def csv_text(text: str) -> str:
    """Text for a cell of a CSV; with an apostrophe before it where a spreadsheet would run it as a formula.

    >>> csv_text("=cmd()"), csv_text("lwf")
    ("'=cmd()", 'lwf')
    """
    return f"'{text}" if text.startswith(_FORMULAS) else text


def markdown_lines(lines: Sequence[Sequence[str]]) -> str:
    """A markdown table; the second line aligns."""
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
