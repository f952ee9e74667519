"""The protocol against the authors' recorded evaluators, against plain loops, and its own promises."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ctvr_bench.bench.evaluation import grid, protocol, ranking
from ctvr_bench.bench.evaluation.protocol import Evaluator, StageResult
from ctvr_bench.bench.evaluation.scores import Scores
from ctvr_bench.bench.forgetting import backward_forgetting, backward_forgetting_curve
from ctvr_bench.bench.metrics import retrieval_metrics
from ctvr_bench.bench.records.record import Engine, Reencoded
from ctvr_bench.bench.records.state import lay_aside
from ctvr_bench.bench.run.jobs import feature_spec
from ctvr_bench.bench.run.training import generator_for, learn_task
from ctvr_bench.features.streams import PairTable, TextBatch, VideoBatch
from ctvr_bench.methods.shared.base import (
    FeatureSpec,
    Method,
    MethodConfig,
    Scoring,
    TaskInfo,
    TextEmbedding,
    VideoEmbedding,
    learns,
)
from ctvr_bench.methods.shared.heads import AdaptedVideo
from ctvr_bench.methods.shared.registry import find_method
from ctvr_bench.methods.shared.scoring import embed_text, embed_video
from tests.golden import golden
from tests.ragged import pad
from tests.stores import small_store, small_stream

PATHS = {"ori": "cosine", "v2": "word_frame", "v3": "fused", "v3_drift": "fused"}


class Recorded(Method):
    """A method whose encoders return the features that the authors' evaluators were fed."""

    name = "recorded"
    uses_shards = True
    time = 0

    def __init__(self, config: MethodConfig, arrays: dict[str, Any]) -> None:
        super().__init__(config, FeatureSpec(10, 3, 6, 3), torch.Generator())
        self.frames = torch.from_numpy(arrays["frames"])
        lengths = torch.from_numpy(arrays["lengths"])
        self.words = [[pad(words, lengths) for words in stage] for stage in torch.from_numpy(arrays["words"])]
        self.text_global = torch.from_numpy(arrays["text_global"])

    def encode_text(self, text: TextBatch, shard: int) -> TextEmbedding:
        rows = text.pooled_ND[:, 0].long()
        words, mask = self.words[self.time][shard]
        return embed_text(TextBatch(self.text_global[self.time, shard, rows], words[rows], mask[rows]), self.config)

    def encode_video(self, video: VideoBatch) -> VideoEmbedding:
        frames_MFD = self.frames[self.time, video.frames_MFD[:, 0, 0].long()]
        return embed_video(AdaptedVideo(frames_MFD, torch.ones(frames_MFD.shape[:2], dtype=torch.bool)), self.config)


class RowNumbers:
    """Stands for a PairTable whose features are just row numbers."""

    def text(self, index: torch.Tensor) -> TextBatch:
        rows = index[:, None].float()
        return TextBatch(rows, rows[:, None], torch.ones(len(index), 1, dtype=torch.bool))

    def video(self, index: torch.Tensor) -> VideoBatch:
        return VideoBatch(index[:, None, None].float(), torch.ones(len(index), 1, dtype=torch.bool))


def replay(path: str, reencoded: Reencoded = "last") -> tuple[dict[str, Any], list[StageResult], Evaluator]:
    arrays = golden(f"protocol_{path}")
    method = Recorded(MethodConfig(scoring=PATHS[path], alpha=0.5), arrays)
    evaluator = Evaluator(RowNumbers(), arrays["videos_per_task"].tolist(), reencoded=reencoded)
    results = []
    for method.time in range(3):
        results.append(evaluator.finish_task(method))
    return arrays, results, evaluator


@pytest.mark.parametrize("path", PATHS)
def test_overall_metrics_are_those_the_authors_evaluator_recorded(path: str) -> None:
    arrays, results, _ = replay(path)
    for stage, result in enumerate(results):
        metrics = retrieval_metrics(result.ranked["stored", "seen", "t2v"].rank_N)
        names = [key.replace("R", "R@") if key[1:].isdigit() else key for key in arrays["keys"].tolist()]
        recorded = dict(zip(names, arrays["overall"][stage].tolist(), strict=True))
        assert {key: metrics[key] for key in recorded} == recorded


