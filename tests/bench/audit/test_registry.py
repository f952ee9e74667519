"""A registry of results: what is submitted can be checked, made again, and stands on a page with its state."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from ctvr_bench.bench.audit.leaderboard import _table, write_leaderboard
from ctvr_bench.bench.audit.registry import entries, submit
from ctvr_bench.bench.audit.verify import verify
from ctvr_bench.bench.records.aggregate import read_results
from ctvr_bench.bench.records.summary import HEADLINE
from ctvr_bench.features.errors import InputError
from tests.commands import called
from tests.stores import small_store


@pytest.fixture(scope="module")
def registry(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("registry") / "public"
    submit(runs, folder)
    return folder


def states(registry: Path) -> dict[str, str]:
    return {entry.values["method"]: entry.state for entry in entries(registry)}


def test_a_submission_holds_all_that_is_needed_and_no_folder_of_its_sender(registry: Path, runs: Path) -> None:
    rows = {row.runs[0].record.config.method: row for row in read_results(runs).rows}
    for entry in entries(registry):
        row = rows[entry.values["method"]]
        assert entry.state == "recomputed"
        assert entry.values["metrics"][HEADLINE]["runs"] == row.values(HEADLINE)
        assert entry.values["curve"] == pytest.approx(row.runs[0].curve(HEADLINE))
        assert verify(entry.folder).faults == ()
        assert str(small_store().path.parent) not in (entry.folder / "suite.json").read_text()
    before = sorted(registry.rglob("*"))
    submit(runs, registry)
    assert sorted(registry.rglob("*")) == before


def test_results_are_made_again_shown_with_their_state_and_found_out(registry: Path) -> None:
    result = called("verify", registry, "--rerun", "--store", small_store().path, "--jobs", 1)
    assert result.returncode == 0, result.stderr
    assert set(states(registry).values()) == {"rerun"}
    mine = next(entry for entry in entries(registry) if entry.values["method"] == "mine")
    path = mine.folder / "result.json"
    path.write_text(path.read_text().replace(str(mine.values["metrics"][HEADLINE]["mean"]), "99.5"))
    with pytest.raises(InputError, match=r"result\.json: cannot be read as a result \(it is not what was written"):
        entries(registry)
    values = json.loads(path.read_text())
    del values["digest"]
    path.write_text(json.dumps(values))
    assert states(registry) == {"mine": "as sent", "zero_shot": "rerun"}
    page = write_leaderboard(registry).read_text()
    assert re.findall(r'<tr data-state="([^"]+)"', page) == ["rerun", "as sent"], "not ranked first"
    assert "its metrics are not those of its runs" in page
    for link in re.findall(r'<a href="([^"]+)"', page):
        assert (registry / link).is_file()


def test_the_newest_revision_is_ranked_and_earlier_ones_are_history(registry: Path) -> None:
    (entry,) = (entry for entry in entries(registry) if entry.values["method"] == "zero_shot")
    later = replace(entry, values={**entry.values, "revision": "later", "ended": "2999-01-01", "protocol": 0})
    table = _table([later, entry], registry)
    (row,) = table["rows"]
    assert row["revision"] == "later"
    assert [each["revision"] for each in row["history"]] == [entry.values["revision"]]
    assert _table([later], registry)["superseded"].startswith("superseded by protocol ")
    assert _table([entry], registry)["superseded"] == ""


def test_altered_runs_are_not_submitted(runs: Path, tmp_path: Path) -> None:
    assert "holds no results" in called("leaderboard", tmp_path).stderr
    metrics = next(runs.glob("zero_shot-*/metrics.json"))
    whole = metrics.read_bytes()
    metrics.write_bytes(whole.replace(b"1", b"2", 1))
    try:
        line = called("submit", runs, "--to", tmp_path / "r").stderr
    finally:
        metrics.write_bytes(whole)
    assert "cannot be submitted, since zero_shot-" in line
    assert not (tmp_path / "r").exists()
