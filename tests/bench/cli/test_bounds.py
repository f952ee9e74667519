"""Sizes past all use, names that no file can have, and links out of a folder end in one line, at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctvr_bench.bench.gate.accept import Prepared, accept
from ctvr_bench.bench.records.files import check_below
from ctvr_bench.bench.records.suites import Suite, write_suite
from ctvr_bench.bench.suite.config import make_suite, read_suites
from ctvr_bench.bench.suite.stores import store_path
from ctvr_bench.bench.suite.suite import plan, run_suite
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.store import open_store
from ctvr_bench.features.worlds.build import build_world
from ctvr_bench.methods.shared.registry import find_method
from tests.commands import fails
from tests.stores import small_store

LONG = "x" * 300


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("features", "verify", LONG), "File name too long; choose another name"),
        (("report", LONG), "File name too long; choose another name"),
        (("features", "synth", "--out", f"{LONG}.h5", "--categories", "2", "--tasks", "2"), "too long"),
        (("new-method", "a" * 300), "too long"),
        (("new-method", "class"), "a word of Python's own"),
        (("features", "synth", "--out", "a.h5", "--categories", "1000000000"), "335,000,000,000 captions"),
        (("features", "synth", "--out", "a.h5", "--captions-per-train-video", "1000000000"), "captions; a simulated"),
        (("features", "synth", "--out", "a.h5", "--reference", "1000000000000"), "must lie in 0..10,000,000"),
        (("features", "synth", "--out", "a.h5", "--knob", "dim=1000000000"), "must lie in 8..65536"),
        (("features", "build-world", "9" * 30), "below 1,000,000,000,000"),
        (("check", "b.json", "--accept", "--noise-seeds", "1000000000"), "at most 1000"),
    ],
)
def test_a_command_ends_in_one_line_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    monkeypatch.setenv("CTVR_CACHE", str(tmp_path / "cache"))  # a world there would have been built for nothing
    line = fails(tmp_path, *arguments)
    assert not (tmp_path / "cache").exists()
    assert said in line
    assert len(line) < 600


def test_the_seed_of_a_world_is_bounded_before_a_number_is_made_of_it(tmp_path: Path) -> None:
    for digits in (30, 4900):
        with pytest.raises(InputError, match="at most 12 digits"):
            store_path("moving-shapes:" + "9" * digits)
    with pytest.raises(InputError, match="below"):
        build_world(tmp_path / "w.h5", 10**12)


def test_a_suite_of_too_many_rows_or_of_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at most 1000 items"):
        make_suite({"store": "a.h5", "methods": ["zero_shot"] * 1001}, "suite.toml")
    (tmp_path / "s.toml").write_text("stores = []\n")
    with pytest.raises(InputError, match=r"stores: a list of files or worlds"):
        read_suites(tmp_path / "s.toml", {})


@pytest.mark.parametrize("field", ["rank", "epochs", "batch_size"])
def test_a_whole_number_of_a_config_is_bounded(field: str) -> None:
    assert getattr(find_method("finetune").config({field: 1_000_000}), field) == 1_000_000
    with pytest.raises(InputError, match=rf"finetune.{field} must be at most 1,000,000"):
        find_method("finetune").config({field: 1_000_001})


def test_torch_without_memory_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 128 bytes.")

    monkeypatch.setattr("ctvr_bench.features.verification.verify_store", fail)
    assert "out of memory" in fails(tmp_path, "features", "verify", "a.h5")


def test_a_baseline_that_could_not_be_written_is_said_before_anything_is_run(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    config = make_suite({"store": tmp_path / "none.h5", "seeds": 5}, "here")
    with pytest.raises(InputError, match=r"b\.json: cannot be written"):
        accept(Prepared(tmp_path / "file" / "b.json", None, config), 5)


def test_nothing_is_written_through_a_link_out_of_a_folder_of_runs(tmp_path: Path) -> None:
    (tmp_path / "store.h5").write_bytes(small_store().path.read_bytes())
    outside, runs = tmp_path / "outside", tmp_path / "runs" / "default"
    outside.mkdir()
    (outside / "mine.txt").write_text("mine")
    runs.mkdir(parents=True)
    (runs / "suites").symlink_to(outside)
    with pytest.raises(InputError, match=r"suites: leads out of .* through a link"):
        write_suite(runs, Suite(runs=()))
    (runs / "suites").unlink()
    options = {"store": tmp_path / "store.h5", "methods": ["zero_shot"], "jobs": 1, "out": tmp_path / "runs"}
    config = make_suite(options, "here")
    (job,) = plan(config, open_store(tmp_path / "store.h5"))
    (runs / job.config.run_id).symlink_to(outside)
    with pytest.raises(InputError, match=rf"{job.config.run_id}/state: leads out of .* through a link"):
        run_suite(config)
    assert [path.name for path in outside.iterdir()] == ["mine.txt"]


def test_a_link_that_stays_in_the_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").symlink_to("a")
    check_below(tmp_path, tmp_path / "b" / "state")
    (tmp_path / "c").symlink_to("/")
    with pytest.raises(InputError, match="leads out"):
        check_below(tmp_path, tmp_path / "c" / "state")
