"""A smoke test asks a part of the stream, is called so wherever its numbers stand, and is no result."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import ctvr_bench
from ctvr_bench.bench.audit.registry import entries, submit
from ctvr_bench.bench.cli.values import parse_limit
from ctvr_bench.bench.gate.accept import Prepared, accept
from ctvr_bench.bench.records.finished import read_ranks
from ctvr_bench.bench.records.record import read_checked, write_checked
from ctvr_bench.bench.report.drawing import caption
from ctvr_bench.bench.report.tables import console_table, csv_table, markdown_table
from ctvr_bench.bench.suite.config import make_suite
from ctvr_bench.bench.suite.suite import plan
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.streams import StreamOptions, make_stream
from tests.commands import called
from tests.stores import small_store, small_stream

SAID = "a smoke test (queries=4 tasks=2): these numbers are no result"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("limit")
    return ctvr_bench.run("zero_shot", small_store(), seeds=1, out=out, limit={"tasks": 2, "queries": 4}).path


def test_the_first_tasks_are_asked_with_queries_of_all_their_categories() -> None:
    whole, part = small_stream(), make_stream(small_store(), None, StreamOptions(tasks=2, queries=4))
    assert len(part) == 2
    for task, cut in zip(whole.tasks[:2], part.tasks, strict=True):
        np.testing.assert_array_equal(cut.train, task.train)
        assert cut.test.tolist() == task.test[[0, 2, 5, 7]].tolist()
        videos = small_store().caption_video_M[cut.test]
        assert set(small_store().category_N[videos]) == set(cut.categories)
    again = make_stream(small_store(), None, StreamOptions(order=1, tasks=1, queries=100)).tasks
    ordered = make_stream(small_store(), None, StreamOptions(order=1)).tasks
    assert [task.test.tolist() for task in again] == [ordered[0].test.tolist()], "more than there are is all"


def test_a_limit_names_the_run_and_no_limit_changes_no_name() -> None:
    def config(**values: object) -> object:
        choice = [{"name": "zero_shot"}]
        return plan(make_suite({"store": small_store().path, "methods": choice, **values}, "test"), small_store())[
            0
        ].config

    assert config(limit={"tasks": 2}).run_id != config().run_id
    assert config(limit={"tasks": 2}).limit == "tasks=2"
    assert {"tasks", "queries"}.isdisjoint(config().options)


@pytest.mark.usefixtures("no_figures")
def test_its_numbers_are_called_a_smoke_test_everywhere(runs: Path) -> None:
    found = ctvr_bench.load(runs)
    assert len(read_ranks(found.run_of().directory).task_N) == 8
    assert found.suite.smoke_test == SAID
    for text in (markdown_table(found.suite), csv_table(found.suite), caption(found.suite, "").lower()):
        assert SAID in text
    assert found.to_dataframe()["smoke_test"].to_list() == ["queries=4 tasks=2"]
    shown = called("report", runs, "--format", "latex").stdout
    assert SAID.replace("_", r"\_") in shown
    assert called("run", "--store", small_store().path, "--methods", "zero_shot", "--seeds", 1, "--out", runs.parent,
        "--limit", "tasks=2,queries=4", "--json", "--quiet").stdout.count(SAID) == 2  # fmt: skip
    for name in ("index.html", "report.md", "metrics.json"):
        assert SAID in (runs / "report" / name).read_text(), name
    assert json.loads((runs / "report/metrics.json").read_text())["smoke_test"] == SAID
    assert console_table(found.suite, 200).caption.startswith(SAID)


def test_it_is_no_result(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"is a smoke test \(queries=4 tasks=2\).*run it without --limit and submit that"
    ):
        submit(runs, tmp_path / "registry")
    assert not (tmp_path / "registry").exists()
    config = make_suite({"store": small_store().path, "limit": {"tasks": 1}}, "test")
    with pytest.raises(InputError, match="a baseline asks the whole stream"):
        accept(Prepared(tmp_path / "b.json", None, config))
    entry = tmp_path / "registry/results/zero_shot/r/s/t"
    shutil.copytree(runs, entry, ignore=shutil.ignore_patterns("report"))
    values = {"schema": "ctvr-result 1", "metrics": {}, "runs": []}
    write_checked(entry / "result.json", values)
    assert read_checked(entry / "result.json") == values
    with pytest.raises(InputError, match=r"result\.json: is a smoke test \(queries=4 tasks=2\), which is no result"):
        entries(tmp_path / "registry")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("task=2", "unknown limit 'task'; did you mean 'tasks'"),
        ("tasks=0", "from 1; got 0"),
        ("tasks=x", "got 'x'"),
        ("tasks", "needs"),
    ],
)
def test_another_limit_is_refused(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_limit(text)
    with pytest.raises(InputError, match="limit"):
        make_suite({"store": "x", "limit": {"tasks": 0}}, "test")
