"""A registry of results: what is submitted can be checked, made again, and stands on a page with its state."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from ctvr_bench.bench.analysis.columns import COLUMNS
from ctvr_bench.bench.audit.leaderboard import _table, write_leaderboard
from ctvr_bench.bench.audit.registry import _result, check, entries, submit
from ctvr_bench.bench.audit.verify import verify
from ctvr_bench.bench.records.aggregate import read_results
from ctvr_bench.bench.records.summary import HEADLINE
from ctvr_bench.features.errors import InputError
from tests.bench.report.test_report_tools import axe, axe_core
from tests.commands import ROOT, called
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
    result = called("verify", registry)
    assert result.returncode == 0, result.stderr
    assert [line.partition(": ")[0] for line in result.stdout.splitlines()] == [
        str(entry.folder) for entry in entries(registry)
    ]
    result = called("verify", registry, "--rerun", "--store", small_store().path, "--jobs", 1)
    assert result.returncode == 0, result.stderr
    assert set(states(registry).values()) == {"rerun"}
    mine = next(entry for entry in entries(registry) if entry.values["method"] == "mine")
    path = mine.folder / "result.json"
    path.write_text(path.read_text().replace(str(mine.values["metrics"][HEADLINE]["mean"]), "99.5"))
    with pytest.raises(InputError, match=r"result\.json: cannot be read as a result \(it is not what was written"):
        entries(registry)
    told = f"FAULT {mine.folder}/result.json: cannot be read as a result (it is not what was written"
    assert told in called("verify", registry).stdout
    values = json.loads(path.read_text())
    del values["digest"]
    path.write_text(json.dumps(values))
    assert [fault.what for fault in check(mine.folder).faults] == ["its metrics are not those of its runs"]
    path.write_text(json.dumps({"schema": values["schema"]}))
    assert "cannot be read as a result" in check(mine.folder).faults[0].what
    path.write_text(json.dumps(values))
    assert states(registry) == {"mine": "as sent", "zero_shot": "rerun"}
    page = write_leaderboard(registry).read_text()
    assert re.findall(r'<tr data-state="([^"]+)"', page) == ["rerun", "as sent"], "not ranked first"
    assert "Continual methods" not in page, "what is left is not trained"
    assert "its metrics are not those of its runs" in page
    for link in re.findall(r'<a href="([^"]+)"', page):
        assert (registry / link).is_file()


def test_the_newest_revision_is_ranked_and_earlier_ones_are_history(registry: Path) -> None:
    (entry,) = (entry for entry in entries(registry) if entry.values["method"] == "zero_shot")
    later = replace(entry, values={**entry.values, "revision": "later", "ended": "2999-01-01", "protocol": 0})
    table = _table([later, entry], registry)
    ((row,),) = (group["rows"] for group in table["groups"])
    assert row["revision"] == "later"
    assert [each["revision"] for each in row["history"]] == [entry.values["revision"]]
    assert _table([later], registry)["superseded"].startswith("superseded by protocol ")
    assert _table([entry], registry)["superseded"] == ""


def test_a_result_holds_nothing_that_other_rows_make(runs: Path) -> None:
    """A row is submitted alone: what `joint` beside it made could not be made again."""
    for row in read_results(runs).rows:
        alone = _result(row)["metrics"]
        row.runs[0].final.update({"gap-to-joint": 3.0, "intransigence": 2.0})
        assert {column.key for column in COLUMNS if column.cell(row).values} > {*alone}
        assert _result(row)["metrics"] == alone


def test_what_is_not_trained_stands_apart_and_every_number_leads_to_its_record(registry: Path, tmp_path: Path) -> None:
    found = {entry.values["method"]: entry for entry in entries(registry)}
    best = {"mean": 100.0, "std": None, "runs": [100.0]}
    zero = found["zero_shot"]
    zero = replace(zero, values={**zero.values, "metrics": {**zero.values["metrics"], HEADLINE: best}})
    mine = replace(found["mine"], state="rerun")
    others = [replace(mine, values={**mine.values, "label": label}) for label in ("same", "worse")]
    others[1].values["metrics"] = {**mine.values["metrics"], HEADLINE: {**best, "mean": 0.0}}
    groups = _table([others[1], zero, mine, others[0]], registry)["groups"]
    assert [(group["places"], [row["label"] for row in group["rows"]]) for group in groups] == [
        ([1, 1, 3], ["mine [epochs=1]", "same", "worse"]),
        ([], ["zero_shot"]),
    ]
    assert groups[1]["title"].startswith("Not ranked: what is not trained")
    page = write_leaderboard(registry, tmp_path / "page.html").read_text()
    numbers = re.findall(r"<td data-value=[^>]+>(?!\d+</td>)(.*?)</td>", page)
    assert len(numbers) > 15
    for number in numbers:
        linked = re.fullmatch(
            r'<a class="number" href="([^"]+)" title="(rerun|recomputed|as sent), 1 runs: record">.+</a>', number
        )
        assert linked, number
        assert (tmp_path / linked[1]).resolve().is_file()


def test_axe_finds_no_barrier_in_the_page(registry: Path, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium is on the path")
    page = write_leaderboard(registry, tmp_path / "index.html").read_text()
    for scheme in ("light", "dark"):
        found = axe(browser, axe_core(), page, tmp_path, scheme)
        assert found["violations"] == []
        assert found["passes"] > 20


def test_a_disk_that_renames_within_a_folder_alone_takes_submissions(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def within(self: Path, target: Path) -> Path:
        if self.parent != Path(target).parent:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", within)
    made = submit(runs, tmp_path)
    assert sorted(entry.folder for entry in entries(tmp_path)) == sorted(made)
    half = shutil.copytree(made[0], made[0].with_name(f".{made[0].name}.partial-elsewhere-1"))
    assert half not in [entry.folder for entry in entries(tmp_path)]


def test_a_submission_that_fails_leaves_no_folder_of_its_own(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise InputError("the disk is full")

    (tmp_path / "mine/results").mkdir(parents=True)
    monkeypatch.setattr("ctvr_bench.bench.audit.registry.write_checked", full)
    for place in ("new/registry", "mine"):
        with pytest.raises(InputError, match="the disk is full"):
            submit(runs, tmp_path / place)
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "mine", tmp_path / "mine/results"]


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


def test_the_repositorys_own_results_are_what_their_records_say(tmp_path: Path) -> None:
    found = entries(ROOT / "results/registry")
    assert {entry.values["method"] for entry in found} >= {"zero_shot", "finetune", "lwf"}
    assert {entry.state for entry in found} <= {"rerun", "recomputed"}, [entry.faults for entry in found]
    page = write_leaderboard(ROOT / "results/registry", tmp_path / "index.html").read_text(encoding="utf-8")
    for entry in found:
        assert f"{entry.values['metrics'][HEADLINE]['mean']:.2f}" in page
