"""The lock file, the lowest versions, and the licences say what pyproject.toml and constraints.txt say."""

from __future__ import annotations

import re
from email.message import Message
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.supply import LICENCES, LOCK, ROOT, installed, licence, listed, requirements, verdict


def _pins(name: str) -> dict[str, str]:
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\\n]+)", (ROOT / name).read_text(), re.MULTILINE)
    return {canonicalize_name(package): version for package, version in found}


PINS = _pins("constraints.txt")


def test_every_file_of_the_lock_has_a_digest_and_no_address() -> None:
    text = LOCK.read_text()
    entries = re.split(r"\n(?=\S)", text)
    assert [entry for entry in entries if "==" in entry and not re.search(r"--hash=sha256:[0-9a-f]{64}", entry)] == []
    assert "://" not in text
    assert "--index" not in text
    assert len(_pins(LOCK.name)) > 100


def test_the_lock_has_what_development_needs_in_the_versions_that_are_tested() -> None:
    locked = _pins(LOCK.name)
    asked = [line for extra in ("core", "dev", "extract", "docs") for line in requirements()[extra]]
    assert {canonicalize_name(line.name) for line in asked} <= locked.keys()
    assert {name: version for name, version in locked.items() if PINS.get(name, version) != version} == {}


def test_the_lowest_versions_are_those_that_the_package_allows() -> None:
    lowest = {canonicalize_name(line.name): next(iter(line.specifier)).version for line in requirements()["core"]}
    tested = _pins("constraints-floor.txt")
    assert {name: Version(version) for name, version in tested.items()} == {
        name: Version(version) for name, version in lowest.items()
    }


def test_the_licences_are_those_of_what_is_installed() -> None:
    written, found = listed(LICENCES.read_text(encoding="utf-8")), installed(requirements())
    same = {
        name: said for name, (said, _) in found.items() if metadata.version(name).partition("+")[0] == PINS.get(name)
    }
    assert len(same) > 30
    assert {name: written.get(name) for name in same} == same
    assert {canonicalize_name(line.name) for line in requirements()["core"]} <= written.keys()


def test_a_licence_is_read_from_wherever_a_package_says_it() -> None:
    package = Message()
    package["License"] = "Own words\nand many more"
    assert licence(package) == "Own words"
    package["Classifier"] = "License :: OSI Approved"
    package["Classifier"] = "License :: OSI Approved :: MIT License"
    assert licence(package) == "MIT License"
    package["License-Expression"] = "MIT"
    assert licence(package) == "MIT"


def test_an_audit_that_could_ask_about_nothing_is_no_clean_one() -> None:
    known = {"name": "a", "version": "1", "vulns": []}
    weak = {"name": "b", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}
    unknown = {"name": "c", "version": "1", "skip_reason": "not found"}
    assert verdict({"dependencies": [unknown]})[1].startswith("skipped")
    assert verdict({"dependencies": [known, unknown]}) == (
        0,
        "nothing is known against them; 1 of 2 packages asked about",
    )
    assert verdict({"dependencies": [known, weak]}) == (1, "b 2: CVE-1, mended in 3\n2 of 2 packages asked about")


def test_dependencies_of_dependencies_are_listed() -> None:
    found = installed({"core": [Requirement("typer")]})
    assert {"typer", "rich", "pygments"} <= found.keys()
