"""Numbers that papers print, beside ours and never ranked with them (templates/reported.toml)."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from pathlib import Path

from ctvr_bench.bench.records.aggregate import Row, SuiteResults

HEADS = ("reported R@1 (%)", "reported BWF (points)")
NOTE = (
    "reported: as the CTVR release prints them, trained end to end on the videos, epochs chosen on the test set; not "
    "comparable with ours and not ranked."
)
_NONE = ("–", "–")
_RECIPE = {"lr", "epochs", "batch_size", "warmup", "schedule"}  # papers have their own, on other parameters
_FIELD = re.compile(r"(\w+)=")


def has_reported(results: SuiteResults) -> bool:
    """Whether papers print numbers on the suite's stream for one of its rows."""
    return any(reported_cells(results, row) != _NONE for row in results.rows)


def reported_cells(results: SuiteResults, row: Row) -> tuple[str, ...]:
    """Printed R@1 and BWF of a method as it ships, whatever its rate and number of steps, or dashes."""
    name, _, changed = row.label.partition(" [")
    if not set(_FIELD.findall(changed)) <= _RECIPE:
        return _NONE
    found = printed_numbers().get(results.measured["stream"], {}).get(name)
    return _NONE if found is None else tuple(f"{value:.2f}" for value in found)


@cache
def printed_numbers() -> dict[str, dict[str, list[float]]]:
    """[R@1 in percent, BWF in points] by stream and method."""
    path = Path(__file__).parent / "templates/reported.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))
