"""Paired differences over stores, suites on several stores, and the shipped ablation."""

from __future__ import annotations

import csv
import io
import json
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from ctvr_bench.bench.analysis.contrasts import contrast_csv, contrast_markdown, contrast_table, contrasts
from ctvr_bench.bench.analysis.over_stores import over_stores, store_markdown
from ctvr_bench.bench.analysis.pairing import differences, suite_answers
from ctvr_bench.bench.records.aggregate import Row, Run, SuiteResults, read_results
from ctvr_bench.bench.records.summary import BWF, HEADLINE
from ctvr_bench.bench.suite.config import SuiteConfig, make_suite, read_suites
from ctvr_bench.bench.suite.suite import plan
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.simulation.config import SyntheticConfig
from ctvr_bench.features.simulation.write import generated_structure, synthesise
from ctvr_bench.features.store import open_store
from ctvr_bench.methods.shared.registry import known_methods
from ctvr_bench.methods.shared.structalign.config import RELEASED
from tests.bench.fake_suite import write_suite
from tests.commands import ROOT, called
from tests.stores import small_store

ABLATION = ROOT / "results/suites/structalign_ablation.toml"


def row(label: str, *scores: float, seeds: int = 3) -> Row:
    """Runs with seeds 0, 1, ... of order 0, with these headlines, and BWF of a tenth."""
    runs = []
    for seed, score in enumerate(scores):
        config = SimpleNamespace(options={"order": 0}, seed=seed, store=SimpleNamespace(digest="d"))
        record: Any = SimpleNamespace(config=config, trained=True)
        runs.append(Run(record, {"final": {HEADLINE: score, BWF: score / 10}}, Path()))
    return Row(label, tuple(runs))


def results(name: str, *rows: Row) -> SuiteResults:
    return SuiteResults(name, Path(name), rows, ())


def test_differences_are_paired_within_a_store_and_averaged_over_stores() -> None:
    first = results("a", row("full", 50, 52, 54), row("less", 49, 50, 51))
    second = results("b", row("full", 30, 30, 30), row("less", 29, 29, 29))
    third = results("c", row("full", 40, 41, 42), row("less", 40, 41, 42))
    (found,) = contrasts([first, second, third], "full", HEADLINE)
    assert found.by_store == {"a": -2, "b": -1, "c": 0}
    assert found.difference == -1
    half = stats.t.ppf(0.975, 2) * np.std([-2, -1, 0], ddof=1) / np.sqrt(3)
    assert (found.low, found.high) == (pytest.approx(-1 - half, rel=1e-4), pytest.approx(-1 + half, rel=1e-4))
    assert found.p == pytest.approx(stats.ttest_1samp([-2, -1, 0], 0).pvalue, rel=1e-4)
    assert found.runs == 9


def test_a_missing_run_leaves_its_partner_out() -> None:
    stores = [results(n, row("full", 50, 52, 60 + 9 * (n == "b")), row("less", 49, 50)) for n in "ab"]
    (found,) = contrasts(stores, "full", HEADLINE)
    assert (found.by_store, found.runs) == ({"a": -1.5, "b": -1.5}, 4)
    assert found.p is None


def test_one_store_speaks_of_its_runs_and_queries(tmp_path: Path) -> None:
    """Two rows: the paired differences of queries and of runs, as bench.all_pairs has them."""
    both = read_results(write_suite(tmp_path / "one", ["lwf", "x", "y", "er"], queries=30))
    found = {c.label: c for c in contrasts([both], "lwf", HEADLINE)}["er"]
    assert found.p == differences(suite_answers(both, HEADLINE))["er", "lwf"].p
    assert found.runs == 3
    assert "of one store" in contrast_markdown([both], "lwf")


def test_what_is_not_trained_meets_every_seed(tmp_path: Path) -> None:
    both = read_results(write_suite(tmp_path / "one", ["zero_shot", "er"]))
    (found,) = contrasts([both], "er", HEADLINE)
    assert found.runs == 3