@pytest.mark.parametrize(
    ("path", "gallery", "scope"),
    [
        ("ori", "stored", "own"),
        ("v2", "stored", "own"),
        ("v3", "re-encoded", "own-of-seen"),
        ("v3_drift", "re-encoded", "own-of-seen"),
    ],
)
def test_matrix_and_bwf_are_those_the_authors_evaluator_recorded(path: str, gallery: str, scope: str) -> None:
    arrays, results, evaluator = replay(path)
    score_TT = matrix_of(results, evaluator, gallery, scope)
    np.testing.assert_array_equal(score_TT, arrays["acc_matrix_R1"])
    np.testing.assert_array_equal(backward_forgetting_curve(score_TT, arrays["num_classes"]), arrays["bwf"])
    assert backward_forgetting(score_TT, arrays["num_classes"]) == arrays["bwf"][-1]


def matrix_of(results: list[StageResult], evaluator: Evaluator, gallery: str, scope: str) -> np.ndarray:
    """R@1 in percent, [stage, task]."""
    score_TT = np.full((len(results), len(results)), np.nan)
    for stage, result in enumerate(results):
        for task in range(stage + 1):
            ranks_N = result.ranked[gallery, scope, "t2v"].rank_N[evaluator.rows(task)]
            score_TT[stage, task] = retrieval_metrics(ranks_N)["R@1"]
    return score_TT


@pytest.mark.parametrize(("gallery", "scope"), [("stored", "own-of-seen"), ("re-encoded", "own"), ("all anew", "")])
def test_the_recording_with_drift_tells_the_authors_bwf_from_its_neighbours(
    monkeypatch: pytest.MonkeyPatch, gallery: str, scope: str
) -> None:
    if gallery == "all anew":
        gallery, scope = "re-encoded", "own-of-seen"
        of_stored = ranking._own_of_seen
        anew = lambda row, alpha: of_stored(row._replace(stored=list(row.again.values())), alpha)  # noqa: E731
        monkeypatch.setattr(ranking, "_own_of_seen", anew)
    arrays, results, evaluator = replay("v3_drift", reencoded="every")
    score_TT = matrix_of(results, evaluator, gallery, scope)
    assert (score_TT[-1] != arrays["acc_matrix_R1"][-1]).any()
    assert backward_forgetting(score_TT, arrays["num_classes"]) != arrays["bwf"][-1]


def test_own_columns_of_a_re_encoded_block_are_those_of_the_releases_equations() -> None:
    """For each query: z-scores over its own block anew and the others as stored, then the own columns (release D11)."""
    arrays, results, evaluator = replay("v3_drift")
    ends, frames, lengths = [0, *evaluator.ends], arrays["frames"].astype(float), arrays["lengths"]
    starts = np.concatenate([[0], lengths.cumsum()])
    for stage in range(3):
        for query in range(ends[stage + 1]):
            own = next(task for task in range(3) if query < ends[task + 1])
            parts: list[list[float]] = [[], []]
            for block in range(stage + 1):
                video_MFD = frames[stage if block == own else block, ends[block] : ends[block + 1]]
                word_LD = arrays["words"][stage, block, starts[query] : starts[query + 1]].astype(float)
                for frame_FD in video_MFD:
                    cosine_FL = unit(frame_FD) @ unit(word_LD).T
                    parts[0].append((cosine_FL.max(0).mean() + cosine_FL.max(1).mean()) / 2)
                    pooled_D = unit(unit(frame_FD).mean(0))
                    parts[1].append(float(unit(arrays["text_global"][stage, block, query].astype(float)) @ pooled_D))
            fused = sum(0.5 * (np.array(part) - np.mean(part)) / np.std(part) for part in parts)
            in_block = fused[ends[own] : ends[own + 1]].tolist()
            rank = naive_rank(in_block, query - ends[own])
            assert results[stage].ranked["re-encoded", "own-of-seen", "t2v"].rank_N[query] == rank


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def trained(
    name: str, engine: Engine = "auto", reencoded: Reencoded = "last", **values: object
) -> tuple[Method, Evaluator, list[StageResult]]:
    """A method taken through the small stream, with the evaluator that followed it."""
    stream, store = small_stream(), small_store()
    entry = find_method(name)
    method = entry.method(entry.config(values), feature_spec(store, stream), generator_for(0, "init")).eval()
    test = PairTable(store, np.concatenate([task.test for task in stream.tasks]))
    evaluator = Evaluator(test, [len(task.test) for task in stream.tasks], engine=engine, reencoded=reencoded)
    results = []
    for task in stream.tasks:
        data = PairTable(store, task.train)
        learn_task(method, data, TaskInfo(task.index, len(data), task.categories), 0)
        results.append(evaluator.finish_task(method))
    return method, evaluator, results


