"""The suite as a library: runs from a notebook's class, data frames against records, examples of the docstrings."""

from __future__ import annotations

import doctest
import importlib
import linecache
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ctvr_bench
from ctvr_bench.bench.records.aggregate import read_results
from ctvr_bench.bench.records.summary import HEADLINE
from ctvr_bench.bench.run.jobs import Progress
from ctvr_bench.bench.suite.config import SuiteConfig
from ctvr_bench.bench.suite.plugins import find_method, known_as, sources_of
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.store import FeatureStore
from tests.commands import ROOT
from tests.stores import small_store

CELLS = (
    "import torch\nfrom dataclasses import dataclass\n"
    "from ctvr_bench.methods.finetune import Finetune, FinetuneConfig\n",
    "PULL = 0.5\ndef pull(parameters):\n    return PULL * sum((p ** 2).sum() for p in parameters)\n",
    "@dataclass(frozen=True)\nclass MineConfig(FinetuneConfig):\n    weight: float = 9.0\n",
    "@dataclass(frozen=True)\nclass MineConfig(FinetuneConfig):\n    weight: float = 2.0\n",
    "class Mine(Finetune):\n    name, paper, idea = 'mine', 'none', 'smaller weights'\n    Config = MineConfig\n\n"
    "    def loss(self, batch):\n"
    "        return super().loss(batch) | {'pull': self.config.weight * pull(self.parameters())}\n",
)


class Notebook:
    """A module whose cells are run as IPython runs them: no file, each cell's text in the line cache."""

    def __init__(self) -> None:
        self.module = types.ModuleType("a_notebook")
        sys.modules["a_notebook"] = self.module
        self.count = 0

    def run(self, cell: str) -> None:
        self.count += 1
        name = f"/tmp/ipykernel_1/{self.count}.py"
        linecache.cache[name] = (len(cell), None, cell.splitlines(keepends=True), name)
        exec(compile(cell, name, "exec", dont_inherit=True), vars(self.module))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)


@pytest.fixture
def notebook() -> Iterator[Notebook]:
    book = Notebook()
    for cell in CELLS:
        book.run(cell)
    yield book
    del sys.modules["a_notebook"]
    for number in range(book.count):
        linecache.cache.pop(f"/tmp/ipykernel_1/{number + 1}.py")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    methods = ["zero_shot", {"name": "finetune", "set": {"epochs": 1}}]
    return ctvr_bench.run(methods, small_store(), seeds=1, out=tmp_path_factory.mktemp("runs"), keep="weights").path


def test_the_import_loads_nothing_heavy_and_knows_its_names() -> None:
    script = "import sys, ctvr_bench as c\nassert not {'torch', 'numpy', 'pandas', 'h5py'} & set(sys.modules)\n"
    script += "assert {*c.__all__} <= {*dir(c)}\nassert not hasattr(c, 'nothing')\n"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT / "src", check=True)
    for name in ctvr_bench.__all__:
        assert getattr(ctvr_bench, name).__name__ == name


@pytest.mark.parametrize("name", ["results", "running"])
def test_the_examples_of_the_docstrings_are_right(name: str, runs: Path, tmp_path: Path) -> None:
    module = importlib.import_module(f"ctvr_bench.bench.api.{name}")
    known = {"path": small_store().path, "runs": runs, "folder": tmp_path}
    failed, tried = doctest.testmod(module, extraglobs=known)
    assert (failed, tried > 4) == (0, True)


def test_frames_say_what_the_records_say(runs: Path) -> None:
    found, suite = ctvr_bench.load(runs), read_results(runs)
    table = found.to_dataframe().set_index("label")
    for row in suite.rows:
        (run,) = row.runs
        assert table.loc[row.label, HEADLINE] == run.final[HEADLINE]
        assert table.loc[row.label, "cost.steps"] == run.record.cost.steps
        assert found.curve().query("label == @row.label")["value"].to_list() == run.curve(HEADLINE)
        np.testing.assert_array_equal(found.matrix(row.label), run.matrix())
    queries = found.queries()
    last = queries[queries["stage"] == 3].groupby("label")
    assert last["rank"].apply(lambda rank: 100 * (rank == 1).mean()).to_dict() == table[HEADLINE].to_dict()
    first = queries[queries["rank"] == 1]
    assert (first["top"] == first["video"]).all()
    with pytest.raises(InputError, match="metric of every stage"):
        found.curve("R@1")


