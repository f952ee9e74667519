"""Tuning: what it scores, what it never reads, that every method has the same budget, and the evidence it leaves."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ctvr_bench.bench.authoring import tryout
from ctvr_bench.bench.authoring.proposals import Tried, even, likely
from ctvr_bench.bench.authoring.space import Range, Space, Values, default_of, space_of
from ctvr_bench.bench.authoring.tune import Candidate, Scores, Search, choose, explore, going_on, round_sizes, search
from ctvr_bench.bench.authoring.tune_evidence import against, chosen_values, evidence_of, read_evidence, search_table
from ctvr_bench.bench.authoring.validation import SET_ASIDE, asked_rows
from ctvr_bench.bench.evaluation.protocol import Evaluator
from ctvr_bench.bench.report.canvas import save_drawing
from ctvr_bench.bench.report.constants import best_of_neighbours, draw_constants
from ctvr_bench.bench.suite.config import SuiteConfig, make_suite
from ctvr_bench.bench.suite.plugins import find_method
from ctvr_bench.bench.suite.stores import TUNING_WORLDS, is_world
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.schema import TEST
from ctvr_bench.features.store import open_store
from ctvr_bench.features.streams import PairTable
from ctvr_bench.features.tables import read_toml
from ctvr_bench.methods.shared.base import TrainedConfig, learns
from ctvr_bench.methods.shared.ranges import Among
from ctvr_bench.methods.shared.ranges import Search as Where
from ctvr_bench.methods.shared.registry import known_methods
from tests.commands import ROOT, called
from tests.stores import redigest, small_store, small_stream

LEARNING = sorted(name for name, entry in known_methods().items() if learns(entry.method))
TUNED = sorted((ROOT / "results/tuning").glob("*.json"))
SMALL_RIDGE = """
from dataclasses import dataclass
from ctvr_bench.methods.ridge import Ridge, RidgeConfig

@dataclass(frozen=True)
class SmallConfig(RidgeConfig):
    features: int = 200

class Small(Ridge):
    name, Config = "small_ridge", SmallConfig
