"""Statistics of paired features: closed forms, plain loops, the real sets where they lie, and stores gone wrong."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ctvr_bench.features import geometry
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.real_clip import KNOWN
from ctvr_bench.features.schema import TEST
from ctvr_bench.features.simulation.write import generated_structure
from ctvr_bench.features.store import FeatureStore, create_store, open_store
from ctvr_bench.features.store_geometry import StoreGeometry, measure, table
from ctvr_bench.features.structure import Structure
from tests.golden import shared

Array = npt.NDArray[Any]


def gaussian(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


# Closed forms and plain loops


def test_two_equal_sides_agree_in_everything() -> None:
    x_ND = gaussian(40, 6)
    found = geometry.pair_statistics(x_ND, 3 * x_ND)
    assert found["matched"] == pytest.approx(1)
    assert found["matched_deviation"] == pytest.approx(0, abs=1e-9)
    assert found["gap"] == pytest.approx(0, abs=1e-12)
    assert found["rsa"] == pytest.approx(1)
    assert found["r2"] > 0.98
    assert found["recall_1"] == 100
    assert found["rank_video"] == pytest.approx(found["rank_text"])


def test_unrelated_sides_agree_in_nothing() -> None:
    found = geometry.pair_statistics(gaussian(300, 30), gaussian(300, 30, seed=1))
    assert abs(found["rsa"]) < 0.02
    assert found["r2"] < 0.02
    assert found["recall_1"] < 2
    assert found["matched"] == pytest.approx(0, abs=0.03)
    assert found["unmatched_deviation"] == pytest.approx(1 / math.sqrt(30), rel=0.05)


def test_a_flat_spectrum_has_as_many_directions_as_it_has() -> None:
    cross_ND = np.concatenate([np.eye(16), -np.eye(16)])
    found = geometry.pair_statistics(cross_ND, cross_ND)
    assert found["rank_video"] == pytest.approx(16)
    assert [found[f"share_{k}_video"] for k in (1, 5, 10)] == pytest.approx([1 / 16, 5 / 16, 10 / 16])
    assert "share_50_video" not in found  # of 32 items
    assert found["cone_video"] == pytest.approx(0, abs=1e-12)
    assert found["unmatched"] == pytest.approx(-1 / 31)


def test_a_cone_of_one_coordinate_is_found_as_such() -> None:
    """Unit rows cone e_0 + sqrt(1 - cone^2) (+- e_k): the mean is exactly cone e_0, and texts' lies along e_1."""
    side_ND = np.concatenate([np.eye(12)[2:], -np.eye(12)[2:]])
    video_ND = 0.8 * np.eye(12)[0] + 0.6 * side_ND
    text_ND = 0.6 * np.eye(12)[1] + 0.8 * side_ND
    found = geometry.pair_statistics(video_ND, text_ND)
    assert found["cone_video"] == pytest.approx(0.8)
    assert found["cone_text"] == pytest.approx(0.6)
    assert found["gap"] == pytest.approx(1.0)
    assert found["rogue_video"] == pytest.approx(1)
    assert found["matched"] == pytest.approx(0.48)
    assert found["centred_matched"] == pytest.approx(1)
    assert found["hub_video"] == pytest.approx(0, abs=1e-12)


def test_statistics_equal_plain_loops() -> None:
    video_ND, text_ND = gaussian(23, 7) + 0.5, gaussian(23, 7, seed=1) + gaussian(23, 7) - 0.5
    found = geometry.pair_statistics(video_ND.astype(np.float32), text_ND.astype(np.float32))
    video, text = ([row / math.sqrt(row @ row) for row in side] for side in (video_ND, text_ND))
    N = len(video)
    cosine = [[float(text[i] @ video[j]) for j in range(N)] for i in range(N)]
    others = [cosine[i][j] for i in range(N) for j in range(N) if i != j]
    assert found["unmatched"] == pytest.approx(sum(others) / len(others), abs=1e-6)
    column = [sum(cosine[i][j] for i in range(N)) / N for j in range(N)]
    assert found["hub_video"] == pytest.approx(np.std(column), abs=1e-6)
    first = sum(all(cosine[i][j] < cosine[i][i] for j in range(N) if j != i) for i in range(N))
    assert found["recall_1"] == pytest.approx(100 * first / N)
    video_0, text_0 = np.array(video) - np.mean(video, axis=0), np.array(text) - np.mean(text, axis=0)
    pairs = [(video_0[i] @ video_0[j], text_0[i] @ text_0[j]) for i in range(N) for j in range(i)]
    assert found["rsa"] == pytest.approx(np.corrcoef(np.array(pairs).T)[0, 1], abs=1e-6)
    share = np.linalg.eigvalsh(np.cov(np.array(text).T))
    share = share[share > 1e-12] / share.sum()
    assert found["rank_text"] == pytest.approx(math.exp(-sum(p * math.log(p) for p in share)), rel=1e-5)


