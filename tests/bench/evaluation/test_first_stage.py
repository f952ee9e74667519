"""An index in front of exact scores, against ranks counted by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ctvr_bench.bench.evaluation.first_stage import rank_through, rescored
from ctvr_bench.bench.evaluation.scores import scores_of
from ctvr_bench.bench.evaluation.search import ItemIndex
from ctvr_bench.bench.metrics import ranks
from ctvr_bench.bench.records.aggregate import read_results
from ctvr_bench.bench.records.finished import read_metrics
from ctvr_bench.bench.records.record import FirstStage, RankTable, RunConfig
from ctvr_bench.bench.report.report import write_report
from ctvr_bench.bench.report.tables import csv_table, markdown_table
from ctvr_bench.bench.run.jobs import store_id
from ctvr_bench.bench.suite.config import make_suite
from ctvr_bench.bench.suite.suite import run_suite
from ctvr_bench.features.errors import InputError
from ctvr_bench.methods.shared.base import MethodConfig, TextEmbedding, VideoEmbedding
from ctvr_bench.methods.shared.similarity import normalise
from tests.stores import small_store

N, M, L, F, D = 40, 60, 5, 4, 16
TARGETS = np.arange(N)


def draw(*shape: int, seed: int) -> Tensor:
    return normalise(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)))


@pytest.fixture(scope="module")
def pair() -> tuple[TextEmbedding, VideoEmbedding]:
    frames = draw(M, F, D, seed=1)
    words = normalise(frames[:N, :1].repeat(1, L, 1) + 0.7 * draw(N, L, D, seed=2))
    mask = torch.ones(N, L, dtype=torch.bool)
    mask[3, 2:] = False
    return TextEmbedding(normalise(words.mean(1)), words * mask[..., None], mask), VideoEmbedding(
        normalise(frames.mean(1)), frames, torch.ones(M, F, dtype=torch.bool)
    )


@pytest.mark.parametrize("scoring", ["word_frame", "fused"])
def test_re_ranking_everything_gives_exact_ranks(pair: tuple[TextEmbedding, VideoEmbedding], scoring: str) -> None:
    text, video = pair
    config = MethodConfig(scoring=scoring)
    found = rank_through(
        ItemIndex(video.pooled_MD, "flat"), text, video, TARGETS, config, FirstStage(index="flat", rerank=M)
    )
    sim = scores_of(text, video, config).combined(config.alpha).numpy()
    assert np.array_equal(found.rank_N, ranks(sim, TARGETS))
    assert np.array_equal(found.best_N, sim.argmax(1))


def test_a_target_that_the_index_does_not_return_comes_after_all_and_others_are_ranked_among_what_it_returns(
    pair: tuple[TextEmbedding, VideoEmbedding],
) -> None:
    text, video = pair
    config, depth = MethodConfig(scoring="word_frame"), 6
    found = rank_through(
        ItemIndex(video.pooled_MD, "flat"), text, video, TARGETS, config, FirstStage(index="flat", rerank=depth)
    )
    pooled, exact = (text.pooled_ND @ video.pooled_MD.T).numpy(), scores_of(text, video, config).combined(0.5).numpy()
    for query in range(N):
        near = np.argsort(-pooled[query])[:depth]
        expected = 1 + np.sum(exact[query, near] > exact[query, query]) if query in near else M + 1
        assert found.rank_N[query] == expected
    assert (found.rank_N == M + 1).any()


def test_the_order_of_the_index_stands_where_nothing_is_re_ranked(pair: tuple[TextEmbedding, VideoEmbedding]) -> None:
    text, video = pair
    text = TextEmbedding(text.pooled_ND)
    index = ItemIndex(video.pooled_MD, "flat")
    found = rank_through(index, text, video, TARGETS, MethodConfig(), FirstStage(index="flat"))
    assert np.array_equal(found.rank_N, ranks((text.pooled_ND @ video.pooled_MD.T).numpy(), TARGETS))


def test_an_item_that_is_none_has_no_score(pair: tuple[TextEmbedding, VideoEmbedding]) -> None:
    text, video = pair
    items = np.tile(np.array([2, -1, 5]), (N, 1))
    scores = rescored(text, video, items, MethodConfig(scoring="word_frame"))
    assert np.isneginf(scores[:, 1]).all()
    assert np.isfinite(scores[:, [0, 2]]).all()


def test_a_suite_shows_the_loss_of_its_index_beside_exact_recall(tmp_path: Path, no_figures: None) -> None:
    methods = [
        {"name": "zero_shot"},
        {"name": "zero_shot", "set": {"scoring": "fused"}},
        {"name": "adapter_per_task", "set": {"epochs": 1}},
    ]
    given = {"store": small_store().path, "methods": methods, "seeds": 1, "jobs": 1, "out": tmp_path}
    config = make_suite({**given, "index": "pq", "rerank": 4}, "test")
    records = run_suite(config)
    results = read_results(config.directory)
    pooled, fused, own = (read_metrics(config.directory / record.run_id)["final"] for record in records)
    for final in (pooled, fused):
        assert final["index/loss"] == final["t2v/stored/seen/R@1"] - final["t2v/indexed/seen/R@1"]
        assert 0 < final["t2v/indexed/seen/R@1"] <= 100
    assert "index/loss" not in own  # its queries depend on the gallery
    assert results.measured["options"] == "index=pq rerank=4"
    assert "**Through the index**" in markdown_table(results)
    assert "index/loss mean" in csv_table(results)
    assert "Through the index" in write_report(config.directory).read_text()
    exact = run_suite(make_suite({**given, "name": "exact"}, "test"))
    for record, plain in zip(records, exact, strict=True):
        assert record.run_id != plain.run_id
        tables = [
            RankTable.load(tmp_path / f / r.run_id / "ranks.h5") for f, r in (("default", record), ("exact", plain))
        ]
        for name, rank in tables[1].ranks.items():
            assert np.array_equal(rank, tables[0].ranks[name])
    assert "index" not in markdown_table(read_results(tmp_path / "exact"))


def test_without_an_index_a_run_has_the_name_it_always_had() -> None:
    record = run_config()
    assert record.model_copy(update={"first_stage": None}).run_id == record.run_id
    assert record.model_copy(update={"first_stage": FirstStage(index="flat")}).run_id != record.run_id


def run_config() -> RunConfig:
    return RunConfig(
        method="lwf",
        config={},
        stream="s",
        options={"order": 0},
        seed=0,
        selection="last",
        store=store_id(small_store()),
    )


def test_re_ranking_needs_an_index() -> None:
    with pytest.raises(InputError, match="rerank needs an index"):
        make_suite({"store": small_store().path, "rerank": 10}, "test")
    with pytest.raises(InputError, match="'flat', 'ivf', 'hnsw' or 'pq'"):
        make_suite({"store": small_store().path, "index": "faiss"}, "test")
