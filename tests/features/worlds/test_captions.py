import re

import numpy as np
import pytest

from ctvr_bench.features.worlds import captions, motion, scene, words, world
from ctvr_bench.features.worlds.captions import Caption, Speaker
from ctvr_bench.features.worlds.scene import CATEGORIES, NEEDS_TWO
from ctvr_bench.features.worlds.truth import fitting_videos

WORDS = {
    word: (attribute, value)
    for attribute, values in words.NAMES.items()
    for value, names in enumerate(values)
    for word in names
}
SCENES = 400


@pytest.fixture(scope="module")
def scenes() -> scene.Scenes:
    rng = np.random.default_rng(1)
    return scene.sample_scenes(rng, np.arange(SCENES) % len(CATEGORIES), scene.even_prior(0.5))


def speaker(**changes: object) -> Speaker:
    knobs = world.Knobs()
    values = {
        "synonyms": knobs.synonyms,
        "inverted": knobs.inverted,
        "mention": knobs.mention,
    }
    return Speaker(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def told(scenes: scene.Scenes) -> list[Caption]:
    rng = np.random.default_rng(2)
    return [captions.describe_video(rng, speaker(), scenes, row) for row in range(SCENES)]


def test_a_caption_fits_its_own_video(told: list[Caption], scenes: scene.Scenes) -> None:
    assert fitting_videos(told, scenes).diagonal().all()


def naive_fit(caption: Caption, scenes: scene.Scenes, row: int) -> bool:
    """A reader with one video before the eyes."""
    category = CATEGORIES[scenes.category_N[row]]
    told = "category" in caption.scene
    for claim, value in caption.scene.items():
        truth = {
            "category": scenes.category_N,
            "background": scenes.background_N,
            "way": scenes.way_N,
            "tempo": scenes.tempo_N,
            "final colour": scenes.final_colour_N,
        }[claim][row]
        if truth != value:
            return False
    for order in ([0, 1],) if told else ([0, 1], [1, 0]):
        fits = True
        for claims, k in zip(caption.objects, order, strict=False):
            fits = fits and k < scenes.count_N[row]
            for attribute, value in claims.items():
                allowed = [scenes.of_object(attribute)[row, k]]
                if attribute == "colour" and k == 0 and not told:
                    allowed.append(scenes.final_colour_N[row])
                if attribute == "size" and k == 0 and not told and category in ("grow", "shrink"):
                    allowed = [0, 1, 2]
                fits = fits and value in allowed
        if fits:
            return True
    return False


def test_fit_agrees_with_a_reader_who_looks_at_one_video_at_a_time(told: list[Caption], scenes: scene.Scenes) -> None:
    some = told[:60]
    naive = np.array([[naive_fit(caption, scenes, row) for row in range(SCENES)] for caption in some])
    assert np.array_equal(fitting_videos(some, scenes), naive)
    assert (naive.sum(axis=1) > 1).any()


def test_claims_are_the_words_of_the_text(told: list[Caption]) -> None:
    for caption in told:
        claimed = sorted(
            (attribute, value)
            for claims in (*caption.objects, {"background": caption.scene.get("background")})
            for attribute, value in claims.items()
            if value is not None
        )
        if "final colour" in caption.scene:
            claimed = sorted([*claimed, ("colour", caption.scene["final colour"])])
        said = sorted(WORDS[word] for word in caption.text.replace("in a circle", "").split() if word in WORDS)
        assert said == claimed


def test_sizes_are_not_told_where_they_change(told: list[Caption], scenes: scene.Scenes) -> None:
    for caption, category in zip(told, scenes.category_N, strict=True):
        if CATEGORIES[category] in scene.NEUTRAL_SIZE:
            assert "size" not in caption.objects[0]


def test_interactions_always_tell_both_objects(told: list[Caption], scenes: scene.Scenes) -> None:
    for caption, category in zip(told, scenes.category_N, strict=True):
        if NEEDS_TWO[category]:
            assert len(caption.objects) == 2
            assert caption.scene["category"] == category


def test_an_stands_before_vowels_and_nowhere_else(told: list[Caption]) -> None:
    text = " . ".join(caption.text for caption in told)
    assert re.search(r"\ban [aeiou]", text)
    assert not re.search(r"\ba [aeiou](?!niform)", text)
    assert not re.search(r"\ban [^aeiou]", text)
    assert captions._with_articles("a uniform orange star and a orange uniform one") == (
        "a uniform orange star and an orange uniform one"
    )


def test_every_caption_word_is_in_the_vocabulary(scenes: scene.Scenes) -> None:
    known, rng = set(words.vocabulary()), np.random.default_rng(5)
    state_N26 = motion.states(scenes, rng.random((SCENES, 1)))[:, 0]
    for row in range(SCENES):
        video = captions.describe_video(rng, speaker(), scenes, row).text
        frame = captions.describe_frame(rng, captions.PRETRAINING, scenes, row, state_N26[row]).text
        assert set(f"{video} {frame}".split()) <= known


def test_a_frame_caption_tells_the_size_that_is_seen() -> None:
    rng = np.random.default_rng(0)
    scenes = scene.sample_scenes(rng, np.full(200, CATEGORIES.index("grow")), scene.even_prior(0.5), two_share=0.0)
    talk = speaker(mention={**captions.PRETRAINING.mention, "size": 1.0})
    state_N26 = motion.states(scenes, np.ones((200, 1)))[:, 0]  # grown to 1.6 times
    sizes = [captions.describe_frame(rng, talk, scenes, row, state_N26[row]).objects[0]["size"] for row in range(200)]
    assert np.array_equal(np.array(sizes) == 2, scenes.size_N2[:, 0] >= 1)


def test_captions_of_one_video_vary_and_mention_a_random_subset(scenes: scene.Scenes) -> None:
    rng = np.random.default_rng(0)
    told = [captions.describe_video(rng, speaker(), scenes, 0) for _ in range(60)]
    assert len({caption.text for caption in told}) > 55
    for attribute in ("shape", "colour", "size", "texture"):
        share = np.mean([attribute in caption.objects[0] for caption in told])
        assert share == pytest.approx(world.Knobs().mention[attribute], abs=0.2)


def test_a_generic_caption_fits_every_video_and_a_false_one_none(scenes: scene.Scenes) -> None:
    generic, false = Caption("a thing", ({},), {}), Caption("no such way", ({},), {"category": 10, "way": 5})
    fits = fitting_videos([generic, false], scenes)
    assert fits[0].all()
    assert not fits[1].any()


def test_without_the_motion_told_either_object_may_be_meant(scenes: scene.Scenes) -> None:
    row = int(np.flatnonzero((scenes.count_N == 2) & (scenes.shape_N2[:, 0] != scenes.shape_N2[:, 1]))[0])
    claims = {"shape": int(scenes.shape_N2[row, 1])}
    assert fitting_videos([Caption("", (claims,), {})], scenes)[0, row]
    told = Caption("", (claims,), {"category": int(scenes.category_N[row])})
    assert not fitting_videos([told], scenes)[0, row]