def test_ridge_predicts_what_is_linear_and_nothing_else() -> None:
    x_ND = gaussian(200, 5)
    linear_ND, noise_ND = x_ND @ gaussian(5, 4, seed=1), gaussian(200, 4, seed=2)
    assert geometry.ridge_r2(x_ND, linear_ND) > 0.999
    half_ND = linear_ND / linear_ND.std() + noise_ND / noise_ND.std()
    assert geometry.ridge_r2(x_ND, half_ND) == pytest.approx(0.5, abs=0.08)
    assert geometry.ridge_r2(x_ND, noise_ND) < 0.02


def test_cosines_within_and_between_groups_equal_loops() -> None:
    groups = [gaussian(rows, 5, seed=rows) for rows in (2, 3, 4)]
    units = [[row / np.linalg.norm(row) for row in group] for group in groups]
    within = [np.mean([a @ b for i, a in enumerate(g) for j, b in enumerate(g) if i != j]) for g in units]
    assert geometry.cosine_within([*groups, gaussian(1, 5)]) == pytest.approx(np.mean(within))
    between = [
        np.mean([a @ b for a in g for b in h]) for i, g in enumerate(units) for j, h in enumerate(units) if i != j
    ]
    assert geometry.cosine_between(groups) == pytest.approx(np.mean(between))
    assert math.isnan(geometry.cosine_within([gaussian(1, 5)]))
    assert math.isnan(geometry.cosine_between(groups[:1]))


def test_fewer_than_ten_pairs_and_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 10 rows"):
        geometry.pair_statistics(gaussian(9, 4), gaussian(9, 4))
    with pytest.raises(ValueError, match=r"got \(12, 4\) and \(12, 5\)"):
        geometry.pair_statistics(gaussian(12, 4), gaussian(12, 5))


# The real sets