def test_p_values_are_corrected_for_the_number_of_pairs() -> None:
    score = {"a": (7, 5, 1), "b": (6, 4, 3), "c": (5, 6, 2)}  # all three scatter alike
    one = [results(name, row("full", full, 0), row("x", x, 0)) for name, (full, x, _) in score.items()]
    three = [results(r.name, *r.rows, row("y", score[r.name][2], 0)) for r in one]
    alone = contrasts(one, "full", HEADLINE)[0].p
    corrected = {found.label: found.p for found in contrasts(three, "full", HEADLINE)}["x"]
    assert alone is not None
    assert corrected is not None
    means = [[np.mean([run.final[HEADLINE] for run in r.runs]) for r in result.rows] for result in three]
    value_WM = np.array(means)
    own = (value_WM[:, 1] - value_WM[:, 0]).var(ddof=1)
    apart_WM = value_WM - value_WM.mean(1, keepdims=True)
    pooled = 2 * np.square(apart_WM - apart_WM.mean(0)).sum() / 4
    away = abs(value_WM.mean(0)[1] - value_WM.mean(0)[0]) / np.sqrt(max(own, pooled) / 3)
    assert corrected == pytest.approx(stats.studentized_range.sf(away * np.sqrt(2), 3, 4), rel=0.02)


def test_differences_that_are_equal_by_chance_are_not_called_certain() -> None:
    level = [results(n, row("full", a, a), row("y", a, a)) for n, a in (("a", 5), ("b", 7))]
    (found,) = contrasts(level, "full", HEADLINE)
    assert (found.difference, found.low, found.high, found.p) == (0, 0, 0, 1)
    lower = [results(n, row("full", a, a), row("x", a - 0.5, a - 0.5)) for n, a in (("a", 5), ("b", 7))]
    (found,) = contrasts(lower, "full", HEADLINE)
    assert (found.difference, found.low, found.high, found.p) == (pytest.approx(-0.5), None, None, None)


def test_an_unknown_reference_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'full'"):
        contrasts([results(name, row("full", 1)) for name in "ab"], "ful", HEADLINE)


def test_every_form_shows_the_same_numbers() -> None:
    both = [results(n, row("full", 50, 52), row("a_b", 40 + i, 45)) for i, n in enumerate(("s", "t"))]
    lines = list(csv.DictReader(io.StringIO(contrast_csv(both, "full"))))
    assert [float(line["difference"]) for line in lines] == pytest.approx([-8.25, -0.825])
    assert float(lines[0]["t"]) == -8
    text = contrast_markdown(both, "full")
    assert "| a\\_b | -8.25 |" in text
    assert "| a\\_b | -8.50 | -8.00 |" in text
    assert len(contrast_table(both, "full").rows) == 1


@pytest.fixture
def other_store(tmp_path: Path) -> Path:
    structure = generated_structure(categories=4, tasks=2, train_per_category=3, test_per_category=3, seed=9)
    path = tmp_path / "other.h5"
    synthesise(structure, SyntheticConfig(dim=32, frames=5, latent_dim=16, seed=6), path, name="other")
    return path


def suite_file(folder: Path, text: str) -> Path:
    path = folder / "two.toml"
    path.write_text(text)
    return path