def naive_rank(scores: list[float], target: int) -> int:
    return 1 + sum(score >= scores[target] for i, score in enumerate(scores) if i != target)


@pytest.mark.parametrize("scoring", ["cosine", "word_frame"])
def test_ranks_are_those_of_a_loop_over_stored_and_current_galleries(scoring: str) -> None:
    method, evaluator, results = trained("finetune", scoring=scoring, epochs=2, lr=3e-3)
    size = evaluator.ends[-1]
    with torch.no_grad():
        text = method.encode_text(evaluator.test.text(torch.arange(size)), 2)
        current = [evaluator._encode_video(method, task) for task in range(3)]
    for gallery, videos in (("stored", evaluator.stored), ("re-encoded", current)):
        score = [
            [naive_score(text, q, video, v) for video in videos for v in range(len(video.pooled_MD))]
            for q in range(size)
        ]
        expected = [naive_rank(score[q], q) for q in range(size)]
        assert results[-1].ranked[gallery, "seen", "t2v"].rank_N.tolist() == expected
        expected = [naive_rank([score[q][v] for q in range(size)], v) for v in range(size)]
        assert results[-1].ranked[gallery, "seen", "v2t"].rank_N.tolist() == expected
        for task in range(3):
            rows = evaluator.rows(task)
            expected = [naive_rank(score[q][rows], q - rows.start) for q in range(rows.start, rows.stop)]
            assert results[-1].ranked[gallery, "own", "t2v"].rank_N[rows].tolist() == expected


def naive_score(text: TextEmbedding, query: int, video: VideoEmbedding, item: int) -> float:
    if text.words_NLD is None or text.word_mask_NL is None or video.frames_MFD is None:
        return float(text.pooled_ND[query] @ video.pooled_MD[item])
    words = text.words_NLD[query][text.word_mask_NL[query]]
    cosines = words @ video.frames_MFD[item][video.frame_mask_MF[item]].T
    return float((cosines.max(1).values.mean() + cosines.max(0).values.mean()) / 2)


@pytest.mark.parametrize("scoring", ["word_frame", "fused"])
def test_a_frozen_model_is_scored_once_and_gets_the_ranks_of_scoring_it_anew(
    monkeypatch: pytest.MonkeyPatch, scoring: str
) -> None:
    made = []
    original = grid.scores_of
    monkeypatch.setattr(grid, "scores_of", lambda *sides: made.append(sides) or original(*sides))
    _, _, kept = trained("zero_shot", scoring=scoring)
    assert len(made) == 9  # three tasks' queries against three galleries, once each
    numbers = itertools.count()
    monkeypatch.setattr(grid, "fingerprint", lambda text: torch.tensor(next(numbers)))
    _, _, anew = trained("zero_shot", scoring=scoring)
    assert len(made) == 9 + (1 + 4 + 9) + 3  # and the frozen queries against each newer gallery
    assert ranks_of(kept) == ranks_of(anew)


def test_galleries_too_large_for_a_matrix_get_the_same_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, whole = trained("finetune", epochs=2, lr=3e-3)
    monkeypatch.setattr(protocol, "_MOST_SCORES", 0)
    _, _, blocks = trained("finetune", epochs=2, lr=3e-3)
    assert ranks_of(whole) == ranks_of(blocks)


