"""Methods from outside: named by their file or by an installed package, run by the suite's own worker processes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from ctvr_bench.bench.records.aggregate import read_results
from ctvr_bench.bench.records.record import RunRecord, read_record
from ctvr_bench.bench.suite.config import MethodChoice, make_suite, read_suites
from ctvr_bench.bench.suite.plugins import all_methods, find_method
from ctvr_bench.bench.suite.suite import run_suite
from ctvr_bench.features.errors import InputError
from ctvr_bench.methods.shared.registry import known_methods
from tests.stores import small_store

SOURCE = """
from __future__ import annotations
from dataclasses import dataclass
from torch import Tensor
from ctvr_bench.features.streams import PairBatch
from ctvr_bench.methods.finetune import Finetune, FinetuneConfig
from ctvr_bench.methods.shared.registry import register

@dataclass(frozen=True)
class ScaledConfig(FinetuneConfig):
    factor: float = 2.0

@register()
class Scaled(Finetune):
    name = "scaled"
    paper = "none"
    idea = "The loss, times a number."
    Config = ScaledConfig
    config: ScaledConfig

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        return {name: self.config.factor * value for name, value in super().loss(batch).items()}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "scaled.py"
    path.write_text(SOURCE)
    return path


def run(out: Path, *names: str, jobs: int = 1, **values: object) -> list[RunRecord]:
    choices = [{"name": name, "set": {"epochs": 1}} for name in names]
    given = {"store": small_store().path, "methods": choices, "seeds": 1, "jobs": jobs, "out": out, **values}
    return run_suite(make_suite(given, "test"))


def refusal(name: str | Path) -> str:
    with pytest.raises(InputError) as refused:
        find_method(str(name))
    return str(refused.value)


