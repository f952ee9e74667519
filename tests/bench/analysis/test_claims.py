"""Predictions: the sentences follow the numbers, and a table whose rows are exchanged tells another story."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ctvr_bench.bench.analysis.claims import (
    Claims,
    claims_markdown,
    judge,
    numbers_csv,
    numbers_of,
    read_claims,
    read_numbers,
)
from ctvr_bench.bench.records.aggregate import SuiteResults, read_results
from ctvr_bench.bench.records.summary import HEADLINE
from ctvr_bench.bench.suite.config import read_suites
from ctvr_bench.bench.suite.suite import plan
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.store import open_store
from tests.bench.fake_suite import write_suite
from tests.commands import called, fails
from tests.stores import small_store

ROOT = Path(__file__).resolve().parents[3]
LABELS = ("zero_shot", "finetune", "lwf", *(f"filler_{i}" for i in range(6)), "er")
FILE = """
question = "Does replay help?"
reduced = { by = 0.1, costs = 1.0 }
rows = { replay = "er", plain = "finetune", none = "zero_shot" }
[[claim]]
id = "C1"
says = "replay is above fine-tuning"
expects = [{ minus = ["replay", "plain"], measure = "R@1", at_least = 1.0, every_store = "above" }]
[[claim]]
id = "C2"
says = "what is not trained does not forget"
expects = [{ of = "none", measure = "BWF", at_most = 50.0 }]
[[claim]]
id = "C3"
says = "replay reduces drift"
expects = [{ minus = ["replay", "plain"], reduces_drift = true }]
"""
DISAGREEMENT = {"er": 0.3, "finetune": 0.6}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[SuiteResults]:
    folder = tmp_path_factory.mktemp("claims")
    made = [write_suite(folder / name, LABELS, seeds=seeds, queries=20) for name, seeds in (("one", 2), ("two", 3))]
    return [with_drift(read_results(directory)) for directory in made]


def with_drift(results: SuiteResults) -> SuiteResults:
    """The same runs with a measured disagreement of the last stage."""
    rows = []
    for row in results.rows:
        last = {"drift_disagreement": DISAGREEMENT.get(row.label)}
        runs = (replace(run, record=run.record.model_copy(update={"geometry": [{}, last]})) for run in row.runs)
        rows.append(replace(row, runs=tuple(runs)))
    return replace(results, rows=tuple(rows))


def exchanged(results: SuiteResults, first: str, second: str) -> SuiteResults:
    """The same table with two rows under each other's name."""
    names = {first: second, second: first}
    return replace(results, rows=tuple(replace(row, label=names.get(row.label, row.label)) for row in results.rows))


def written(tmp_path: Path, text: str = FILE) -> Path:
    (tmp_path / "claims.toml").write_text(text, encoding="utf-8")
    return tmp_path / "claims.toml"


def test_a_claim_is_judged_by_the_mean_over_stores_of_paired_runs(stores: list[SuiteResults], tmp_path: Path) -> None:
    claims = read_claims(written(tmp_path))
    judged = judge(claims, numbers_of(stores))
    by_hand = []
    for results in stores:
        rows = {row.label: [run.final[HEADLINE] for run in row.runs] for row in results.rows}
        by_hand.append(np.mean(np.array(rows["er"]) - np.array(rows["finetune"])))
    (found,) = judged[0].found
    assert list(found.by_store.values()) == pytest.approx(by_hand)
    assert found.mean == pytest.approx(np.mean(by_hand))
    assert [one.holds for one in judged] == [True, True, True]
    text = claims_markdown(claims, judged)
    assert "3 of 3 predictions hold" in text
    assert f"replay minus plain: R@1 {found.mean:+.2f} ({by_hand[0]:+.2f}, {by_hand[1]:+.2f}); at least +1" in text


def test_exchanged_rows_turn_the_verdicts(stores: list[SuiteResults], tmp_path: Path) -> None:
    claims = read_claims(written(tmp_path))
    turned = [exchanged(results, "er", "finetune") for results in stores]
    assert [one.holds for one in judge(claims, numbers_of(turned))] == [False, True, False]
    text = claims_markdown(claims, judge(claims, numbers_of(turned)))
    assert "1 of 3 predictions hold" in text
    assert "**C1 does not hold**" in text
    one_store = [stores[0], exchanged(stores[1], "er", "finetune")]
    assert not judge(claims, numbers_of(one_store))[0].holds  # above on one store alone