@pytest.mark.parametrize("name", ["finetune", "ridge", "x_pool", "adapter_per_task"])
@pytest.mark.parametrize("scoring", ["cosine", "word_frame", "fused"])
def test_faiss_gives_the_ranks_that_are_counted(name: str, scoring: Scoring) -> None:
    """On every scoring; where more than one vector a side is compared the scores are counted, whatever was asked."""
    fast = {"features": 200} if name == "ridge" else {"epochs": 1}
    method, counted, expected = trained(name, scoring=scoring, **fast)
    _, asked, found = trained(name, engine="faiss", scoring=scoring, **fast)
    assert ranks_of(found) == ranks_of(expected)
    one_vector = scoring == "cosine" and name != "x_pool" and not method.uses_shards
    assert (counted.engine, asked.engine) == ("count", "faiss" if one_vector else "count")


def ranks_of(results: list[StageResult]) -> list[dict[Any, list[int]]]:
    return [{key: ranked.rank_N.tolist() for key, ranked in result.ranked.items()} for result in results]


@pytest.mark.parametrize(("name", "scoring"), [("finetune", "cosine"), ("structalign", "fused")])
def test_what_is_ranked_after_every_task_is_what_the_last_task_alone_leaves_out(name: str, scoring: str) -> None:
    _, _, few = trained(name, scoring=scoring, epochs=1, lr=3e-3)
    _, _, all_ = trained(name, scoring=scoring, epochs=1, lr=3e-3, reencoded="every")
    left_out = {("re-encoded", "seen", direction) for direction in ("t2v", "v2t")}
    for stage, (some, every) in enumerate(zip(ranks_of(few), ranks_of(all_), strict=True)):
        assert every.keys() - some.keys() == (left_out if stage == 1 else set())  # no video moves in the first task
        assert some.items() <= every.items()


def test_a_stored_gallery_is_never_embedded_again() -> None:
    _, evaluator, results = trained("finetune", epochs=2, lr=3e-3)
    first = evaluator.rows(0)
    assert np.array_equal(results[0].stored_video_ND, results[2].stored_video_ND[first])
    assert not np.allclose(results[2].stored_video_ND[first], results[2].video_ND[first], atol=1e-4)


def test_frozen_queries_see_only_the_gallery_grow() -> None:
    _, evaluator, results = trained("structalign", epochs=2, lr=3e-3)
    first = evaluator.rows(0)
    at_end = results[0].ranked["stored", "seen", "t2v"].rank_N
    ranks = [result.ranked["frozen-query", "seen", "t2v"].rank_N[first] for result in results]
    assert np.array_equal(ranks[0], at_end)
    newest = evaluator.rows(2)
    now = results[2].ranked["stored", "seen", "t2v"].rank_N[newest]
    assert np.array_equal(results[2].ranked["frozen-query", "seen", "t2v"].rank_N[newest], now)


def test_a_frozen_cosine_query_can_only_fall_as_the_gallery_grows() -> None:
    _, evaluator, results = trained("finetune", epochs=2, lr=3e-3)
    first = evaluator.rows(0)
    ranks = np.stack([result.ranked["frozen-query", "seen", "t2v"].rank_N[first] for result in results])
    assert (np.diff(ranks, axis=0) >= 0).all()
    assert (ranks[-1] > ranks[0]).any()


@pytest.mark.parametrize("scoring", ["cosine", "word_frame", "fused"])
def test_zero_shot_forgets_nothing_on_stored_galleries(scoring: str) -> None:
    _, evaluator, results = trained("zero_shot", scoring=scoring)
    for result in results[1:]:
        for task in range(2):
            rows = evaluator.rows(task)
            if rows.stop <= len(result.text_ND):
                own = result.ranked["stored", "own", "t2v"].rank_N[rows]
                assert np.array_equal(own, results[task].ranked["stored", "own", "t2v"].rank_N[rows])
        assert result.ranked["re-encoded", "seen", "t2v"] == result.ranked["stored", "seen", "t2v"]


