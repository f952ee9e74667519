from __future__ import annotations

import numpy as np
import pytest

from ctvr_bench.bench.forgetting import (
    average_accuracy,
    average_incremental,
    backward_forgetting,
    backward_forgetting_curve,
    backward_transfer,
    forgetting,
    forward_transfer,
    intransigence,
    learning_accuracy,
    loss_split,
    staleness,
)
from tests.golden import golden

NAN = np.nan

# Three tasks. Task 0 falls 50 -> 70 -> 40, task 1 60 -> 65; above the diagonal the score on tasks not yet learned.
SCORE = [
    [50.0, 22.0, 11.0],
    [70.0, 60.0, 33.0],
    [40.0, 65.0, 80.0],
]

# What each measure may read, as a mask; everything else is NaN in the test that uses it.
LOWER = np.tril(np.ones((3, 3), dtype=bool))
DIAGONAL = np.eye(3, dtype=bool)
LAST_ROW = np.array([[False] * 3, [False] * 3, [True] * 3])
NEXT = np.eye(3, k=1, dtype=bool)
NOT_LAST_DIAGONAL = np.array([[True, True, True], [True, True, True], [True, True, False]])

MEASURES = {
    "backward_forgetting": (
        lambda score: backward_forgetting(score, [1, 3, 5]),
        (DIAGONAL | LAST_ROW) & NOT_LAST_DIAGONAL,
    ),
    "backward_forgetting_curve": (
        lambda score: backward_forgetting_curve(score, [1, 3, 5]).tolist(),
        LOWER & NOT_LAST_DIAGONAL,
    ),
    "forgetting": (forgetting, LOWER & NOT_LAST_DIAGONAL),
    "backward_transfer": (backward_transfer, (DIAGONAL | LAST_ROW) & NOT_LAST_DIAGONAL),
    "forward_transfer": (lambda score: forward_transfer(score, [NAN, 20.0, 30.0]), NEXT),
    "learning_accuracy": (learning_accuracy, DIAGONAL),
    "average_accuracy": (average_accuracy, LAST_ROW),
    "intransigence": (lambda score: intransigence([50.0, 61.0, 85.0], score), DIAGONAL),
}


@pytest.fixture(params=[1, 2, 3, 7])
def stream(request):
    """A random matrix of T tasks with the weights, baselines and references that go with it."""
    random = np.random.default_rng(request.param)
    T = request.param
    return random.uniform(0, 100, (T, T)), random.integers(1, 6, T), random.uniform(0, 100, T)


# By hand


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("backward_forgetting", (1 * (50 - 40) + 3 * (60 - 65)) / 4),
        ("backward_forgetting_curve", [0.0, 50 - 70, (1 * (50 - 40) + 3 * (60 - 65)) / 4]),
        ("forgetting", ((70 - 40) + (60 - 65)) / 2),
        ("backward_transfer", ((40 - 50) + (65 - 60)) / 2),
        ("forward_transfer", ((22 - 20) + (33 - 30)) / 2),
        ("learning_accuracy", (50 + 60 + 80) / 3),
        ("average_accuracy", (40 + 65 + 80) / 3),
        ("intransigence", ((50 - 50) + (61 - 60) + (85 - 80)) / 3),
    ],
)
def test_each_measure_of_three_tasks(name, expected):
    measure, _ = MEASURES[name]
    assert measure(SCORE) == pytest.approx(expected, rel=1e-14)


def test_the_mean_over_stages_is_the_average_incremental_score():
    assert average_incremental([60.0, 50.0, 25.0]) == 45.0


def test_a_model_that_never_changes_forgets_nothing():
    frozen = np.tile([30.0, 40.0, 50.0], (3, 1))
    assert backward_forgetting(frozen, [1, 2, 3]) == 0.0
    assert forgetting(frozen) == 0.0
    assert backward_transfer(frozen) == 0.0
    assert forward_transfer(frozen, [30.0, 40.0, 50.0]) == 0.0


def test_one_task_has_no_backward_forgetting():
    assert backward_forgetting([[40.0]], [2]) == 0.0
    assert backward_forgetting_curve([[40.0]], [2]).tolist() == [0.0]


@pytest.mark.parametrize("name", ["forgetting", "backward_transfer", "forward_transfer"])
def test_one_task_cannot_be_forgotten_or_transferred(name):
    measure = {
        "forgetting": forgetting,
        "backward_transfer": backward_transfer,
        "forward_transfer": lambda score: forward_transfer(score, [10.0]),
    }[name]
    with pytest.raises(ValueError, match="at least 2 tasks; got 1"):
        measure([[40.0]])


