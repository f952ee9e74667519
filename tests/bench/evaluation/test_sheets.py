"""Several captions a test video: each sheet gets the ranks it has alone; videos, not captions, are the sample."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ctvr_bench.bench.analysis.contributions import contributions, row_intervals
from ctvr_bench.bench.analysis.queries import by_video
from ctvr_bench.bench.audit.tables import faults_of_table
from ctvr_bench.bench.evaluation import protocol
from ctvr_bench.bench.evaluation.protocol import Evaluator, StageResult
from ctvr_bench.bench.evaluation.queries import Queries
from ctvr_bench.bench.evaluation.search import Ranked
from ctvr_bench.bench.metrics import retrieval_metrics
from ctvr_bench.bench.records.aggregate import read_results
from ctvr_bench.bench.records.finished import read_metrics, read_ranks
from ctvr_bench.bench.records.record import Engine, FirstStage, RankTable
from ctvr_bench.bench.run.jobs import feature_spec
from ctvr_bench.bench.run.training import generator_for, learn_task
from ctvr_bench.bench.suite.config import make_suite
from ctvr_bench.bench.suite.suite import run_suite
from ctvr_bench.features.streams import PairTable, make_stream
from ctvr_bench.methods.shared.base import Method, TaskInfo
from ctvr_bench.methods.shared.registry import find_method
from tests.bench.run.test_resuming import contents, killed_at
from tests.stores import asked_thrice

SHEETS = 3


def all_asked() -> PairTable:
    tasks = make_stream(asked_thrice()).tasks
    return PairTable(asked_thrice(), np.concatenate([rows for task in tasks for rows in task.asked]))


def sheets() -> list[PairTable]:
    tasks = make_stream(asked_thrice()).tasks
    rows = [np.concatenate(rows) for rows in zip(*(task.asked for task in tasks), strict=True)]
    return [PairTable(asked_thrice(), each) for each in rows]


def sizes() -> list[int]:
    return [len(task.test) for task in make_stream(asked_thrice()).tasks]


def led(name: str, evaluators: list[Evaluator], scoring: str) -> tuple[Method, list[list[StageResult]]]:
    """What each evaluator finds after every task of one method."""
    store = asked_thrice()
    stream, entry = make_stream(store), find_method(name)
    values = {"scoring": scoring, "epochs": 2, "lr": 3e-3}
    method = entry.method(entry.config(values), feature_spec(store, stream), generator_for(0, "init")).eval()
    found: list[list[StageResult]] = [[] for _ in evaluators]
    for task in stream.tasks:
        data = PairTable(store, task.train)
        learn_task(method, data, TaskInfo(task.index, len(data), task.categories), 0)
        for results, evaluator in zip(found, evaluators, strict=True):
            results.append(evaluator.finish_task(method))
    return method, found


@pytest.mark.parametrize(
    ("name", "scoring", "engine"),
    [("finetune", "cosine", "auto"), ("finetune", "cosine", "faiss"), ("structalign", "fused", "auto")],
)
def test_each_sheet_gets_the_ranks_that_it_has_alone(name: str, scoring: str, engine: Engine) -> None:
    tables = sheets()
    together = Evaluator(all_asked(), sizes(), engine=engine, sheets=SHEETS)
    alone = [Evaluator(table, sizes(), engine=engine) for table in tables]
    _, (joined, *apart) = led(name, [together, *alone], scoring)
    for stage, result in enumerate(joined):
        ends = [0, *np.cumsum(sizes())[: stage + 1]]
        spans = list(itertools.pairwise(ends))
        column = np.concatenate([SHEETS * a + np.arange(b - a) for a, b in spans])
        assert result.ranked.keys() == apart[0][stage].ranked.keys()
        for key, ranked in result.ranked.items():
            each = [results[stage].ranked[key] for results in apart]
            assert ranked.rank_N.tolist() == [r for a, b in spans for one in each for r in one.rank_N[a:b].tolist()]
            assert ranked.best_N.tolist() == [
                column[item] for a, b in spans for one in each for item in one.best_N[a:b].tolist()
            ]


def test_queries_stand_by_task_and_in_a_task_by_sheet() -> None:
    queries = Queries([2, 1], 3)
    assert queries.target_N.tolist() == [0, 1, 0, 1, 0, 1, 2, 2, 2]
    assert queries.sheet_N.tolist() == [0, 0, 1, 1, 2, 2, 0, 1, 2]
    assert queries.item_V.tolist() == [0, 1, 6]
    assert (queries.videos(1), queries.of(1)) == (slice(2, 3), slice(6, 9))
    assert queries.by_sheet(slice(1, 5)) == [slice(1, 2), slice(2, 4), slice(4, 5)]


def test_what_an_index_does_not_find_is_no_video(monkeypatch: pytest.MonkeyPatch) -> None:
    size, stage = sum(sizes()), FirstStage(index="flat", rerank=0)
    monkeypatch.setattr(
        protocol, "rank_through", lambda index, text, video, target_N, *_: Ranked(target_N + 1, 0 * target_N - 1)
    )
    evaluator = Evaluator(all_asked(), sizes(), stage, sheets=SHEETS)
    _, (results,) = led("finetune", [evaluator], "cosine")
    found = results[-1].ranked["indexed", "seen", "t2v"]
    assert found.best_N.tolist() == [-1] * (SHEETS * size)
    assert found.rank_N.tolist() == (Queries(sizes(), SHEETS).target_N + 1).tolist()


def test_own_ranks_and_the_headline_are_over_all_sheets() -> None:
    tables = sheets()
    together, alone = Evaluator(all_asked(), sizes(), sheets=SHEETS), [Evaluator(t, sizes()) for t in tables]
    method, _ = led("finetune", [], "cosine")
    expected = np.concatenate([one.own_ranks(method, 1, 1) for one in alone])
    assert together.own_ranks(method, 1, 1).tolist() == expected.tolist()
    assert together.headline(method, 0) == pytest.approx(np.mean([one.headline(method, 0) for one in alone]))
    assert together.queries(1) == slice(SHEETS * 6, SHEETS * 12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return asked(tmp_path_factory.mktemp("thrice"))


def asked(out: Path) -> Path:
    values = {"store": asked_thrice().path, "out": out, "seeds": 2, "jobs": 1, "name": "asked", "keep": ("top=4",)}
    config = make_suite(
        {**values, "methods": ["zero_shot", "lwf"], "set": {"lwf": {"epochs": 2, "lr": 3e-3}}}, "a test"
    )
    run_suite(config)
    return out / "asked"


def table_of(folder: Path, name: str) -> RankTable:
    return read_ranks(next(path for path in sorted(folder.iterdir()) if path.name.startswith(f"{name}-o0-s0")))


def test_a_run_records_every_caption_and_its_metrics_are_means_over_them(folder: Path) -> None:
    path = next(path for path in folder.iterdir() if path.name.startswith("lwf-o0-s1"))
    table, store = read_ranks(path), asked_thrice()
    assert not list(faults_of_table(table))
    assert len(table.task_N) == SHEETS * 18
    assert np.unique(table.video_N, return_counts=True)[1].tolist() == [SHEETS] * 18
    assert np.array_equal(store.caption_video_M[table.caption_N], table.video_N)
    rank_N = table.ranks["stored/seen/t2v"][-1]
    assert read_metrics(path)["final"]["t2v/stored/seen/R@1"] == retrieval_metrics(rank_N)["R@1"]


@pytest.mark.parametrize("part", ["best", "video"])
def test_a_table_that_asks_unevenly_or_points_between_videos_is_refused(folder: Path, part: str) -> None:
    table = table_of(folder, "lwf")
    if part == "best":
        best_TN = table.best["stored/seen/t2v"].copy()
        best_TN[-1, 5] = 7  # a second caption, no video
        table, fault = replace(table, best={**table.best, "stored/seen/t2v": best_TN}), "a best item that is not among"
    else:
        video_N = table.video_N.copy()
        video_N[1] = video_N[0]
        table, fault = replace(table, video_N=video_N), "some videos are asked for more often than others"
    assert any(fault in found for found in faults_of_table(table))


def test_a_run_that_is_cut_off_goes_on_to_the_same_ranks(folder: Path, tmp_path: Path) -> None:
    with killed_at("progress-1", 1):
        asked(tmp_path)
    again = asked(tmp_path)
    for path in sorted(folder.glob("*/ranks.h5")):
        assert contents(again / path.parent.name / "ranks.h5") == contents(path)


def test_answers_given_three_times_tell_no_more_than_once(folder: Path) -> None:
    table = table_of(folder, "lwf")
    values = contributions(table, "t2v/stored/seen/R@1")
    assert values is not None
    once_V = by_video(table, values)
    assert once_V.mean() == pytest.approx(values.mean())
    copies = replace(table, video_N=np.repeat(np.unique(table.video_N), SHEETS))
    assert by_video(copies, np.repeat(once_V, SHEETS)) == pytest.approx(once_V)


def test_intervals_count_videos(folder: Path) -> None:
    results = read_results(folder)
    row = next(row for row in results.rows if row.label.startswith("lwf"))
    interval = row_intervals(row, ["t2v/stored/seen/R@1"])["t2v/stored/seen/R@1"]
    assert interval.variance.query_freedom == 17
    values = [contributions(read_ranks(run.directory), "t2v/stored/seen/R@1") for run in row.runs]
    table = read_ranks(row.runs[0].directory)
    by_hand = np.mean([[v[table.video_N == video].mean() for video in np.unique(table.video_N)] for v in values], 0)
    assert interval.variance.query == pytest.approx(by_hand.var(ddof=1) / 18)
