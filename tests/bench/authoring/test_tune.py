"""Tuning: what it scores, what it never reads, what it chooses, and the evidence it leaves."""

from __future__ import annotations

import json
import platform
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ctvr_bench.bench.authoring import tryout
from ctvr_bench.bench.authoring.tune import Candidate, Search, choose, search
from ctvr_bench.bench.authoring.tune_evidence import read_grids, search_table, write_evidence
from ctvr_bench.bench.run.protocol import Evaluator
from ctvr_bench.bench.suite.plugins import find_method
from ctvr_bench.bench.suite.suite import SuiteConfig, make_suite
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.schema import TEST
from ctvr_bench.features.store import open_store
from ctvr_bench.features.streams import PairTable
from ctvr_bench.methods.shared.base import TrainedConfig
from ctvr_bench.methods.shared.registry import known_methods
from ctvr_bench.methods.wise_ft import WiseFTConfig
from tests.commands import ROOT, called, command
from tests.stores import redigest, small_store, small_stream

FAST = "epochs=1"


def suite(out: Path, **values: Any) -> SuiteConfig:
    return make_suite({"store": small_store().path, "seeds": 1, "jobs": 1, "out": out, "name": "t", **values}, "test")


def scores(found: Search) -> dict[str, tuple[float | None, ...]]:
    return {str(candidate.values): candidate.scores for candidate in found.candidates}


def candidate(score: float, lr: float, *more: float) -> Candidate:
    return Candidate({"lr": lr}, (score, *more))


def test_the_score_is_the_headline_on_validation_queries(tmp_path: Path) -> None:
    found = search(find_method("finetune"), {"epochs": [1], "lr": [1e-2]}, suite(tmp_path))
    method = tryout.make(find_method("finetune"), lr=1e-2)
    rows = [task.validation for task in small_stream().tasks]
    evaluator = Evaluator(PairTable(small_store(), np.concatenate(rows)), [len(part) for part in rows])
    for task in range(3):
        tryout.learn(method, task)
        result = evaluator.finish_task(method)
    expected = 100 * np.mean(result.ranked["stored", "seen", "t2v"].rank_N == 1)
    assert 0 < expected < 100
    assert scores(found)["{'epochs': 1, 'lr': 0.01}"] == (pytest.approx(expected),)


def test_candidates_that_differ_in_numbers_learn_as_one_stack_and_score_as_alone(tmp_path: Path) -> None:
    grid = {"epochs": [1], "lr": [1e-3, 1e-2, 1e-1], "dropout": [0.1, 0.3]}
    together = search(find_method("lwf"), grid, suite(tmp_path / "auto"))
    alone = search(find_method("lwf"), grid, suite(tmp_path / "off", ensemble="off"))
    assert sorted(trial.together for trial in together.trials) == [1, 1, *[5] * 5]  # the default has other epochs
    assert sorted(each.together for each in together.candidates) == [(1,), (1,), *[(5,)] * 5]
    assert {trial.together for trial in alone.trials} == {1}
    queries = sum(len(task.validation) for task in small_stream().tasks)
    for first, second in zip(together.trials, alone.trials, strict=True):
        assert (first.run_id == second.run_id) == (first.together == 1)
        assert first.score == pytest.approx(second.score, abs=100 / queries + 1e-9)  # at most one query near a tie
    assert len({trial.score for trial in alone.trials}) > 2


def test_poisoned_test_rows_change_nothing(tmp_path: Path) -> None:
    path = tmp_path / "poisoned.h5"
    shutil.copy(small_store().path, path)
    store = open_store(path)
    videos = np.flatnonzero(store.stream(None).role_of_video_N == TEST)
    captions = np.flatnonzero(np.isin(store.caption_video_M, videos))
    noise = np.random.default_rng(0)
    with h5py.File(path, "r+") as file:
        for row in videos:
            file["videos/frames"][row] = 100 * noise.standard_normal(file["videos/frames"].shape[1:])
        for row in captions:
            first, last = file["captions/word_offsets"][row : row + 2]
            file["captions/pooled"][row] = 100 * noise.standard_normal(file["captions/pooled"].shape[1])
            file["captions/words"][first:last] = 100 * noise.standard_normal((last - first, 32))
    redigest(path)
    for name in ("er", "structalign", "joint", "ridge", "s_prompts"):
        grid = {"features": [200]} if name == "ridge" else {"epochs": [1]}
        clean = search(find_method(name), grid, suite(tmp_path / "clean"))
        poisoned = search(find_method(name), grid, suite(tmp_path / "poisoned", store=path))
        assert len(clean.trials) == 2
        assert scores(clean) == scores(poisoned)