def test_a_suite_on_several_stores_makes_one_folder_for_each_and_their_differences(
    tmp_path: Path, other_store: Path, no_figures: None
) -> None:
    path = suite_file(
        tmp_path,
        f"stores = ['{small_store().path}', 'other.h5']\nseeds = 2\nagainst = 'finetune [epochs=1]'\n"
        "methods = [{name = 'finetune', set = {epochs = 1}}, {name = 'zero_shot'}]\n",
    )
    suites = read_suites(path, {})
    assert [suite.name for suite in suites] == ["two/small", "two/other"]
    assert [suite.name for suite in read_suites(path, {"store": other_store})] == ["two"]
    result = called("run", "--suite", path, "--out", "o", "--jobs", 1, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "Each row minus finetune [epochs=1]" in " ".join(result.stdout.split())
    again = called("run", "--suite", path, "--out", "o", "--jobs", 1, "--json", cwd=tmp_path)
    assert [len(suite["runs"]) for suite in json.loads(again.stdout)] == [3, 3]  # zero_shot has one run
    found = [read_results(tmp_path / "o/two" / name) for name in ("small", "other")]
    (contrast,) = contrasts(found, "finetune [epochs=1]", HEADLINE)
    assert contrast.runs == 4
    assert contrast_markdown(found, "finetune [epochs=1]") == (tmp_path / "o/two/differences.md").read_text()
    over = (tmp_path / "o/two/stores.md").read_text()
    assert over == store_markdown(over_stores(found))
    assert "over 2 stores" in result.stdout
    star = sorted(str(path.relative_to(tmp_path)) for path in (tmp_path / "o/two").iterdir())
    assert len(star) > 4  # beside the stores' folders what the run left there
    by_name = store_markdown(over_stores(found[::-1]))
    for given, expected in ((["o/two/small", "o/two/other"], over), (["o/two"], by_name), (star, by_name)):
        (tmp_path / "o/two/stores.md").unlink()
        remade = called("report", *given, cwd=tmp_path)
        assert remade.returncode == 0, remade.stderr
        assert (tmp_path / "o/two/stores.md").read_text() == expected
    assert called("report", "o/two/small", "o/two/other", "--json", cwd=tmp_path).returncode == 2


def test_a_suite_with_an_unknown_reference_is_refused_before_it_runs(tmp_path: Path) -> None:
    config = make_suite({"store": small_store().path, "methods": [{"name": "lwf"}], "against": "lwff"}, "test")
    with pytest.raises(InputError, match="did you mean 'lwf'"):
        plan(config, small_store())


def test_a_world_is_named_by_its_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[int] = []

    def build(seed: int, progress: object) -> Path:
        built.append(seed)
        return tmp_path / f"{seed}.h5"

    monkeypatch.setattr("ctvr_bench.features.worlds.build.default_store_path", build)
    suites = read_suites(suite_file(tmp_path, "stores = ['moving-shapes:1', 'moving-shapes:4']"), {})
    assert [(suite.name, suite.store.name) for suite in suites] == [
        ("two/moving-shapes-1", "1.h5"),
        ("two/moving-shapes-4", "4.h5"),
    ]
    assert make_suite({"store": "moving-shapes:2"}, "test").store.name == "2.h5"
    assert built == [1, 4, 2]


def ablation() -> SuiteConfig:
    return read_suites(ABLATION, {"store": small_store().path})[0]


def test_the_shipped_ablation_takes_each_part_and_each_switch_alone() -> None:
    settings = [choice.set for choice in ablation().methods if choice.name == "structalign"]
    assert all({term: 0.0} in settings for term in ("crp", "etf", "proto"))
    assert all({module: False} in settings for module in ("frame_fusion", "routing"))
    assert all({"scoring": scoring} in settings for scoring in ("cosine", "word_frame"))
    alone = {**RELEASED}
    assert alone.pop("stale_gradients") is True
    assert {"projection": "fixed_random", "stale_gradients": True} in settings  # means nothing without it
    assert all({switch: value} in settings for switch, value in alone.items())


def test_the_shipped_ablation_has_enough_worlds_and_seeds_for_an_interval() -> None:
    shipped = tomllib.loads(ABLATION.read_text(encoding="utf-8"))
    assert min(len(shipped["stores"]), shipped["seeds"]) >= 3


def test_every_row_with_a_simplex_has_its_twin_without_it() -> None:
    shipped = tomllib.loads((ABLATION.parent / "structalign_dose.toml").read_text(encoding="utf-8"))
    settings = [row["set"] for row in shipped["methods"] if row["name"] == "structalign_anchored"]
    for field, weight in (("vertex_share", "anchor"), ("shift", "residual")):
        with_it = [
            row for row in settings if row.get(weight) and row[field] and not {"basis", "assignment"} & row.keys()
        ]
        assert len(with_it) > 3
        assert all({**row, field: 0.0} in settings for row in with_it)
    terms = [row["set"] for row in shipped["methods"] if row["name"] == "structalign"]
    assert all(sum(row[term] > 0 for term in ("crp", "etf", "proto")) <= 1 for row in terms)
    assert all(len({row[term] for row in terms}) == 4 for term in ("crp", "etf", "proto"))


@pytest.mark.parametrize("path", sorted(ABLATION.parent.glob("*.toml")), ids=lambda path: path.stem)
def test_a_shipped_suite_can_be_planned(path: Path) -> None:
    config = read_suites(path, {"store": small_store().path})[0]
    labels = {job.label for job in plan(config, open_store(config.store))}
    assert len(labels) == len(config.methods)
    assert config.against is None or config.against in labels


@pytest.mark.parametrize("name", ["full", "simulated_msrvtt"])
def test_a_shipped_full_table_has_every_method(name: str) -> None:
    config = read_suites(ABLATION.parent / f"{name}.toml", {"store": small_store().path})[0]
    shipped = {
        name for name, entry in known_methods().items() if entry.method.__module__.startswith("ctvr_bench.methods.")
    }
    assert {choice.name for choice in config.methods} == shipped
