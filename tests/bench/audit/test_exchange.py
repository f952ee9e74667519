"""Rankings and tables for other programs: other evaluators find the same numbers in them."""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from ctvr_bench.bench.api.results import load
from ctvr_bench.bench.audit.exchange import qrels, trec_run, write_trec
from ctvr_bench.bench.audit.history import draw_history
from ctvr_bench.bench.audit.history import history as over_commits
from ctvr_bench.bench.records.aggregate import read_results
from ctvr_bench.bench.records.record import RankTable, read_record, save_record
from ctvr_bench.bench.records.summary import metrics_of
from ctvr_bench.bench.report.choice import column_of
from tests.bench.fake_suite import rank_table, write_suite
from tests.commands import called

SEEN = "t2v/stored/seen/"


@pytest.fixture(scope="module")
def table() -> RankTable:
    return rank_table(0.3, 0, 0, 3, 8)


def test_a_naive_evaluator_finds_the_same_recalls_and_mrr(table: RankTable) -> None:
    found: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for line in trec_run(table, "a tag").splitlines():
        query, _, item, _, score, tag = line.split(" ")
        found[query].append((float(score), item))
        assert tag == "atag"
    relevant = {query: item for query, _, item, _ in (line.split(" ") for line in qrels(table).splitlines())}
    places = []
    for query, own in relevant.items():
        assert len({score for score, _ in found[query]}) == len(found[query]), "no ties"
        assert len({item for _, item in found[query]}) == len(found[query])
        ordered = [item for _, item in sorted(found[query], reverse=True)]
        places.append(ordered.index(own) + 1)
    final = metrics_of(table)["final"]
    for depth in (1, 5, 10):
        assert 100 * sum(place <= depth for place in places) / len(places) == pytest.approx(final[f"{SEEN}R@{depth}"])
    assert 100 * sum(1 / place for place in places) / len(places) == pytest.approx(final[f"{SEEN}MRR"])
    assert max(places) > 1


def test_ir_measures_finds_the_same_numbers(table: RankTable, tmp_path: Path) -> None:
    measures = pytest.importorskip("ir_measures", reason="ir-measures is not installed (extra dev)")
    write_trec(table, tmp_path, "run")
    found = measures.calc_aggregate(
        [measures.R @ 1, measures.R @ 5, measures.R @ 10, measures.RR],
        list(measures.read_trec_qrels(str(tmp_path / "qrels.txt"))),
        list(measures.read_trec_run(str(tmp_path / "run.run"))),
    )
    final = metrics_of(table)["final"]
    for measure, value in found.items():
        name = "MRR" if str(measure) == "RR" else str(measure)
        assert 100 * value == pytest.approx(final[SEEN + name])
    assert len(found) == 4


def test_ranx_finds_the_same_numbers(table: RankTable, tmp_path: Path) -> None:
    ranx = pytest.importorskip("ranx", reason="ranx is not installed: it brings numba, too heavy for the extra dev")
    write_trec(table, tmp_path, "run")
    found = ranx.evaluate(
        ranx.Qrels.from_file(str(tmp_path / "qrels.txt"), kind="trec"),
        ranx.Run.from_file(str(tmp_path / "run.run"), kind="trec"),
        ["recall@1", "recall@5", "recall@10", "mrr"],
    )
    final = metrics_of(table)["final"]
    for name, value in found.items():
        assert 100 * value == pytest.approx(final[SEEN + name.replace("recall", "R").replace("mrr", "MRR")])


def test_the_command_writes_tables_and_rankings(tmp_path: Path) -> None:
    folder = write_suite(tmp_path / "runs", ("zero_shot", "lwf"), seeds=1)
    for format_ in ("csv", "json", "trec"):
        assert called("export", folder, "--out", tmp_path / format_, "--format", format_).returncode == 0
    runs = list(csv.DictReader(io.StringIO((tmp_path / "csv/runs.csv").read_text())))
    assert [run["label"] for run in runs] == ["zero_shot", "lwf"]
    queries = json.loads((tmp_path / "json/queries.json").read_text())
    ones = [each["rank"] == 1 for each in queries if each["label"] == "lwf" and each["stage"] == 3]
    assert 100 * sum(ones) / len(ones) == pytest.approx(float(runs[1][f"{SEEN}R@1"]))
    assert len(list((tmp_path / "trec/order-0").glob("*.run"))) == 2
    assert "did you mean" in called("export", folder, "--out", tmp_path / "x", "--format", "cvs").stderr


