"""Docstrings as this project writes them, in Markdown: examples fenced, and `name: what it is` as a list."""

from __future__ import annotations

import re
from typing import Any

import griffe

_FIELD = re.compile(r"^([a-z_]\w*(?:, [a-z_]\w*)*): (?=\S)")


def in_markdown(text: str) -> str:
    """The docstring with `>>>` examples as fenced blocks and lines that begin with a name and a colon as items."""
    lines = []
    for paragraph in text.split("\n\n"):
        if paragraph.startswith(">>>"):
            lines.append(f"```pycon\n{paragraph}\n```")
            continue
        told: list[str] = []
        listed = False
        for line in paragraph.split("\n"):
            begins, goes_on = bool(_FIELD.match(line)), listed and not line.startswith("Raises ")
            if told and not goes_on and (begins or listed):  # a list needs a blank line before and behind it
                told.append("")
            told.append(_FIELD.sub(r"- **\1**: ", line))
            listed = begins or goes_on
        lines.append("\n".join(told))
    return "\n\n".join(lines)


class Plain(griffe.Extension):
    """Rewrites every docstring before it is rendered."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = in_markdown(obj.docstring.value)