def test_a_good_score_before_the_task_was_learned_is_not_forgotten():
    assert forgetting([[50.0, 99.0, 0.0], [50.0, 60.0, 0.0], [50.0, 60.0, 70.0]]) == 0.0


def test_the_score_after_the_last_task_is_no_earlier_moment():
    assert forgetting([[50.0, NAN], [55.0, NAN]]) == -5.0


def test_a_query_may_be_lost_to_the_gallery_or_to_its_own_drift():
    split = loss_split(
        hit_at_end_N=np.array([True, True, True, True, False]),
        hit_frozen_N=np.array([True, True, True, False, False]),
        hit_now_N=np.array([True, False, False, False, True]),
    )
    assert split.gallery_growth == 20.0
    assert split.query_drift == 20.0
    assert split.total == 40.0


def test_a_drift_that_helps_is_a_negative_loss():
    assert loss_split([1, 0], [0, 0], [1, 1]) == (-50.0, 50.0, -100.0)


def test_staleness_is_positive_when_re_encoding_wins_queries_back():
    assert staleness([1, 0, 0, 1], [1, 1, 1, 0]) == 25.0


# By naive twin


def test_backward_forgetting_agrees_with_plain_loops(stream):
    score, weights, _ = stream
    expected = []
    for t in range(len(score)):
        lost = sum(weights[i] * (score[i, i] - score[t, i]) for i in range(t))
        expected.append(lost / sum(weights[:t]) if t else 0.0)
    np.testing.assert_allclose(backward_forgetting_curve(score, weights), expected, rtol=1e-12)
    assert backward_forgetting(score, weights) == backward_forgetting_curve(score, weights)[-1]


def test_forgetting_agrees_with_plain_loops(stream):
    score, _, _ = stream
    T = len(score)
    if T > 1:
        expected = sum(max(score[stage, j] for stage in range(j, T - 1)) - score[T - 1, j] for j in range(T - 1))
        assert forgetting(score) == pytest.approx(expected / (T - 1), rel=1e-12)


def test_transfer_agrees_with_plain_loops(stream):
    score, _, baseline = stream
    T = len(score)
    if T > 1:
        backward = sum(score[T - 1, j] - score[j, j] for j in range(T - 1)) / (T - 1)
        forward = sum(score[j - 1, j] - baseline[j] for j in range(1, T)) / (T - 1)
        assert backward_transfer(score) == pytest.approx(backward, rel=1e-12)
        assert forward_transfer(score, baseline) == pytest.approx(forward, rel=1e-12)


def test_means_agree_with_plain_loops(stream):
    score, _, reference = stream
    T = len(score)
    assert learning_accuracy(score) == pytest.approx(sum(score[j, j] for j in range(T)) / T, rel=1e-12)
    assert average_accuracy(score) == pytest.approx(sum(score[T - 1, j] for j in range(T)) / T, rel=1e-12)
    assert average_incremental(reference) == pytest.approx(sum(reference) / T, rel=1e-12)
    behind = sum(reference[j] - score[j, j] for j in range(T)) / T
    assert intransigence(reference, score) == pytest.approx(behind, rel=1e-12)


