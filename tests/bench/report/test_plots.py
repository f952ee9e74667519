from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.text import Text

from ctvr_bench.bench.analysis.queries import confusion, rank_table
from ctvr_bench.bench.records.aggregate import read_results
from ctvr_bench.bench.report import canvas, plots
from ctvr_bench.bench.report.drawing import HIGHLIGHTED, looks, pareto_front, spread, with_short_names
from tests.bench.fake_suite import write_suite


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return read_results(write_suite(tmp_path_factory.mktemp("runs") / "made_up", orders=2))


def panels_of(axes):
    """Image and (left, right, bottom, top) of every heat map; the last image is the colour bar."""
    return [(image, image.get_extent()) for image in axes.images[:-1]]


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
    for said in ("text to item", "selection: last", "seeds 0, 1, 2", "orders 0, 1", "fake-3"):
        assert said in text.replace("\n", " ")


@pytest.mark.parametrize("draw", DRAWN)
def test_every_axis_says_what_it_shows(results, draw):
    figure = draw(results)
    labels = [axes.get_xlabel() + axes.get_ylabel() for axes in figure.axes if axes.axison]
    if draw in (plots.forgetting_heat_maps, plots.cross_task_confusion):
        labels = [text.get_text() for text in figure.axes[0].texts]
        assert any(label.startswith("task") for label in labels)
    assert all(labels)
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
    axes = plots.forgetting_heat_maps(results).axes[0]
    titles = {text.get_position(): text.get_text().split("\n")[0] for text in axes.texts}
    panels = {titles.get((extent[0], extent[3] - 0.05)): image for image, extent in panels_of(axes)}
    for row in results.rows:
        shown = np.ma.filled(panels[row.label].get_array(), np.nan)
        np.testing.assert_array_equal(shown, np.mean([run.matrix() for run in row.runs], axis=0))


def test_words_lie_within_their_figure_and_apart(results, monkeypatch):
    """Nothing lays figures out: their margins are computed."""
    drawn, of_matplotlib = [], Text.draw
    monkeypatch.setattr(Text, "draw", lambda text, renderer: drawn.append(text) or of_matplotlib(text, renderer))
    for draw in (*DRAWN, plots.critical_difference):
        drawn.clear()
        figure = draw(results)
        FigureCanvasAgg(figure).draw()
        boxes = [text.get_window_extent() for text in drawn if text.get_visible() and text.get_text().strip()]
        assert len(boxes) > 5
        for box in boxes:
            assert figure.bbox.x0 < box.x0 < box.x1 < figure.bbox.x1, (draw, box)
            assert figure.bbox.y0 < box.y0 < box.y1 < figure.bbox.y1, (draw, box)
        assert not [(draw, a, b) for a, b in combinations(boxes, 2) if a.overlaps(b)]


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


@pytest.mark.parametrize(("tasks", "written"), [(5, True), (43, False)])
def test_cells_too_small_to_read_have_no_number(tmp_path, tasks, written):
    results = read_results(write_suite(tmp_path / "long", ["zero_shot", "lwf"], seeds=1, tasks=tasks, queries=2))
    axes = plots.forgetting_heat_maps(results).axes[0]
    (numbers,) = (drawn for drawn in axes.collections if isinstance(drawn, PathCollection))
    for image, (left, right, bottom, top) in panels_of(axes):
        inside = [left < x < right and top < y < bottom for x, y in numbers.get_offsets()]
        assert sum(inside) == tasks * (tasks + 1) // 2 * written
        assert image.get_array().shape == (tasks, tasks)


def test_the_number_of_a_cell_stands_in_its_middle():
    matrix = np.array([[90.0, np.nan], [12.0, 55.0]])
    figure = plots._heat_maps({"one": matrix}, "x", "y", "bar")
    axes = figure.axes[0]
    (numbers,) = (drawn for drawn in axes.collections if isinstance(drawn, PathCollection))
    ((_, (left, right, bottom, top)),) = panels_of(axes)
    found = set()
    for (x, y), outline, ink in zip(numbers.get_offsets(), numbers.get_paths(), numbers.get_facecolors(), strict=True):
        if not (left < x < right and top < y < bottom):
            continue  # of an axis
        column, row = (x - left) / (right - left) * 2 - 0.5, (y - top) / (bottom - top) * 2 - 0.5
        assert (column, row) == pytest.approx((round(column), round(row)))
        column, row = round(column), round(row)
        found.add((column, row))
        expected = canvas._outline(f"{matrix[row, column]:.1f}", 7.5)
        np.testing.assert_array_equal(outline.vertices, expected.vertices)
        assert outline.get_extents().get_points().sum(0) == pytest.approx([0, 0], abs=1e-9)
        assert 0.05 < outline.get_extents().height < 7.5 / 72  # inches: as high as type of 7.5 points, not lower
        assert tuple(ink[:3]) == ((1, 1, 1) if matrix[row, column] > 90 * 0.6 + 12 * 0.4 else (0, 0, 0))
    assert found == {(0, 0), (0, 1), (1, 1)}


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


def test_a_saved_picture_has_its_commonest_colours_as_they_are():
    picture = np.random.default_rng(0).integers(0, 255, (60, 60, 3)).astype(np.uint8)
    picture[:40] = (250, 159, 0)
    picture[:5, :50] = (0, 114, 178)
    saved = np.asarray(canvas._paletted(picture).convert("RGB"))
    np.testing.assert_array_equal(saved[:40], picture[:40])
    assert len(np.unique(saved.reshape(-1, 3), axis=0)) <= 256
    kept = np.unique(saved.reshape(-1, 3), axis=0).astype(int)
    for pixel, shown in zip(
        picture[40:].reshape(-1, 3).astype(int), saved[40:].reshape(-1, 3).astype(int), strict=True
    ):
        assert ((pixel - shown) ** 2).sum() == ((pixel - kept) ** 2).sum(1).min()


def test_rows_of_many_changed_constants_leave_their_figures_room(results, tmp_path, monkeypatch):
    constants = ", ".join(f"constant{number}={number / 7:.3f}" for number in range(9))
    long = replace(
        results, rows=tuple(replace(row, label=f"fake-{n // 2} [{constants}]") for n, row in enumerate(results.rows))
    )
    short = with_short_names(long)
    assert [row.label for row in short.rows[:2]] == [
        "fake-0 [constant0=0.000, constant1=0.14…",
        "fake-0 [constant0=0.000, constant1=0.14… (2)",
    ]
    assert with_short_names(results) == results
    drawn = plots.save_figures(long, tmp_path)
    monkeypatch.setattr(plots, "save", lambda *_: None)
    assert drawn.keys() == plots.save_figures(results, tmp_path).keys()
    for draw in (plots.loss_split, plots.accuracy_against_tasks):  # as a notebook may, with the whole names
        figure = draw(replace(short, rows=tuple(replace(row, label=9 * row.label) for row in short.rows)))
        assert (figure.subplotpars.right - figure.subplotpars.left) * figure.get_figwidth() == pytest.approx(2)


def test_saved_figures_are_the_same_bytes_each_time(results, tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "_FIGURES", plots._FIGURES[:1])
    files = [plots.save_figures(results, tmp_path / name, ("png", "pdf")) for name in "ab"]
    for suffix in (".png", ".pdf"):
        first, second = (found["accuracy_against_tasks"].with_suffix(suffix).read_bytes() for found in files)
        assert first == second
    assert first.startswith(b"%PDF")