def test_only_training_and_validation_rows_are_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[np.ndarray[Any, Any]] = []

    class Watched(PairTable):
        def __init__(self, store: Any, caption_rows: Any, device: Any = "cpu") -> None:
            loaded.append(caption_rows)
            super().__init__(store, caption_rows, device)

    monkeypatch.setattr("ctvr_bench.bench.run.jobs.PairTable", Watched)
    search(find_method("finetune"), {"epochs": [1]}, suite(tmp_path))
    allowed = np.concatenate([rows for task in small_stream().tasks for rows in (task.train, task.validation)])
    assert loaded
    assert set(np.concatenate(loaded)) == set(allowed)


def test_trials_are_made_once_and_in_parallel_to_the_same_numbers(tmp_path: Path) -> None:
    made: list[str] = []
    grid = {"epochs": [1], "lr": [1e-3, 1e-2]}
    arguments = (find_method("finetune"), grid)
    first = search(*arguments, suite(tmp_path / "a", seeds=2), on_trial=lambda *_: made.append("a"))
    again = search(*arguments, suite(tmp_path / "a", seeds=2), on_trial=lambda *_: made.append("b"))
    parallel = search(*arguments, suite(tmp_path / "b", seeds=2, jobs=2))
    assert made == ["a"] * 6  # two candidates and the default, two seeds each
    assert scores(first) == scores(again) == scores(parallel)


def test_the_default_is_a_candidate_once(tmp_path: Path) -> None:
    default = WiseFTConfig().mix
    found = search(find_method("wise_ft"), {"mix": [default, 1]}, suite(tmp_path))
    assert found.default == {"mix": default}
    assert [candidate.values for candidate in found.candidates] == [{"mix": default}, {"mix": 1}]


def test_what_diverges_is_never_chosen(tmp_path: Path) -> None:
    found = search(find_method("finetune"), {"epochs": [1], "scale": [1e39, 17.6]}, suite(tmp_path))
    diverged = [trial for trial in found.trials if trial.status == "diverged"]
    assert [trial.config.config["scale"] for trial in diverged] == [1e39]
    assert "loss is not finite" in diverged[0].reason
    assert found.chosen.values["scale"] == 17.6


def test_the_best_is_chosen_when_it_is_clearly_better() -> None:
    best = candidate(50, 1e-2, 52)
    assert choose([candidate(40, 1e-3, 41), best, candidate(30, 1e-1, 31)], {"lr": 1e-3}) is best


def test_within_one_standard_error_the_nearest_to_the_default_is_chosen() -> None:
    near, best = candidate(49, 2e-3, 53), candidate(52, 1e-2, 51)  # behind by 3 and -2: mean 0.5, error 2.5
    assert choose([candidate(10, 1e-3, 11), near, best], {"lr": 1e-3}) is near
    clear = candidate(50, 2e-3, 49)  # behind by 2 and 2: error 0
    assert choose([candidate(10, 1e-3, 11), clear, best], {"lr": 1e-3}) is best


def test_with_one_seed_only_ties_go_to_the_default() -> None:
    default = candidate(50, 1e-3)
    assert choose([candidate(50, 1e-2), default], {"lr": 1e-3}) is default
    assert choose([candidate(50.1, 1e-2), default], {"lr": 1e-3}) is not default


def test_no_finished_candidate_is_an_error() -> None:
    with pytest.raises(InputError, match="no candidate finished"):
        choose([Candidate({"lr": 1}, (50.0, None))], {"lr": 1})


