"""The reliability campaign in small, and that it finds what it looks for."""

from __future__ import annotations

import itertools
import os
import subprocess
from pathlib import Path

import pytest

from ctvr_bench.bench.records.environment import git_commit
from tests.soak import child, coverage_guided, searches
from tests.soak.damage import USES, spoil
from tests.soak.kills import KINDS, kill
from tests.soak.ledger import Ledger
from tests.soak.scenes import SCENES, Scene

IMPORT, *_ = SCENES


def test_an_import_that_is_ended_anywhere_is_as_if_it_had_never_begun(tmp_path: Path) -> None:
    found = list(kill(IMPORT, tmp_path, range(len(KINDS)), seed=3))  # whose moment is a tenth of the command's time
    assert [kind for kind, _ in found] == list(KINDS)
    assert {came for _, came in found} == {"as if nothing had been"}


def test_a_campaign_finds_a_command_that_writes_where_it_wrote_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def careless(*_: object, cwd: Path) -> subprocess.CompletedProcess[str]:
        with (cwd / "made.bin").open("ab") as file:
            file.write(b"all")
            file.flush()
            os.fsync(file.fileno())
        return subprocess.CompletedProcess((), 0, "", "")

    monkeypatch.setattr("tests.soak.child.called", careless)
    scene = Scene("careless", (), lambda folder: None)
    found = [came for _, came in kill(scene, tmp_path, range(2), 0, ("before a call", "after a call"))]
    assert found == ["differs: made.bin", "differs: made.bin"]


@pytest.mark.parametrize(
    "use", [use for use in USES if use.name in ("store, verify", "tables")], ids=lambda use: use.name
)
def test_damaged_files_are_said(tmp_path: Path, use: object) -> None:
    found = {came for _, came in spoil(use, tmp_path, range(4))}  # type: ignore[arg-type]
    assert found <= {"said", "said, or taken as it is written", "made again, or no difference", "not damaged"}


def test_a_commit_during_a_campaign_is_no_difference_between_its_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def names_the_commit(*_: object, cwd: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess((), 0, git_commit(), "")

    monkeypatch.setattr("tests.soak.child.called", names_the_commit)
    git_commit.cache_clear()
    try:
        outputs = []
        for commit in ("before", "after"):
            found = subprocess.CompletedProcess((), 0, commit, "")
            monkeypatch.setattr(
                "ctvr_bench.bench.records.environment.subprocess.run", lambda *_, found=found, **__: found
            )
            outputs.append(child.run((), tmp_path).output)
    finally:
        git_commit.cache_clear()
    assert outputs == ["before", "before"]


@pytest.mark.parametrize(("step", "status", "said"), [(1, 0, "sound under 3"), (11, 1, "broken by the last of 1")])
def test_a_search_ends_by_seconds_of_a_core_and_keeps_an_input_that_takes_too_many(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    step: int,
    status: int,
    said: str,
) -> None:
    def ends(status: int) -> None:
        raise SystemExit(status)

    (tmp_path / "work").mkdir()
    monkeypatch.setattr(coverage_guided.os, "_exit", ends)
    monkeypatch.setattr(coverage_guided.time, "process_time", itertools.count(0, step).__next__)
    search = coverage_guided.Search("json", tmp_path / "work", tmp_path, seconds=7)
    with pytest.raises(SystemExit) as ended:
        list(map(search.attempt, [b"{}"] * 9))
    assert ended.value.code == status
    assert capsys.readouterr().out.startswith(f"json: {said} inputs")
    assert [path.read_bytes() for path in tmp_path.glob("*")] == [b"{}"] * status


@pytest.mark.parametrize(
    ("status", "out", "error", "expected"),
    [
        (0, "json: sound under 3 inputs, 8 s of a core", "#3 NEW", (True, 3, 8)),
        (1, "json: broken by the last of 5 inputs, 2 s of a core", "Traceback", (False, 5, 2)),
        (70, "", "==1== ERROR: libFuzzer: timeout", (False, 0, 0)),
        (-9, "", "", (False, 0, 0)),
    ],
)
def test_what_a_search_came_to_is_read_from_its_last_line(
    status: int, out: str, error: str, expected: tuple[bool, int, int]
) -> None:
    *found, last = searches.ended(subprocess.CompletedProcess((), status, out, error))
    assert tuple(found) == expected
    assert last in (out, error, "ended without a word")
    assert last


def test_minutes_of_bytes_are_shared_out_and_a_broken_reader_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searches, "READERS", ("json", "csv", "pt"))
    monkeypatch.setattr(searches, "find_spec", lambda name: name)
    asked: list[tuple[str, float]] = []

    def search(reader: str, corpus: Path, seconds: float) -> searches.Ended:
        assert corpus == tmp_path
        asked.append((reader, seconds))
        return reader != "csv", 100, round(seconds), "a fault"

    searches.campaign(15, tmp_path, Ledger(tmp_path / "ledger.json"), search)
    assert asked == [("json", 300), ("csv", 300), ("pt", 300)]
    again = Ledger(tmp_path / "ledger.json")
    searches.campaign(22.5, tmp_path, again, search)
    assert asked[3:] == [("json", 150), ("csv", 150), ("pt", 150)], "it goes on from what the ledger says"
    assert [again.done(searches.SECONDS, reader) for reader in searches.READERS] == [450, 450, 450]
    assert again.done(searches.INPUTS, "json") == 200
    assert again.broken == ["bytes 0 of csv (atheris): a fault", "bytes 100 of csv (atheris): a fault"]
    asked.clear()
    searches.campaign(45, tmp_path, Ledger(), search)
    assert asked == [("json", 300), ("csv", 300), ("pt", 300), ("json", 300), ("pt", 300), ("json", 300), ("pt", 300)]


def test_a_campaign_says_that_nothing_looked_for_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searches, "find_spec", lambda name: None)
    ledger = Ledger()
    searches.campaign(60, tmp_path, ledger)
    assert [tried.came for tried in ledger.counts] == ["not tried: atheris is not installed"]
