import numpy as np
import pytest

from ctvr_bench.features.worlds import motion, scene, words
from ctvr_bench.features.worlds.scene import BACKGROUND_RGB, CATEGORIES, MIN_CONTRAST, RGB

MOMENTS = 25


def scenes_of(category: str, n: int = 40, seed: int = 0) -> scene.Scenes:
    rng = np.random.default_rng(seed)
    return scene.sample_scenes(rng, np.full(n, CATEGORIES.index(category)), scene.even_prior(0.5))


def states_of(scenes: scene.Scenes) -> np.ndarray:
    return motion.states(scenes, np.tile(np.linspace(0, 1, MOMENTS), (len(scenes), 1)))


@pytest.fixture(scope="module")
def many() -> scene.Scenes:
    rng = np.random.default_rng(3)
    return scene.sample_scenes(rng, np.arange(2000) % len(CATEGORIES), scene.skewed_prior(rng, 0.3))


def test_there_are_twenty_categories_and_five_need_two_objects() -> None:
    assert len(CATEGORIES) == 20
    assert sum(scene.NEEDS_TWO) == 5


def test_no_word_means_two_values() -> None:
    named = [word for values in words.NAMES.values() for names in values for word in names]
    assert len(named) == len(set(named))


def test_every_attribute_value_has_a_colour_or_picture_to_show() -> None:
    assert len(RGB) == len(words.COLOURS)
    assert len(BACKGROUND_RGB) == len(words.BACKGROUNDS)


def test_every_object_can_be_told_from_its_background(many: scene.Scenes) -> None:
    distance = np.linalg.norm(RGB[many.colour_N2] - BACKGROUND_RGB[many.background_N, None], axis=-1)
    assert distance.min() >= MIN_CONTRAST
    assert np.linalg.norm(RGB[many.final_colour_N] - BACKGROUND_RGB[many.background_N], axis=-1).min() >= MIN_CONTRAST


def test_two_objects_differ_in_shape_or_colour(many: scene.Scenes) -> None:
    same = (many.shape_N2[:, 0] == many.shape_N2[:, 1]) & (many.colour_N2[:, 0] == many.colour_N2[:, 1])
    assert not same.any()


def test_only_change_colour_changes_the_colour(many: scene.Scenes) -> None:
    changes = many.final_colour_N != many.colour_N2[:, 0]
    assert np.array_equal(changes, many.category_N == CATEGORIES.index("change colour"))


def test_a_skewed_prior_favours_other_values_in_each_category() -> None:
    prior = scene.skewed_prior(np.random.default_rng(0), 0.3)
    for attribute in ("shape", "colour", "texture", "background"):
        assert len(set(prior.tables_CK[attribute].argmax(axis=1).tolist())) > 2
    assert np.allclose(prior.tables_CK["size"], 1 / 3, atol=0.05)


def test_same_seed_same_scenes() -> None:
    first, again = scenes_of("spin", seed=4), scenes_of("spin", seed=4)
    assert np.array_equal(first.chance_N8, again.chance_N8)
    assert np.array_equal(first.shape_N2, again.shape_N2)


@pytest.mark.parametrize(
    ("category", "axis", "sign"),
    [
        ("move left", motion.X, -1),
        ("move right", motion.X, 1),
        ("move up", motion.Y, -1),
        ("move down", motion.Y, 1),
    ],
)
def test_a_straight_move_goes_its_way_and_no_other(category: str, axis: int, sign: int) -> None:
    state = states_of(scenes_of(category))[:, :, 0]
    assert (np.diff(state[..., axis]) * sign >= -1e-12).all()
    assert (np.abs(state[:, -1, axis] - state[:, 0, axis]) > 0.5).all()
    other = motion.Y if axis == motion.X else motion.X
    assert np.ptp(state[..., other], axis=1).max() < 1e-12


@pytest.mark.parametrize("category", ["circle", "orbit"])
def test_the_way_of_a_circle_is_its_sense_of_rotation(category: str) -> None:
    scenes = scenes_of(category)
    place = states_of(scenes)[:, :, 0, : motion.Y + 1] - 0.5
    cross = place[:, :-1, 0] * place[:, 1:, 1] - place[:, :-1, 1] * place[:, 1:, 0]
    clockwise = cross.mean(axis=1) > 0  # y points down
    assert np.array_equal(clockwise, scenes.way_N == 0)


def test_a_spinning_object_looks_different_from_every_side() -> None:
    scenes = scenes_of("spin", 300)
    round_shape = np.isin(scenes.shape_N2[:, 0], (0, 4))
    assert round_shape.any()
    assert np.isin(scenes.texture_N2[round_shape, 0], (1, 2)).all()


def test_growing_and_shrinking_change_the_scale_only() -> None:
    grown, shrunk = states_of(scenes_of("grow"))[:, :, 0], states_of(scenes_of("shrink"))[:, :, 0]
    assert (np.diff(grown[..., motion.SCALE]) >= -1e-12).all()
    assert (grown[:, -1, motion.SCALE] > 2 * grown[:, 0, motion.SCALE]).all()
    assert np.allclose(grown[:, ::-1, motion.SCALE].mean(), shrunk[..., motion.SCALE].mean(), atol=0.02)
    assert np.ptp(grown[..., [motion.X, motion.Y, motion.TURN]], axis=1).max() < 1e-12


def test_a_fade_ends_where_its_way_says() -> None:
    scenes = scenes_of("fade")
    opacity = states_of(scenes)[:, :, 0, motion.OPACITY]
    assert np.array_equal(opacity[:, -1] > opacity[:, 0], scenes.way_N == 1)


def test_colliding_objects_meet_and_part() -> None:
    state = states_of(scenes_of("collide"))
    apart = np.abs(state[:, :, 0, motion.X] - state[:, :, 1, motion.X])
    assert np.array_equal(apart.argmin(axis=1), np.full(len(apart), MOMENTS // 2))
    assert (apart[:, 0] > 2 * apart.min(axis=1)).all()


def test_swapped_objects_end_where_the_other_began() -> None:
    state = states_of(scenes_of("swap"))
    assert np.allclose(state[:, 0, 0, : motion.Y + 1], state[:, -1, 1, : motion.Y + 1])


def test_a_fast_video_finishes_its_move_in_the_middle_third() -> None:
    scenes = scenes_of("move right")
    x = states_of(scenes)[:, :, 0, motion.X]
    still = np.isclose(x[:, 0], x[:, MOMENTS // 4])
    assert np.array_equal(still, scenes.tempo_N == 1)


def test_an_absent_second_object_is_never_shown() -> None:
    scenes = scenes_of("bounce", 200)
    shown = states_of(scenes)[:, :, 1, motion.OPACITY] > 0
    assert np.array_equal(shown.all(axis=1), scenes.count_N == 2)
    assert np.array_equal(shown.any(axis=1), scenes.count_N == 2)
