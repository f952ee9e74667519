"""Pages of the project as text: their links, headings and code blocks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tests.commands import ROOT

PAGES = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "results/README.md", "results/FORMER.md", "results/FINDINGS.md")


@dataclass(frozen=True)
class Block:
    """Code on a page: the first line's number, its language where the fence says one, and the lines."""

    page: str
    line: int
    language: str
    lines: list[str]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


def pages() -> list[Path]:
    """Everything that is written for people: README, docs, and what stands beside them."""
    return [*(ROOT / name for name in PAGES), *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path) -> list[Block]:
    """Fenced and indented code, in order; an indented block has no language, and no line of prose right before it."""
    lines = page.read_text(encoding="utf-8").split("\n")
    name, found, row = str(page.relative_to(ROOT)), [], 0
    while row < len(lines):
        fence = re.fullmatch(r"```(\w*)", lines[row])
        if fence:
            end = lines.index("```", row + 1)
            found.append(Block(name, row + 2, fence[1], lines[row + 1 : end]))
            row = end + 1
        elif lines[row].startswith("    ") and (row == 0 or not lines[row - 1].strip()):
            end = row
            while end < len(lines) and (
                lines[end].startswith("    ")
                or (not lines[end] and lines[end + 1 : end + 2] and lines[end + 1].startswith("    "))
            ):
                end += 1
            found.append(Block(name, row + 1, "", [line[4:] for line in lines[row:end]]))
            row = end
        else:
            row += 1
    return found


def prose(page: Path) -> str:
    """The page without its code."""
    text = page.read_text(encoding="utf-8")
    for block in blocks(page):
        indent = "" if block.language else "    "
        text = text.replace("\n".join(indent + line if line else line for line in block.lines), "", 1)
    return re.sub(r"`[^`\n]*`", "", text)


def anchors(page: Path) -> set[str]:
    """What a link to one of the page's headings ends with."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()) for heading in headings}
