"""The auto recipe: what it reads, what it prefers, that it repeats, and which runs ask for it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ctvr_bench.bench.analysis.findings import evidence, sentences
from ctvr_bench.bench.records.aggregate import Run, read_results
from ctvr_bench.bench.records.record import Recipe, RecipeTrial, read_record
from ctvr_bench.bench.run import recipe
from ctvr_bench.bench.run.jobs import feature_spec
from ctvr_bench.bench.suite.config import make_suite
from ctvr_bench.bench.suite.suite import plan, run_suite
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.store import FeatureStore
from ctvr_bench.features.streams import PairTable
from ctvr_bench.methods.shared.registry import find_method
from tests.stores import small_store, small_stream


@pytest.fixture(autouse=True)
def few_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "RATES", (1e-4, 1e-3, 1e-1))
    monkeypatch.setattr(recipe, "STEPS", (2, 4, 8))
    monkeypatch.setattr(recipe, "FIRST_RATES", slice(1, 2))
    monkeypatch.setattr(recipe, "FIRST_STEPS", slice(1, 2))


def found(name: str = "finetune", **values: Any) -> Recipe:
    entry = find_method(name)
    spec = feature_spec(small_store(), small_stream())._replace(reference=None)
    return recipe.find_recipe(entry, entry.config(values), spec, small_store(), small_stream().tasks[0], "cpu")


@cache
def found_once(name: str = "finetune") -> Recipe:
    """The same, found once for all tests that change nothing by which it is found."""
    return found(name)


def changes(made: Recipe) -> dict[tuple[float, int], float]:
    return {(trial.lr, trial.steps): math.inf if trial.change is None else trial.change for trial in made.trials}


@pytest.mark.parametrize("name", ["finetune", "joint"])
def test_the_trial_of_least_loss_is_chosen_and_lies_inside_what_was_tried(name: str) -> None:
    made = found_once(name)
    tried = changes(made)
    chosen = min(tried, key=lambda trial: tried[trial])
    tasks = len(small_stream().tasks)
    assert (made.lr, made.steps) == (chosen[0], max(1, round(chosen[1] * made.parts / tasks)))
    rate, steps = recipe.RATES.index(chosen[0]), recipe.STEPS.index(chosen[1])
    for beside in ((rate + 1, steps), (rate - 1, steps), (rate, steps + 1), (rate, steps - 1)):
        if 0 <= beside[0] < 3 and 0 <= beside[1] < 3:
            assert (recipe.RATES[beside[0]], recipe.STEPS[beside[1]]) in tried


def test_it_repeats_and_every_training_video_of_the_first_task_is_held_out_once() -> None:
    first, second = found(), found_once()
    assert first.model_dump(exclude={"seconds"}) == second.model_dump(exclude={"seconds"})
    store, task = small_store(), small_stream().tasks[0]
    assert first.videos == len(np.unique(store.caption_video_M[task.train]))
    held = [part.held_out for fold in range(2) for part in recipe._parts(store, task, fold)]
    assert sorted(np.concatenate(held).tolist()) == sorted(task.train.tolist())
    for fold in range(2):
        for part in recipe._parts(store, task, fold):
            assert not {*store.caption_video_M[part.train]} & {*store.caption_video_M[part.held_out]}
            assert {*store.category_N[store.caption_video_M[part.train]]} <= {*part.categories}


def test_only_training_captions_of_the_first_task_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read: set[int] = set()

    class Watched(PairTable):
        def __init__(self, store: FeatureStore, rows: Any, device: Any = "cpu") -> None:
            read.update(rows.tolist())
            super().__init__(store, rows, device)

    monkeypatch.setattr(recipe, "PairTable", Watched)
    found("cumulative")
    assert read == {*small_stream().tasks[0].train.tolist()}


def test_the_loss_is_that_of_a_plain_loop() -> None:
    entry, store = find_method("finetune"), small_store()
    spec = feature_spec(store, small_stream())._replace(reference=None)
    parts = recipe._parts(store, small_stream().tasks[0], 0)
    stream = recipe._Stream(store, parts, "cpu")
    method = entry.method(entry.config(), spec, torch.Generator().manual_seed(0)).eval()
    losses = recipe._losses([stream.scores(method, stream.galleries(method))], 5.0)

    videos = [video for part in parts for video in np.unique(store.caption_video_M[part.held_out])]
    frames, captions = store.feature("videos/frames"), store.feature("captions/pooled")
    unit = {v: np.asarray(frames[v], np.float64).mean(0) for v in videos}
    unit = {v: x / np.linalg.norm(x) for v, x in unit.items()}
    expected = {}
    for part in parts:
        for video in np.unique(store.caption_video_M[part.held_out]):
            each = []
            for row in part.held_out[store.caption_video_M[part.held_out] == video]:
                text = np.asarray(captions[row], np.float64)
                scores = {v: math.exp(5 * float(text @ x) / float(np.linalg.norm(text))) for v, x in unit.items()}
                each.append(-math.log(scores[video] / sum(scores.values())))
            expected[video] = sum(each) / len(each)
    np.testing.assert_allclose(losses, [expected[video] for video in sorted(expected)], atol=1e-4)


def test_a_rate_that_breaks_what_was_learned_is_not_chosen() -> None:
    made = found_once()
    assert changes(made)[0.1, 4] > min(changes(made).values()) + 0.1


def test_a_rate_whose_loss_overflows_is_written_down_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "RATES", (1e-4, 1e-3, 1e30))
    made = found()
    assert made.lr < 1
    assert all(trial.change is None or math.isfinite(trial.change) for trial in made.trials)
    json.loads(made.model_dump_json())


def test_parts_are_equal_however_unequal_the_categories_are() -> None:
    """A category of two videos had a part of its own, so that next to nothing was learned after the other."""
    store = small_store()
    task = small_stream().tasks[0]
    video_P = store.caption_video_M[task.train]
    last = store.category_N[video_P] == task.categories[-1]
    few = task.train[~last | np.isin(video_P, np.unique(video_P[last])[:2])]
    for fold in range(2):
        parts = recipe._parts(store, replace(task, train=few), fold)
        counts = [len(np.unique(store.caption_video_M[np.concatenate([p.train, p.held_out])])) for p in parts]
        assert max(counts) - min(counts) <= 1
        assert len(parts) == 2


def test_a_task_of_one_category_is_cut_by_chance_and_one_video_is_refused() -> None:
    store, task = small_store(), small_stream().tasks[0]
    one = task.train[store.category_N[store.caption_video_M[task.train]] == task.categories[0]]
    assert len(recipe._parts(store, replace(task, train=one), 0)) == 2
    alone = one[store.caption_video_M[one] == store.caption_video_M[one[0]]]
    with pytest.raises(InputError, match="too few training videos"):
        recipe._parts(store, replace(task, train=alone), 0)


def test_a_run_trains_by_what_was_found_and_says_it(tmp_path: Path) -> None:
    config = make_suite(
        {"store": small_store().path, "methods": ["finetune"], "seeds": 2, "jobs": 1, "out": tmp_path}, "t"
    )
    records = run_suite(config)
    made = found_once()
    for record in records:
        assert record.recipe is not None
        assert (record.recipe.lr, record.recipe.steps) == (made.lr, made.steps)
        assert record.cost is not None
        assert record.cost.steps == 3 * made.steps
        assert (record.cost.lr, record.cost.task_steps) == (made.lr, made.steps)
        assert read_record(config.directory / record.run_id).recipe == record.recipe
    assert records[0].label == "finetune"
    assert len(list((config.directory / "recipes").iterdir())) == 1


def test_a_report_says_whose_recipe_is_little_more_than_chance(tmp_path: Path) -> None:
    """One trial on half of the videos and one that diverged do not count; 0 videos: records of before they counted."""
    trials = [
        RecipeTrial(lr=1e-4, steps=2, videos=6, change=-0.02, error=0.03),
        RecipeTrial(lr=1e-4, steps=4, videos=3, change=-0.9, error=0.1),
        RecipeTrial(lr=1e-3, steps=2, videos=0, change=-0.05, error=0.04),
        RecipeTrial(lr=1e-3, steps=4, videos=6, change=None, error=None),
    ]
    clear = Recipe(lr=1e-3, steps=2, scale=1.0, videos=6, trials=trials, seconds=0.0)
    vague = clear.model_copy(update={"trials": [trials[0], *trials[1::2]]})
    assert clear.told
    assert not vague.told
    assert not clear.model_copy(update={"trials": trials[3:]}).told
    assert not clear.model_copy(update={"trials": []}).told

    config = make_suite(
        {
            "store": small_store().path,
            "methods": ["zero_shot", "finetune", "er"],
            "recipe": "fixed",
            "seeds": 1,
            "jobs": 1,
            "out": tmp_path,
        },
        "t",
    )
    run_suite(config)
    results = read_results(config.directory)

    def with_recipe(run: Run, recipe: Recipe | None) -> Run:
        return replace(run, record=run.record.model_copy(update={"recipe": recipe}))

    def said(**recipes: Recipe) -> list[str]:
        rows = (
            replace(row, runs=tuple(with_recipe(run, recipes.get(row.label)) for run in row.runs))
            for row in results.rows
        )
        changed = replace(results, rows=tuple(rows))
        return [words for words in sentences(changed, evidence(changed)) if "chance" in words]

    assert said(finetune=clear, er=clear) == said() == []
    (words,) = said(finetune=clear, er=vague)
    assert words == (
        "Rate and steps of er are little more than chance: on the 6 held-out videos of the first task even the best "
        "trial lowered the loss by less than its standard error."
    )
    (words,) = said(finetune=vague.model_copy(update={"videos": 16, "trials": trials[2:3]}), er=vague)
    assert words.startswith("Rate and steps of er are")
    wide = vague.model_copy(update={"videos": 16, "trials": [trials[0].model_copy(update={"videos": 16})]})
    (words,) = said(finetune=wide, er=vague)
    assert words.startswith("Rate and steps of finetune and er are little more than chance: on the 6 to 16 held-out")


def test_a_kept_recipe_is_used_again_and_one_that_cannot_be_read_is_found_again(tmp_path: Path) -> None:
    config = make_suite(
        {"store": small_store().path, "methods": ["finetune"], "seeds": 1, "jobs": 1, "out": tmp_path}, "t"
    )
    run_suite(config)
    (kept,) = (config.directory / "recipes").iterdir()
    whole = kept.read_bytes()
    values = json.loads(whole)
    for number, damaged in enumerate((whole[: len(whole) // 2], json.dumps({**values, "lr": 0.5}).encode()), 2):
        kept.write_bytes(damaged)
        (record,) = run_suite(config.model_copy(update={"seeds": number}))[number - 1 :]
        assert record.recipe is not None
        assert record.recipe.lr == json.loads(kept.read_bytes())["lr"] == values["lr"]
        assert kept.with_suffix(".damaged").read_bytes() == damaged
    made = kept.read_bytes()
    run_suite(config.model_copy(update={"seeds": 4}))
    assert kept.read_bytes() == made  # seconds and all: it was not found again


def test_pairs_are_read_once_for_all_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    class Counted(PairTable):
        def __init__(self, store: FeatureStore, rows: Any, device: Any = "cpu") -> None:
            read.append(len(rows))
            super().__init__(store, rows, device)

    monkeypatch.setattr(recipe, "PairTable", Counted)
    asked: list[int] = []
    scores = recipe._Stream.scores
    monkeypatch.setattr(recipe._Stream, "scores", lambda *given: asked.append(1) or scores(*given))
    made = found("cumulative")
    assert len(read) == 2 * 2 * 2  # two folds of two parts, to learn and held out, whatever the number of trials
    folds = [1 if trial.videos < made.videos else 2 for trial in made.trials]
    assert len(asked) == 2 + sum(folds)  # before any training, and once a fold after each trial


def test_who_asks_for_a_recipe(tmp_path: Path) -> None:
    def recipes(**values: Any) -> dict[str, str]:
        methods = ["finetune", "zero_shot", {"name": "lwf", "set": {"lr": 1e-3}}]
        methods.append({"name": "er", "set": {"recipe": "fixed"}})
        config = make_suite({"store": small_store().path, "methods": methods, "seeds": 1, **values}, "t")
        return {job.label: job.config.config.get("recipe", "none") for job in plan(config, small_store())}

    assert recipes() == {
        "finetune": "auto",
        "zero_shot": "none",
        "lwf [lr=0.001]": "fixed",
        "er [recipe=fixed]": "fixed",
    }
    assert {*recipes(recipe="fixed")} == {"finetune", "zero_shot", "lwf [lr=0.001]", "er"}


def test_a_hopeless_trial_learns_one_fold_and_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    made = found_once()
    half = [trial for trial in made.trials if trial.videos < made.videos]
    assert half
    assert {trial.videos for trial in half} == {made.videos // 2}
    chosen = min(
        (trial for trial in made.trials if trial not in half), key=lambda t: math.inf if t.change is None else t.change
    )
    assert (made.lr, made.steps) == (chosen.lr, max(1, round(chosen.steps * made.parts / len(small_stream().tasks))))
    monkeypatch.setattr(recipe, "HOPELESS", math.inf)
    whole = found()
    assert {trial.videos for trial in whole.trials} == {made.videos}
    assert (whole.lr, whole.steps) == (made.lr, made.steps)
