"""The command line as a person meets it: exit codes, one-line errors, nothing left behind."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests import release
from tests.commands import ROOT, called, command, fails
from tests.stores import small_store


def run_small(tmp_path: Path, *arguments: object) -> str:
    return fails(tmp_path, "run", "--store", small_store().path, "--methods", "zero_shot", "--out", "o", *arguments)


def test_help_names_every_command_without_loading_torch() -> None:
    script = "import sys, ctvr_bench.bench.cli.app\n"
    script += "assert not {'torch', 'numpy', 'faiss', 'matplotlib', 'rich'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
    result = command("--help")
    assert result.returncode == 0
    assert all(word in result.stdout for word in ("run", "report", "methods", "features"))


def test_a_run_prints_the_table_and_says_where_the_report_lies(tmp_path: Path, no_figures: None) -> None:
    """With its figures, from a process of its own; the report that is made again has none."""
    arguments = ("run", "--store", small_store().path, "--methods", "zero_shot,finetune[epochs=1]", "--seeds", 1)
    result = command(*arguments, "--jobs", 1, "--out", "o", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "finetune" in result.stdout
    assert "simulated" in result.stdout
    report = Path(result.stderr.strip().splitlines()[-1].removeprefix("report: "))
    assert (tmp_path / report).is_file()
    assert list((tmp_path / report).parent.glob("figures/*.png"))
    assert called("report", "o/default", "--recompute", cwd=tmp_path).returncode == 0


def test_unknown_names_get_the_nearest_known_one(tmp_path: Path) -> None:
    store = small_store().path
    assert "did you mean 'lwf'" in fails(tmp_path, "run", "--store", store, "--methods", "lwff")
    assert "did you mean 'epochs'" in fails(tmp_path, "run", "--store", store, "--methods", "lwf[epoch=3]")
    assert "did you mean 'lr'" in fails(tmp_path, "run", "--store", store, "--methods", "lwf", "--set", "lwf.lrr=1")
    assert "unknown stream 'x'" in run_small(tmp_path, "--stream", "x")
    assert "unknown method" in fails(tmp_path, "methods", "zero-shot")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "--methods", "lwff"), "did you mean 'lwf'"),
        (("run", "--store", "moving-shapes:9", "--set", "lwf.lrr=1"), "did you mean 'lr'"),
        (("run", "--methods", "lwf", "--set", "er.lr=1"), "method to set values of"),
        (("run", "--variant", "shots=0"), "shots of a stream must be at least 1"),
        (("run", "--suite", "s.toml"), "did you mean 'er'"),
        (("run", "--suite", "s.toml", "--store", "moving-shapes:9"), "did you mean 'er'"),
        (("tune", "lwf", "--search", "lrr=1:2"), "did you mean 'lr'"),
        (("tune", "lwf", "--search", "lr=1:2", "--seeds", 0), "seeds"),
    ],
)
def test_what_is_wrong_without_a_store_is_said_before_a_world_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[object, ...], words: str
) -> None:
    def build(seed: int, progress: object) -> Path:
        raise AssertionError(f"world {seed} is built")

    monkeypatch.setattr("ctvr_bench.features.worlds.build.default_store_path", build)
    (tmp_path / "s.toml").write_text("stores = ['moving-shapes:1', 'moving-shapes:2']\nmethods = ['eer']\n")
    assert words in fails(tmp_path, *arguments)


def test_a_refusal_is_the_same_from_a_process_of_its_own(tmp_path: Path) -> None:
    arguments = ("run", "--store", small_store().path, "--methods", "lwff")
    alone, here = command(*arguments, cwd=tmp_path), called(*arguments, cwd=tmp_path)
    assert (alone.returncode, alone.stdout, alone.stderr) == (here.returncode, here.stdout, here.stderr)


def test_a_value_of_the_wrong_type_names_field_and_value(tmp_path: Path) -> None:
    line = fails(tmp_path, "run", "--store", small_store().path, "--methods", "lwf", "--set", "lwf.lr=fast")
    assert "lwf.lr" in line
    assert "'fast'" in line
    assert "seeds" in run_small(tmp_path, "--seeds", 0)
    assert "selection" in run_small(tmp_path, "--selection", "best")
    assert "--set must read" in run_small(tmp_path, "--set", "lr=1")


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("missing", "no such file"),
        ("text", "not an HDF5 file"),
        ("truncated", "cannot be read as HDF5"),
        ("version", "schema version 9"),
        ("nan", "NaN"),
        ("dangling", "point at nothing"),
        ("no store", "no feature store"),
    ],
)
def test_a_broken_store_is_refused_in_one_line(tmp_path: Path, case: str, words: str) -> None:
    path = tmp_path / "store.h5"
    if case != "missing":
        shutil.copy(small_store().path, path)
    if case == "text":
        path.write_text("hello")
    elif case == "truncated":
        path.write_bytes(path.read_bytes()[:-1000])
    elif case == "no store":
        with h5py.File(path, "w") as file:
            file["x"] = [1]
    elif case in ("version", "nan", "dangling"):
        with h5py.File(path, "r+") as file:
            if case == "version":
                file.attrs["schema_version"] = 9
            elif case == "nan":
                file["videos/frames"][3, 0, 0] = np.nan
            else:
                file["captions/video"][0] = 10**6
    assert words in fails(
        tmp_path, "run", "--store", path, "--methods", "finetune[epochs=1]", "--seeds", 1, "--out", "o"
    )


def test_an_unwritable_output_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be written" in run_small(tmp_path, "--out", tmp_path / "file" / "x")
    assert "cannot be written" in fails(tmp_path, "features", "synth", "--out", tmp_path / "file" / "x.h5", "--test", 2)


def test_a_hostile_pickle_is_refused_by_name_and_not_run(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path}/ran",)

    (tmp_path / "x_dataset.pkl").write_bytes(pickle.dumps(Hostile()))
    (tmp_path / "c.csv").write_text("key,vid_key,video_id,sentence\n")
    arguments = ("x_dataset.pkl", "--captions", "c.csv", "--out", "s.h5")
    line = fails(tmp_path, "features", "import-ctvr", *arguments)
    assert "system" in line
    assert not (tmp_path / "ran").exists()


def test_streams_as_published_are_imported_filled_inspected_and_verified(tmp_path: Path) -> None:
    *pickles, captions = release.msrvtt(tmp_path, release.MSRVTT_TEST)
    result = called("features", "import-ctvr", *pickles, "--captions", captions, "--out", "structure.h5", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    knobs = ("--knob", "dim=32", "--knob", "latent_dim=16", "--knob", "frames=2", "--captions-per-train-video", 1)
    result = called("features", "synth", "--structure", "structure.h5", *knobs, "--out", "filled.h5", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    shown = called("features", "inspect", "filled.h5", cwd=tmp_path).stdout
    assert "MSRVTT-10" in shown
    assert "2990 test_videos" in shown
    verified = called("features", "verify", "filled.h5", cwd=tmp_path)
    assert verified.returncode == 0, verified.stdout
    with h5py.File(tmp_path / "filled.h5", "r+") as file:
        file["captions/words"][5, 0] = 7
    broken = called("features", "verify", "filled.h5", cwd=tmp_path)
    assert broken.returncode == 1
    assert "captions/words: content does not match its digest" in broken.stdout


def test_the_card_of_a_method_shows_its_fields() -> None:
    result = called("methods", "structalign")
    assert result.returncode == 0
    assert "crp = 10.0" in result.stdout
    assert "L_SCL" in result.stdout