def test_equal_weights_make_backward_forgetting_the_negative_of_backward_transfer(stream):
    score, _, _ = stream
    if len(score) > 1:
        same = np.full(len(score), 4)
        assert backward_forgetting(score, same) == pytest.approx(-backward_transfer(score), rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("dtype", [np.bool_, np.float32, np.float64])
def test_the_split_of_the_loss_is_exact(seed, dtype):
    random = np.random.default_rng(seed)
    hits = random.uniform(0, 1, (3, 37))
    at_end, frozen, now = (hits > 0.5 if dtype is np.bool_ else hits).astype(dtype)
    split = loss_split(at_end, frozen, now)
    assert split.total == split.gallery_growth + split.query_drift
    whole = sum(float(a) - float(b) for a, b in zip(at_end, now, strict=True)) / 37
    assert split.total == pytest.approx(100 * whole, abs=1e-10)
    assert staleness(now, frozen) == pytest.approx(split.query_drift, abs=1e-10)


# Golden


def test_backward_forgetting_is_the_running_average_of_the_release():
    values = golden("bwf_meter")
    own, later = values["acc_ii"], values["acc_later"]
    T = len(own) + 1
    # The recording has no last task: at every stage it compares old task i's own score with one later score.
    score = np.full((T, T), NAN)
    for i in range(T - 1):
        score[i, i] = own[i]
        score[i + 1 :, i] = later[i]
    weights = [*values["num_classes"], 1]
    assert backward_forgetting_curve(score, weights).tolist()[1:] == values["running_bwf"].tolist()
    assert backward_forgetting(score, weights) == values["bwf"]


@pytest.mark.parametrize("evaluator", ["protocol_ori", "protocol_v2", "protocol_v3", "protocol_v3_drift"])
def test_backward_forgetting_of_a_score_matrix_is_that_of_the_release(evaluator):
    values = golden(evaluator)
    curve = backward_forgetting_curve(values["acc_matrix_R1"], values["num_classes"])
    assert curve.tolist() == values["bwf"].tolist()


# What is read, and errors


@pytest.mark.parametrize("name", MEASURES)
def test_entries_outside_the_equation_are_not_read(name):
    measure, used = MEASURES[name]
    assert measure(np.where(used, SCORE, NAN)) == measure(SCORE)


@pytest.mark.parametrize(
    ("name", "entry"), [(name, tuple(entry)) for name, (_, used) in MEASURES.items() for entry in np.argwhere(used)]
)
@pytest.mark.parametrize("bad", [NAN, np.inf])
def test_a_missing_entry_of_the_equation_is_named(name, entry, bad):
    measure, _ = MEASURES[name]
    score = np.array(SCORE)
    score[entry] = bad
    with pytest.raises(ValueError, match=rf"score_TT\[{entry[0]}, {entry[1]}\] must be a finite score; got {bad}"):
        measure(score)


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("shape", [(3,), (2, 3), (3, 3, 3)])
def test_the_score_matrix_must_be_square(name, shape):
    measure, _ = MEASURES[name]
    with pytest.raises(ValueError, match="score_TT must be square"):
        measure(np.ones(shape))


def test_an_empty_score_matrix_is_refused():
    with pytest.raises(ValueError, match="at least 1 tasks; got 0"):
        average_accuracy(np.empty((0, 0)))


@pytest.mark.parametrize("weights", [[1, 0, 2], [1, -1, 2]])
def test_weights_must_be_positive(weights):
    with pytest.raises(ValueError, match="weights_T must be positive"):
        backward_forgetting(SCORE, weights)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: backward_forgetting(SCORE, [1, 1]), "weights_T"),
        (lambda: backward_forgetting_curve(SCORE, [1, 1, 1, 1]), "weights_T"),
        (lambda: forward_transfer(SCORE, [1.0]), "baseline_T"),
        (lambda: intransigence([[1.0, 2.0, 3.0]], SCORE), "reference_T"),
        (lambda: average_incremental([]), "stage_T"),
        (lambda: average_incremental(SCORE), "stage_T"),
        (lambda: loss_split([1, 0], [1], [1, 0]), "hit_frozen_N"),
        (lambda: loss_split([1, 0], [1, 0], [1]), "hit_now_N"),
        (lambda: loss_split([], [], []), "hit_at_end_N"),
        (lambda: staleness([1, 0], [1]), "hit_reencoded_N"),
        (lambda: staleness([], []), "hit_stored_N"),
    ],
)
def test_a_vector_of_the_wrong_length_is_named(call, name):
    with pytest.raises(ValueError, match=f"{name} must have shape"):
        call()


@pytest.mark.parametrize(
    ("call", "entry"),
    [
        (lambda: backward_forgetting(SCORE, [1, NAN, 1]), r"weights_T\[1\]"),
        (lambda: forward_transfer(SCORE, [NAN, 1, NAN]), r"baseline_T\[2\]"),
        (lambda: intransigence([NAN, 1, 1], SCORE), r"reference_T\[0\]"),
        (lambda: average_incremental([1, NAN]), r"stage_T\[1\]"),
        (lambda: loss_split([1], [NAN], [1]), r"hit_frozen_N\[0\]"),
        (lambda: staleness([0, 1], [0, NAN]), r"hit_reencoded_N\[1\]"),
    ],
)
def test_a_missing_value_of_a_vector_is_named(call, entry):
    with pytest.raises(ValueError, match=f"{entry} must be finite; got nan"):
        call()
