"""The site's contents and links, without building it (`make docs` builds it and checks again)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.commands import ROOT
from tests.docs.pages import anchors, pages, prose

MADE = {"index.md", "gallery.md"}
"""Pages that docs/site/pages.py makes: of README.md, and of the methods' cards."""


class Loader(yaml.SafeLoader):
    """Reads names of Python objects as None, as nothing here needs them."""


Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
SITE: dict[str, Any] = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)


def listed(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [page for part in (nav.values() if isinstance(nav, dict) else nav) for page in listed(part)]


def test_every_page_is_in_the_sites_contents_once_and_nothing_else() -> None:
    found = listed(SITE["nav"])
    assert len(found) == len({*found})
    written = {path.name for path in (ROOT / "docs").iterdir() if path.suffix in (".md", ".ipynb")}
    own = {page for page in found if not page.startswith("repository/")}
    assert own == written | MADE
    for page in {*found} - own:
        assert (ROOT / page.removeprefix("repository/")).is_file()


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings_that_are_there(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?![a-z]+:)([^)#\s]*)(?:#([^)\s]*))?\)", prose(page)):
        place = (page.parent / target).resolve() if target else page
        assert place.exists(), f"{page}: {target}"
        assert place.is_relative_to(ROOT)
        assert not anchor or anchor in anchors(place), f"{page}: {target}#{anchor}"


def test_what_the_site_needs_is_the_extra_docs_and_is_pinned() -> None:
    pins = {line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().split()}
    assert {"mkdocs", "mkdocs-material", "mkdocstrings", "mkdocs-jupyter"} <= pins
    assert {name for plugin in SITE["plugins"] for name in ([plugin] if isinstance(plugin, str) else plugin)} == {
        "search",
        "mkdocs-jupyter",
        "mkdocstrings",
    }
