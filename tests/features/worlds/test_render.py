import dataclasses

import numpy as np
import pytest
import torch
from scipy import ndimage

from ctvr_bench.features.worlds import film as camera
from ctvr_bench.features.worlds import render, scene
from ctvr_bench.features.worlds.scene import BACKGROUND_RGB, CATEGORIES, RGB

STILL = camera.Shift()
SHAKY = camera.Shift(pan=5, wobble=1, zoom=0.15, blur=0.7, ghost=0.4, light=0.12, noise=0.03)


def one_object(**changes: object) -> scene.Scenes:
    """A large plain red square in the middle of a black picture, shrinking."""
    facts: dict[str, np.ndarray] = {
        "category_N": np.array([CATEGORIES.index("change colour")]),
        "count_N": np.array([1]),
        "shape_N2": np.array([[1, 0]]),
        "colour_N2": np.array([[0, 1]]),
        "size_N2": np.array([[2, 0]]),
        "texture_N2": np.array([[0, 0]]),
        "tilt_N2": np.zeros((1, 2)),
        "background_N": np.array([0]),
        "final_colour_N": np.array([0]),
        "way_N": np.array([0]),
        "tempo_N": np.array([0]),
        "chance_N8": np.full((1, 8), 0.5),
    }
    return scene.Scenes(**{**facts, **{key: np.asarray(value) for key, value in changes.items()}})


def clean_film(n: int) -> camera.Film:
    film = camera.sample_film(np.random.default_rng(0), n, STILL)
    return dataclasses.replace(film, tone_N33=np.tile(np.eye(3), (n, 1, 1)), noise_N=np.zeros(n))


def picture(scenes: scene.Scenes, moment: float = 0.0) -> np.ndarray:
    frames = render.render(scenes, np.full((len(scenes), 1), moment), clean_film(len(scenes)), seed=0)
    return frames[0, 0] / 255


def test_frames_are_48_pixels_of_three_colours() -> None:
    frames = render.render(one_object(), np.zeros((1, 5)), clean_film(1), seed=0)
    assert frames.shape == (1, 5, 48, 48, 3)
    assert frames.dtype == np.uint8


def test_the_object_has_its_colour_and_the_rest_the_backgrounds() -> None:
    shown = picture(one_object())
    assert np.allclose(shown[24, 24], RGB[0], atol=0.01)
    assert np.allclose(shown[2, 2], BACKGROUND_RGB[0], atol=0.01)


