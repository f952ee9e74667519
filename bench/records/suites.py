"""Which runs of a folder belong to which suite: several settings may live in one folder, and a report shows one.

<folder>/suite.json           the suite that was run last
        /suites/1f3a09c2.json each suite that was ever run there; name one in place of the folder to see it again
        /suites/sources/….py  files of methods from outside, by the digest of their bytes
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pydantic

from ctvr_bench.bench.records.files import SAID, check_below
from ctvr_bench.bench.records.record import RunRecord, read_record, write_json
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.whole import read_whole

LAST = "suite.json"
SOURCES = "suites/sources"
CONTRASTS = ("differences.md", "differences.csv")
OVER_STORES = ("stores.md", "stores.csv")
BESIDE_STORES = frozenset({*CONTRASTS, *OVER_STORES, SAID})
"""What reports leave beside the folders of a suite on several stores."""
_COPY = re.compile(rf"{SOURCES}/[0-9a-f]{{16}}\.py:\w+")


class PlannedRun(pydantic.BaseModel, frozen=True):
    """A run of a suite, with the row of the table that it belongs to."""

    run_id: str
    label: str
    position: int


class Suite(pydantic.BaseModel, frozen=True):
    """The runs of one command, and in a few words what sets it apart.

    config: fields of bench.suite.suite.SuiteConfig, the files of methods being copies under `suites/sources/`.
    command: as it was typed, empty where a library user ran it. version: of this package. begun: in UTC.
    """

    runs: tuple[PlannedRun, ...]
    setting: str = ""
    config: dict[str, Any] = {}
    command: str = ""
    version: str = ""
    begun: str = ""

    @property
    def key(self) -> str:
        """Eight hexadecimal digits, of the runs it has."""
        return hashlib.sha256("\n".join(sorted(run.run_id for run in self.runs)).encode()).hexdigest()[:8]

    def shown(self, records: Sequence[RunRecord]) -> list[RunRecord]:
        """Those of the records that belong to this suite, in its order and under its labels."""
        found = {record.run_id: record for record in records}
        return [
            found[run.run_id].model_copy(update={"label": run.label, "position": run.position})
            for run in self.runs
            if run.run_id in found
        ]


def write_suite(folder: Path, suite: Suite) -> None:
    """Remember a suite as one of the folder's, and as its last."""
    check_below(folder, folder / "suites")
    for path in (folder / "suites" / f"{suite.key}.json", folder / LAST):
        write_json(path, suite.model_dump(mode="json"))


def read_suite_records(place: Path) -> list[RunRecord]:
    """Records of a suite's finished and unfinished runs: of the folder's last one, or of that whose file is named.

    All runs of a folder that has no suite.json. Raises InputError where there are none, or one cannot be read.
    """
    folder = folder_of(place)
    folders = sorted(path.parent for path in folder.glob("*/run.json"))
    if not folders:
        raise InputError(f"{place}: holds no runs; name the folder that 'run' wrote, e.g. results/runs/default")
    named = place if place != folder else folder / LAST
    if not named.is_file():
        return [read_record(each) for each in folders]
    suite = read_suite(named)
    wanted = {run.run_id for run in suite.runs}
    return suite.shown([read_record(each) for each in folders if each.name in wanted])


def is_copy(name: str) -> bool:
    """Whether a method is named by the copy of its file that a folder keeps; a folder can have no other file run.

    >>> is_copy("suites/sources/0123456789abcdef.py:Mine"), is_copy("../mine.py:Mine")
    (True, False)
    """
    return _COPY.fullmatch(name) is not None


def planned_in(folder: Path, run_id: str) -> tuple[str, str]:
    """The method of a run as a suite of its folder remembers it, a copy being `FOLDER/suites/...`; and its store.

    Raises InputError where no suite remembers how the run was made, or it names a method's file that is no copy.
    """
    for path in (folder / LAST, *sorted(folder.glob("suites/*.json"))):
        suite = read_suite(path) if path.is_file() else Suite(runs=())
        for run in suite.runs if suite.config else ():
            if run.run_id == run_id:
                name = str(suite.config["methods"][run.position]["name"])
                if ".py" in name and not is_copy(name):
                    raise InputError(f"{path}: names the method {name!r}, which is no copy under {SOURCES}/; not run")
                return f"{folder}/{name}" if is_copy(name) else name, str(suite.config["store"])
    raise InputError(
        f"{folder}: does not remember how {run_id} was made (an earlier version wrote it); repeat its 'run' command"
    )


def folder_of(place: Path) -> Path:
    """The folder of the runs, where it or one of its suites was named."""
    return place.parent.parent if place.parent.name == "suites" and place.suffix == ".json" else place


def each_store(places: Sequence[Path]) -> list[Path]:
    """The folders that are meant where those of a suite on several stores are: by the folder they lie in, or by a
    shell's star over it, which names too what reports left there."""
    found = [folder for place in places for folder in (_stores_in(place) or [place])]
    return [place for place in found if len(found) == 1 or place.name not in BESIDE_STORES]


def _stores_in(place: Path) -> list[Path]:
    """The folders in a folder that has no runs of its own, if all of them are of suites with the same rows."""
    if (place / LAST).is_file() or any(place.glob("*/run.json")):
        return []
    inside = sorted(path.parent for path in place.glob(f"*/{LAST}"))
    rows = {frozenset(run.label for run in read_suite(folder).runs) for folder in inside}
    return inside if len(inside) > 1 and len(rows) == 1 else []


def other_suites(place: Path) -> list[str]:
    """A line for each suite of the folder beside the one that is shown: its file, its size and what sets it apart."""
    folder = folder_of(place)
    shown = place if place != folder else folder / LAST
    if not shown.is_file():
        return []
    key = read_suite(shown).key
    others = [(path, read_suite(path)) for path in sorted((folder / "suites").glob("*.json")) if path.stem != key]
    return [f"{path}: {len(suite.runs)} runs{f', {suite.setting}' if suite.setting else ''}" for path, suite in others]


def last_suite(folder: Path) -> Suite | None:
    """The suite that was run last in a folder; None where none is remembered."""
    return read_suite(folder) if (folder / LAST).is_file() else None


def read_suite(place: Path) -> Suite:
    """The suite of a file, or the last one of a folder. Raises InputError where it cannot be read."""
    path = place / LAST if place.is_dir() else place
    try:
        return Suite.model_validate(json.loads(read_whole(path).decode()))
    except (OSError, ValueError, RecursionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{path}: cannot be read as a suite's list of runs ({reason}); remove it, and repeat 'run'"
        ) from error
