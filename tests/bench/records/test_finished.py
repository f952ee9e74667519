"""What a finished run left is used only where it is what the run wrote."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from ctvr_bench.bench.records import finished
from ctvr_bench.bench.records.aggregate import read_results
from ctvr_bench.bench.records.finished import read_log, read_metrics, read_ranks
from ctvr_bench.bench.records.record import read_record
from ctvr_bench.bench.report.report import recompute_metrics
from ctvr_bench.bench.suite.suite import run_suite
from ctvr_bench.features.errors import InputError
from tests.bench.fake_suite import write_suite
from tests.bench.run.test_runner import suite


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made")
    (record,) = run_suite(suite(out, "finetune"))
    return out / "default" / record.run_id


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "default" / made.name))


READERS = {
    "run.json": read_record,
    "metrics.json": read_metrics,
    "ranks.h5": read_ranks,
    "training.jsonl": read_log,
}


@pytest.mark.parametrize("name", READERS)
def test_any_altered_byte_of_a_record_is_found_by_whoever_reads_it(run: Path, name: str) -> None:
    path, draw = run / name, random.Random(0)
    whole = path.read_bytes()
    READERS[name](run)
    for _ in range(20):
        at = draw.randrange(len(whole))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << draw.randrange(8)]) + whole[at + 1 :])
        if name == "run.json" and path.read_text(errors="replace").split() == whole.decode().split():
            continue  # another kind of white space
        with pytest.raises(InputError, match=name):
            READERS[name](run)
    for damaged in (b"", whole[:-9], b"[" * 100_000, b"\xff\xfe"):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=name):
            READERS[name](run)


def test_an_altered_result_stops_the_report_and_is_derived_again_when_asked(run: Path) -> None:
    path = run / "metrics.json"
    before = path.read_text()
    metrics = json.loads(before)
    metrics["final"]["t2v/stored/seen/R@1"] = 99.0
    path.write_text(json.dumps(metrics))
    with pytest.raises(InputError, match=r"metrics\.json: is not what its run wrote.*--recompute"):
        read_results(run.parent)
    recompute_metrics(run.parent)
    assert path.read_text() == before
    assert read_results(run.parent).rows[0].runs[0].final == json.loads(before)["final"]


def test_a_run_in_a_folder_of_another_name_is_refused(run: Path) -> None:
    other = Path(shutil.copytree(run, run.with_name("finetune-o0-s1-0000000000")))
    with pytest.raises(InputError, match="it is of another run"):
        read_record(other)


def test_a_record_with_an_infinite_number_is_one_line_whether_it_has_a_digest_or_not(run: Path) -> None:
    """1e999 is JSON, and read as infinity, which no record can hold when it is written again."""
    path = run / "run.json"
    values = json.loads(path.read_text())
    values["config"]["config"]["lr"] = 12345.5
    del values["digest"]
    for digest in ("", hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()):
        text = json.dumps({**values, **({"digest": digest} if digest else {})}).replace("12345.5", "1e999")
        path.write_text(text)
        with pytest.raises(
            InputError, match=r"run\.json: cannot be read as a run \(it holds a number that is not finite"
        ) as error:
            read_record(run)
        assert len(str(error.value).splitlines()) == 1


def test_metrics_that_other_code_derived_are_derived_again(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = read_metrics(run)
    monkeypatch.setattr(finished, "metrics_code", lambda: "of tomorrow")
    monkeypatch.setattr(finished, "metrics_of", lambda table: {"queries": len(table.task_N)})
    assert read_metrics(run) == {"queries": len(read_ranks(run).task_N)}
    assert read_metrics(run) != ours


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda metrics: metrics.pop("final"), "final: field required"),
        (lambda metrics: metrics.update(final=None), "final"),
        (lambda metrics: metrics["final"].update({"t2v/stored/seen/R@1": "12.5"}), "final.t2v/stored/seen/R@1"),
        (lambda metrics: metrics["final"].pop("bwf/ctvr"), "bwf/ctvr is missing"),
        (lambda metrics: metrics["stages"].pop(), "its matrices are not of its"),
        (lambda metrics: metrics["matrices"]["t2v/stored/own/R@1"].pop(), "its matrices are not of its"),
    ],
)
def test_metrics_of_another_form_are_one_line(tmp_path: Path, change: Any, said: str) -> None:
    folder = next(write_suite(tmp_path, ("zero_shot",), seeds=1, tasks=2, queries=3).glob("zero*"))
    metrics = json.loads((folder / "metrics.json").read_text())
    change(metrics)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(InputError, match=r"metrics\.json: cannot be read") as caught:
        read_metrics(folder)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