def test_parquet_holds_the_same_tables_bit_for_bit(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed (extra parquet)")
    folder = write_suite(tmp_path / "runs", ("zero_shot", "lwf [a=1, b=ü]"), seeds=2)
    assert called("export", folder, "--out", tmp_path / "out", "--format", "parquet").returncode == 0
    found = load(folder)
    for name, frame in {"runs": found.to_dataframe(), "queries": found.queries(), "curves": found.curve()}.items():
        read = parquet.read_table(tmp_path / f"out/{name}.parquet")
        assert read.num_rows == len(frame) > 2
        assert read.column_names == list(frame.columns)
        for column in frame.columns:
            assert read[column].to_pylist() == frame[column].astype(object).where(frame[column].notna(), None).to_list()


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_suite(tmp_path / "runs", ("zero_shot",))
    monkeypatch.setattr("pandas.DataFrame.to_parquet", _no_engine)
    told = called("export", folder, "--out", tmp_path / "out", "--format", "parquet")
    assert (told.returncode, "pip install ctvr-bench[parquet]" in told.stderr) == (2, True)
    assert not (tmp_path / "out").exists()


def _no_engine(*_: object, **__: object) -> None:
    raise ImportError("Unable to find a usable engine")


def test_a_history_orders_commits_by_time_and_leaves_holes_where_a_row_was_not_run(tmp_path: Path) -> None:
    folders = []
    for day, (commit, labels) in enumerate((("bbb", ("zero_shot", "lwf")), ("aaa", ("zero_shot",))), start=1):
        folder = write_suite(tmp_path / commit, labels, seeds=2)
        folders.append(folder)
        for path in folder.glob("*/run.json"):
            record = read_record(path.parent)
            environment = {**record.environment, "commit": commit}
            save_record(path.parent, record.model_copy(update={"ended": f"2026-01-0{day}", "environment": environment}))
    result = called("history", *reversed(folders), "--metric", "bwf", "--json")
    found = json.loads(result.stdout)
    assert (found["commits"], found["metric"], found["better"]) == (["bbb", "aaa"], "bwf/ctvr", "lower")
    row = next(row for row in read_results(folders[0]).rows if row.label == "lwf")
    assert found["rows"]["lwf"]["runs"] == [row.values("bwf/ctvr"), []]
    assert found["rows"]["lwf"]["mean"][1] is None
    lines = called("history", *folders).stdout.splitlines()
    assert lines[1].split() == ["row", "bbb", "aaa"]
    assert lines[3].split() == ["lwf", f"{sum(row.values(f'{SEEN}R@1')) / 2:.2f}", "–"]
    for kind, magic in (("png", b"\x89PNG"), ("svg", b"<?xml")):
        plot = tmp_path / f"plots/history.{kind}"
        assert called("history", *folders, "--plot", plot).stdout.splitlines() == lines
        assert plot.read_bytes().startswith(magic)
    figure = Figure()
    draw_history(figure, over_commits([read_results(folder) for folder in folders], column_of("R@1")))
    drawn = {bars.get_label(): bars.lines[0].get_ydata() for bars in figure.axes[0].containers}
    assert drawn["lwf"][0] == pytest.approx(sum(row.values(f"{SEEN}R@1")) / 2)
    assert np.isnan(drawn["lwf"][1]), "not run there"
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["bbb\n2026-01-01", "aaa\n2026-01-02"]
    assert "ends in .png, .pdf, .svg" in called("history", *folders, "--plot", tmp_path / "x.gif").stderr
    other = write_suite(tmp_path / "other", ("zero_shot",), tasks=4)
    assert "a history needs one stream" in called("history", folders[0], other).stderr