def test_drift_is_reduced_only_where_enough_and_on_every_store_and_at_little_cost(
    stores: list[SuiteResults], tmp_path: Path
) -> None:
    def reduced(**changed: float) -> bool:
        claims = read_claims(written(tmp_path))
        assert claims.reduced is not None
        asked: Claims = claims.model_copy(update={"reduced": claims.reduced.model_copy(update=changed)})
        return judge(asked, numbers_of(results))[2].holds

    results = stores
    assert reduced()
    assert not reduced(by=0.31)  # the difference is .3
    results = [exchanged(result, "er", "finetune") for result in stores]
    assert not reduced(by=-1.0, costs=100.0)  # higher on every store
    results = [stores[0], exchanged(stores[1], "er", "finetune")]
    assert not reduced(by=-1.0, costs=100.0)  # higher on one


def test_what_cannot_be_judged_is_said(stores: list[SuiteResults], tmp_path: Path) -> None:
    for old, new, said in (
        ('"er"', '"era"', "did you mean 'er'"),
        ('of = "none"', 'of = "nobody"', "C2 names 'nobody'"),
        (", at_most = 50.0", "", "gives bounds"),
        ('measure = "BWF"', 'measure = "BFW"', "claim.1.expects.0.measure"),
        ("reduced = { by = 0.1, costs = 1.0 }", "", "say what that means"),
        ('of = "none", measure = "BWF"', 'of = "none", measure = "drift_text"', "have no drift_text"),
    ):
        with pytest.raises(InputError, match=said):
            judge(read_claims(written(tmp_path, FILE.replace(old, new))), numbers_of(stores))


def test_the_command_prints_the_verdicts(stores: list[SuiteResults], tmp_path: Path) -> None:
    text = FILE[: FILE.index('[[claim]]\nid = "C3"')]
    folders = [results.directory for results in stores]
    found = called("claims", written(tmp_path, text), *folders)
    assert found.returncode == 0, found.stderr
    claims = read_claims(tmp_path / "claims.toml")
    assert found.stdout == claims_markdown(claims, judge(claims, numbers_of(stores)))
    kept = called("claims", tmp_path / "claims.toml", *folders, "--numbers", tmp_path / "numbers.csv")
    again = called("claims", tmp_path / "claims.toml", tmp_path / "numbers.csv")
    assert again.stdout == kept.stdout == found.stdout
    assert "no such file" in fails(tmp_path, "claims", tmp_path / "none.toml", *folders).lower()


def test_numbers_come_back_as_they_were_written(stores: list[SuiteResults], tmp_path: Path) -> None:
    numbers = numbers_of(stores)
    (tmp_path / "numbers.csv").write_text(numbers_csv(numbers), encoding="utf-8")
    assert read_numbers(tmp_path / "numbers.csv") == numbers
    for old, new in (("store,label", "shop,label"), ("\none,er,0,", "\none,er,x,"), ("\none,er,", "\none\r,er,")):
        (tmp_path / "wrong.csv").write_text(numbers_csv(numbers).replace(old, new), encoding="utf-8")
        with pytest.raises(InputError, match="write"):
            read_numbers(tmp_path / "wrong.csv")


@pytest.mark.parametrize("path", sorted((ROOT / "results/claims").glob("*.csv")), ids=lambda path: path.stem)
def test_the_page_of_findings_says_what_the_shipped_numbers_say(path: Path) -> None:
    claims, page = read_claims(path.with_suffix(".toml")), (ROOT / "results/FINDINGS.md").read_text(encoding="utf-8")
    numbers = read_numbers(path)
    assert claims_markdown(claims, judge(claims, numbers)) in page
    first, second = (claims.rows[name] for name in claims.claim[0].expects[0].rows)
    names = {first: second, second: first}
    turned = [replace(row, label=names.get(row.label, row.label)) for row in numbers]
    assert claims_markdown(claims, judge(claims, turned)) not in page


@pytest.mark.parametrize("path", sorted((ROOT / "results/claims").glob("*.toml")), ids=lambda path: path.stem)
def test_a_shipped_file_names_the_rows_of_its_suite(path: Path) -> None:
    config = read_suites(ROOT / "results/suites" / path.name, {"store": small_store().path})[0]
    labels = {job.label for job in plan(config, open_store(config.store))}
    assert set(read_claims(path).rows.values()) <= labels