"""
RATES = {path.stem: path for path in sorted((ROOT / "results/tuning/rates").glob("*.json"))}

ATTENTION = ("attention_head", "coda_prompt", "dualprompt", "l2p", "s_prompts")
ASKED_RATES = {"proof": {0.00026, 0.001, 0.002}} | {name: {0.00005, 0.0001, 0.0002} for name in ATTENTION}
"""Where they are not those of the residual head."""
DEFAULTS_OF_TUNE = ("gallery_replay",)
CONSTANTS = {path.stem: path for path in sorted((ROOT / "results/tuning/constants").glob("*.json"))}


def suite(out: Path, **values: Any) -> SuiteConfig:
    return make_suite({"store": small_store().path, "seeds": 1, "jobs": 1, "out": out, "name": "t", **values}, "test")


def searched(name: str, said: Mapping[str, Where | Among], config: SuiteConfig, trials: int = 3, **more: Any) -> Search:
    entry = find_method(name)
    return search(entry, space_of(entry, said), config, [config.store, *more.pop("also", ())], trials, **more)


def scores(found: Search) -> dict[str, tuple[tuple[float | None, ...], ...]]:
    return {str(candidate.values): candidate.scores for candidate in found.candidates}


def explored(
    name: str, said: Mapping[str, Where | Among] | None, score: Any, stores: int = 3, trials: int = 24
) -> tuple[tuple[Candidate, ...], Space, list[list[int]]]:
    """A search of a function in place of a method, and how many points each store was asked, round by round."""
    asked: list[list[int]] = []

    def made(store: int, points: Sequence[Mapping[str, Any]]) -> list[Scores]:
        if store == 0:
            asked.append([])
        asked[-1].append(len(points))
        return [Scores((score(point), score(point))) for point in points]

    entry = find_method(name)
    return *explore(entry, space_of(entry, said), stores, trials, made), asked


def far_from(best: float) -> Any:
    """Falls with the distance of lr from the best one, in decades."""
    return lambda point: 50 - 10 * abs(math.log10(point["lr"] / best))


def test_the_score_is_the_headline_on_validation_queries(tmp_path: Path) -> None:
    found = searched("finetune", {"lr": Among((1e-2,))}, suite(tmp_path))
    method = tryout.make(find_method("finetune"), lr=1e-2, epochs=5)
    rows = [task.validation for task in small_stream().tasks]
    evaluator = Evaluator(PairTable(small_store(), np.concatenate(rows)), [len(part) for part in rows])
    for task in range(3):
        tryout.learn(method, task)
        result = evaluator.finish_task(method)
    expected = 100 * np.mean(result.ranked["stored", "seen", "t2v"].rank_N == 1)
    assert 0 < expected < 100
    assert scores(found)["{'lr': 0.01}"] == ((pytest.approx(expected),),)


def test_trials_that_differ_in_numbers_learn_as_one_stack_and_score_as_alone(tmp_path: Path) -> None:
    said = {"lr": Among((5e-3, 2e-2, 1e-1, 1.0))}
    together = searched("lwf", said, suite(tmp_path / "auto"), 15)
    alone = searched("lwf", said, suite(tmp_path / "off", ensemble="off"), 15)
    assert [each.together for each in together.candidates] == [((5,),)] * 5
    assert {trial.together for trial in alone.trials} == {1}
    queries = sum(len(task.validation) for task in small_stream().tasks)
    for first, second in zip(together.trials, alone.trials, strict=True):
        assert first.run_id != second.run_id
        assert first.score == pytest.approx(second.score, abs=100 / queries + 1e-9)  # at most one query near a tie
    assert len(together.candidates) == len(alone.candidates) == 5  # there are no more
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
    (tmp_path / "small.py").write_text(SMALL_RIDGE)
    for name in ("er", "structalign", f"{tmp_path / 'small.py'}:Small"):
        space = space_of(find_method(name))
        clean, poisoned = (
            search(find_method(name), space, suite(tmp_path / out, store=store), [store], trials=1)
            for out, store in (("clean", small_store().path), ("poisoned", path))
        )
        assert len(clean.trials) == 1
        assert scores(clean) == scores(poisoned)


def test_only_training_and_validation_rows_are_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[np.ndarray[Any, Any]] = []

    class Watched(PairTable):
        def __init__(self, store: Any, caption_rows: Any, *arguments: Any, **named: Any) -> None:
            loaded.append(caption_rows)
            super().__init__(store, caption_rows, *arguments, **named)

    monkeypatch.setattr("ctvr_bench.bench.run.jobs.PairTable", Watched)
    searched("finetune", {"lr": Among((1e-3,))}, suite(tmp_path))
    allowed = np.concatenate([rows for task in small_stream().tasks for rows in (task.train, task.validation)])
    assert loaded
    assert set(np.concatenate(loaded)) == set(allowed)


def renamed(path: Path, name: str) -> Path:
    shutil.copy(small_store().path, path)
    with h5py.File(path, "r+") as file:
        file.attrs["name"] = name
        del file.attrs["attributes_digest"]  # of what was written; without it nothing is claimed
    return path


def test_a_world_set_aside_is_asked_all_its_queries_and_a_world_for_tables_none(tmp_path: Path) -> None:
    aside = open_store(renamed(tmp_path / "a.h5", f"moving shapes, world {SET_ASIDE[0]}"))
    for task in small_stream().tasks:
        assert asked_rows(small_store(), task).tolist() == task.validation.tolist()
        assert asked_rows(aside, task).tolist() == [*task.validation, *task.test]
    found = searched("zero_shot", {"scoring": Among(("fused",))}, suite(tmp_path, store=aside.path))
    assert found.asked[0].queries == sum(len(task.validation) + len(task.test) for task in small_stream().tasks)
    for_tables = renamed(tmp_path / "b.h5", "moving shapes, world 0")
    with pytest.raises(InputError, match="this world is for tables"):
        searched("zero_shot", {"scoring": Among(("fused",))}, suite(tmp_path, store=for_tables))


def test_no_table_reports_a_world_that_is_set_aside() -> None:
    reported = set()
    for path in (ROOT / "results/suites").glob("*.toml"):
        values = read_toml(path, "a suite")
        reported |= {name for name in [values.get("store"), *values.get("stores", [])] if name and is_world(name)}
    assert "moving-shapes:0" in reported
    assert not {int(name.partition(":")[2]) for name in reported} & {*SET_ASIDE}
    assert {int(name.partition(":")[2]) for name in TUNING_WORLDS} <= {*SET_ASIDE}
    assert len(TUNING_WORLDS) >= 3


def test_a_search_that_was_cut_off_goes_on_and_nothing_is_made_twice(tmp_path: Path) -> None:
    made: list[str] = []

    def stop(number: int, total: int, trial: Any) -> None:
        made.append(trial.run_id)
        if len(made) == 4:
            raise KeyboardInterrupt

    also = [renamed(tmp_path / "second.h5", "second")]
    arguments = ("finetune", {"lr": Where(1e-4, 1e-1)})
    config = suite(tmp_path / "a", ensemble="off")
    with pytest.raises(KeyboardInterrupt):
        searched(*arguments, config, 6, also=also, on_trial=stop)
    cut = searched(*arguments, config, 6, also=also, on_trial=lambda n, total, trial: made.append(trial.run_id))
    again = searched(*arguments, config, 6, also=also, on_trial=lambda n, total, trial: made.append(trial.run_id))
    whole = searched(*arguments, suite(tmp_path / "b", ensemble="off"), 6, also=also)
    assert scores(cut) == scores(again) == scores(whole)
    assert len(made) == len(set(made)) == len(whole.trials) == (2 + 1) * 3
    assert [len(each.scores) for each in whole.candidates].count(2) == 3


@pytest.mark.parametrize("name", ["finetune", "ridge", "lwf", "structalign"])
def test_every_method_has_the_same_budget(name: str) -> None:
    seen: list[Mapping[str, Any]] = []

    def score(point: Mapping[str, Any]) -> float:
        seen.append(point)
        return -sum(float(str(value) == str(point)) for value in point)

    tried, _, asked = explored(name, None, score)
    assert asked == [[8, 4, 4]] * 3
    assert len({str(each.values) for each in tried}) == len(tried) == 24
    assert tried[0].values == default_of(find_method(name), space_of(find_method(name)))
    assert len(tried[0].scores) == 3  # whatever it scores


def test_the_better_half_of_a_round_goes_on() -> None:
    tried, _, _ = explored("finetune", {"lr": Where(1e-5, 1e-1)}, far_from(1e-3))
    for number in (2, 3):
        mine = [each for each in tried if each.round == number]
        whole = [each.scores[0][0] for each in mine if len(each.scores) == 3]
        stopped = [each.scores[0][0] for each in mine if len(each.scores) == 1]
        assert len(whole) == len(stopped) == 4
        assert min(whole) >= max(stopped)


def test_a_search_finds_the_best_rate_within_its_budget_and_takes_the_best_mean() -> None:
    for best in (7e-5, 3e-3):
        tried, _, _ = explored("finetune", None, far_from(best))
        chosen = choose(tried)
        assert chosen.mean == max(each.mean for each in tried if len(each.scores) == 3)
        assert abs(math.log10(chosen.values["lr"] / best)) < 0.15


def test_a_range_grows_once_where_the_best_lies_at_its_edge() -> None:
    tried, space, _ = explored("joint", {"lr": Where(1e-3, 1e-2)}, far_from(3.5e-4))
    grown = space["lr"]
    assert isinstance(grown, Range)
    assert (grown.low, grown.high, grown.grown) == (pytest.approx(10**-3.5, rel=1e-2), 1e-2, ("low",))
    assert min(each.values["lr"] for each in tried) < 6e-4
    assert grown.where(choose(tried).values["lr"]) in ("inside", "at the edge")
    _, kept, _ = explored("joint", {"lr": Where(1e-4, 1e-2)}, far_from(1e-3))
    assert kept == space_of(find_method("joint"), {"lr": Where(1e-4, 1e-2)})


def test_a_range_ends_where_its_field_does() -> None:
    mix = Range(0.0, 1.0, "linear", 0.0, 1.0, False)
    assert [mix.where(value) for value in (0.0, 0.05, 0.5, 0.95, 1.0)] == [
        *["at a natural end"] * 2, "inside", *["at a natural end"] * 2,
    ]  # fmt: skip
    assert mix.grown_for(0.99) is mix
    half = Range(0.0, 0.8, "linear", 0.0, 1.0, False)
    assert half.where(0.79) == "at the edge"
    assert half.grown_for(0.79).high == 1.0
    count = Range(2, 8, "log", 1.0, math.inf, True)
    assert [count.value(place) for place in (0.0, 0.5, 1.0)] == [2, 4, 8]
    assert count.grown_for(2) == Range(1.0, 8, "log", 1.0, math.inf, True, ("low",))
    assert count.grown_for(8).grown_for(16).high == 16
    assert count.where(None) == count.where(True) == count.where(9) == "outside of its range"
    prune = space_of(find_method("packnet"), {"prune": Where(0.0, 0.95, "linear")})["prune"]
    assert isinstance(prune, Range)
    find_method("packnet").config({"prune": prune.grown_for(0.95).high})  # below 1, which is not allowed


def test_the_first_points_lie_in_every_part_of_a_range() -> None:
    space = space_of(find_method("lwf"))
    points = even(space, 8, seed=0)
    for name, where in space.items():
        assert isinstance(where, Range)
        assert {int(8 * where.place(point[name])) for point in points} == {*range(8)}, name


def test_proposals_are_the_same_again_and_none_was_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    space = space_of(find_method("structalign"))
    tried = [Tried(point, point["lr"], place % 2 == 0) for place, point in enumerate(even(space, 8, 1))]
    first, again = likely(space, tried, 8, seed=8), likely(space, tried, 8, seed=8)
    assert first == again
    assert len({str(point) for point in first} - {str(each.values) for each in tried}) == 8
    for point in first:
        assert all(where.holds(point[name]) for name, where in space.items())
    switch: Space = {"scoring": Values(("cosine", "fused"))}
    monkeypatch.setattr("ctvr_bench.bench.authoring.proposals._AGAIN", 0)  # as where chance draws nothing that is new
    assert likely(switch, [Tried({"scoring": "fused"}, 1.0, True)], 5, 0) == [{"scoring": "cosine"}]


def test_what_diverges_is_never_chosen(tmp_path: Path) -> None:
    found = searched("finetune", {"scale": Among((1e39, 10.0))}, suite(tmp_path))
    diverged = [trial for trial in found.trials if trial.status == "diverged"]
    assert [trial.config.config["scale"] for trial in diverged] == [1e39]
    assert "loss is not finite" in diverged[0].reason
    assert found.chosen.values["scale"] in (17.6, 10.0)


def test_what_was_stopped_early_is_not_chosen_however_good() -> None:
    first, stopped = Candidate({"lr": 1}, ((40.0,), (40.0,))), Candidate({"lr": 2}, ((90.0,),))
    assert choose([first, stopped, Candidate({"lr": 3}, ((99.0,), (None,)))]) is first
    with pytest.raises(InputError, match="no trial finished"):
        choose([Candidate({"lr": 1}, ((50.0, None),))])


def test_the_difference_from_the_default_is_paired_by_store_and_seed() -> None:
    default = Candidate({}, ((40.0, 42.0), (20.0, 21.0)))
    assert against(Candidate({}, ((41.0, 44.0), (21.0, 25.0))), default) == (2.0, pytest.approx(0.7071, abs=1e-4))
    assert against(Candidate({}, ((41.0, 44.0),)), default) == (1.5, 0.5)
    assert against(Candidate({}, ((41.0, None),)), default) == (None, None)


def test_a_stream_without_validation_videos_needs_some_held_out(tmp_path: Path) -> None:
    path = tmp_path / "none.h5"
    shutil.copy(small_store().path, path)
    with h5py.File(path, "r+") as file:
        roles = file[f"streams/{small_stream().name}/role_of_video"]
        roles[...] = np.where(np.isin(roles[...], (1, 2)), roles[...], 0)
    redigest(path)
    with pytest.raises(InputError, match="--validation 2"):
        searched("finetune", {"lr": Among((1e-3,))}, suite(tmp_path, store=path))
    found = searched("finetune", {"lr": Among((1e-3,))}, suite(tmp_path, store=path, validation=2))
    assert found.trials[0].status == "done"


def test_wrong_ranges_are_refused_before_anything_runs() -> None:
    lwf = find_method("lwf")
    with pytest.raises(InputError, match="did you mean 'lr'"):
        space_of(lwf, {"lrr": Where(1, 2)})
    with pytest.raises(InputError, match=r"lwf\.lr"):
        space_of(lwf, {"lr": Among(("fast",))})
    with pytest.raises(InputError, match="nothing to search"):
        space_of(find_method("zero_shot"))
    with pytest.raises(ValueError, match="runs upwards"):
        Where(0, 1)


def test_the_evidence_holds_what_the_choice_was_made_from(tmp_path: Path) -> None:
    found = searched("finetune", {"lr": Where(1e-3, 1e-2)}, suite(tmp_path, seeds=2))
    evidence = json.loads(json.dumps(evidence_of(found, "the command")))
    again = [Candidate(e["values"], tuple(tuple(one) for one in e["scores"])) for e in evidence["candidates"]]
    assert choose(again).values == evidence["chosen"] == found.chosen.values
    assert evidence["stores"] == [
        {"name": small_store().name, "digest": small_store().digest, "simulated": True, "queries": 12}
    ]
    assert evidence["seeds"] == [0, 1]
    assert evidence["fields"]["lr"]["where"] == found.space["lr"].where(found.chosen.values["lr"])
    assert evidence["made_by"]["methods/finetune.py"]
    assert evidence["command"] == "the command"
    assert len(search_table(found).rows) == len(evidence["candidates"]) == 3
    save_drawing(partial(draw_constants, evidence=evidence), tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_curve_joins_the_best_of_neighbouring_values() -> None:
    points = [(1e-4, -1.0), (1.1e-4, 2.0), (1e-3, 0.0), (1e-2, -3.0)]
    line = best_of_neighbours(points, {"low": 1e-4, "high": 1e-2, "scale": "log"})
    assert line == [(1.1e-4, 2.0), (1e-3, 0.0), (1e-2, -3.0)]


def test_the_command_writes_evidence_curves_and_chosen_values(tmp_path: Path) -> None:
    options = ("--store", small_store().path, "--seeds", 1, "--jobs", 1, "--trials", 3, "--quiet")
    result = called("tune", "wise_ft", "--search", "mix=0.5,1.0", *options, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "evidence: results/tuning/wise_ft.json" in result.stdout
    assert "mix one of its values" in result.stdout or "mix outside of its values" in result.stdout
    result = called("tune", "finetune,joint", *options, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "results/tuning"
    assert {path.name for path in folder.iterdir()} == {
        "chosen.toml", *(f"{name}.{kind}" for name in ("wise_ft", "finetune", "joint") for kind in ("json", "png")),
    }  # fmt: skip
    chosen = read_toml(folder / "chosen.toml", "chosen values")
    assert chosen == {path.stem: read_evidence(path)["chosen"] for path in folder.glob("*.json")}
    refused = called("tune", "lwf,er", "--search", "lr=1:2", *options, cwd=tmp_path)
    assert refused.returncode == 2
    assert "--search is for one method" in refused.stderr


def test_every_method_says_beside_its_fields_where_they_are_searched() -> None:
    for name in LEARNING:
        entry = find_method(name)
        space = space_of(entry)
        if issubclass(entry.method.Config, TrainedConfig):
            assert "lr" in space, name
        for field, value in default_of(entry, space).items():
            assert value is None or space[field].holds(value), f"{name}.{field}"
        for place in (0.0, 1.0):
            entry.config({field: where.value(place) for field, where in space.items()})
    assert {*space_of(find_method("structalign"))} >= {"crp", "etf", "proto", "lr", "later_lr", "scale", "scoring"}
    assert "later_lr" not in space_of(find_method("structalign_released"))  # its preset fixes it
    assert sum(round_sizes(24)) == 24
    assert going_on(8) == 4


def test_the_shipped_choices_follow_from_their_evidence() -> None:
    for path in TUNED:
        found = read_evidence(path)
        tried = [Candidate(e["values"], tuple(tuple(one) for one in e["scores"])) for e in found["candidates"]]
        assert choose(tried).values == found["chosen"], path.stem
        assert len(tried) == 24, path.stem
        assert len(found["stores"]) >= 3, path.stem
        assert all(store["queries"] >= 800 for store in found["stores"]), path.stem
        assert len(found["seeds"]) >= 2, path.stem
        find_method(found["method"]).config(found["chosen"])


def test_the_shipped_values_are_those_of_the_evidence() -> None:
    folder = ROOT / "results/tuning"
    assert not TUNED or (folder / "chosen.toml").read_text(encoding="utf-8") == chosen_values(folder)


@pytest.mark.parametrize("path", sorted((ROOT / "results/tuning/former").glob("*.json")), ids=lambda path: path.stem)
def test_defaults_are_what_the_former_evidence_chose(path: Path) -> None:
    found = json.loads(path.read_text(encoding="utf-8"))
    config = find_method(found["method"]).config()
    for field, value in {**found["default"], **found["chosen"]}.items():
        assert getattr(config, field) == value or (field == "lr" and path.stem in RATES)


@pytest.mark.parametrize("name", RATES)
def test_a_default_rate_is_the_best_of_those_tried_on_all_worlds(name: str) -> None:
    """The same three for all of a family (proof: its published one for the middle one); one more beyond an end that was
    best."""
    path, means = RATES[name], dict[float, float]()
    for file in (path, path.parent / "beyond" / path.name):
        if file == path or file.is_file():
            found = json.loads(file.read_text(encoding="utf-8"))
            assert [store["name"][-4:] for store in found["stores"]] == ["1001", "1002", "1003"]
            assert all(store["queries"] >= 800 for store in found["stores"])
            whole = [each for each in found["candidates"] if len(each["scores"]) == 3]
            means |= {each["values"]["lr"]: float(np.mean(each["scores"])) for each in whole}
    assert ASKED_RATES.get(name, {0.00026, 0.0007, 0.002}) <= set(means)
    assert find_method(name).config().lr == max(means, key=lambda rate: means[rate])  # type: ignore[attr-defined]


def test_every_default_rate_has_been_searched() -> None:
    former = [json.loads(path.read_text(encoding="utf-8")) for path in (ROOT / "results/tuning/former").glob("*.json")]
    searched = {*RATES, *DEFAULTS_OF_TUNE, *(found["method"] for found in former if "lr" in found["chosen"])}
    assert {name for name in LEARNING if hasattr(find_method(name).config(), "lr")} <= searched


@pytest.mark.parametrize("name", DEFAULTS_OF_TUNE)
def test_a_method_without_a_former_default_has_what_tune_chose(name: str) -> None:
    found = read_evidence(ROOT / "results/tuning" / f"{name}.json")
    defaults = {field: getattr(find_method(name).config(), field) for field in found["chosen"]}
    assert defaults == pytest.approx(found["chosen"], rel=0.06)  # in round numbers


@pytest.mark.parametrize("name", CONSTANTS)
def test_a_default_constant_is_the_best_of_those_tried_on_all_worlds(name: str) -> None:
    found = json.loads(CONSTANTS[name].read_text(encoding="utf-8"))
    (field,) = found["chosen"]
    assert [store["name"][-4:] for store in found["stores"]] == ["1001", "1002", "1003"]
    assert all(store["queries"] >= 800 for store in found["stores"])
    means = {each["values"][field]: float(np.mean(each["scores"])) for each in found["candidates"]}
    assert len(means) >= 3
    assert all(len(each["scores"]) == 3 for each in found["candidates"])
    assert getattr(find_method(name).config(), field) == max(means, key=lambda value: means[value])
