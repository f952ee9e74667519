"""`check` as a person and as a CI server meet it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.commands import ROOT, called, fails, hear_ctrl_c
from tests.stores import small_store

pytestmark = pytest.mark.set_up_once
SUITE = 'seeds = 1\nmethods = [{name = "zero_shot"}, {name = "finetune", set = {epochs = 1}}]\n'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("check")
    shutil.copy(small_store().path, folder / "store.h5")
    (folder / "suite.toml").write_text(SUITE)
    arguments = ("--accept", "--suite", "suite.toml", "--store", "store.h5", "--noise-seeds", 5, "--jobs", 1)
    result = called("check", "baselines/b.json", *arguments, cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "finetune" in result.stdout
    return folder


def moved(folder: Path, by: float) -> Path:
    """The baseline with the headline of finetune moved, in its run and in its mean."""
    values = json.loads((folder / "baselines" / "b.json").read_text())
    del values["digest"]  # else it is not what was written
    row, key = values["rows"][1], "t2v/stored/seen/R@1"
    row["runs"][0]["metrics"][key] += by
    row["metrics"][key]["mean"] += by
    path = folder / "baselines" / f"moved{by:+.0f}.json"
    path.write_text(json.dumps(values))
    return path


def test_a_check_that_finds_nothing_exits_with_0(folder: Path) -> None:
    result = called("check", "baselines/b.json", "--jobs", 1, "--junit", "out/check.xml", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "same environment: every rank, metric and loss term must be equal" in result.stdout
    assert "finetune [epochs=1]: same" in result.stdout
    (suite,) = ElementTree.parse(folder / "out/check.xml").getroot()
    assert suite.attrib["tests"] == "2"
    assert suite.attrib["failures"] == "0"
    seconds = [float(case.attrib["time"]) for case in suite]
    assert 0 < min(seconds) < max(seconds) < 60
    assert float(suite.attrib["time"]) == pytest.approx(sum(seconds), abs=0.01)


def test_a_regression_exits_with_1_names_the_metric_and_writes_junit(folder: Path) -> None:
    path = moved(folder, 60)
    result = called("check", path, "--jobs", 1, "--junit", "check.xml", cwd=folder)
    assert result.returncode == 1
    line = next(line for line in result.stdout.splitlines() if "t2v/stored/seen/R@1" in line)
    assert "worse" in line
    assert "--accept" in result.stderr
    (failure,) = ElementTree.parse(folder / "check.xml").iter("failure")
    assert failure.attrib["message"] == "finetune [epochs=1]: worse"
    assert "t2v/stored/seen/R@1" in (failure.text or "")


def test_json_has_every_metric_that_moved(folder: Path) -> None:
    result = called("check", moved(folder, 60), "--jobs", 1, "--json", "--quiet", cwd=folder)
    assert result.returncode == 1
    found = json.loads(result.stdout)
    assert not found["ok"]
    assert found["exact"]
    (move,) = found["rows"][1]["moves"]
    assert move["metric"] == "t2v/stored/seen/R@1"
    assert move["now"] - move["before"] == pytest.approx(-60)
    assert move["allowed"][0] > move["now"]


def test_an_improvement_exits_with_0_and_asks_to_be_accepted(folder: Path) -> None:
    path = moved(folder, -60)
    result = called("check", path, "--jobs", 1, cwd=folder)
    assert result.returncode == 0
    assert "finetune [epochs=1]: better" in result.stdout
    assert "--accept" in result.stderr


def test_accept_shows_old_beside_new_and_then_the_check_passes(folder: Path) -> None:
    path = moved(folder, 30)
    before = json.loads(path.read_text())
    result = called("check", path, "--jobs", 1, "--accept", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "worse" in result.stdout
    assert [line.split()[-7] for line in result.stdout.splitlines()[-4:]] == ["old", "new", "old", "new"]
    after = json.loads(path.read_text())
    assert after["noise_seeds"] == before["noise_seeds"]
    assert after["suite"] == before["suite"]
    assert after["rows"] == json.loads((folder / "baselines" / "b.json").read_text())["rows"]
    assert called("check", path, "--jobs", 1, cwd=folder).returncode == 0


def test_a_store_beside_the_baseline_is_found_from_anywhere(folder: Path, tmp_path: Path) -> None:
    assert json.loads((folder / "baselines" / "b.json").read_text())["store"]["path"] == "../store.h5"
    assert called("check", folder / "baselines" / "b.json", "--jobs", 1, cwd=tmp_path).returncode == 0


def test_wrong_input_is_refused_in_one_line(tmp_path: Path) -> None:
    assert "cannot be read" in fails(tmp_path, "check", "missing.json")
    assert "add --accept" in fails(tmp_path, "check", "b.json", "--suite", "s.toml")
    (tmp_path / "b.json").write_text("[]")
    assert "is no baseline" in fails(tmp_path, "check", "b.json")


def test_ctrl_c_says_that_nothing_was_written(folder: Path) -> None:
    command_line = [sys.executable, str(ROOT / "run_benchmark.py"), "check", "baselines/b.json", "--jobs", "1"]
    before = (folder / "baselines" / "b.json").read_bytes()
    with subprocess.Popen(
        [*command_line, "--accept"], cwd=folder, stderr=subprocess.PIPE, text=True, preexec_fn=hear_ctrl_c
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("[1/"):
                break
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    assert process.returncode == 130
    assert "nothing was written" in rest
    assert (folder / "baselines" / "b.json").read_bytes() == before
