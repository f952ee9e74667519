from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from ctvr_bench.bench.metrics import (
    mean_rank,
    mean_reciprocal_rank,
    median_rank,
    ranks,
    recall_at_k,
    retrieval_metrics,
)
from tests.golden import golden


def naive_ranks(sim, target):
    """One score at a time, as the definition reads."""
    result = []
    for n, own in enumerate(target):
        rank = 1
        for m in range(len(sim[n])):
            if sim[n][m] > sim[n][own] or (m != own and sim[n][m] == sim[n][own]):
                rank += 1
        result.append(rank)
    return result


def diagonal_ranks(sim_NM):
    return ranks(sim_NM, np.arange(len(sim_NM)))


# By hand


def test_the_best_score_has_rank_one_and_the_worst_the_last():
    sim_NM = np.array([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    assert ranks(sim_NM, np.array([0, 1, 2])).tolist() == [1, 2, 3]


def test_ties_count_against_the_query():
    assert ranks(np.array([[0.5, 0.5, 0.9, 0.5, 0.1]]), np.array([1])).tolist() == [4]


def test_a_model_that_scores_everything_alike_is_last_everywhere():
    assert diagonal_ranks(np.zeros((12, 12), dtype=np.float32)).tolist() == [12] * 12


def test_several_queries_may_share_an_item():
    assert ranks(np.array([[1.0, 2.0], [2.0, 1.0]]), np.array([0, 0])).tolist() == [2, 1]


def test_padding_columns_do_not_move_a_rank():
    sim_NM = np.random.default_rng(0).standard_normal((6, 9))
    target_N = np.arange(6)
    padded = np.concatenate([sim_NM, np.full((6, 4), -np.inf)], axis=1)
    assert ranks(padded, target_N).tolist() == ranks(sim_NM, target_N).tolist()


def test_a_padding_item_is_last():
    assert ranks(np.array([[-np.inf, 0.0, -np.inf]]), np.array([0])).tolist() == [3]


def test_no_queries_give_no_ranks():
    result = ranks(np.empty((0, 5)), np.empty(0, dtype=np.int64))
    assert result.shape == (0,)
    assert result.dtype == np.int64


def test_metrics_of_four_ranks():
    assert retrieval_metrics([1, 2, 10, 100]) == {
        "R@1": 25.0,
        "R@5": 50.0,
        "R@10": 75.0,
        "R@50": 75.0,
        "R@100": 100.0,
        "MedR": 6.0,
        "MeanR": 28.25,
        "MRR": pytest.approx(100 * (1 + 0.5 + 0.1 + 0.01) / 4),
    }


def test_metrics_come_in_a_fixed_order():
    assert list(retrieval_metrics([1])) == ["R@1", "R@5", "R@10", "R@50", "R@100", "MedR", "MeanR", "MRR"]


def test_perfect_ranks_are_one_hundred_percent():
    assert retrieval_metrics(np.ones(7, dtype=np.int64)) == {
        **{f"R@{k}": 100.0 for k in (1, 5, 10, 50, 100)},
        "MedR": 1.0,
        "MeanR": 1.0,
        "MRR": 100.0,
    }


# By naive twin


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_ranks_agree_with_plain_loops_however_many_ties(dtype, levels):
    random = np.random.default_rng(levels)
    sim_NM = random.integers(levels, size=(23, 17)).astype(dtype)
    target_N = random.integers(17, size=23)
    assert ranks(sim_NM, target_N).tolist() == naive_ranks(sim_NM.tolist(), target_N.tolist())


def test_the_other_direction_is_the_transpose():
    random = np.random.default_rng(1)
    sim_NM = random.integers(5, size=(13, 8)).astype(np.float32)
    target_M = random.integers(13, size=8)
    by_column = naive_ranks([[sim_NM[n, m] for n in range(13)] for m in range(8)], target_M.tolist())
    assert ranks(sim_NM.T, target_M).tolist() == by_column


@pytest.mark.parametrize("block_scores", [1, 7, 50, 10_000])
def test_ranks_do_not_depend_on_the_block_size(monkeypatch, block_scores):
    random = np.random.default_rng(2)
    sim_NM, target_N = random.standard_normal((11, 7)), random.integers(7, size=11)
    monkeypatch.setattr("ctvr_bench.bench.metrics._BLOCK_SCORES", block_scores)
    assert ranks(sim_NM, target_N).tolist() == naive_ranks(sim_NM.tolist(), target_N.tolist())


@pytest.mark.parametrize("transposed", [False, True])
def test_ranking_needs_little_memory_beside_the_scores(transposed):
    sim_NM = np.random.default_rng(3).standard_normal((2500, 2500), dtype=np.float32)
    target_N = np.arange(2500)
    tracemalloc.start()
    ranks(sim_NM.T if transposed else sim_NM, target_N)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3e6 < sim_NM.size


def test_each_metric_agrees_with_plain_loops():
    rank_N = np.random.default_rng(4).integers(1, 150, size=31).tolist()
    for k in (1, 5, 10, 50, 100):
        assert recall_at_k(rank_N, k) == 100 * sum(rank <= k for rank in rank_N) / 31
    assert median_rank(rank_N) == sorted(rank_N)[15]
    assert mean_rank(rank_N) == pytest.approx(sum(rank_N) / 31, rel=1e-15)
    assert mean_reciprocal_rank(rank_N) == pytest.approx(100 * sum(1 / rank for rank in rank_N) / 31, rel=1e-12)


# Golden


def assert_as_released(rank_N, keys, values):
    """The release writes R1 for R@1, and has no MRR."""
    ours = {name.replace("@", ""): value for name, value in retrieval_metrics(rank_N).items() if name != "MRR"}
    assert ours == dict(zip(keys.tolist(), values.tolist(), strict=True))


@pytest.mark.parametrize("case", ["rand", "easy"])
def test_ranks_and_metrics_are_those_of_the_release(case):
    values = golden("metrics")
    sim_NM = values[f"{case}_sims"][:, 0]
    assert (diagonal_ranks(sim_NM) - 1).tolist() == values[f"{case}_t2v_ranks"].tolist()
    assert_as_released(diagonal_ranks(sim_NM), values["keys"], values[f"{case}_t2v"])
    assert_as_released(diagonal_ranks(sim_NM.T), values["keys"], values[f"{case}_v2t"])


@pytest.mark.parametrize("case", ["tie", "tie_big", "tie_all"])
def test_among_ties_ours_is_the_worst_rank_the_release_could_give(case):
    values = golden("metrics")
    sim_NM, released_N = values[f"{case}_sims"][:, 0], values[f"{case}_t2v_ranks"] + 1
    own_N1 = np.diag(sim_NM)[:, None]
    best_N, worst_N = 1 + (sim_NM > own_N1).sum(axis=1), (sim_NM >= own_N1).sum(axis=1)
    assert (best_N < worst_N).any()
    assert ((best_N <= released_N) & (released_N <= worst_N)).all()
    assert diagonal_ranks(sim_NM).tolist() == worst_N.tolist()


def test_metrics_of_given_ranks_are_those_of_the_release():
    values = golden("metrics")
    assert_as_released(values["cm_ranks"] + 1, values["keys"], values["cm"])


def test_several_captions_of_a_video_rank_as_in_the_release():
    values = golden("metrics")
    sim_VQV = values["multi_sims"]
    caption_major = sim_VQV.transpose(1, 0, 2).reshape(-1, 10)
    target = np.tile(np.arange(10), 3)
    real = np.isfinite(caption_major).any(axis=1)
    rank_N = ranks(caption_major[real], target[real])
    assert (rank_N - 1).tolist() == values["multi_t2v_ranks"].tolist()
    assert_as_released(rank_N, values["keys"], values["multi_t2v"])


def test_a_video_finds_its_best_caption_as_in_the_release():
    values = golden("metrics")
    best_VV = values["multi_sims"].max(axis=1)
    assert_as_released(diagonal_ranks(best_VV.T), values["keys"], values["multi_v2t"])


def test_a_gallery_larger_than_the_queries_ranks_as_in_the_release():
    values = golden("metrics")
    target_N = np.arange(int(values["cl_start"]), int(values["cl_end"]))
    rank_N = ranks(values["cl_sims"][:, 0], target_N)
    assert [recall_at_k(rank_N, k) for k in (1, 5, 10)] == values["cl_metrics"].tolist()


# Errors


@pytest.mark.parametrize("block_scores", [1, 10_000])
@pytest.mark.parametrize("column", [0, 2])
def test_a_nan_score_is_refused_and_its_row_named(monkeypatch, column, block_scores):
    monkeypatch.setattr("ctvr_bench.bench.metrics._BLOCK_SCORES", block_scores)
    sim_NM = np.ones((3, 3))
    sim_NM[1, column] = np.nan
    with pytest.raises(ValueError, match="row 1 of sim_NM"):
        ranks(sim_NM, np.array([0, 0, 0]))


@pytest.mark.parametrize("outside", [-1, 3])
def test_a_target_outside_the_gallery_is_refused(outside):
    with pytest.raises(ValueError, match=f"which has 3, counted from 0; got {outside} for query 1"):
        ranks(np.ones((2, 3)), np.array([0, outside]))


@pytest.mark.parametrize("target", [np.array([0]), np.array([[0], [1]]), np.array([0.0, 1.0])])
def test_targets_must_be_one_integer_per_query(target):
    with pytest.raises(ValueError, match="one integer column index per query"):
        ranks(np.ones((2, 3)), target)


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4)])
def test_scores_must_be_a_matrix(shape):
    with pytest.raises(ValueError, match="must be \\[queries, gallery\\]"):
        ranks(np.ones(shape), np.array([0, 1]))


@pytest.mark.parametrize("metric", [retrieval_metrics, median_rank, mean_rank, mean_reciprocal_rank])
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([], "at least one query"),
        ([[1, 2]], "at least one query"),
        ([3, 0, 1], "got 0 for query 1"),
        ([1, np.nan], "got nan for query 1"),
    ],
)
def test_metrics_refuse_what_is_not_a_rank(metric, bad, message):
    with pytest.raises(ValueError, match=message):
        metric(bad)


def test_recall_at_zero_is_refused():
    with pytest.raises(ValueError, match="k must be at least 1; got 0"):
        recall_at_k([1], 0)
