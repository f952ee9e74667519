"""What a command line is expected to answer: version, short help, what would be done, which rows of a check."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path

import pytest

from ctvr_bench.bench.cli.start import main
from ctvr_bench.bench.suite.config import SuiteConfig
from ctvr_bench.bench.suite.suite import run_suite
from tests.bench.run.test_runner import suite
from tests.commands import ROOT, called
from tests.stores import small_store


def test_version_and_short_help() -> None:
    result = called("--version")
    assert (result.returncode, bool(re.match(r"ctvr-bench[ ,]", result.stdout))) == (0, True)
    assert called("-h").stdout == called("--help").stdout
    assert "--dry-run" in called("run", "-h").stdout


def test_commands_are_completed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["ctvr-bench"])
    monkeypatch.setattr(sys.modules["__main__"], "__package__", None)
    for name, value in {
        "_CTVR_BENCH_COMPLETE": "complete_bash",
        "COMP_WORDS": "ctvr-bench ver",
        "COMP_CWORD": "1",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().out.split() == ["verify"]


def test_a_dry_run_says_what_is_there_and_what_would_be_made(tmp_path: Path) -> None:
    line = ("run", "--store", small_store().path, "--out", tmp_path, "--seeds", 2, "--methods", "zero_shot,finetune")
    first = called(*line, "--dry-run")
    assert first.stdout.splitlines()[:3] == [
        f"{tmp_path / 'default'}: 3 of 3 runs would be made",
        "  zero_shot: 0 there, 1 to make",
        "  finetune: 0 there, 2 to make",
    ]
    assert "not known" in first.stdout
    assert not any(tmp_path.iterdir())
    run_suite(suite(tmp_path, "zero_shot"))
    second = called(*line, "--dry-run").stdout
    assert "2 of 3 runs would be made" in second
    assert "zero_shot: 1 there, 0 to make" in second
    assert re.search(r"about \d+ s, one after the other", second)


def test_a_dry_run_builds_no_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    alone = called("run", "--store", "moving-shapes:77", "--out", tmp_path, "--dry-run")
    assert alone.stdout.startswith("moving-shapes:77: not built")
    (tmp_path / "two.toml").write_text(
        f'stores = ["moving-shapes:77", "{small_store().path}"]\nmethods = ["zero_shot"]\n', encoding="utf-8"
    )
    both = called("run", "--suite", tmp_path / "two.toml", "--out", tmp_path, "--dry-run").stdout.splitlines()
    assert both[0].startswith("moving-shapes:77: not built")
    assert both[1].endswith("1 of 1 runs would be made")
    assert not list(tmp_path.rglob("*.h5"))


@pytest.mark.parametrize(
    ("also", "words"), [(("--methods", "lwff"), "did you mean 'lwf'"), (("--accept", "--methods", "lwf"), "whole")]
)
def test_rows_of_a_check_are_named_by_their_labels(also: tuple[str, ...], words: str) -> None:
    result = called("check", ROOT / "results/baselines/gate.json", *also)
    assert (result.returncode, words in result.stderr) == (2, True)


def test_the_schema_knows_every_field_of_the_shipped_suites() -> None:
    schema = json.loads(called("suite-schema").stdout)
    assert schema["properties"].keys() == {*SuiteConfig.model_fields, "stores"}
    assert "store" not in schema.get("required", [])
    assert schema["additionalProperties"] is False
    for path in sorted((ROOT / "results/suites").glob("*.toml")):
        assert tomllib.loads(path.read_text()).keys() <= schema["properties"].keys()
