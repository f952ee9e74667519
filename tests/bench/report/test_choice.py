"""Rows, columns and names of one's choice, one's own row against the others, and earlier versions of its file."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

import ctvr_bench
from ctvr_bench.bench.analysis.against import all_sentences
from ctvr_bench.bench.analysis.columns import groups_of
from ctvr_bench.bench.analysis.contrasts import contrasts
from ctvr_bench.bench.analysis.findings import against, evidence, sentences
from ctvr_bench.bench.records.aggregate import Row, read_results
from ctvr_bench.bench.records.summary import HEADLINE
from ctvr_bench.bench.report.choice import column_of, make_choice
from ctvr_bench.bench.report.formats import report_text
from ctvr_bench.bench.report.report import report_numbers
from ctvr_bench.bench.report.tables import console_table, interval_text
from ctvr_bench.bench.suite.config import make_suite
from ctvr_bench.bench.suite.suite import plan
from ctvr_bench.features.errors import InputError
from tests.bench.fake_suite import write_suite
from tests.commands import called
from tests.stores import small_store

LONG = "er [epochs=5, lr=0.0001, weight=2]"
METHOD = """
from ctvr_bench.methods.finetune import Finetune

class Mine(Finetune):
    name, paper, idea = "mine", "none", "twice the loss"

    def loss(self, batch):
        return {{name: {factor} * value for name, value in super().loss(batch).items()}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    labels = ("zero_shot", "finetune", "joint", "lwf", LONG)
    return write_suite(tmp_path_factory.mktemp("runs") / "made_up", labels)


def test_a_table_has_the_chosen_rows_columns_and_names_with_the_same_numbers(folder: Path) -> None:
    choice = make_choice(f"er,finetune, {LONG}", "bwf,R@1", [f"{LONG}=Ours"])
    lines = list(csv.DictReader(io.StringIO(report_text([folder], "csv", choice=choice))))
    whole = {line["label"]: line for line in csv.DictReader(io.StringIO(report_text([folder], "csv")))}
    assert [line["label"] for line in lines] == ["Ours", "finetune"]
    assert {name for name in lines[0] if name.endswith("mean")} == {"bwf/ctvr mean", f"{HEADLINE} mean"}
    for line, label in zip(lines, (LONG, "finetune"), strict=True):
        assert all(value == whole[label][name] for name, value in line.items() if name != "label")
    latex = report_text([folder], "latex", choice=choice)
    head, ours = (next(line for line in latex.splitlines() if line.startswith(word)) for word in ("Method", "Ours"))
    assert head == r"Method & BWF$\downarrow$ & R@1$\uparrow$ \\"
    assert f"{float(whole[LONG]['bwf/ctvr mean']):.2f}" in ours.replace("$-$", "-")
    assert "lwf" not in latex


def test_marks_of_a_chosen_table_are_those_of_all_rows(folder: Path) -> None:
    tied = evidence(read_results(folder)).tied
    latex = report_text([folder], "latex", choice=make_choice("lwf,finetune", None, ["lwf=LwF"]))
    marked = {line.split(" &")[0].split("$")[0] for line in latex.splitlines() if r"\dagger" in line and "&" in line}
    assert marked == {"LwF" if label == "lwf" else label for label in tied} & {"LwF", "finetune"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("lwff", None, []), "did you mean 'lwf'"),
        ((None, "R@2", []), "unknown column 'R@2'"),
        ((None, None, ["lwf"]), "--label needs ROW=NAME"),
        ((None, None, ["lwff=LwF"]), "row to call otherwise"),
        ((None, None, ["LwF=lwf"]), "write --label lwf=LwF"),
    ],
)
def test_an_unknown_row_column_or_name_is_named(
    folder: Path, arguments: tuple[str, str, list[str]], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        report_text([folder], "md", choice=make_choice(*arguments))


def test_a_row_is_named_by_its_method_and_chosen_by_its_new_name(folder: Path) -> None:
    short = report_text([folder], "md", choice=make_choice("Ours,lwf", None, ["er=Ours"]))
    assert short == report_text([folder], "md", choice=make_choice(f"{LONG},lwf", None, [f"{LONG}=Ours"]))
    assert short.index("Ours") < short.index("lwf")


def test_two_seeds_that_lie_apart_give_no_interval(tmp_path: Path) -> None:
    """With one degree of freedom an interval is 6.4 times as wide as the seeds lie apart."""
    found = read_results(write_suite(tmp_path / "two", ("zero_shot", "finetune", "lwf"), seeds=2))
    known = evidence(found)
    wide = {HEADLINE: replace(known.intervals["lwf"][HEADLINE], low=-40.0, high=70.0)}
    told = sentences(found, replace(known, intervals={**known.intervals, "lwf": wide, "finetune": wide}))
    assert any(" %, with too few runs for an interval over seeds and queries." in line for line in told)
    assert interval_text(wide[HEADLINE]) == "too few runs"
    assert interval_text(replace(wide[HEADLINE], low=20.0)) == "20.00 to 70.00"
    assert interval_text(replace(wide[HEADLINE], high=50.0)) == "0.00 to 50.00"
    assert interval_text(replace(wide[HEADLINE], high=50.0), shift=True) == "-40.00 to 50.00"
    assert interval_text(wide[HEADLINE], column_of("MedR")) == "-40.00 to 70.00"
    near = {HEADLINE: replace(wide[HEADLINE], low=20.0)}
    told = sentences(found, replace(known, intervals=dict.fromkeys(known.intervals, near)))
    assert any("%, 95 % interval 20.00 to 70.00 over seeds and queries." in line for line in told)


def test_labels_are_whole_at_80_columns_and_empty_columns_are_gone(folder: Path) -> None:
    results = read_results(folder)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(console_table(results, 80))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith(LONG) for line in lines)
    assert "R@1" in lines[0]
    assert "BWF" in lines[0]
    titles = {column.title for _, columns in groups_of(results) for column in columns}
    assert "intransig." not in titles, "no row is `cumulative`"
    assert "gap to joint" in titles
    assert "| intransig. (points) |" not in report_text([folder], "md")


