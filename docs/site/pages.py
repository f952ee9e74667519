"""Pages of the docs site that are made of the repository: README as its first page, cards, and files that are linked.

A link that leaves docs/ leads to a page with that file, so that the strict build checks it.
"""

from __future__ import annotations

import io
import posixpath
import re
from contextlib import redirect_stdout
from html import escape
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
ALWAYS = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "results/README.md")
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")
_LANGUAGES = {".py": "python", ".toml": "toml", ".json": "json", ".md": "markdown"}


def page_of(path: str) -> str:
    """Where a file of the repository stands on the site: docs/x.md -> x.md, README.md -> index.md, others apart."""
    if path == "README.md":
        return "index.md"
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"repository/{path}" + ("" if path.endswith(".md") else ".md")


def links_of(path: str) -> dict[str, str]:
    """Each link of a Markdown file to another file of the repository, and that file's path."""
    text = (ROOT / path).read_text(encoding="utf-8")
    found = (match.group(1) for match in _LINK.finditer(text))
    links = {link: posixpath.normpath(posixpath.join(posixpath.dirname(path), link)) for link in found}
    for link, target in links.items():
        if not (ROOT / target).exists():
            raise PluginError(f"{path}: the link {link} leads nowhere; mend it")
    return links


def text_of(path: str) -> str:
    """A file of the repository as Markdown, its links leading to pages of the site."""
    if not path.endswith(".md"):
        language, text = _LANGUAGES.get(Path(path).suffix, ""), (ROOT / path).read_text(encoding="utf-8")
        return f"# {path}\n\n~~~~{language}\n{text}\n~~~~\n"
    links, here = links_of(path), posixpath.dirname(page_of(path))

    def moved(match: re.Match[str]) -> str:
        target = links[match.group(1)]
        if (ROOT / target).is_dir():
            target = f"{target}/README.md" if (ROOT / target / "README.md").is_file() else target
        return posixpath.relpath(page_of(target), here or ".") + (match.group(2) or "")

    return _LINK.sub(moved, (ROOT / path).read_text(encoding="utf-8"))


def linked_files() -> list[str]:
    """Files outside docs/ that a page links to, directly or through others; folders with a list of what they hold."""
    waiting = [*ALWAYS, *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").glob("*.md")))]
    found: dict[str, None] = {}
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found[path] = None
        if path.endswith(".md"):
            for target in links_of(path).values():
                readme = f"{target}/README.md"
                waiting.append(readme if (ROOT / readme).is_file() else target)
    return [path for path in found if not path.startswith("docs/")]


def gallery() -> str:
    """Every method with its card, as `methods NAME` prints it."""
    from ctvr_bench.methods.shared.registry import known_methods

    entries = known_methods()
    table = [
        f"| [{name}](#{name}) | {each.method.idea} | {each.method.stores_samples} |" for name, each in entries.items()
    ]
    head = (
        f"# {len(entries)} methods\n\nWhat `methods NAME` prints of each.\n\n| method | idea | keeps |\n|---|---|---|"
    )
    return "\n".join([head, *table]) + "\n\n" + "\n\n".join(map(_card, entries.values())) + "\n"


def _card(entry: Any) -> str:
    from ctvr_bench.bench.authoring.cards import print_card

    with redirect_stdout(io.StringIO()) as printed:
        print_card(entry)
    (name, *facts), rest = (part.split("\n") for part in printed.getvalue().strip().split("\n\n", 1))
    items = "\n".join(f"- **{key.strip()}**: {escape(value)}" for key, value in (fact.split(": ", 1) for fact in facts))
    return f"## {name}\n\n{items}\n\n~~~~text\n" + "\n".join(rest) + "\n~~~~"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The pages that are no files of docs/."""
    for path in linked_files():
        content = text_of(path) if (ROOT / path).is_file() else _listing(path)
        files.append(File.generated(config, page_of(path), content=content))
    files.append(File.generated(config, "gallery.md", content=gallery()))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """A file of docs/ with links that leave it led to pages of the site."""
    path = f"docs/{page.file.src_uri}"
    return text_of(path) if (ROOT / path).is_file() and path.endswith(".md") else markdown


def _listing(folder: str) -> str:
    names = sorted(path.name for path in (ROOT / folder).iterdir() if not path.name.startswith(("_", ".")))
    return f"# {folder}/\n\n" + "\n".join(f"- {name}" for name in names) + "\n"
