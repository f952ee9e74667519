"""Printed numbers stand in columns of their own, on the stream they are printed for, and are never ranked."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from ctvr_bench.bench.analysis.columns import RETRIEVAL, places, ranked
from ctvr_bench.bench.records.aggregate import read_results
from ctvr_bench.bench.report.report import write_report
from ctvr_bench.bench.report.reported import HEADS, NOTE, printed_numbers, reported_cells
from ctvr_bench.bench.report.tables import csv_table, markdown_table
from ctvr_bench.methods.shared.registry import known_methods
from tests.bench.fake_suite import write_suite


def on_stream(directory: Path, stream: str) -> Path:
    for path in write_suite(directory).glob("*/run.json"):
        record = json.loads(path.read_text())
        record["config"]["stream"] = stream
        path.write_text(json.dumps(record))
    return directory


def test_they_are_shown_beside_the_suites_own(tmp_path: Path, no_figures: None) -> None:
    results = read_results(on_stream(tmp_path, "MSRVTT-10"))
    table = markdown_table(results)
    lines = {line.split(" | ")[0].strip("|* "): line for line in table.split("**Learning")[0].splitlines()}
    assert all(head in lines["method"] for head in HEADS)
    assert lines["lwf"].endswith("| 23.85 | 1.68 |")
    assert lines["er"].endswith("| – | – |")
    assert NOTE in table
    page = write_report(tmp_path).read_text()
    assert "23.85" in page
    assert HEADS[0] in page


def test_they_decide_no_place_and_enter_no_average(tmp_path: Path) -> None:
    plain = read_results(write_suite(tmp_path / "a"))
    printed = read_results(on_stream(tmp_path / "b", "MSRVTT-10"))
    assert [row.label for row in ranked(plain)] == [row.label for row in ranked(printed)]
    assert places(ranked(plain), RETRIEVAL[0]) == places(ranked(printed), RETRIEVAL[0])
    numbers = [list(csv.DictReader(io.StringIO(csv_table(results)))) for results in (plain, printed)]
    key = f"{RETRIEVAL[0].key} mean"
    assert [line[key] for line in numbers[0]] == [line[key] for line in numbers[1]]


@pytest.mark.parametrize("stream", ["moving-shapes", "MSRVTT-5"])
def test_on_another_stream_there_is_no_such_column(tmp_path: Path, stream: str) -> None:
    table = markdown_table(read_results(on_stream(tmp_path, stream)))
    assert "reported" not in table


def test_only_a_method_as_it_ships_stands_beside_a_printed_number(tmp_path: Path) -> None:
    labels = ["lwf", "lwf [weight=2]", "lwf [epochs=9, lr=0.1]", "lwf [lr=0.1, weight=2]"]
    results = read_results(on_stream(write_suite(tmp_path, labels), "MSRVTT-10"))
    cells = {row.label: reported_cells(results, row) for row in results.rows}
    assert cells["lwf"] == ("23.85", "1.68")
    assert cells["lwf [epochs=9, lr=0.1]"] == ("23.85", "1.68")
    assert cells["lwf [weight=2]"] == cells["lwf [lr=0.1, weight=2]"] == ("–", "–")


def test_every_printed_number_belongs_to_a_method() -> None:
    assert set(printed_numbers()) == {"MSRVTT-10", "MSRVTT-20", "ACTNET-10", "ACTNET-20"}
    for methods in printed_numbers().values():
        assert set(methods) <= set(known_methods())
        assert all(0 < r1 < 100 and -1 < bwf < 2 for r1, bwf in methods.values())