def test_a_difference_has_one_p_wherever_it_is_shown(folder: Path) -> None:
    results = read_results(folder)
    page = report_numbers(results, evidence(results))["against_best"]
    best = page[0]["first"]
    table = {found.label: found.p for found in contrasts([results], best, HEADLINE)}
    marks = {found.first: found.p for found in against(results, best)}
    frame = ctvr_bench.load(folder).differences(best).set_index("label")["p"].to_dict()
    assert page
    for each in page:
        assert each["p"] is not None
        assert each["p"] == table[each["second"]] == marks[each["second"]] == frame[each["second"]]


def test_ones_own_rows_are_spoken_of_first(folder: Path) -> None:
    results = read_results(folder)
    record = results.rows[1].runs[0].record
    own = record.model_copy(update={"config": record.config.model_copy(update={"code": "ab" * 32})})
    runs = (replace(results.rows[1].runs[0], record=own),)
    mixed = replace(results, rows=(results.rows[0], results.rows[3], Row("mine", runs)))
    found = evidence(mixed)
    said = all_sentences(mixed, found, "lwf")
    assert [sentence.split(":")[0] for sentence in said if ": R@1 " in sentence] == ["lwf", "mine"]
    assert said[-len(sentences(mixed, found)) :] == sentences(mixed, found)


def test_two_files_of_one_name_are_told_apart_by_their_digests(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"v{number}.py").write_text(METHOD.format(factor=number))
    methods = [str(tmp_path / name) for name in ("v1.py", "v2.py")]
    store = small_store()

    def labels(chosen: list[str]) -> list[str]:
        config = make_suite({"store": store.path, "methods": chosen, "seeds": 1, "recipe": "fixed"}, "test")
        return [job.label for job in plan(config, store)]

    assert labels(methods[:1]) == ["mine"]
    first, second = labels(methods)
    assert first != second
    assert [label.partition("@")[0] for label in (first, second)] == ["mine", "mine"]


def test_an_edited_file_stands_beside_its_earlier_version_where_asked(tmp_path: Path, no_figures: None) -> None:
    store, label, before = small_store().path, "mine [epochs=1]", "mine [epochs=1] (before)"
    line = ("run", "--store", store, "--methods", "mine.py:Mine[epochs=1]", "--seeds", 1, "--jobs", 1, "--out", "o")
    for factor, also in ((1, ()), (3, ("--against", before))):
        (tmp_path / "mine.py").write_text(METHOD.format(factor=factor))
        result = called(*line, *also, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        rows = {row.label for row in read_results(tmp_path / "o/default").rows}
        assert rows == {label}
    assert f"- {before}: R@1 " in result.stdout
    both = read_results(tmp_path / "o/default", versions=True)
    first, second = (row.runs[0].final[HEADLINE] for row in sorted(both.rows, key=lambda row: row.label))
    (line_of_table,) = csv.DictReader((tmp_path / "o/default/differences.csv").read_text().splitlines()[:2])
    assert line_of_table["label"] == label
    assert float(line_of_table["difference"]) == pytest.approx(first - second)