def test_methods_of_a_file_and_of_a_package_run_in_worker_processes_and_are_recorded(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes for both, which find the package where this one does."""
    install(tmp_path, "scaled = scaled_package:Scaled", monkeypatch)
    assert {"scaled", "lwf"} <= set(all_methods())
    file.write_text(SOURCE.replace('"scaled"', '"of_a_file"'))
    first, package = run(tmp_path / "o", f"{file}:Scaled", "scaled", jobs=2)
    assert (first.status, package.status) == ("done", "done")
    assert (first.config.method, package.config.method) == ("of_a_file", "scaled")
    assert first.config.config["factor"] == 2.0
    assert first.source == f"{file}:Scaled"
    assert read_record(tmp_path / "o/default" / first.run_id).config.code == first.config.code
    assert len(package.config.code) == 64


def test_an_edited_file_is_another_method(file: Path, tmp_path: Path) -> None:
    (first,) = run(tmp_path / "o", str(file))
    (again,) = run(tmp_path / "o", str(file))
    file.write_text(SOURCE.replace("self.config.factor *", "-self.config.factor *"))
    (edited,) = run(tmp_path / "o", str(file))
    assert again.run_id == first.run_id
    assert edited.run_id != first.run_id
    folder = tmp_path / "o/default"
    assert [row.label for row in read_results(folder).rows] == [edited.label]
    both = {row.label for path in (folder / "suites").glob("*.json") for row in read_results(path).rows}
    assert both == {first.label, edited.label}


def test_values_reach_it_by_its_name(file: Path, tmp_path: Path) -> None:
    (record,) = run(tmp_path / "o", str(file), set={"scaled": {"factor": 3}})
    assert record.config.config["factor"] == 3.0
    with pytest.raises(InputError, match="did you mean 'factor'"):
        run(tmp_path / "o", str(file), set={"scaled": {"facto": 3}})


def test_the_suites_own_runs_keep_their_identity(tmp_path: Path) -> None:
    (record,) = run(tmp_path / "o", "finetune")
    assert record.config.code == ""
    assert record.run_id == record.config.model_copy(update={"code": ""}).run_id
    assert record.label == "finetune [epochs=1]"


def test_a_suite_file_names_a_method_beside_itself(file: Path) -> None:
    (file.parent / "s.toml").write_text('store = "x.h5"\nmethods = [{name = "scaled.py:Scaled"}]\n')
    (choice,) = read_suites(file.parent / "s.toml", {})[0].methods
    assert find_method(choice.name).name == "scaled"
    (file.parent / "bare.toml").write_text('store = "x.h5"\nmethods = ["scaled.py:Scaled", "lwf"]\n')
    mine, lwf = read_suites(file.parent / "bare.toml", {})[0].methods
    assert (find_method(mine.name).name, lwf) == ("scaled", MethodChoice(name="lwf"))


def test_loading_a_file_leaves_the_registry_as_it_was(file: Path) -> None:
    before = known_methods()
    assert find_method(str(file)).method.__name__ == "Scaled"
    assert known_methods() == before


def test_a_file_of_the_suite_is_its_registered_method() -> None:
    entry = known_methods()["lwf"]
    path = Path(__file__).resolve().parents[3] / "methods/lwf.py"
    assert find_method(f"{path}:LwF") is entry


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('name = "scaled"', 'name = "lwf"'), "called 'lwf' already; give your class another `name`"),
        (('name = "scaled"', 'name = "My Method"'), "lower-case"),
        (('    idea = "The loss, times a number."\n', "    idea = None\n"), "says its idea"),
        (("frozen=True", "frozen=False"), "cannot be loaded: TypeError"),
        (("Config = ScaledConfig", "Config = dict"), "frozen=True"),
        (("factor: float = 2.0", "factor: float = 2.0 +"), "cannot be loaded: SyntaxError"),
        (("import PairBatch", "import PairBatches"), "cannot be loaded: ImportError"),
        (("class Scaled(Finetune)", "class Scaled(dict)"), "defines no method"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_the_reason(file: Path, change: tuple[str, str], words: str) -> None:
    if change[0] == "class Scaled(Finetune)":
        file.write_text("x = 1\n")
    else:
        assert change[0] in SOURCE
        file.write_text(SOURCE.replace(*change))
    message = refusal(file)
    assert str(file) in message
    assert words in message


def test_an_error_in_a_file_names_its_line(file: Path) -> None:
    file.write_text(SOURCE + "1 / 0\n")
    assert f"ZeroDivisionError: division by zero (line {len(SOURCE.splitlines()) + 1})" in refusal(file)


def test_a_missing_file_and_a_misspelt_class_are_refused(file: Path) -> None:
    assert "cannot be read" in refusal("nowhere.py:Scaled")
    assert "did you mean 'Scaled'" in refusal(f"{file}:Scald")


def test_of_several_methods_in_a_file_one_must_be_named(file: Path) -> None:
    file.write_text(SOURCE + "\nclass Other(Scaled):\n    name = 'other'\n")
    assert "name one of Other, Scaled" in refusal(file)
    assert find_method(f"{file}:Other").name == "other"


def install(folder: Path, point: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package as an installer leaves it: its module, and metadata with an entry point."""
    info = folder / "scaled_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: scaled-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[ctvr_bench.methods]\n{point}\n")
    (folder / "scaled_package.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(folder)


def test_a_broken_entry_point_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "scaled = scaled_package:Missing", monkeypatch)
    assert "entry point scaled = 'scaled_package:Missing' cannot be loaded" in refusal("scaled")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("import sys; sys.exit(0)", "cannot be loaded: SystemExit: 0 (line"),
        ("raise KeyboardInterrupt", "cannot be loaded: KeyboardInterrupt"),
        ("import os; os.chdir('/')", "changes the working folder"),
        ("import random; random.seed(0)", "global generator of random"),
        ("import numpy; numpy.random.seed(0)", "global generator of numpy"),
        ("import torch; torch.manual_seed(0)", "global generator of torch"),
        ("import nothing_of_that_name", "No module named 'nothing_of_that_name'"),
    ],
)
def test_a_file_that_ends_or_changes_the_process_is_refused_and_undone(file: Path, line: str, words: str) -> None:
    before = Path.cwd(), random.getstate(), torch.get_rng_state().tolist()
    file.write_text(f"{SOURCE}\n{line}\n")
    message = refusal(file)
    assert words in message
    assert message.startswith(str(file))
    assert (Path.cwd(), random.getstate(), torch.get_rng_state().tolist()) == before
