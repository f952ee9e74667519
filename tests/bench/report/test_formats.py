"""Single formats of the report: the numbers of the whole report, alone and side by side."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest

from ctvr_bench.bench.analysis.columns import CONTINUAL, PAPER, RETRIEVAL
from ctvr_bench.bench.analysis.findings import against, evidence
from ctvr_bench.bench.records.aggregate import SuiteResults, read_results
from ctvr_bench.bench.report.formats import format_of, report_text, write_figures, write_page
from ctvr_bench.bench.report.latex import block_names
from ctvr_bench.bench.report.report import write_report
from ctvr_bench.features.errors import InputError
from tests.bench.fake_suite import write_suite
from tests.commands import called, command, fails

LABELS = ["zero_shot", "finetune", *(f"filler_{i}" for i in range(12)), "er"]


@pytest.fixture(scope="module")
def ten(tmp_path_factory: pytest.TempPathFactory) -> SuiteResults:
    return read_results(write_suite(tmp_path_factory.mktemp("runs") / "ten", LABELS, queries=30, tasks=2))


@pytest.fixture(scope="module")
def twenty(tmp_path_factory: pytest.TempPathFactory) -> SuiteResults:
    return read_results(write_suite(tmp_path_factory.mktemp("runs") / "twenty", LABELS[:4], queries=15, tasks=4))


def test_a_single_format_is_the_file_of_the_whole_report(ten: SuiteResults, no_figures: None) -> None:
    folder = write_report(ten.directory).parent
    assert report_text([ten.directory], "latex") == (folder / "table.tex").read_text()
    assert report_text([ten.directory], "csv") == (folder / "table.csv").read_text()
    assert report_text([ten.directory], "md") == (folder / "report.md").read_text()


def test_two_streams_stand_side_by_side_with_the_same_numbers_in_every_format(
    ten: SuiteResults, twenty: SuiteResults
) -> None:
    folders = [ten.directory, twenty.directory]
    latex, markdown, table = (report_text(folders, name) for name in ("latex", "md", "csv"))
    lines = list(csv.DictReader(io.StringIO(table)))
    assert [line["stream"] for line in lines] == ["fake-2"] * 15 + ["fake-4"] * 4
    assert r"\begin{table*}" in latex
    for suite in (ten, twenty):
        found = evidence(suite)
        for row in suite.rows:
            (line,) = (x for x in lines if x["label"] == row.label and x["stream"] == suite.measured["stream"])
            name = row.label.replace("_", r"\_")
            tex = next(x for x in latex.splitlines() if x.startswith(f"{name} &"))
            text = next(x for x in markdown.splitlines() if x.startswith((f"| {name} |", f"| *{name}* |")))
            for column in PAPER:
                mean = column.cell(row).mean
                assert mean is not None
                assert float(line[f"{column.key} mean"]) == mean
                assert column.text(mean).replace("-", "$-$") in tex
                assert column.text(mean) in text
            for column in (*RETRIEVAL, *CONTINUAL):
                interval = found.intervals[row.label].get(column.key)
                low = line[f"{column.key} low"]
                assert low == "" if interval is None else float(low) == interval.low


def test_rows_that_only_one_stream_has_are_dashes_in_the_other(ten: SuiteResults, twenty: SuiteResults) -> None:
    latex = report_text([twenty.directory, ten.directory], "latex")
    line = next(line for line in latex.splitlines() if line.startswith("er &"))
    assert line.split("&")[1:7] == [" -- "] * 6
    assert "--" not in line.split("&")[7]


def test_suites_of_one_stream_are_told_apart_by_name_or_folder(ten: SuiteResults, tmp_path: Path) -> None:
    same = [read_results(write_suite(tmp_path / name, ["lwf"])) for name in ("a", "b")]
    assert block_names(same) == ["a", "b"]
    assert block_names([ten, same[0]]) == ["fake-2", "fake-3"]
    nested = read_results(write_suite(tmp_path / "deep" / "a", ["lwf"]))
    assert block_names([same[0], nested]) == [str(tmp_path / "a"), str(tmp_path / "deep" / "a")]


def test_marks_are_those_of_the_tests_against_a_row(ten: SuiteResults) -> None:
    told = {c.first: c.interval.estimate > 0 for c in against(ten, "finetune") if c.differs}
    assert set(told.values()) == {True}
    latex = report_text([ten.directory], "latex", "finetune")
    for row in ten.rows:
        (line,) = (x for x in latex.splitlines() if x.startswith(row.label.replace("_", r"\_") + " &"))
        assert ("$^{+}$" in line) is (row.label in told)
    tied = set(evidence(ten).tied)
    assert {
        row.label for row in ten.rows if re.search(rf"^{row.label} .*dagger".replace("_", r"\\_"), latex, re.M)
    } == tied
    assert "better than finetune beyond noise" in latex
    with pytest.raises(InputError, match="did you mean 'finetune'"):
        report_text([ten.directory], "md", "finetun")


def test_a_page_alone_refers_to_nothing_beside_it(ten: SuiteResults, tmp_path: Path) -> None:
    write_page(ten.directory, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert [name.name for name in tmp_path.iterdir()] == ["page.html"]
    assert all(link.startswith("#") for link in re.findall(r'href="([^"]*)"', text))
    assert all(source.startswith("data:") for source in re.findall(r'src="([^"]*)"', text))
    assert text.count("data:image/png") >= 5


@pytest.mark.parametrize(("kind", "magic"), [("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_figures_of_one_kind(twenty: SuiteResults, tmp_path: Path, kind: str, magic: bytes) -> None:
    files = write_figures([twenty.directory], kind, tmp_path / "figures")
    assert {file.suffix for file in (tmp_path / "figures").iterdir()} == {f".{kind}"}
    assert len(files) >= 5
    assert all(file.read_bytes().startswith(magic) for file in files)


def test_the_format_follows_the_suffix_of_the_file() -> None:
    assert format_of(None, Path("a/table.tex")) == "latex"
    assert format_of("csv", Path("table.txt")) == "csv"
    assert format_of(None, Path("folder")) is None
    with pytest.raises(InputError, match="did you mean 'latex'"):
        format_of("latx", None)


def test_the_command_prints_text_and_writes_files(
    ten: SuiteResults, twenty: SuiteResults, tmp_path: Path, no_figures: None
) -> None:
    result = command("report", ten.directory, twenty.directory, "--format", "latex", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout == report_text([ten.directory, twenty.directory], "latex")
    result = called("report", ten.directory, "--out", "table.csv", cwd=tmp_path)
    assert (tmp_path / "table.csv").read_text() == report_text([ten.directory], "csv")
    values = json.loads(called("report", twenty.directory, "--out", "whole", "--json", cwd=tmp_path).stdout)
    assert len(values["runs"]) == 1 + 3 * 3
    assert (tmp_path / "whole" / "index.html").is_file()
    assert "are of one store" in fails(tmp_path, "report", ten.directory, twenty.directory)
