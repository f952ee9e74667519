"""The reliability campaign in small, and that it finds what it looks for."""

from __future__ import annotations

import itertools
import os
import subprocess
from pathlib import Path

import pytest

from ctvr_bench.bench.records.environment import git_commit
from tests.soak import child, coverage_guided
from tests.soak.damage import USES, spoil
from tests.soak.kills import KINDS, kill
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
