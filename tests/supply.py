"""What the project is made of: licences of its dependencies, their known weaknesses.

python -m tests.supply licences    docs/licences.md, from what is installed
python -m tests.supply audit       asks pip-audit's service about requirements-dev.lock; exit status 1: a weakness
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
LICENCES = ROOT / "docs" / "licences.md"
LOCK = ROOT / "requirements-dev.lock"
_HEAD = """# Licences of the dependencies

As the packages themselves say (`License-Expression`, else their classifiers, else `License`), read from what is
installed by `python -m tests.supply licences`; a test compares. ctvr-bench is under Apache-2.0 and ships none of them.
Needed by: `core`, or the extras through which a package comes; those of `wandb` and `mlflow` were not there. On Linux
the usual `torch` brings packages of NVIDIA's under a licence of its own; the CPU build brings none.

| package | licence | needed by |
|---|---|---|
"""


def requirements() -> dict[str, list[Requirement]]:
    """What pyproject.toml asks for, by extra; 'core' is what every installation has."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = {"core": project["dependencies"], **project["optional-dependencies"]}
    return {extra: [Requirement(line) for line in lines] for extra, lines in asked.items()}


def licence(found: metadata.PackageMetadata) -> str:
    """What a package says of its licence, in a few words."""
    if expression := found.get("License-Expression"):
        return expression
    names = [line.split(" :: ")[-1] for line in found.get_all("Classifier") or [] if line.startswith("License ::")]
    if names := [name for name in names if name != "OSI Approved"]:
        return ", ".join(sorted(names))
    return (found.get("License") or "not said").strip().splitlines()[0]


def installed(asked: Mapping[str, Iterable[Requirement]]) -> dict[str, tuple[str, list[str]]]:
    """Licence, and the extras that need it, of each installed package that is asked for, directly or by another."""
    found: dict[str, tuple[str, list[str]]] = {}
    for extra, lines in asked.items():
        waiting, seen = [(line, frozenset(line.extras)) for line in lines], set()
        while waiting:
            line, extras = waiting.pop()
            name = canonicalize_name(line.name)
            if (name, extras) in seen or not _applies(line, frozenset()):
                continue
            seen.add((name, extras))
            try:
                package = metadata.distribution(name)
            except metadata.PackageNotFoundError:
                continue
            needs = [Requirement(each) for each in package.requires or []]
            waiting += [(each, frozenset(each.extras)) for each in needs if _applies(each, extras)]
            by = found.setdefault(name, (licence(package.metadata), []))[1]
            if extra not in by:
                by.append(extra)
    return found


def _applies(line: Requirement, extras: frozenset[str]) -> bool:
    return line.marker is None or any(line.marker.evaluate({"extra": extra}) for extra in (*extras, ""))


def table(found: Mapping[str, tuple[str, list[str]]]) -> str:
    """docs/licences.md."""
    rows = [f"| {name} | {said} | {_needed(by)} |" for name, (said, by) in sorted(found.items())]
    return _HEAD + "\n".join(rows) + "\n"


def _needed(by: list[str]) -> str:
    return "core" if "core" in by else ", ".join(by)


def listed(text: str) -> dict[str, str]:
    """Licence by package, as docs/licences.md has them."""
    rows = re.findall(r"^\| (\S+) \| (.+) \| .+ \|$", text, re.MULTILINE)
    return {name: said for name, said in rows if name != "package"}


def verdict(told: Mapping[str, Any]) -> tuple[int, str]:
    """Exit status and words for what pip-audit wrote as JSON: 1 where a weakness is known."""
    packages = told["dependencies"]
    unknown = [each for each in packages if "skip_reason" in each]
    weak = [
        f"{each['name']} {each['version']}: {fault['id']}, mended in {', '.join(fault['fix_versions']) or 'no version'}"
        for each in packages
        for fault in each.get("vulns", [])
    ]
    if unknown and len(unknown) == len(packages):
        return 0, f"skipped: the service knows none of the {len(packages)} packages, so it does not answer from here"
    asked = f"{len(packages) - len(unknown)} of {len(packages)} packages asked about"
    return (1, "\n".join([*weak, asked])) if weak else (0, f"nothing is known against them; {asked}")


def audit() -> tuple[int, str]:
    """What pip-audit says of the lock file; a word where its service does not answer."""
    line = [sys.executable, "-m", "pip_audit", "-r", str(LOCK), "--no-deps", "--disable-pip", "--format", "json"]
    told = subprocess.run(line, capture_output=True, text=True)
    if not told.stdout.startswith("{"):
        reason = (told.stderr.strip().splitlines() or ["no word"])[-1]
        return 0, f"skipped: the service does not answer from here ({reason})"
    return verdict(json.loads(told.stdout))


def main() -> int:
    """The command line; returns the exit status."""
    if sys.argv[1:] == ["licences"]:
        LICENCES.write_text(table(installed(requirements())), encoding="utf-8")
        print(f"wrote {LICENCES.relative_to(ROOT)}")
        return 0
    if sys.argv[1:] == ["audit"]:
        status, words = audit()
        print(words)
        return status
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
