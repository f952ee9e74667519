from dataclasses import replace

import numpy as np
import pytest

from ctvr_bench.features.schema import TEST, TRAIN, VALIDATION
from ctvr_bench.features.worlds.scene import CATEGORIES
from ctvr_bench.features.worlds.truth import fitting_videos
from ctvr_bench.features.worlds.world import NUM_TASKS, Knobs, World, make_world

FEW = Knobs(train=2, validation=1, test=3, captions=2)
"""For what is as true of a world of 120 videos, made in a tenth of the time."""


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(1)


def test_every_category_has_its_share_of_training_validation_and_test_videos(world: World) -> None:
    for category in range(len(CATEGORIES)):
        roles = world.role_N[world.scenes.category_N == category]
        assert [(roles == role).sum() for role in (TRAIN, VALIDATION, TEST)] == [16, 8, Knobs().test]
    assert Knobs().test >= 15


def test_ten_tasks_have_two_categories_each(world: World) -> None:
    assert np.array_equal(np.bincount(world.task_of_category_C), np.full(NUM_TASKS, 2))


def test_further_captions_of_test_videos_change_nothing_else() -> None:
    world, once = make_world(1, FEW), make_world(1, replace(FEW, queries=1))
    asked = len(once.captions)
    assert world.captions[:asked] == once.captions
    assert np.array_equal(world.query_N, once.query_N)
    assert np.array_equal(world.task_of_category_C, once.task_of_category_C)
    tested = np.flatnonzero(world.role_N == TEST)
    assert np.array_equal(world.further_NK[tested].ravel(), np.arange(asked, len(world.captions)))
    assert (world.further_NK[world.role_N != TEST] == -1).all()
    for video in tested.tolist():
        rows = [world.query_N[video], *world.further_NK[video]]
        assert len({world.captions[row].text for row in rows}) == Knobs().queries
        assert all(world.caption_video_M[row] == video for row in rows)


def test_training_videos_have_many_captions_and_validation_videos_one_query(world: World) -> None:
    captions_N = np.bincount(world.caption_video_M, minlength=len(world.role_N))
    trained = world.role_N == TRAIN
    assert (captions_N[trained] == Knobs().captions).all()
    assert (captions_N[world.role_N == VALIDATION] == 1).all()
    assert (captions_N[world.role_N == TEST] == Knobs().queries).all()
    assert (world.query_N[trained] == -1).all()
    assert np.array_equal(world.caption_video_M[world.query_N[~trained]], np.flatnonzero(~trained))


def test_video_ids_are_unique_and_say_category_and_role(world: World) -> None:
    ids = world.video_ids
    assert len(set(ids)) == len(ids)
    assert ids[0] == "move-left-train-01"


def test_every_query_fits_its_video_and_few_others(world: World) -> None:
    tested = np.flatnonzero(world.role_N == TEST)
    queries = [world.captions[row] for row in world.query_N[tested]]
    fits = fitting_videos(queries, world.scenes[tested])
    assert fits.diagonal().all()
    ceiling = (1 / fits.sum(axis=1)).mean()  # recall of who guesses among all that fit
    assert 0.6 < ceiling < 1


def test_seeds_differ_and_the_same_seed_does_not() -> None:
    world, again, other = (make_world(seed, FEW) for seed in (1, 1, 2))
    assert [c.text for c in again.captions] == [c.text for c in world.captions]
    assert np.array_equal(again.film.pan_N2, world.film.pan_N2)
    assert np.array_equal(again.task_of_category_C, world.task_of_category_C)
    assert [c.text for c in other.captions] != [c.text for c in world.captions]
    assert not np.array_equal(other.task_of_category_C, world.task_of_category_C)


def test_no_category_has_a_tint_of_its_own(world: World) -> None:
    gains = np.stack([world.film.tone_N33[world.scenes.category_N == c].mean(axis=0) for c in range(len(CATEGORIES))])
    spread = world.film.tone_N33.std(axis=0) / np.sqrt(np.bincount(world.scenes.category_N).min())
    assert np.abs(gains - gains.mean(axis=0)).max() < 4 * spread.max()
