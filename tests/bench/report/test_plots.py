from itertools import pairwise

import numpy as np
import pytest

from ctvr_bench.bench.analysis.queries import confusion, rank_table
from ctvr_bench.bench.records.aggregate import read_results
from ctvr_bench.bench.report import plots
from ctvr_bench.bench.report.drawing import HIGHLIGHTED, looks, pareto_front, spread
from tests.bench.fake_suite import write_suite


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return read_results(write_suite(tmp_path_factory.mktemp("runs") / "made_up", orders=2))


def words(figure):
    return " ".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))


DRAWN = [
    plots.accuracy_against_tasks,
    plots.forgetting_heat_maps,
    plots.cost_against_accuracy,
    plots.loss_split,
    plots.cross_task_confusion,
    plots.geometry_over_tasks,
]


@pytest.mark.parametrize("draw", DRAWN)
def test_every_figure_names_every_method_and_how_it_was_measured(results, draw):
    text = words(draw(results))
    assert all(row.label in text for row in results.rows)
    assert "SIMULATED FEATURES" in text
    for said in ("text to video", "selection: last", "seeds 0, 1, 2", "orders 0, 1", "fake-3"):
        assert said in text.replace("\n", " ")


@pytest.mark.parametrize("draw", DRAWN)
def test_every_axis_says_what_it_shows(results, draw):
    figure = draw(results)
    labels = [axes.get_xlabel() + axes.get_ylabel() for axes in figure.axes if axes.axison]
    assert all(labels) or draw in (plots.forgetting_heat_maps, plots.cross_task_confusion)
    assert any("%" in label or "points" in label or "cosine" in label for label in labels)


def test_extracted_features_are_not_called_simulated(tmp_path):
    results = read_results(write_suite(tmp_path / "real", ["lwf", "er"], seeds=1, simulated=False))
    assert "SIMULATED" not in words(plots.accuracy_against_tasks(results))


def test_the_curves_are_the_means_of_the_records(results):
    figure = plots.accuracy_against_tasks(results)
    for row in results.rows:
        mean_T = np.mean([run.curve("t2v/stored/seen/R@1") for run in row.runs], axis=0)
        lines = [line.get_ydata() for line in figure.axes[0].lines if len(line.get_ydata()) == len(mean_T)]
        assert any(np.array_equal(mean_T, line) for line in lines)


def test_heat_maps_show_the_matrices_of_the_records(results):
    panels = {axes.get_title(loc="left").split("\n")[0]: axes for axes in plots.forgetting_heat_maps(results).axes}
    for row in results.rows:
        shown = np.ma.filled(panels[row.label].images[0].get_array(), np.nan)
        np.testing.assert_array_equal(shown, np.mean([run.matrix() for run in row.runs], axis=0))


def test_the_best_methods_are_coloured_and_the_rest_are_named_in_grey(tmp_path):
    labels = ["zero_shot", *(f"method_{i}" for i in range(HIGHLIGHTED + 3))]
    results = read_results(write_suite(tmp_path / "many", labels, seeds=1, tasks=2, queries=4))
    found = looks(results)
    assert sum(not look.highlighted for look in found.values()) == 3
    coloured = [(look.colour, look.line, look.marker) for look in found.values() if look.highlighted]
    assert len(set(coloured)) == len(coloured)
    assert len({look.marker for look in found.values() if look.highlighted}) == len(coloured)
    text = words(plots.accuracy_against_tasks(results))
    assert all(label in text for label in labels)


@pytest.mark.parametrize(("tasks", "written"), [(5, True), (60, False)])
def test_cells_too_small_to_read_have_no_number(tmp_path, tasks, written):
    results = read_results(write_suite(tmp_path / "long", ["zero_shot", "lwf"], seeds=1, tasks=tasks, queries=2))
    panel = plots.forgetting_heat_maps(results).axes[0]
    assert [len(numbers.get_offsets()) for numbers in panel.collections] == [tasks * (tasks + 1) // 2] * written
    assert panel.images[0].get_array().shape == (tasks, tasks)


def test_the_number_of_a_cell_stands_in_its_middle():
    matrix = np.array([[90.0, np.nan], [12.0, 55.0]])
    figure = plots._heat_maps({"one": matrix}, "x", "y", "bar")
    (numbers,) = figure.axes[0].collections
    figure.draw_without_rendering()
    for place, outline, ink in zip(numbers.get_offsets(), numbers.get_paths(), numbers.get_facecolors(), strict=True):
        column, row = place.astype(int)
        expected = plots._outline(f"{matrix[row, column]:.1f}", 7.5)
        np.testing.assert_array_equal(outline.vertices, expected.vertices)
        assert outline.get_extents().get_points().sum(0) == pytest.approx([0, 0], abs=1e-9)
        assert 0.05 < outline.get_extents().height < 7.5 / 72  # inches: as high as type of 7.5 points, not lower
        assert tuple(ink[:3]) == ((1, 1, 1) if matrix[row, column] > 90 * 0.6 + 12 * 0.4 else (0, 0, 0))
    assert {tuple(place) for place in numbers.get_offsets()} == {(0, 0), (0, 1), (1, 1)}


def test_heat_maps_left_out_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "PANELS", 2)
    results = read_results(write_suite(tmp_path / "many", ["zero_shot", "finetune", "lwf", "er"], seeds=1, tasks=2))
    assert "without the 2 lowest" in words(plots.forgetting_heat_maps(results)).replace("\n", " ")


def test_confusion_agrees_with_loops(results):
    row = results.rows[-1]
    expected = np.zeros((3, 3))
    for run in row.runs:
        table = rank_table(run)
        for n, best in enumerate(table.best["stored/seen/t2v"][-1]):
            expected[table.task_N[n], table.task_N[best]] += 100 / np.count_nonzero(table.task_N == table.task_N[n])
    np.testing.assert_allclose(confusion(row), expected / len(row.runs))
    np.testing.assert_allclose(confusion(row).sum(1), 100)


def test_a_dearer_method_is_on_the_front_only_if_it_scores_higher():
    points = [(3, 60), (1, 50), (2, 40), (1, 45), (4, 60)]
    front = pareto_front(points)
    beaten = [p for p in points if any(q != p and q[0] <= p[0] and q[1] >= p[1] for q in points)]
    assert front == sorted(set(points) - set(beaten))


def test_labels_are_apart_in_order_and_inside():
    wanted = [0.99, 0.98, 0.97, 0.5, 0.01, 0.0]
    placed = spread(wanted, 0.1)
    assert all(a - b >= 0.1 - 1e-9 for a, b in pairwise(placed))
    assert placed[0] == pytest.approx(1.0)
    assert placed[-1] == pytest.approx(0.0)
    assert placed[3] == 0.5


def test_critical_differences_need_three_methods_and_two_runs(results, tmp_path):
    assert plots.critical_difference(results) is not None
    one_run = read_results(write_suite(tmp_path / "one", seeds=1))
    assert plots.critical_difference(one_run) is None


def test_saved_figures_are_the_same_bytes_each_time(results, tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "_FIGURES", plots._FIGURES[:1])
    files = [plots.save_figures(results, tmp_path / name) for name in "ab"]
    for suffix in (".png", ".pdf"):
        first, second = (found["accuracy_against_tasks"].with_suffix(suffix).read_bytes() for found in files)
        assert first == second
    assert first.startswith(b"%PDF")