def test_a_square_covers_its_own_area() -> None:
    red = picture(one_object())[..., 0] > 0.5
    assert red.sum() == (2 * 0.85 * render.RADIUS[2] // 2 * 2) ** 2


def test_sizes_rise() -> None:
    areas = [(picture(one_object(size_N2=[[size, 0]]))[..., 0] > 0.5).sum() for size in range(3)]
    assert areas[0] * 2 < areas[1]
    assert areas[1] * 2 < areas[2] + 20


def test_every_shape_and_texture_gives_another_picture() -> None:
    pictures = [picture(one_object(shape_N2=[[s, 0]], texture_N2=[[t, 0]])) for s in range(10) for t in range(4)]
    flat = np.stack(pictures).reshape(40, -1)
    distance = np.abs(flat[:, None] - flat[None]).mean(axis=-1) + np.eye(40)
    assert distance.min() > 0.005


def test_an_edge_leaves_most_of_a_small_ring_in_its_colour() -> None:
    ring = picture(one_object(shape_N2=[[4, 0]], texture_N2=[[3, 0]], size_N2=[[1, 0]], colour_N2=[[8, 0]]))
    bright, seen = (ring.min(axis=-1) > 0.7).sum(), (ring.min(axis=-1) > 0.2).sum()
    assert bright > 0.3 * seen


def test_marks_are_lighter_on_dark_colours_and_darker_on_light_ones() -> None:
    for colour, lighter in ((5, True), (3, False)):
        plain, striped = (
            picture(one_object(texture_N2=[[t, 0]], colour_N2=[[colour, 0]], final_colour_N=[colour])) for t in (0, 1)
        )
        assert (striped.sum() > plain.sum()) == lighter


def test_the_colour_changes_into_the_final_one() -> None:
    scenes = one_object(final_colour_N=[1])
    assert np.allclose(picture(scenes, 0.0)[24, 24], RGB[0], atol=0.01)
    assert np.allclose(picture(scenes, 1.0)[24, 24], RGB[1], atol=0.01)


def test_the_second_object_of_pass_behind_is_in_front() -> None:
    both = one_object(category_N=[CATEGORIES.index("pass behind")], count_N=[2], size_N2=[[2, 2]], shape_N2=[[1, 1]])
    assert np.allclose(picture(both, 0.5)[24, 24], RGB[1], atol=0.01)
    swapped = dataclasses.replace(both, category_N=np.array([CATEGORIES.index("follow")]))
    assert not np.allclose(picture(swapped, 0.5), picture(both, 0.5))


def test_a_moving_camera_moves_background_and_object_together() -> None:
    scenes = one_object(background_N=[4])
    film = dataclasses.replace(clean_film(1), pan_N2=np.array([[8.0, 0.0]]))
    frames = render.render(scenes, np.array([[0.0, 1.0]]), film, seed=0)[0] / 255
    assert np.allclose(frames[0, :, 8:], np.roll(frames[1], 8, axis=1)[:, 8:], atol=0.02)


def test_a_still_film_blurs_nothing_and_a_shaky_one_does() -> None:
    rng = np.random.default_rng(0)
    scenes = scene.sample_scenes(rng, np.arange(20), scene.even_prior(0.5))
    moments = np.tile(np.linspace(0, 1, 6), (20, 1))
    still, shaky = (render.render(scenes, moments, camera.sample_film(rng, 20, s), 0) for s in (STILL, SHAKY))
    sharpness = [np.abs(np.diff(f.astype(float), axis=3)).mean() for f in (still, shaky)]
    assert not np.array_equal(still, shaky)
    assert sharpness[0] > 0


def test_what_the_camera_does_says_nothing_about_the_category() -> None:
    film = camera.sample_film(np.random.default_rng(1), 4000, SHAKY)
    groups = film.tone_N33.reshape(20, 200, 9).mean(axis=1)
    assert np.ptp(groups, axis=0).max() < 0.06


def test_same_seed_same_frames() -> None:
    rng = np.random.default_rng(0)
    scenes = scene.sample_scenes(rng, np.arange(20), scene.even_prior(0.5))
    moments, film = np.tile(np.linspace(0, 1, 3), (20, 1)), camera.sample_film(rng, 20, SHAKY)
    first, again, other = (render.render(scenes, moments, film, seed) for seed in (5, 5, 6))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_objects_are_drawn_near_their_centres_only_and_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    scenes = scene.sample_scenes(rng, np.repeat(np.arange(len(CATEGORIES)), 12), scene.even_prior(0.0))
    film = camera.sample_film(rng, len(scenes), dataclasses.replace(SHAKY, pan=60))  # some objects leave the picture
    times_NF = np.tile(np.linspace(0, 1, 6), (len(scenes), 1))
    near = render.render(scenes, times_NF, film, seed=1)
    assert {*scenes.shape_N2[:, 0]} == set(range(10))
    assert {*scenes.size_N2[:, 0]} == {0, 1, 2}
    monkeypatch.setattr(render, "_REACH", 1000.0)  # every pixel of every picture
    np.testing.assert_array_equal(near, render.render(scenes, times_NF, film, seed=1))
    monkeypatch.setattr(render, "_REACH", 0.9)  # too near: corners are cut off
    assert (near != render.render(scenes, times_NF, film, seed=1)).any()


def test_blur_is_that_of_each_colour_of_each_picture() -> None:
    picture_NF3HW = torch.rand(2, 3, 3, camera.SIZE, camera.SIZE, generator=torch.Generator().manual_seed(0))
    film = dataclasses.replace(clean_film(2), blur_N=np.ones(2))
    developed = camera.develop(picture_NF3HW, film, torch.zeros(2, 3, 1, camera.SIZE, camera.SIZE))
    taps = np.array([1, 4, 6, 4, 1]) / 16
    for at in np.ndindex(2, 3, 3):
        blurred = picture_NF3HW[at].numpy().astype(float)
        for axis in (0, 1):
            blurred = ndimage.correlate1d(blurred, taps, axis, mode="nearest")
        assert np.abs(developed[at].numpy() - 255 * blurred).max() < 0.51