def test_scores_fused_over_a_growing_gallery_can_move_a_frozen_model() -> None:
    """Why own-of-seen is a scope of its own: the release's BWF is not zero for a model that never changes (D11)."""
    arrays, _, _ = replay("v3")
    method = Recorded(MethodConfig(scoring="fused", alpha=0.5), arrays)
    evaluator = Evaluator(RowNumbers(), arrays["videos_per_task"].tolist())
    results = [evaluator.finish_task(method) for _ in range(3)]
    rows = evaluator.rows(0)
    cut = [result.ranked["stored", "own-of-seen", "t2v"].rank_N[rows].tolist() for result in results]
    own = [result.ranked["stored", "own", "t2v"].rank_N[rows].tolist() for result in results]
    assert own[0] == own[1] == own[2]
    assert cut[0] != cut[2]


@pytest.mark.parametrize("name", ["finetune", "structalign"])
def test_an_evaluator_restored_from_its_states_goes_on_with_the_same_ranks(name: str) -> None:
    method, _, results = trained(name, epochs=2, lr=3e-3)
    states = []
    evaluator = Evaluator(*pairs_of_test())
    for task in range(2):
        method.task = TaskInfo(task, 0, ())
        evaluator.finish_task(method)
        states.append({key: value.clone() for key, value in evaluator.state().items()})
    restored = Evaluator(*pairs_of_test())
    for state in states:
        restored.restore(state)
    method.task = TaskInfo(2, 0, ())
    first, second = evaluator.finish_task(method), restored.finish_task(method)
    assert first.ranked.keys() == second.ranked.keys() == results[-1].ranked.keys()
    for key, ranked in first.ranked.items():
        assert np.array_equal(ranked.rank_N, second.ranked[key].rank_N), key


@pytest.mark.parametrize(
    ("name", "scoring"),
    [("finetune", "cosine"), ("structalign", "fused"), ("adapter_per_task", "fused"), ("zero_shot", "fused")],
)
def test_what_a_finished_task_left_lies_in_its_file_and_ranks_stay(tmp_path: Path, name: str, scoring: str) -> None:
    entry, stream = find_method(name), small_stream()
    values = {"scoring": scoring} | ({} if name == "zero_shot" else {"epochs": 2, "lr": 3e-3})
    method = entry.method(entry.config(values), feature_spec(small_store(), stream), generator_for(0, "init")).eval()
    free = Evaluator(*pairs_of_test())
    resting = Evaluator(*pairs_of_test(), aside=partial(lay_aside, tmp_path))
    for task in stream.tasks:
        if learns(type(method)):
            data = PairTable(small_store(), task.train)
            learn_task(method, data, TaskInfo(task.index, len(data), task.categories), 0)
        held, mapped = free.finish_task(method), resting.finish_task(method)
        assert held.ranked.keys() == mapped.ranked.keys()
        for key, ranked in held.ranked.items():
            assert np.array_equal(ranked.rank_N, mapped.ranked[key].rank_N), key
        if task is stream.tasks[-1]:
            break
        save_file(resting.state(), file := tmp_path / f"{task.index}.safetensors")
        resting.rest(state := load_file(file))
        assert resting.stored[-1].pooled_MD.data_ptr() == state["video.pooled_MD"].data_ptr()
        assert {name: value.tolist() for name, value in resting.state().items()} == {
            name: value.tolist() for name, value in state.items()
        }


def pairs_of_test() -> tuple[PairTable, list[int]]:
    stream = small_stream()
    return (
        PairTable(small_store(), np.concatenate([task.test for task in stream.tasks])),
        [len(task.test) for task in stream.tasks],
    )


def test_alpha_is_the_share_of_word_frame_scores() -> None:
    pooled_NM, word_frame_NM = (torch.randn(3, 5, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    z = [(x - x.mean(1, keepdim=True)) / x.std(1, correction=0, keepdim=True) for x in (pooled_NM, word_frame_NM)]
    fused_NM = Scores(pooled_NM, word_frame_NM).combined(0.3)
    torch.testing.assert_close(fused_NM, 0.7 * z[0] + 0.3 * z[1])
