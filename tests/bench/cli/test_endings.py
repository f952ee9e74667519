"""How a command ends: names that leave the folder, runs that all fail, a system that cannot run it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctvr_bench.bench.cli import start
from tests.commands import called, fails
from tests.stores import small_store

RUN = ("run", "--store", small_store().path, "--seeds", 1, "--jobs", 1, "--out", "o")


@pytest.mark.parametrize("name", ["../../x", "a/../../x", "/etc/x", "..", "", "a//b", "a\\b"])
def test_a_suites_name_stays_below_out(tmp_path: Path, name: str) -> None:
    line = fails(tmp_path, *RUN, "--methods", "zero_shot", "--name", name)
    assert "name: value error, a suite's name is the name of a folder below out" in line
    (tmp_path / "s.toml").write_text(f"name = '{name}'\nmethods = ['zero_shot']\n")
    assert "below out" in fails(tmp_path, *RUN, "--suite", "s.toml")


def test_where_every_run_fails_the_reasons_are_shown(tmp_path: Path, no_figures: None) -> None:
    methods = "finetune[epochs=1,lr=1e30,clip_norm=1e30]"
    for json in ((), ("--json",)):
        result = called(*RUN, "--methods", methods, *json, cwd=tmp_path)
        assert result.returncode == 1
        assert "of epoch 1 of task 1: contrastive nan; lower the lr" in result.stderr
        assert "no run ended well" in result.stderr
        assert "error:" not in result.stderr
        assert result.stdout == ""


def test_a_system_that_is_not_posix_is_told_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Windows:
        name = "nt"

    monkeypatch.setattr(start, "os", Windows)
    with pytest.raises(SystemExit) as stop:
        start.main()
    assert stop.value.code == 2
    assert "needs Linux or macOS" in capsys.readouterr().err