def test_findings_and_differences_are_one_test(runs: Path) -> None:
    found = ctvr_bench.load(runs)
    (line,) = found.differences("zero_shot").to_dict("records")
    said = found.findings(against="zero_shot")
    assert said[0].startswith("zero_shot: R@1 ")
    assert any(f"{line['label']} ({-line['difference']:+.2f} points" in sentence for sentence in said)
    with pytest.raises(InputError, match="unknown row"):
        found.findings(against="nobody")


def test_curves_are_drawn_into_the_axes_that_are_given(runs: Path) -> None:
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    assert ctvr_bench.load(runs).plot_curves(axes) is axes
    drawn = {line.get_label(): line.get_ydata().tolist() for line in axes.get_lines()}
    assert drawn["zero_shot"] == ctvr_bench.load(runs).curve().query("label == 'zero_shot'")["value"].to_list()


def test_a_class_of_a_notebook_runs_and_is_digested(notebook: Notebook, tmp_path: Path) -> None:
    heard: list[Progress] = []
    found = ctvr_bench.run(
        {"name": notebook.Mine, "set": {"epochs": 1}},
        small_store(),
        seeds=1,
        out=tmp_path,
        on_epoch=heard.append,
        on_task=heard.append,
    )
    assert [(each.task, each.epoch and sorted(each.epoch.terms)) for each in heard] == [
        (task, terms) for task in (1, 2, 3) for terms in (["contrastive", "pull"], None)
    ]
    (run,) = found.suite.rows[0].runs
    assert run.record.config.config["weight"] == 2.0
    assert run.record.config.code == find_method(known_as(notebook.Mine)).code


def test_the_digest_follows_what_the_class_uses_and_nothing_else(notebook: Notebook) -> None:
    names = [known_as(notebook.Mine)]
    notebook.run("UNUSED = 3\n")
    names.append(known_as(notebook.Mine))
    notebook.run("PULL = 0.25\n")
    names.append(known_as(notebook.Mine))
    notebook.run(CELLS[1].replace("** 2", "** 4"))
    names.append(known_as(notebook.Mine))
    assert names[0] == names[1]
    assert len({*names}) == 3
    (source,) = sources_of(find_method(names[0]))
    assert b"PULL = 0.5" in source
    assert b"9.0" not in source
    assert b"UNUSED" not in source


def test_a_class_without_source_is_refused_in_one_line(notebook: Notebook) -> None:
    exec("class Typed(Mine):\n    idea = 'typed'\n", vars(notebook.module))
    with pytest.raises(InputError, match=r"Typed: its source cannot be read.*notebook cell"):
        known_as(notebook.Typed)
    notebook.run("WEIGHTS = torch.ones(2)\nclass Heavy(Mine):\n    def loss(self, batch):\n        return WEIGHTS\n")
    with pytest.raises(InputError, match="uses WEIGHTS, a Tensor that cannot be written down"):
        known_as(notebook.Heavy)

    class Inside(notebook.Mine):  # type: ignore[misc,name-defined]
        idea = "inside"

    with pytest.raises(InputError, match="Inside: is defined inside a function"):
        known_as(Inside)
    with pytest.raises(InputError, match="a method is a class"):
        ctvr_bench.run([3], small_store())  # type: ignore[list-item]


def test_what_is_registered_is_found_by_its_name(notebook: Notebook) -> None:
    notebook.run("import ctvr_bench\n@ctvr_bench.register\n" + CELLS[-1].replace("'mine'", "'listed'"))
    assert find_method("listed").name == "listed"
    with pytest.raises(InputError, match="called 'lwf' already"):
        notebook.run("@ctvr_bench.register\n" + CELLS[-1].replace("'mine'", "'lwf'"))


def test_the_default_methods_that_compare_words_are_left_out_where_there_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the command line does; what would be run is looked at, and not run."""
    asked: list[SuiteConfig] = []

    def stop(config: SuiteConfig, *_: object, **__: object) -> None:
        asked.append(config)
        raise InputError("enough")

    monkeypatch.setattr("ctvr_bench.bench.api.running.run_suite", stop)
    monkeypatch.setattr(FeatureStore, "has_words", False)
    with (
        pytest.warns(UserWarning, match="left out, since they compare words"),
        pytest.raises(InputError, match="enough"),
    ):
        ctvr_bench.run(store=small_store().path, out=tmp_path)
    assert "structalign" not in {choice.name for choice in asked[0].methods}
    assert "finetune" in {choice.name for choice in asked[0].methods}
