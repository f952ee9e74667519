"""Simulated features: deterministic, honest about what they are, and every knob does what its comment says."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import binom

from ctvr_bench.bench.metrics import ranks, recall_at_k
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.geometry import cosine_between, cosine_within, pair_statistics, spectrum
from ctvr_bench.features.schema import TEST, TRAIN, UNUSED, VALIDATION
from ctvr_bench.features.simulation.config import SyntheticConfig
from ctvr_bench.features.simulation.world import World, agreement
from ctvr_bench.features.simulation.write import generated_structure, synthesise
from ctvr_bench.features.store import FeatureStore, open_store
from ctvr_bench.features.structure import Structure
from ctvr_bench.features.verification import verify_store

Array = npt.NDArray[Any]

SMALL = generated_structure(
    categories=4, tasks=2, train_per_category=2, test_per_category=20, captions_per_train_video=3
)
TINY = SyntheticConfig(dim=64, frames=4)
# Without private parts, drift, gap or misalignment text and video say the same; tests add one thing at a time.
CLEAN = SyntheticConfig(
    dim=64,
    frames=6,
    dtype="float32",
    agreement=0.999,
    agreement_exponent=0,
    own_angle=0,
    common_angle=0,
    category_angle=0,
    category_flips=0,
    category_offset=0,
    part_swing=0,
    drift_share=0,
    cut_share=0,
    short_share=0,
    caption_cover=1,
    word_agreement=1,
    function_word_share=0,
    frame_cone=0,
    text_cone=0,
    gap=0,
    cone_spread=0,
    hubness=0,
    norm_spread=0,
)
FLAT = replace(CLEAN, spectrum_exponent=0)  # a turn of the latents is then a turn of the features by the same angle


class Made(NamedTuple):
    """What a simulated store holds, as float64: test queries in the order of the test videos."""

    frames_MFD: Array
    count_M: Array
    pooled_MD: Array
    words: list[Array]  # [L, D] of each test query

    @property
    def video_MD(self) -> Array:
        """Mean of the real frames; those past the count are zero."""
        return np.asarray(self.frames_MFD.sum(axis=1) / self.count_M[:, None])


def build(config: SyntheticConfig, path: Path, structure: Structure = SMALL, **arguments: Any) -> FeatureStore:
    synthesise(structure, config, path, **{"name": "toy", **arguments})
    return open_store(path)


def read(store: FeatureStore) -> Made:
    stream = store.stream(store.stream_names[0])
    videos = np.flatnonzero(stream.role_of_video_N == TEST)
    queries = stream.query_of_video_N[videos]
    offsets, words = store.feature("captions/word_offsets"), store.feature("captions/words")
    return Made(
        store.feature("videos/frames")[videos].astype(np.float64),
        store.feature("videos/frame_count")[videos],
        store.feature("captions/pooled")[queries].astype(np.float64),
        [words[offsets[row] : offsets[row + 1]].astype(np.float64) for row in queries],
    )


@cache
def world(config: SyntheticConfig) -> Made:
    with TemporaryDirectory() as folder:
        return read(build(config, Path(folder) / "world.h5"))


def unit(x: Array) -> Array:
    return np.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True))


def matched_cosine(world: Made) -> Array:
    """Cosine between each query and its own video."""
    return np.asarray(np.einsum("md,md->m", unit(world.pooled_MD), unit(world.video_MD)))


def cosine_recall(world: Made) -> float:
    """Zero-shot R@1 by pooled cosine over all test videos."""
    sim_NM = unit(world.pooled_MD) @ unit(world.video_MD).T
    return recall_at_k(ranks(sim_NM, np.arange(len(sim_NM))), 1)


def word_frame_recall(world: Made, queries: int) -> float:
    """Zero-shot R@1 of the first queries by mean over words of the best frame + mean over frames of the best word."""
    M, F, D = world.frames_MFD.shape
    real_MF = np.arange(F) < world.count_M[:, None]
    frames_XD = world.frames_MFD.reshape(M * F, D)
    frames_XD = frames_XD / np.maximum(np.linalg.norm(frames_XD, axis=1, keepdims=True), 1e-9)
    sim_NM = np.empty((queries, M))
    for query in range(queries):
        sim_LMF = np.where(real_MF, (unit(world.words[query]) @ frames_XD.T).reshape(-1, M, F), -np.inf)
        best_word_MF = np.where(real_MF, sim_LMF.max(axis=0), 0)
        sim_NM[query] = (sim_LMF.max(axis=2).mean(axis=0) + best_word_MF.sum(axis=1) / world.count_M) / 2
    return recall_at_k(ranks(sim_NM, np.arange(queries)), 1)


# What is written


def test_a_simulated_store_is_sound_and_says_what_it_is(tmp_path: Path) -> None:
    store = build(TINY, tmp_path / "toy.h5", name="MSRVTT", licence="theirs")
    assert [finding for finding in verify_store(store.path) if finding.severity == "error"] == []
    assert store.simulated
    assert store.name == "simulated MSRVTT"
    assert store.provenance["encoder"] == {"family": "simulated", **asdict(TINY)}
    assert store.provenance["sampling"] == {"rule": "simulated", "frames": 4}
    assert store.provenance["licence"] == "theirs"
    assert store.feature("videos/frames").shape == (88, 4, 64)
    assert store.feature("captions/pooled").dtype == np.float16


def test_a_name_that_says_simulated_is_kept(tmp_path: Path) -> None:
    assert build(TINY, tmp_path / "toy.h5", name="Simulated world 3").name == "Simulated world 3"


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_content_depends_on_the_seed_and_not_on_the_block(tmp_path: Path, dtype: str) -> None:
    config = replace(TINY, dtype=dtype)
    digests = [build(config, tmp_path / f"{block}.h5", block=block).digest for block in (128, 128, 7, 1)]
    assert len(set(digests)) == 1
    assert build(replace(config, seed=1), tmp_path / "other.h5").digest != digests[0]


def test_a_knob_of_the_captions_leaves_the_frames_as_they_are() -> None:
    quiet, loud = world(TINY), world(replace(TINY, caption_own_share=0.5, common_angle=60))
    np.testing.assert_array_equal(quiet.frames_MFD, loud.frames_MFD)
    assert not np.array_equal(quiet.pooled_MD, loud.pooled_MD)


def test_train_videos_without_captions_get_simulated_ones(tmp_path: Path) -> None:
    (stream,) = SMALL.streams
    assert stream.role_of_video_N[:3].tolist() == [TRAIN, TRAIN, TEST]
    assert SMALL.caption_video_M[:7].tolist() == [0, 0, 0, 1, 1, 1, 2]
    role_N = stream.role_of_video_N.copy()
    role_N[1] = UNUSED
    query_N = np.where(stream.query_of_video_N >= 0, stream.query_of_video_N - 6, -1)
    lacking = replace(
        SMALL,
        captions=SMALL.captions[6:],
        caption_video_M=SMALL.caption_video_M[6:],
        streams=[replace(stream, role_of_video_N=role_N, query_of_video_N=query_N)],
    )
    store = build(TINY, tmp_path / "toy.h5", lacking, captions_per_train_video=5)
    assert store.captions[:-5] == lacking.captions
    assert store.captions[-5:] == [f"simulated caption {number} of video0" for number in range(1, 6)]
    assert store.caption_video_M[-5:].tolist() == [0] * 5
    assert build(TINY, tmp_path / "none.h5", lacking, captions_per_train_video=0).captions == lacking.captions
    with pytest.raises(InputError, match="captions_per_train_video is -1"):
        build(TINY, tmp_path / "negative.h5", lacking, captions_per_train_video=-1)


def test_a_real_caption_has_as_many_words_as_its_text_and_a_simulated_one_5_to_15(tmp_path: Path) -> None:
    texts = ["", "one", "three little words", "many " * 50]
    structure = replace(SMALL, captions=[*texts, *SMALL.captions[4:]])
    counts = np.diff(build(TINY, tmp_path / "toy.h5", structure).feature("captions/word_offsets"))
    assert counts[:4].tolist() == [1, 1, 3, 32]
    assert set(counts[4:].tolist()) <= set(range(5, 16))
    assert len(set(counts[4:].tolist())) > 5


def test_short_videos_have_fewer_real_frames_and_zeros_past_them(tmp_path: Path) -> None:
    assert (world(replace(TINY, short_share=0)).count_M == 4).all()
    short = world(replace(TINY, frames=7, short_share=1))
    assert set(short.count_M.tolist()) == {4, 5, 6}
    real_MF = np.arange(7) < short.count_M[:, None]
    np.testing.assert_array_equal(short.frames_MFD.any(axis=2), real_MF)
    assert (world(replace(TINY, frames=1, short_share=1)).count_M == 1).all()


def test_an_unwritable_folder_and_a_broken_structure_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot be written"):
        build(TINY, tmp_path / "file" / "toy.h5")
    with pytest.raises(InputError, match=r"toy\.h5: videos/id holds 'a' 2 times"):
        build(TINY, tmp_path / "toy.h5", replace(SMALL, video_ids=["a", "a", *SMALL.video_ids[2:]]))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# What the knobs do


def test_what_two_gaussians_agree_on_weighs_as_cosine_weighs_it() -> None:
    variance_K = np.array([0.5, 0.3, 0.15, 0.05])
    r_K = agreement(variance_K, 0.9, 1.0)
    np.testing.assert_allclose(r_K / (1 - r_K**2) / variance_K, 0.9 / 0.19 / 0.5)
    np.testing.assert_allclose(agreement(variance_K, 0.9, 0.0), 0.9)
    assert agreement(variance_K, 0.0, 1.0).tolist() == [0, 0, 0, 0]


def test_the_spectrum_falls_as_the_power_that_is_asked_for() -> None:
    structure = generated_structure(1, 1, 1, 2000, captions_per_train_video=1)
    config = replace(CLEAN, frames=1, spectrum_exponent=1.0, spectrum_knee=0.5)
    with TemporaryDirectory() as folder:
        made = read(build(config, Path(folder) / "one.h5", structure))
    share_K = spectrum(unit(made.video_MD) - unit(made.video_MD).mean(axis=0))[: config.directions]
    expected_K = 1 / (np.arange(1, config.directions + 1) + 0.5)
    # Unit length takes a little from the first directions, which vary most.
    np.testing.assert_allclose(share_K, expected_K / expected_K.sum(), rtol=0.25)
    assert np.polyfit(np.log(np.arange(5, 26)), np.log(share_K[4:25]), 1)[0] == pytest.approx(-0.93, abs=0.1)


def test_without_private_parts_and_misalignment_text_says_what_the_video_shows() -> None:
    assert matched_cosine(world(CLEAN)).min() > 0.99
    assert cosine_recall(world(CLEAN)) == 100


@pytest.mark.parametrize("knob", ["common_angle", "category_angle", "own_angle"])
def test_an_angle_turns_text_by_that_angle(knob: str) -> None:
    cosine_M = matched_cosine(world(replace(FLAT, **{knob: 40.0})))
    np.testing.assert_allclose(cosine_M, np.cos(np.deg2rad(40)), atol=0.02)


def test_what_is_alike_in_all_categories_one_map_undoes_and_what_is_a_categorys_own_it_does_not() -> None:
    """One linear map, fitted on the queries of the first two categories, tried on the others."""
    fit, rest = slice(0, 40), slice(40, 80)
    residual = {}
    for knobs in ({"common_angle": 60.0}, {"category_angle": 60.0}, {"own_angle": 60.0, "category_flips": 0.5}):
        made = world(replace(FLAT, latent_dim=10, agreement=0.99999, **knobs))
        shown, said = unit(made.video_MD), unit(made.pooled_MD)
        map_DD = np.linalg.lstsq(said[fit], shown[fit], rcond=0.05)[0]
        residual[next(iter(knobs))] = np.linalg.norm(said[rest] @ map_DD - shown[rest], axis=1).mean()
    assert residual["common_angle"] < 0.1
    assert residual["category_angle"] > 0.5
    assert residual["own_angle"] > 0.2


def test_an_offset_moves_all_text_of_a_category_alike() -> None:
    moved = unit(world(replace(CLEAN, category_offset=5.0)).pooled_MD).reshape(4, 20, -1)
    within = np.einsum("cnd,cmd->cnm", moved, moved).mean(axis=(1, 2))
    across = moved[0] @ moved[1].T
    assert (within > 0.85).all()
    assert np.abs(across).mean() < 0.6


def test_misalignment_costs_zero_shot_recall() -> None:
    config = replace(SyntheticConfig(), dim=128, frames=4, category_dimension=40)
    bent = replace(config, common_angle=25, category_angle=25, category_offset=0.5)
    assert cosine_recall(world(config)) > cosine_recall(world(bent)) + 10


def test_many_narrow_categories_leave_less_to_the_single_video() -> None:
    few, many = World(TINY, 20, 20), World(TINY, 200, 200)
    assert few.within == pytest.approx(20 ** (-2 / TINY.category_dimension))
    assert many.within < few.within
    rows, category = np.arange(400), np.zeros(400, np.int64)
    spread = [made.parts(rows, category).mean(axis=1).var(axis=0).mean() for made in (few, many)]
    share = TINY.part_share
    expected = [(1 - share) * made.within + share / TINY.parts for made in (few, many)]
    assert spread == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("gap", [0.0, 0.4, 0.9])
def test_the_gap_knob_is_the_distance_between_the_modalities(gap: float) -> None:
    made = world(replace(CLEAN, frame_cone=0.7, text_cone=0.7, gap=gap, category_dimension=1e9))
    text_D, frame_D = unit(made.pooled_MD).mean(axis=0), unit(made.frames_MFD).mean(axis=(0, 1))
    assert np.linalg.norm(text_D - frame_D) == pytest.approx(gap, abs=0.06)
    assert np.linalg.norm(text_D) == pytest.approx(0.7, abs=0.06)
    largest = np.sort(text_D**2)[-1] / (text_D**2).sum()
    assert largest == pytest.approx(max(gap**2 / 2 / 0.49, 0.1), abs=0.1)


def test_hubs_are_videos_near_to_all_texts_and_cost_recall() -> None:
    config = replace(TINY, frames=2, dim=128)
    calm, hubs = world(replace(config, hubness=0)), world(replace(config, hubness=0.2))
    deviation = [pair_statistics(made.video_MD, made.pooled_MD)["hub_video"] for made in (calm, hubs)]
    assert deviation[1] > 3 * deviation[0]
    assert cosine_recall(calm) > cosine_recall(hubs)


def within_video_variance(world: Made) -> float:
    return float(unit(world.frames_MFD).var(axis=1).sum(axis=-1).mean())


def test_temporal_knobs_set_how_much_a_video_changes() -> None:
    config = replace(CLEAN, agreement=0.5)
    still = within_video_variance(world(config))
    drifting = [within_video_variance(world(replace(config, drift_share=share))) for share in (0.2, 0.5, 1.0)]
    assert still < 1e-10
    assert still < drifting[0] < drifting[1] < drifting[2]
    assert within_video_variance(world(replace(config, drift_share=1, drift_correlation=1))) < 1e-10
    slow, fast = (
        within_video_variance(world(replace(config, drift_share=1, drift_correlation=r))) for r in (0.95, 0.5)
    )
    assert slow < fast
    assert within_video_variance(world(replace(CLEAN, part_swing=1, part_share=0.9))) > 0.01


def test_a_cut_divides_a_video_into_two_scenes() -> None:
    config = replace(CLEAN, agreement=0.5, drift_share=1, drift_correlation=1, cut_share=1)
    frames_MFD = unit(world(config).frames_MFD)
    same_as_next_MF = np.einsum("mfd,mfd->mf", frames_MFD[:, 1:], frames_MFD[:, :-1]) > 1 - 1e-9
    np.testing.assert_array_equal((~same_as_next_MF).sum(axis=1), 1)


def test_a_caption_covers_part_of_its_video() -> None:
    config = replace(CLEAN, part_share=0.9, agreement=0.99999)
    partial = world(replace(config, caption_cover=0.4))
    assert 0.4 < matched_cosine(partial).mean() < 0.95 < matched_cosine(world(config)).mean()
    cosine = [np.round(unit(words) @ unit(words).T, 1) for words in world(replace(config, caption_cover=0)).words]
    assert min(c.min() for c in cosine) > 0.8  # one part is always mentioned, and only one
    mentioned = [len(np.unique((unit(words) @ unit(words).T > 0.9), axis=0)) for words in partial.words]
    expected = np.mean([expected_mentions(0.4, CLEAN.parts, len(words)) for words in partial.words])
    assert np.mean(mentioned) == pytest.approx(expected, abs=4 * np.std(mentioned) / np.sqrt(len(mentioned)))
    assert expected_mentions(0.6, CLEAN.parts, 9) > expected + 0.4  # what the line above would not let pass


def expected_mentions(cover: float, parts: int, words: int) -> float:
    """Of each part mentioned with chance `cover`, at least one: how many different ones so many words name."""
    chance = binom.pmf(np.arange(parts + 1), parts, cover)
    chance[1] += chance[0]
    named = [k * (1 - (1 - 1 / k) ** words) for k in range(1, parts + 1)]
    return float(chance[1:] @ named)


def test_captions_of_one_video_share_what_no_frame_shows() -> None:
    config = replace(CLEAN, agreement=0, caption_own_share=0.25)
    structure = generated_structure(2, 1, 20, 1, captions_per_train_video=4)
    with TemporaryDirectory() as folder:
        pooled = build(config, Path(folder) / "a.h5", structure).feature("captions/pooled").astype(np.float64)
    groups = list(pooled[: 20 * 4].reshape(20, 4, -1))
    assert cosine_within(groups) == pytest.approx(0.75, abs=0.05)
    assert cosine_between(groups) == pytest.approx(0, abs=0.05)


def test_words_read_mentioned_parts_or_belong_to_a_small_vocabulary() -> None:
    chatter = world(replace(CLEAN, function_word_share=1))
    assert len(np.unique(np.concatenate(chatter.words).round(4), axis=0)) == 32
    half = world(replace(CLEAN, function_word_share=0.5))
    vocabulary = {tuple(word) for word in np.concatenate(chatter.words).round(4)}
    shares = np.mean([tuple(word) in vocabulary for word in np.concatenate(half.words).round(4)])
    assert 0.4 < shares < 0.6


def test_lengths_are_those_of_raw_features() -> None:
    made = world(SyntheticConfig(frames=4))
    for features, length in (
        (made.frames_MFD[made.count_M == 4], 10.4),
        (made.pooled_MD, 10.4),
        (np.concatenate(made.words), 24),
    ):
        log_length = np.log(np.linalg.norm(features, axis=-1))
        assert np.exp(np.median(log_length)) == pytest.approx(length, rel=0.05)
        assert log_length.std() == pytest.approx(0.05, abs=0.02)
    assert np.linalg.norm(world(replace(CLEAN, norm=3)).pooled_MD, axis=1) == pytest.approx(3)


def test_recall_falls_to_chance_when_captions_say_nothing() -> None:
    deaf = world(replace(TINY, agreement=0))
    rank_N = ranks(unit(deaf.pooled_MD) @ unit(deaf.video_MD).T, np.arange(80))
    assert 25 < np.median(rank_N) < 55  # of 80
    assert cosine_recall(deaf) < 6
    assert word_frame_recall(deaf, 80) < 6


def test_words_and_frames_find_videos_too() -> None:
    made = world(SyntheticConfig(dim=128, frames=4))
    assert word_frame_recall(made, 80) > 20  # of 80, chance is 1.25


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"drift_share": -1.0}, "simulation knob drift_share is -1.0; it must lie in 0..1. Change it"),
        ({"caption_cover": float("nan")}, "simulation knob caption_cover is nan"),
        ({"common_angle": 91.0}, "it must lie in 0..90"),
        ({"dtype": "float64"}, "simulation knob dtype is 'float64'; it must be float16 or float32"),
        ({"agreement": 1.0}, "simulation knob agreement is 1.0"),
        (
            {"gap": 1.2},
            "simulation knob gap is 1.2; two coordinates of length 0.685, the lesser cone, are at most 0.968736",
        ),
    ],
)
def test_a_knob_out_of_range_is_refused(knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        SyntheticConfig(**knobs)
    assert message in str(caught.value)


# Generated structures


def test_a_generated_structure_has_the_asked_size() -> None:
    structure = generated_structure(7, 3, 2, 4, 1, captions_per_train_video=5)
    structure.check("here")
    (stream,) = structure.streams
    assert stream.name == "simulated-3"
    assert sorted(np.bincount(stream.task_of_category_C).tolist()) == [2, 2, 3]
    for role, videos, captions in ((TRAIN, 2, 5), (VALIDATION, 1, 1), (TEST, 4, 1)):
        rows = np.flatnonzero(stream.role_of_video_N == role)
        assert np.bincount(structure.category_N[rows]).tolist() == [videos] * 7
        assert set(np.bincount(structure.caption_video_M)[rows].tolist()) == {captions}
    asked = stream.role_of_video_N != TRAIN
    assert (stream.query_of_video_N[~asked] == -1).all()
    np.testing.assert_array_equal(structure.caption_video_M[stream.query_of_video_N[asked]], np.flatnonzero(asked))


def test_the_default_structure_has_the_shape_of_msrvtt() -> None:
    structure = generated_structure()
    assert len(structure.category_names) == 20
    assert len(structure.video_ids) == 20 * (16 + 15)
    assert len(structure.captions) == 20 * (16 * 20 + 15)


def test_the_seed_decides_which_categories_meet() -> None:
    tasks = [generated_structure(seed=seed).streams[0].task_of_category_C.tolist() for seed in (0, 0, 1)]
    assert tasks[0] == tasks[1] != tasks[2]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"tasks": 0}, "tasks is 0; it must be at least 1"),
        ({"categories": 9}, "categories is 9; it must be at least 10"),
        ({"train_per_category": 0}, "train_per_category is 0"),
        ({"test_per_category": 0}, "test_per_category is 0"),
        ({"validation_per_category": -1}, "validation_per_category is -1"),
        ({"captions_per_train_video": 0}, "captions_per_train_video is 0"),
    ],
)
def test_a_structure_without_enough_of_something_is_refused(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        generated_structure(**sizes)