def test_a_stream_without_validation_videos_needs_some_held_out(tmp_path: Path) -> None:
    path = tmp_path / "none.h5"
    shutil.copy(small_store().path, path)
    with h5py.File(path, "r+") as file:
        roles = file[f"streams/{small_stream().name}/role_of_video"]
        roles[...] = np.where(np.isin(roles[...], (1, 2)), roles[...], 0)
    redigest(path)
    with pytest.raises(InputError, match="--validation 2"):
        search(find_method("finetune"), {"epochs": [1]}, suite(tmp_path, store=path))
    found = search(find_method("finetune"), {"epochs": [1]}, suite(tmp_path, store=path, validation=2))
    assert found.trials[0].status == "done"


def test_wrong_grids_are_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'lr'"):
        search(find_method("lwf"), {"lrr": [1]}, suite(tmp_path))
    with pytest.raises(InputError, match=r"lwf\.lr"):
        search(find_method("lwf"), {"lr": ["fast"]}, suite(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_the_evidence_holds_what_the_choice_was_made_from(tmp_path: Path) -> None:
    found = search(find_method("finetune"), {"epochs": [1], "lr": [1e-3, 1e-2]}, suite(tmp_path, seeds=2))
    write_evidence(found, tmp_path / "e.json", "the command")
    evidence = json.loads((tmp_path / "e.json").read_text())
    again = [Candidate(each["values"], tuple(each["scores"])) for each in evidence["candidates"]]
    assert choose(again, evidence["default"]).values == evidence["chosen"] == found.chosen.values
    assert evidence["store"]["digest"] == small_store().digest
    assert evidence["seeds"] == [0, 1]
    assert [each["together"] for each in evidence["candidates"]] == [[1, 1]] * 3  # too few for a stack
    assert evidence["environment"]["device"] == platform.machine()
    assert evidence["command"] == "the command"
    assert len(search_table(found).rows) == 3


def test_the_command_writes_choice_and_evidence(tmp_path: Path) -> None:
    options = ("--store", small_store().path, "--seeds", 1, "--jobs", 1)
    result = command("tune", "wise_ft", "--grid", "mix=0.5,1.0", "--grid", FAST, *options, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "evidence: results/tuning/wise_ft.json" in result.stdout
    evidence = json.loads((tmp_path / "results/tuning/wise_ft.json").read_text())
    assert evidence["command"].startswith("run_benchmark.py tune wise_ft --grid mix=0.5,1.0")
    (tmp_path / "g.toml").write_text("[zero_shot]\nscoring = ['cosine', 'fused']\n[finetune]\nepochs = [1]\n")
    result = called("tune", "all", "--grids", "g.toml", *options, "--quiet", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert {path.name for path in (tmp_path / "results/tuning").iterdir()} == {
        "wise_ft.json", "zero_shot.json", "finetune.json",
    }  # fmt: skip
    refused = called("tune", "lwf", "--grids", "g.toml", *options, cwd=tmp_path)
    assert refused.returncode == 2
    assert "has no grid of 'lwf'" in refused.stderr


ONE_RECIPE = {"finetune", "joint", "cumulative", "er", "agem", "adapter_per_task"}
"""On the residual adapters, whose recipe is fixed, with no weight of their own to search."""


def test_the_shipped_grids_cover_every_method_with_a_constant_to_tune() -> None:
    grids = read_grids(ROOT / "results/tuning/grids.toml")
    trained = {name for name, entry in known_methods().items() if issubclass(entry.method.Config, TrainedConfig)}
    assert set(grids) == trained - ONE_RECIPE
    for name, grid in grids.items():
        for field, values in grid.items():
            taken = [getattr(find_method(name).config({field: value}), field) for value in values]
            assert len(set(taken)) == len(values) >= 2


@pytest.mark.parametrize("path", sorted((ROOT / "results/tuning").glob("*.json")), ids=lambda path: path.stem)
def test_shipped_defaults_are_what_the_evidence_chose(path: Path) -> None:
    found = json.loads(path.read_text(encoding="utf-8"))
    entry = find_method(found["method"])
    assert set(found["grid"]) == set(read_grids(ROOT / "results/tuning/grids.toml")[path.stem])
    for field, value in {**found["default"], **found["chosen"]}.items():
        assert getattr(entry.config(), field) == value
