import numpy as np
import pytest

from ctvr_bench.bench.analysis.columns import CONTINUAL, RETRIEVAL
from ctvr_bench.bench.analysis.contributions import contributions, row_intervals
from ctvr_bench.bench.analysis.queries import final_ranks, hits, rank_table
from ctvr_bench.bench.records.aggregate import read_results
from ctvr_bench.bench.statistics import hierarchical_interval, run_interval, unpaired_difference
from ctvr_bench.bench.suite.suite import run_suite
from tests.bench.fake_suite import LABELS, write_suite
from tests.bench.run.test_runner import suite

NO_MEAN = {"forgetting/best-minus-last", "intransigence", "gap-to-joint"}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return read_results(
        write_suite(
            tmp_path_factory.mktemp("runs") / "made_up", [*LABELS[:3], "cumulative", *LABELS[3:]], tasks=4, orders=2
        )
    )


def every_metric_is_the_mean_of_its_contributions(results):
    for row in results.rows:
        for run in row.runs:
            table = rank_table(run)
            for key, value in run.final.items():
                found = contributions(table, key)
                if key in NO_MEAN or key.endswith("MedR"):
                    assert found is None, key
                else:
                    assert found is not None, key
                    assert found.mean() == pytest.approx(value, abs=1e-9), key


def test_every_metric_is_the_mean_of_its_contributions(results):
    every_metric_is_the_mean_of_its_contributions(results)


def test_so_it_is_in_a_trained_run_whose_tasks_differ_in_size(tmp_path):
    run_suite(suite(tmp_path, "finetune", "structalign", long_tail=3.0))
    every_metric_is_the_mean_of_its_contributions(read_results(tmp_path / "default"))


def test_a_single_task_has_no_forgetting(tmp_path):
    (row,) = read_results(write_suite(tmp_path / "one", ["lwf"], tasks=1, seeds=1)).rows
    assert contributions(rank_table(row.runs[0]), "bwf/ctvr").tolist() == [0] * 8
    assert row_intervals(row, ["transfer/backward"]) == {}


def test_every_column_has_an_interval_around_its_mean(results):
    row = results.rows[-1]
    intervals = row_intervals(row, [column.key for column in (*RETRIEVAL, *CONTINUAL)])
    for column in (*RETRIEVAL, *CONTINUAL):
        interval = intervals[column.key]
        assert interval.estimate == pytest.approx(np.mean(row.values(column.key)))
        assert interval.low <= interval.estimate <= interval.high
        assert interval.queries is (column.key not in NO_MEAN and not column.key.endswith("MedR"))


def test_the_headlines_interval_is_that_of_its_hits(results):
    row, headline = results.rows[-1], RETRIEVAL[0].key
    places = [(run.record.config.options["order"], run.record.config.seed) for run in row.runs]
    order_R, seed_R = zip(*places, strict=True)
    expected = hierarchical_interval(hits(final_ranks(row)), order_R, seed_R=seed_R)
    assert row_intervals(row, [headline])[headline] == expected


def test_one_run_has_no_interval_where_only_runs_vary(tmp_path):
    (row,) = read_results(write_suite(tmp_path / "one", ["lwf"], seeds=1)).rows
    found = row_intervals(row, ["t2v/stored/seen/MedR", "t2v/stored/seen/R@5"])
    assert list(found) == ["t2v/stored/seen/R@5"]
    assert found["t2v/stored/seen/R@5"].seeds is False


def test_forgetting_is_covered_about_95_times_in_100():
    """BWF of random hits that forget 20 points: true value known, tasks of unequal size and weight (1 to 3)."""
    rng = np.random.default_rng(11)
    task_N = np.repeat([0, 1, 2], [30, 60, 40])
    share_N = (len(task_N) * np.array([0.25, 0.75, 0]) / np.bincount(task_N))[task_N]
    covered = []
    for _ in range(600):
        easy_N = rng.beta(2, 2, len(task_N))
        seed_R = 0.03 * rng.standard_normal((3, 1))
        then_RN, now_RN = (rng.random((3, len(task_N))) < p for p in (easy_N * 0.8 + 0.2, easy_N * 0.8 + seed_R))
        interval = hierarchical_interval(100.0 * (then_RN.astype(float) - now_RN) * share_N, [0, 0, 0])
        covered.append(interval.low <= 20 <= interval.high)
    assert 0.925 <= np.mean(covered) <= 0.99


def test_an_unpaired_difference_is_wider_than_a_paired_one():
    rng = np.random.default_rng(3)
    easy_N = 10 * rng.standard_normal(50)
    first, second = (easy_N + rng.standard_normal((4, 50)) + shift for shift in (1, 0))
    paired = hierarchical_interval(first - second, [0] * 4)
    apart = unpaired_difference(first, [0] * 4, second, [0] * 4)
    assert apart.estimate == pytest.approx(paired.estimate)
    assert apart.high - apart.low > 3 * (paired.high - paired.low)


def test_an_interval_over_runs_is_students():
    found = run_interval([1.0, 2.0, 4.0], [0, 0, 0])
    assert found.high - found.estimate == pytest.approx(4.302653 * np.std([1, 2, 4], ddof=1) / np.sqrt(3), rel=1e-5)
    assert run_interval([1.0, 2.0], [0, 1]) is None
