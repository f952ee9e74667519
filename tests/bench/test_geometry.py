from __future__ import annotations

import math

import numpy as np
import pytest

from ctvr_bench.bench.geometry import (
    drift,
    drift_disagreement,
    etf_error,
    modality_gap,
    stage_measures,
    within_class_spread,
)


def simplex_etf(C, D, seed=0):
    """C unit vectors in D dimensions with every cosine at -1/(C-1), by projection of an orthonormal basis."""
    basis_DC, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((D, C)))
    return (np.sqrt(C / (C - 1)) * basis_DC @ (np.eye(C) - 1 / C)).T


def rows(N, D, seed, dtype=np.float64):
    """Raw rows of very different lengths."""
    random = np.random.default_rng(seed)
    return (random.standard_normal((N, D)) * random.uniform(0.1, 9, (N, 1))).astype(dtype)


def length(vector):
    return math.sqrt(sum(float(x) ** 2 for x in vector))


def unit(vector):
    return [float(x) / length(vector) for x in vector]


def cosine(a, b):
    return sum(x * y for x, y in zip(unit(a), unit(b), strict=True))


def mean_vector(vectors):
    return [sum(column) / len(vectors) for column in zip(*vectors, strict=True)]


def difference(a, b):
    return [x - y for x, y in zip(a, b, strict=True)]


def naive_means(embedding, category):
    """The mean unit vector of each category, by category."""
    return {
        c: mean_vector([unit(x) for x, own in zip(embedding, category, strict=True) if own == c])
        for c in sorted(set(category.tolist()))
    }


def naive_etf_error(embedding, category, centred):
    means = list(naive_means(embedding, category).values())
    if centred:
        centre = mean_vector(means)
        means = [difference(mean, centre) for mean in means]
    C = len(means)
    errors = [abs(cosine(means[a], means[b]) + 1 / (C - 1)) for a in range(C) for b in range(a)]
    return sum(errors) / len(errors)


# By hand


def test_the_gap_between_opposite_cones_is_two_and_within_one_cone_zero():
    east = np.array([[1.0, 0.0], [4.0, 0.0]])
    assert modality_gap(east, -east) == 2.0
    assert modality_gap(east, east[:1]) == 0.0


def test_the_gap_lies_between_means_of_unit_vectors_not_of_raw_ones():
    text = np.array([[1000.0, 0.0], [0.0, 1.0]])
    assert modality_gap(text, np.array([[1.0, 1.0]])) == pytest.approx(1 - math.sqrt(0.5), rel=1e-12)


def test_drift_is_zero_still_one_at_right_angles_and_two_reversed():
    before = np.array([[0.3, 0.4], [5.0, 0.0]])
    assert drift(before, before) == 0.0
    assert drift(before, before @ np.array([[0.0, 1.0], [-1.0, 0.0]])) == pytest.approx(1.0, rel=1e-12)
    assert drift(before, -before) == pytest.approx(2.0, rel=1e-12)


def test_growing_longer_is_no_drift():
    before = rows(6, 5, seed=0)
    assert drift(before, 3 * before) == pytest.approx(0.0, abs=1e-30)


def test_a_tiny_turn_in_float32_is_not_lost_to_rounding():
    angle = 1e-4
    before = np.array([[1.0, 0.0]], dtype=np.float32)
    after = np.array([[math.cos(angle), math.sin(angle)]], dtype=np.float32)
    assert drift(before, after) == pytest.approx(angle**2 / 2, rel=1e-6)


@pytest.mark.parametrize(
    ("video_before", "video_after", "expected"),
    [([1, 0], [0, 1], 0.0), ([-1, 0], [0, 1], 1.0), ([0, 1], [1, 0], 2.0)],
)
def test_disagreement_runs_from_together_over_unrelated_to_opposite(video_before, video_after, expected):
    text_before, text_after = [1, 0], [0, 1]  # moves by (-1, 1); the videos move by (-1, 1), (1, 1) and (1, -1)
    one_pair = [np.array([vector], dtype=np.float64) for vector in (text_before, text_after, video_before, video_after)]
    assert drift_disagreement(*one_pair) == pytest.approx(expected, abs=1e-12)


