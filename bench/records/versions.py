"""Earlier versions of methods' files: their runs stay in the folder, and are shown beside the newest where asked."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from ctvr_bench.bench.records.record import RunConfig, RunRecord, read_record

_EARLIER = re.compile(r" \(before( \d+)?\)$")


def is_earlier(label: str) -> bool:
    """Whether a row is called as an earlier version is.

    >>> is_earlier("my_method (before)"), is_earlier("my_method [weight=2] (before 3)"), is_earlier("my_method")
    (True, True, False)
    """
    return _EARLIER.search(label) is not None


def earlier_versions(folder: Path, shown: Sequence[RunRecord]) -> list[RunRecord]:
    """Finished runs of earlier versions of the shown rows' files, set and asked as those are.

    Their rows are called `my_method (before)`, then `my_method (before 2)` and so on, the newest first.
    """
    rows: dict[str, list[RunRecord]] = {}
    for record in shown:
        if record.config.code:
            rows.setdefault(_but_code(record.config), []).append(record)
    found: dict[str, dict[str, list[RunRecord]]] = {}
    for path in sorted(folder.glob("*/run.json")) if rows else ():
        record = read_record(path.parent)
        like = rows.get(_but_code(record.config), [])
        if record.status == "done" and like and record.config.code not in {each.config.code for each in like}:
            relabelled = record.model_copy(update={"label": like[0].label, "position": like[0].position})
            found.setdefault(like[0].label, {}).setdefault(record.config.code, []).append(relabelled)
    named = []
    for label, versions in found.items():
        newest_first = sorted(versions.values(), key=lambda runs: max(run.ended for run in runs), reverse=True)
        for number, runs in enumerate(newest_first, start=1):
            name = f"{label} (before{f' {number}' if number > 1 else ''})"
            named += [run.model_copy(update={"label": name}) for run in runs]
    return named


def _but_code(config: RunConfig) -> str:
    return json.dumps(config.model_dump(mode="json", exclude={"code", "harness", "stack"}), sort_keys=True)
