import csv
import io

import pytest
from rich.console import Console

from ctvr_bench.bench.analysis.columns import COLUMNS, PAPER, places, ranked, references
from ctvr_bench.bench.records.aggregate import read_results
from ctvr_bench.bench.report.latex import Marks, latex_table
from ctvr_bench.bench.report.tables import console_table, csv_table, markdown_table, numbers
from tests.bench.fake_suite import write_suite


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return read_results(write_suite(tmp_path_factory.mktemp("runs") / "made_up"))


def text_of(table, width):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_zero_shot_and_upper_bounds_are_not_ranked(results):
    assert {row.label for row in references(results)} == {"zero_shot", "joint"}
    headlines = [COLUMNS[0].cell(row).mean for row in ranked(results)]
    assert headlines == sorted(headlines, reverse=True)


@pytest.mark.parametrize("width", [80, 120, 200])
def test_the_console_table_fits_its_width(results, width):
    lines = text_of(console_table(results, width), width).splitlines()
    assert max(map(len, lines)) <= width
    assert all(any(line.startswith(row.label) for line in lines) for row in results.rows)
    assert "R@1" in lines[0]


def test_a_wider_console_shows_more_columns(results):
    assert len(console_table(results, 80).columns) < len(console_table(results, 200).columns)


def test_all_formats_show_the_same_numbers(results):
    found = {row["label"]: row for row in numbers(results)["rows"]}
    lines = {line["label"]: line for line in csv.DictReader(io.StringIO(csv_table(results)))}
    markdown, latex = markdown_table(results), latex_table(results)
    console = text_of(console_table(results, 220), 220)
    for row in results.rows:
        for column in COLUMNS:
            value = found[row.label]["values"][column.key]["mean"]
            written = lines[row.label][f"{column.key} mean"]
            if value is None:
                assert written == ""
                continue
            assert float(written) == value
            assert column.text(value) in _line(markdown, row.label, column)
            if column in PAPER:
                assert column.text(value).replace("-", "$-$") in _latex_line(latex, row.label)
        assert COLUMNS[0].cell(row).text in console


def test_best_and_second_are_marked_among_the_ranked_only(results):
    rows = ranked(results)
    for column in PAPER:
        marked = places(rows, column)
        shown = {row.label: round(column.cell(row).mean, column.digits) for row in rows}
        best = max(shown.values()) if column.better > 0 else min(shown.values())
        assert {label for label, place in marked.items() if place == 1} == {k for k, v in shown.items() if v == best}
    latex = latex_table(results)
    assert r"\textbf" in latex
    assert all(r"\textbf" not in _latex_line(latex, row.label) for row in references(results))


def test_two_suites_stand_side_by_side_in_the_papers_layout(results, tmp_path):
    other = read_results(write_suite(tmp_path / "longer", ["zero_shot", "lwf"], tasks=4))
    latex = latex_table(results, other)
    assert r"\multicolumn{6}{c}{fake-3} & \multicolumn{6}{c}{fake-4}" in latex
    assert r"\cmidrule(lr){2-7} \cmidrule(lr){8-13}" in latex
    rows = [line for line in latex.splitlines() if line.endswith(r"\\")]
    assert {line.count("&") for line in rows[1:]} == {12}
    assert _latex_line(latex, "er").count("--") == 6


def test_latex_escapes_what_a_label_or_note_may_hold(results):
    latex = latex_table(results, marks=[Marks(("er",))])
    assert r"zero\_shot" in latex
    assert r"fake\_store" in latex
    assert "$^\\dagger$" in _latex_line(latex, "er")
    assert latex.count("{") == latex.count("}")


def test_deviations_are_footnotes(results):
    markdown = markdown_table(results)
    assert r"adapted [1]" in markdown
    assert r"[1] adapted: a head and not the \<whole> encoder learns" in markdown


def test_how_it_was_measured_stands_below(results):
    for table in (markdown_table(results), csv_table(results), latex_table(results)):
        assert "simulated" in table
        assert results.measured["stream"] in table
        assert results.measured["store"][:4] in table.replace("\\", "")


def test_the_same_records_give_the_same_text(results):
    again = read_results(results.directory)
    for table in (markdown_table, csv_table, latex_table):
        assert table(results) == table(again)


def test_no_number_is_a_negative_zero():
    assert COLUMNS[0].text(-0.001) == "0.00"


def _line(markdown, label, column):
    """The markdown row of a label in the table that has the column."""
    table = next(part for part in markdown.split("**") if f"| {column.title} (" in part or f" {column.title} (" in part)
    name = label.replace("_", "\\_")
    after = markdown[markdown.index(table) :]
    return next(line for line in after.splitlines() if line.startswith((f"| {name} |", f"| *{name}* |")))


def _latex_line(latex, label):
    name = label.replace("_", r"\_")
    return next(line for line in latex.splitlines() if line.startswith((f"{name} &", f"{name}$^")))