def test_pairs_of_which_one_side_stood_still_are_left_out():
    text_before, text_after = rows(4, 6, seed=1), rows(4, 6, seed=2)
    video_before, video_after = rows(4, 6, seed=3), rows(4, 6, seed=4)
    text_after[1] = text_before[1]
    video_after[2] = 2 * video_before[2]
    moved = [0, 3]
    assert drift_disagreement(text_before, text_after, video_before, video_after) == drift_disagreement(
        text_before[moved], text_after[moved], video_before[moved], video_after[moved]
    )


@pytest.mark.parametrize(("step", "counts"), [(0.5e-7, False), (2e-7, True)])
def test_a_move_below_the_threshold_counts_as_still(step, counts):
    before, after = np.array([[1.0, 0.0]]), np.array([[math.cos(step), math.sin(step)]])
    assert math.isnan(drift_disagreement(before, after, before, after)) is not counts


def test_disagreement_is_nan_when_nothing_moved():
    text, video = rows(3, 4, seed=5), rows(3, 4, seed=6)
    assert math.isnan(drift_disagreement(text, text, video, video))


@pytest.mark.parametrize("centred", [False, True])
def test_a_simplex_etf_has_no_error(centred):
    means = simplex_etf(C=7, D=16)
    category = np.repeat(np.arange(7), 3)
    assert etf_error(means[category], category, centred=centred) == pytest.approx(0.0, abs=1e-12)


def test_centring_forgives_a_frame_that_lies_elsewhere():
    frame = np.concatenate([simplex_etf(C=5, D=8), np.full((5, 1), 3.0)], axis=1)
    assert etf_error(frame, np.arange(5), centred=True) == pytest.approx(0.0, abs=1e-12)
    assert etf_error(frame, np.arange(5), centred=False) > 1.0


def test_collapsed_categories_are_as_far_from_a_frame_as_they_can_be():
    assert etf_error(np.ones((4, 3)), np.arange(4), centred=False) == pytest.approx(1 + 1 / 3, rel=1e-12)


def test_every_category_counts_once_in_the_centre():
    means = simplex_etf(C=3, D=4)
    uneven = np.array([0, 0, 0, 0, 0, 1, 2])
    assert etf_error(means[uneven], uneven, centred=True) == pytest.approx(0.0, abs=1e-12)


def test_spread_is_zero_when_every_category_is_one_direction():
    category = np.array([3, 9, 3, 9])
    assert within_class_spread(np.array([[1.0, 0.0], [0.0, 2.0], [5.0, 0.0], [0.0, 7.0]]), category) == 0.0


def test_spread_of_two_directions_at_right_angles():
    embedding = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert within_class_spread(embedding, np.array([0, 0])) == pytest.approx(1 - math.sqrt(0.5), rel=1e-12)


# By naive twin


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
class TestAgainstPlainLoops:
    def test_modality_gap(self, dtype):
        text, video = rows(9, 7, seed=10, dtype=dtype), rows(5, 7, seed=11, dtype=dtype)
        expected = length(difference(mean_vector([unit(t) for t in text]), mean_vector([unit(v) for v in video])))
        assert modality_gap(text, video) == pytest.approx(expected, rel=1e-12)

    def test_drift(self, dtype):
        before, after = rows(9, 7, seed=12, dtype=dtype), rows(9, 7, seed=13, dtype=dtype)
        expected = sum(1 - cosine(b, a) for b, a in zip(before, after, strict=True)) / 9
        assert drift(before, after) == pytest.approx(expected, rel=1e-12)

    def test_drift_disagreement(self, dtype):
        four = [rows(9, 7, seed=seed, dtype=dtype) for seed in range(14, 18)]
        cosines = [
            cosine(difference(unit(ta), unit(tb)), difference(unit(va), unit(vb)))
            for tb, ta, vb, va in zip(*four, strict=True)
        ]
        assert drift_disagreement(*four) == pytest.approx(1 - sum(cosines) / 9, rel=1e-12)

    @pytest.mark.parametrize("centred", [False, True])
    def test_etf_error(self, dtype, centred):
        embedding = rows(20, 7, seed=18, dtype=dtype)
        category = np.array([5, 2, 2, 9] * 5)
        expected = naive_etf_error(embedding, category, centred)
        assert etf_error(embedding, category, centred=centred) == pytest.approx(expected, rel=1e-12)

    def test_within_class_spread(self, dtype):
        embedding = rows(20, 7, seed=19, dtype=dtype)
        category = np.array([5, 2, 2, 9] * 5)
        means = naive_means(embedding, category)
        expected = sum(1 - cosine(x, means[c]) for x, c in zip(embedding, category.tolist(), strict=True)) / 20
        assert within_class_spread(embedding, category) == pytest.approx(expected, rel=1e-12)


