"""The gate as a fixture, in pytest runs of its own."""

from __future__ import annotations

import json
import sys
from importlib.metadata import entry_points
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ctvr_bench.bench.gate.accept import accept, prepare
from ctvr_bench.bench.records.record import read_checked
from tests.stores import small_store

ROOT = Path(__file__).resolve().parents[3]
INSTALLED = any(entry.value == "ctvr_bench.bench.gate.pytest_plugin" for entry in entry_points(group="pytest11"))
PLUGIN = [] if INSTALLED else ["-p", "ctvr_bench.bench.gate.pytest_plugin"]


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "suite.toml").write_text('seeds = 1\nmethods = [{name="zero_shot"}, {name="finetune", set={epochs=1}}]\n')
    accept(prepare(folder / "b.json", folder / "suite.toml", small_store().path, jobs=1), noise_seeds=5)
    return folder / "b.json"


@pytest.fixture
def inner(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTHONWARNINGS", "default")
    pytester.makepyfile("def test_metrics(ctvr_baseline): ...")
    return pytester


def run(inner: pytest.Pytester, *arguments: object, apart: bool = False) -> pytest.RunResult:
    """apart: in a process of its own, as a user would; without it only pytest is new, which spares the imports.

    Such a process leaves assertions plain: where the suite is installed, pytest would rewrite each of its modules.
    """
    run_ = inner.runpytest_subprocess if apart else inner.runpytest_inprocess
    plain = ["--assert=plain"] if apart else []
    return run_(*PLUGIN, *plain, "-p", "no:cacheprovider", *map(str, arguments))


def test_every_method_is_a_test_that_passes_where_nothing_moved(inner: pytest.Pytester, baseline: Path) -> None:
    result = run(inner, "--ctvr-baseline", baseline, "--junitxml", "out.xml", "-v", apart=True)
    result.assert_outcomes(passed=2)
    names = [case.get("name") for case in ElementTree.parse(inner.path / "out.xml").iter("testcase")]
    assert names == ["test_metrics[zero_shot]", "test_metrics[finetune [epochs=1]]"]


def test_a_metric_that_moved_fails_its_method_and_says_so(inner: pytest.Pytester, baseline: Path) -> None:
    values = read_checked(baseline)
    run_ = values["rows"][1]["runs"][0]
    run_["metrics"]["bwf/ctvr"] -= 0.5
    (baseline.parent / "moved.json").write_text(json.dumps(values))
    result = run(inner, "--ctvr-baseline", baseline.parent / "moved.json", "--junitxml", "out.xml")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*finetune [[]epochs=1[]]: changed*", "*bwf/ctvr: *changed*"])
    (failure,) = ElementTree.parse(inner.path / "out.xml").iter("failure")
    assert "bwf/ctvr" in (failure.text or "")


def test_the_body_of_the_test_can_assert_more(inner: pytest.Pytester, baseline: Path) -> None:
    inner.makepyfile(
        'def test_metrics(ctvr_baseline):\n    assert ctvr_baseline.now["t2v/stored/seen/R@1"] > 101, "too low"'
    )
    result = run(inner, "--ctvr-baseline", baseline)
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["*too low*"])


def test_without_a_baseline_the_test_is_skipped_with_the_reason(inner: pytest.Pytester) -> None:
    result = run(inner, "-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*no --ctvr-baseline FILE was given*"])


def test_a_file_that_is_no_baseline_is_a_usage_error(inner: pytest.Pytester) -> None:
    result = run(inner, "--ctvr-baseline", "missing.json")
    assert result.ret == pytest.ExitCode.INTERRUPTED or result.ret == pytest.ExitCode.USAGE_ERROR
    assert "cannot be read as a baseline" in result.stdout.str() + result.stderr.str()


def test_another_store_fails_in_one_line(inner: pytest.Pytester, baseline: Path) -> None:
    values = read_checked(baseline)
    values["store"]["digest"] = "ab" * 32
    (baseline.parent / "store.json").write_text(json.dumps(values))
    result = run(inner, "--ctvr-baseline", baseline.parent / "store.json")
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(["*was made on store*"])
    assert "Traceback" not in result.stdout.str()


def test_the_plugin_loads_nothing_heavy(inner: pytest.Pytester) -> None:
    inner.makepyfile(
        "import sys\ndef test_light():\n"
        "    heavy = {'torch', 'numpy', 'scipy', 'faiss', 'h5py', 'pydantic', 'ctvr_bench.bench.gate.gate'}\n"
        "    assert not heavy & set(sys.modules)"
    )
    result = inner.run(sys.executable, "-m", "pytest", *PLUGIN, "-p", "no:hypothesispytest", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=1)