def real_script() -> ModuleType:
    path = shared("real_clip", "geometry.py")
    spec = importlib.util.spec_from_file_location("real_clip_geometry", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_real_sets_measure_what_is_written_down_and_what_their_own_script_says() -> None:
    frames_and_words_lie_within_their_own_bounds()
    pairs = np.load(shared("real_clip", "coco500_vitb16.npz"))
    script = real_script()
    found = geometry.pair_statistics(pairs["image_ND"], pairs["text_ND"])
    for known in KNOWN:
        if known.coco is not None:
            assert found[known.name] == pytest.approx(known.coco, abs=0.05 if known.coco > 5 else 5e-4), known.name
            assert known.low <= found[known.name] <= known.high
    video, text = (script.unit(pairs[name].astype(np.float64)) for name in ("image_ND", "text_ND"))
    video, text = video - video.mean(0), text - text.mean(0)
    assert found["r2"] == pytest.approx(script.ridge_r2(video, text, np.random.default_rng(0)), abs=1e-6)
    rank, shares = script.spectrum(text)
    assert found["rank_text"] == pytest.approx(rank, rel=1e-6)
    assert [round(found[f"share_{k}_text"], 2) for k in geometry.SHARES] == shares


def frames_and_words_lie_within_their_own_bounds() -> None:
    real = np.load(shared("real_clip", "frames_vitb32.npz"))
    bounds = {known.name: (known.low, known.high) for known in KNOWN}
    clips = [real[name][np.linspace(0, len(real[name]) - 1, 12).round().astype(int)] for name in real.files[:2]]
    assert geometry.cosine_within(clips) == pytest.approx(0.905, abs=0.001)
    assert geometry.mean_length(clips) == pytest.approx(0.956, abs=0.001)
    words = real["tokens_LD"][1:]  # the first is the start token, which no store keeps
    for name, value in {
        "frames_one_video": geometry.cosine_within(clips),
        "frames_two_videos": geometry.cosine_between(clips),
        "words_one_caption": geometry.cosine_within([words]),
        "frame_norm": geometry.norm_range(np.concatenate(clips))[1],
        "word_norm": geometry.norm_range(words)[1],
    }.items():
        assert bounds[name][0] <= value <= bounds[name][1], name


# Stores

STRUCTURE = generated_structure(
    categories=4, tasks=2, train_per_category=1, test_per_category=6, captions_per_train_video=3
)
ROWS = np.flatnonzero(STRUCTURE.streams[0].role_of_video_N == TEST)


def written(
    path: Path,
    frames_NFD: Array,
    *,
    pooled_MD: Array | None = None,
    words: list[Array] | None = None,
    structure: Structure = STRUCTURE,
) -> FeatureStore:
    """A store of these frames; captions near their videos and words near their captions unless they are given."""
    D = frames_NFD.shape[2]
    M = len(structure.captions)
    pooled_MD = frames_NFD.mean(axis=1)[structure.caption_video_M] + gaussian(M, D) if pooled_MD is None else pooled_MD
    words = [row + gaussian(3 + m % 4, D, seed=m) for m, row in enumerate(pooled_MD)] if words is None else words
    with create_store(path, name="toy") as writer:
        structure.write(writer)
        writer["videos/frames"] = frames_NFD.astype(np.float16)
        writer["videos/frame_count"] = np.full(len(frames_NFD), frames_NFD.shape[1], np.int32)
        writer["captions/pooled"] = pooled_MD.astype(np.float16)
        writer["captions/words"] = np.concatenate(words).astype(np.float16)
        writer["captions/word_offsets"] = np.concatenate([[0], np.cumsum([len(w) for w in words])]).astype(np.int64)
    return open_store(path)


def frames(D: int = 16) -> Array:
    return 8 * gaussian(len(STRUCTURE.video_ids), 1, D) + gaussian(len(STRUCTURE.video_ids), 4, D, seed=1)


def test_a_store_is_measured_on_the_mean_of_raw_frames_and_first_captions(tmp_path: Path) -> None:
    store = written(tmp_path / "toy.h5", frames())
    found = measure(store)
    videos = np.random.default_rng(0).permutation(ROWS)
    clips = store.feature("videos/frames")[videos].astype(np.float32)
    captions = [int(np.flatnonzero(store.caption_video_M == video)[0]) for video in videos]
    expected = geometry.pair_statistics(
        clips.mean(axis=1), store.feature("captions/pooled")[captions].astype(np.float32)
    )
    assert found.pairs == 24
    assert {name: found.measured[name] for name in expected} == expected
    assert found.measured["frames_one_video"] == geometry.cosine_within(list(clips))
    train = [store.feature("captions/pooled")[store.caption_video_M == v].astype(np.float32) for v in (0, 7, 14, 21)]
    assert found.measured["captions_one_video"] == pytest.approx(geometry.cosine_within(train))
    assert found.faults == []
    assert "too few to compare" in found.sentences()[-1]
    assert measure(store, count=10).pairs == 10


def test_frames_normalised_before_they_are_averaged_are_told(tmp_path: Path) -> None:
    (fault,) = measure(written(tmp_path / "toy.h5", geometry.unit(frames()))).faults
    assert "normalised before they were stored" in fault


def test_pooled_features_in_place_of_token_outputs_are_told(tmp_path: Path) -> None:
    pooled_MD = gaussian(len(STRUCTURE.captions), 16)
    words = [np.repeat(row[None], 3, axis=0) for row in pooled_MD]
    (fault,) = measure(written(tmp_path / "toy.h5", frames(), pooled_MD=pooled_MD, words=words)).faults
    assert "pooled instead of token outputs" in fault


def test_padding_counted_as_words_is_told(tmp_path: Path) -> None:
    padding = gaussian(1, 16, seed=9)
    words = [
        np.concatenate([gaussian(3 + m % 4, 16, seed=m), padding, padding]) for m in range(len(STRUCTURE.captions))
    ]
    (fault,) = measure(written(tmp_path / "a.h5", frames(), words=words)).faults
    assert "padding is counted as words" in fault
    words = [gaussian(7, 16, seed=m) for m in range(len(STRUCTURE.captions))]
    (fault,) = measure(written(tmp_path / "b.h5", frames(), words=words)).faults
    assert fault.startswith("every caption has 7 words")


def test_overflow_is_told_and_left_out(tmp_path: Path) -> None:
    broken_NFD = frames()
    broken_NFD[ROWS[:3]] *= 1e6
    with np.errstate(over="ignore"):
        found = measure(written(tmp_path / "toy.h5", broken_NFD, pooled_MD=gaussian(len(STRUCTURE.captions), 16)))
    assert found.pairs == 21
    assert "3 of 24 test videos" in found.faults[0]
    assert "float16 overflow" in found.faults[0]
    assert all(math.isfinite(value) for value in found.measured.values())


def test_too_few_test_videos_are_refused(tmp_path: Path) -> None:
    few = generated_structure(2, 1, 1, 4, captions_per_train_video=1)
    with pytest.raises(InputError, match="at least 10 test videos with finite features and a caption; got 8 of 8"):
        measure(written(tmp_path / "toy.h5", gaussian(10, 2, 8), structure=few))


def test_what_is_off_is_told_with_its_cause_and_marked_in_the_table() -> None:
    real = {known.name: known.coco for known in KNOWN if known.coco is not None}
    as_real = StoreGeometry("COCO", 500, real)
    assert as_real.sentences() == []
    off = replace(as_real, name="toy", measured={**real, "rsa": 0.02, "rank_text": 190.0})
    assert off.sentences()[0] == (
        "agreement on what is alike (RSA) is 0.020, too low: real CLIP has 0.450 to 0.700. Likely cause: texts are "
        "joined to the wrong videos, or one side was taken before its projection; or noise that is alike in all "
        "directions: random features, an untrained tower or a broken read"
    )
    assert off.sentences()[1].startswith("effective rank, text is 190.0, too high: real CLIP has 85.0 to 125.0.")
    assert replace(off, pairs=399).off() == []
    text = table([as_real, off])
    assert "0.020*" in text
    assert text.count("*") == 2
    markdown = table([as_real, off], markdown=True).splitlines()
    assert markdown[0] == "|  | COCO | toy | COCO, ViT-B/16 (real) | real CLIP |"
    assert len({line.count("|") for line in markdown}) == 1
    assert "| 0.605 | **0.020** | 0.605 | 0.450 to 0.700 |" in "\n".join(markdown)