def test_a_stage_is_measured_over_all_items_and_its_movement_over_old_ones():
    text, video, before_text, before_video = (rows(9, 7, seed=seed) for seed in range(30, 34))
    category, old = np.array([4, 4, 4, 1, 1, 1, 6, 6, 6]), np.arange(9) < 6
    moved = [(b[:6], a[:6]) for b, a in ((before_text, text), (before_video, video))]
    assert stage_measures(text, video, before_text, before_video, category, old) == {
        "modality_gap": modality_gap(text, video),
        "spread_text": within_class_spread(text, category),
        "spread_video": within_class_spread(video, category),
        "etf_error_text": etf_error(text, category, centred=False),
        "etf_error_video": etf_error(video, category, centred=False),
        "etf_error_text_centred": etf_error(text, category, centred=True),
        "etf_error_video_centred": etf_error(video, category, centred=True),
        "drift_text": drift(*moved[0]),
        "drift_video": drift(*moved[1]),
        "drift_disagreement": drift_disagreement(*moved[0], *moved[1]),
    }


def test_the_first_stage_has_no_movement_and_one_category_no_angles():
    text, video = rows(4, 7, seed=34), rows(4, 7, seed=35)
    found = stage_measures(text, video, text, video, np.zeros(4, int), np.zeros(4, bool))
    assert sorted(found) == ["modality_gap", "spread_text", "spread_video"]


def test_raw_and_unit_embeddings_give_the_same_numbers():
    raw = [rows(8, 5, seed=seed) for seed in range(20, 24)]
    unit_rows = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in raw]
    category = np.array([0, 1, 2, 3] * 2)
    for measure in (
        lambda x: modality_gap(x[0], x[1]),
        lambda x: drift(x[0], x[1]),
        lambda x: drift_disagreement(*x),
        lambda x: etf_error(x[0], category, centred=True),
        lambda x: within_class_spread(x[0], category),
    ):
        assert measure(raw) == pytest.approx(measure(unit_rows), rel=1e-12)


def test_the_inputs_are_left_as_they_are():
    embedding, category = rows(8, 5, seed=24), np.array([0, 1] * 4)
    before = embedding.copy()
    drift(embedding, embedding)
    etf_error(embedding, category, centred=True)
    within_class_spread(embedding, category)
    assert np.array_equal(embedding, before)


# Errors


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_a_row_without_direction_is_refused_and_named(bad):
    embedding = np.ones((4, 3))
    embedding[2] = bad
    with pytest.raises(ValueError, match=r"every row of video_MD must be finite and not zero.*row 2"):
        modality_gap(np.ones((4, 3)), embedding)


@pytest.mark.parametrize("shape", [(3,), (0, 3), (2, 3, 4)])
def test_embeddings_must_be_rows(shape):
    with pytest.raises(ValueError, match="text_ND must be \\[rows, features\\]"):
        modality_gap(np.ones(shape), np.ones((2, 3)))


def test_both_modalities_must_lie_in_one_space():
    with pytest.raises(ValueError, match="one space; got 3 and 4 features"):
        modality_gap(np.ones((2, 3)), np.ones((2, 4)))


def test_paired_embeddings_must_have_one_shape():
    with pytest.raises(ValueError, match="after_ND \\(3, 3\\)"):
        drift(np.ones((2, 3)), np.ones((3, 3)))
    with pytest.raises(ValueError, match="video_after_ND \\(1, 3\\)"):
        drift_disagreement(np.ones((2, 3)), np.ones((2, 3)), np.ones((2, 3)), np.ones((1, 3)))


def test_one_category_has_no_angles():
    with pytest.raises(ValueError, match="at least 2 categories; got 1"):
        etf_error(np.ones((3, 2)), np.zeros(3, dtype=int), centred=False)


def test_centred_means_that_coincide_have_no_angles():
    with pytest.raises(ValueError, match="every row of the class means"):
        etf_error(np.ones((4, 2)), np.array([0, 0, 1, 1]), centred=True)


@pytest.mark.parametrize("measure", [lambda x, c: etf_error(x, c, centred=False), within_class_spread])
def test_every_embedding_needs_a_category(measure):
    with pytest.raises(ValueError, match="one category per row of embedding_ND, shape \\(3,\\); got shape \\(2,\\)"):
        measure(np.ones((3, 2)), np.array([0, 1]))
