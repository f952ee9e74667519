"""A table over stores: means of stores, tests of all pairs, and nothing averaged that a store lacks."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from ctvr_bench.bench.analysis.contrasts import contrasts
from ctvr_bench.bench.analysis.over_stores import (
    over_stores,
    store_csv,
    store_markdown,
    store_sentences,
    store_table,
)
from ctvr_bench.bench.records.aggregate import Row, SuiteResults, read_results
from ctvr_bench.bench.records.summary import HEADLINE
from ctvr_bench.features.errors import InputError
from tests.bench.fake_suite import write_suite

LABELS = ("lwf", "zero_shot", "joint", "er", "der_pp")
QUERIES = {"a": 8, "b": 12, "c": 20}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[SuiteResults]:
    """Three stores of other sizes; the last lacks a seed of der_pp."""
    folder, found = tmp_path_factory.mktemp("stores"), []
    for number, (name, queries) in enumerate(QUERIES.items()):
        suite = on_store(read_results(write_suite(folder / name, LABELS, seeds=2, queries=queries)), f"{number}f" * 32)
        *rows, last = suite.rows
        assert last.label == "der_pp"
        found.append(replace(suite, rows=(*rows, replace(last, runs=last.runs[:1]))) if name == "c" else suite)
    return found


def on_store(suite: SuiteResults, digest: str) -> SuiteResults:
    rows = []
    for row in suite.rows:
        records = [run.record for run in row.runs]
        moved = [
            record.model_copy(
                update={
                    "config": record.config.model_copy(
                        update={"store": record.config.store.model_copy(update={"digest": digest})}
                    )
                }
            )
            for record in records
        ]
        rows.append(Row(row.label, tuple(replace(run, record=new) for run, new in zip(row.runs, moved, strict=True))))
    return replace(suite, rows=tuple(rows))


def means(stores: list[SuiteResults], label: str) -> list[float]:
    return [float(np.mean(row.values(HEADLINE))) for result in stores for row in result.rows if row.label == label]


def test_a_row_is_its_mean_over_stores_with_students_interval_over_them(stores: list[SuiteResults]) -> None:
    found = over_stores(stores)
    assert found.stores == ("a", "b", "c")
    assert [row.label for row in found.pooled.rows] == ["lwf", "zero_shot", "joint", "er"]
    for label in found.by_store:
        by_store = means(stores, label)
        assert found.by_store[label] == pytest.approx(by_store)
        low, high = stats.t.interval(0.95, 2, np.mean(by_store), stats.sem(by_store))
        assert found.interval(label) == (pytest.approx(low), pytest.approx(high))
    whole = [replace(result, rows=result.rows[:-1]) for result in stores]
    tested = {label: test.p for (label, other), test in found.pairs.items() if other == "lwf"}
    assert tested == {c.label: c.p for c in contrasts(whole, "lwf", HEADLINE)}


def test_what_a_store_lacks_runs_of_is_left_out_and_named(stores: list[SuiteResults]) -> None:
    found = over_stores(stores)
    assert found.left_out == ("der_pp",)
    assert store_sentences(found)[-1] == "Left out, since not every store has the same runs of it: der_pp."
    assert "der_pp" not in store_csv(found)
    whole = over_stores(stores[:2])
    assert whole.left_out == ()
    assert "der_pp" in whole.by_store


def test_every_form_shows_the_same_numbers(stores: list[SuiteResults]) -> None:
    found = over_stores(stores)
    lines = {line["label"]: line for line in csv.DictReader(io.StringIO(store_csv(found)))}
    of = {label: np.mean(means(stores, label)) for label in lines}
    ranked, below = (sorted(pair, key=of.__getitem__, reverse=True) for pair in (("er", "lwf"), ("joint", "zero_shot")))
    assert [*lines] == [*ranked, *below]
    er = means(stores, "er")
    assert [float(lines["er"][name]) for name in "abc"] == pytest.approx(er)
    assert float(lines["er"][HEADLINE]) == pytest.approx(np.mean(er))
    assert float(lines["er"]["cost/stored_bytes"]) == pytest.approx(512 * 3 / 1000)
    assert (lines["er"]["runs"], lines["zero_shot"]["runs"], lines["joint"]["kind"]) == ("6", "3", "reference")
    low, high = (float(lines["er"][name]) for name in ("low", "high"))
    text = store_markdown(found)
    each = " | ".join(f"{value:.2f}" for value in er)
    assert f"| er | {np.mean(er):.2f} | {low:.2f} to {high:.2f} | {each} |" in text
    assert "| *joint* |" in text
    best = next(iter(lines))
    assert f"{best} has the highest R@1 of the continual methods over 3 stores: {of[best]:.2f} %" in text
    assert "**Under a budget**" in text
    assert len(store_table(found).rows) == 4


def test_what_training_harms_comes_first(stores: list[SuiteResults]) -> None:
    """A trained row finds nothing any more."""
    turned = []
    for result in stores[:2]:
        rows = {row.label: row for row in result.rows}
        lowered = replace(rows["lwf"], runs=tuple(
            replace(run, metrics={**run.metrics, "final": {**run.final, HEADLINE: 0.0}}) for run in rows["lwf"].runs
        ))  # fmt: skip
        turned.append(replace(result, rows=(lowered, rows["zero_shot"], rows["er"])))
    first = store_sentences(over_stores(turned))[0]
    difference = float(np.mean(means(turned, "zero_shot")))
    assert first.startswith("Trained and below the same features without training:")
    assert f"lwf (-{difference:.2f} points" in first


def test_two_suites_of_one_store_are_no_two_stores(stores: list[SuiteResults]) -> None:
    again = replace(stores[0], directory=Path("again"))
    with pytest.raises(InputError, match=r"a and again are of one store.*side by side with --format md"):
        over_stores([*stores, again])
    with pytest.raises(InputError, match=r"a and .*a are of one store"):
        over_stores([stores[0], stores[0]])
