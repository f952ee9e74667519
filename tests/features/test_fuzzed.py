"""Every reader of a stranger's file on files that are nearly sound: each is read or refused in one line, never else.

`FUZZ=2000 python -m pytest tests/features/test_fuzzed.py` tries so many of each; what was found once is an example.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ctvr_bench.bench.gate.baseline import read_baseline
from ctvr_bench.bench.records.aggregate import read_results
from ctvr_bench.bench.report.tables import csv_table
from ctvr_bench.bench.suite.config import read_suites
from ctvr_bench.features.array_files import ArrayTable
from ctvr_bench.features.ctvr import read_captions, read_split
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.sources import read_sources
from ctvr_bench.features.store import describe_store, open_store
from ctvr_bench.features.verification import check_content, verify_store
from ctvr_bench.features.video import Sampling, UnreadableVideo, Video, write_video
from tests.bench.fake_suite import write_suite
from tests.soak.scenes import arrays, published
from tests.stores import small_store

EXAMPLES = int(os.environ.get("FUZZ", "0"))


def tried(times: int) -> Callable[[Any], Any]:
    """So many examples, the same ones every time; FUZZ of them, new ones, where it is set."""
    return settings(
        max_examples=EXAMPLES or times,
        derandomize=not EXAMPLES,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


EDIT = st.tuples(
    st.sampled_from(["flip", "blank", "cut", "put", "repeat"]), st.floats(0, 1, exclude_max=True), st.binary(max_size=9)
)
EDITS = st.lists(EDIT, min_size=1, max_size=3)


def damaged(content: bytes, edits: list[tuple[str, float, bytes]]) -> bytes:
    """The content with each edit made at its place, a share of the length."""
    for how, share, more in edits:
        at = int(share * len(content))
        head, tail = content[:at], content[at:]
        content = {
            "flip": head + bytes([tail[0] ^ (1 << (len(more) % 8))]) + tail[1:] if tail else content,
            "blank": head + bytes(min(64, len(tail))) + tail[64:],
            "cut": head,
            "put": head + more + tail,
            "repeat": head + tail[:32] * 3 + tail,
        }[how]
    return content


def refused_in_one_line(read: Callable[[], object], *also: type[Exception]) -> None:
    """Run a reader: it may give something, or refuse in one line, and nothing else."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        said = "something"
        try:
            read()
        except (InputError, *also) as error:
            said = str(error)
    assert said.strip()
    assert len(said.splitlines()) == 1, said


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzzed")
    arrays(folder)
    published(folder)
    np.savez(folder / "frames.npz", frames=np.load(folder / "frames.npy"))
    torch.save({"frames": torch.ones(4, 3, 6)}, folder / "frames.pt")
    write_video(folder / "clip.mp4", np.zeros((6, 16, 16, 3), np.uint8), fps=4, preset="ultrafast")
    write_suite(folder / "runs", ("zero_shot", "finetune"), seeds=1, tasks=2, queries=3)
    return folder


# HDF5


def look(path: Path) -> None:
    verify_store(path)
    store = open_store(path)
    describe_store(store)
    check_content(store)


@tried(20)
@given(edits=EDITS)
def test_bytes_of_a_store(place: Path, edits: list[tuple[str, float, bytes]]) -> None:
    (place / "x.h5").write_bytes(damaged(small_store().path.read_bytes(), edits))
    refused_in_one_line(lambda: look(place / "x.h5"))


SHAPE = st.sampled_from([(), (0,), (3,), (80,), (4, 3), (2, 3, 4), (10**9,), (10**12, 4)])
DTYPE = st.sampled_from(["f2", "f4", "f8", "i1", "i4", "i8", ">i4", "u8", "?", "S5", "c8"])
VALUE = st.sampled_from([0, 1, -1, 2**31 - 1, -(2**31), 2**62])
ATTRIBUTE = st.sampled_from(["name", "simulated", "encoder", "sampling", "schema", "licence", "version", "created"])
HELD = st.one_of(st.integers(-5, 5), st.text(max_size=5), st.just("{"), st.just("[" * 500), st.just(""))


@tried(30)
@given(data=st.data())
def test_parts_of_a_store(place: Path, data: st.DataObject) -> None:
    path = place / "y.h5"
    shutil.copy(small_store().path, path)
    with h5py.File(path, "r+", libver="v108") as file:
        names: list[str] = []
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        for _ in range(data.draw(st.integers(1, 2))):
            name = data.draw(st.sampled_from(sorted(names)))
            how = data.draw(st.sampled_from(["remove", "reshape", "value", "attribute", "without", "move", "link"]))
            if how == "attribute":
                held = data.draw(HELD)
                file.attrs[data.draw(ATTRIBUTE)] = np.bytes_(held.encode()) if isinstance(held, str) else held
            elif how == "without":
                file.attrs.pop(data.draw(ATTRIBUTE), None)
            elif name not in file:
                continue
            elif how == "value" and file[name].dtype.kind in "iu" and file[name].size:
                file[name][data.draw(st.integers(0, len(file[name]) - 1))] = np.array(data.draw(VALUE)).astype(
                    file[name].dtype
                )
            elif how == "move":
                file.move(name, data.draw(st.sampled_from(["zzz", "streams/x", "videos/x/y", "captions/more"])))
            else:
                del file[name]
                if how == "reshape":
                    file.create_dataset(name, data.draw(SHAPE), data.draw(DTYPE))
                elif how == "link":
                    file[name] = h5py.SoftLink(
                        data.draw(st.sampled_from(["/", "/videos", "/videos/id", "/none", name]))
                    )
    refused_in_one_line(lambda: look(path))


# Arrays and pickles


@pytest.mark.parametrize("kind", ["npy", "npz", "pt"])
def test_bytes_of_arrays(place: Path, kind: str) -> None:
    sound = (place / f"frames.{kind}").read_bytes()

    @tried(30)
    @given(edits=EDITS)
    def fuzzed(edits: list[tuple[str, float, bytes]]) -> None:
        (place / f"x.{kind}").write_bytes(damaged(sound, edits))
        (place / "x.csv").write_text(f"what,file\nframes,x.{kind}\n")
        refused_in_one_line(lambda: ArrayTable(place / "x.csv").all("frames"))

    fuzzed()


@tried(60)
@given(edits=EDITS)
def test_bytes_of_a_published_split(place: Path, edits: list[tuple[str, float, bytes]]) -> None:
    (place / "x.pkl").write_bytes(damaged((place / "split.pkl").read_bytes(), edits))
    refused_in_one_line(lambda: read_split(place / "x.pkl"))


NAMES = "(.012FIJKLMNRSTUVX]abcdeghijlopqrstu}\x80\x81\x85\x86\x87\x88\x89\x8a\x8c\x8f\x90\x93\x94"
OPCODES = st.lists(st.sampled_from([name.encode("latin-1") for name in NAMES]) | st.binary(max_size=3), max_size=30)


@tried(100)
@given(parts=OPCODES)
def test_opcodes_in_any_order(place: Path, parts: list[bytes]) -> None:
    (place / "z.pkl").write_bytes(b"\x80\x04" + b"".join(parts) + b".")
    refused_in_one_line(lambda: read_split(place / "z.pkl"))


SCALAR = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6)
TREE = st.recursive(
    SCALAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
)


@tried(60)
@given(value=st.dictionaries(st.sampled_from(["train", "val", 1]), TREE))
def test_a_split_of_anything(place: Path, value: dict[Any, Any]) -> None:
    (place / "x.pkl").write_bytes(pickle.dumps(value))
    refused_in_one_line(lambda: read_split(place / "x.pkl"))


# Tables, captions, suite files


@tried(60)
@given(edits=EDITS, which=st.sampled_from(["captions.csv", "stream.csv"]))
def test_bytes_of_tables(place: Path, edits: list[tuple[str, float, bytes]], which: str) -> None:
    (place / f"x-{which}").write_bytes(damaged((place / which).read_bytes(), edits))
    files = {name: place / (f"x-{name}" if name == which else name) for name in ("captions.csv", "stream.csv")}
    refused_in_one_line(lambda: read_sources([files["captions.csv"]], files["stream.csv"]))


@tried(60)
@given(value=TREE | st.dictionaries(st.sampled_from("abcd"), TREE) | st.fixed_dictionaries({"sentences": TREE}))
@example(value={"a": {"sentences": ["one"], "timestamps": [[0, float("inf")]]}})
def test_captions_of_anything(place: Path, value: Any) -> None:
    (place / "x.json").write_text(json.dumps(value))
    refused_in_one_line(lambda: read_captions(place / "x.json"))
    refused_in_one_line(lambda: read_sources([place / "x.json"], place / "stream.csv"))


SUITE = b'name = "a"\nmethods = ["zero_shot", {name = "finetune", set = {lr = 1e-3}}]\nseeds = 2\nshots = 4\n[set.finetune]\nepochs = 2\n'  # noqa: E501


@tried(20)
@given(edits=EDITS)
def test_bytes_of_a_suite_file(place: Path, edits: list[tuple[str, float, bytes]]) -> None:
    (place / "s.toml").write_bytes(damaged(SUITE, edits))
    refused_in_one_line(lambda: read_suites(place / "s.toml", {"store": place / "none.h5"}))


# Records


def altered(value: Any, data: st.DataObject) -> Any:
    """A JSON value with something in it, at a place that is drawn, put in for something else, or left out."""
    if isinstance(value, dict) and value and data.draw(st.integers(0, 3)):
        key = data.draw(st.sampled_from(sorted(value)))
        if not data.draw(st.integers(0, 4)):
            return {name: held for name, held in value.items() if name != key}
        return {**value, key: altered(value[key], data)}
    if isinstance(value, list) and value and data.draw(st.integers(0, 3)):
        at = data.draw(st.integers(0, len(value) - 1))
        return [*value[:at], altered(value[at], data), *value[at + 1 :]]
    return data.draw(TREE)


@pytest.mark.parametrize("name", ["run.json", "metrics.json"])
def test_a_record_in_which_something_is_something_else(place: Path, name: str) -> None:
    path = next(place.glob(f"runs/finetune*/{name}"))
    sound = path.read_text()

    @tried(30)
    @given(data=st.data())
    def fuzzed(data: st.DataObject) -> None:
        path.write_text(json.dumps(altered(json.loads(sound), data)))
        refused_in_one_line(lambda: csv_table(read_results(place / "runs")))

    try:
        fuzzed()
    finally:
        path.write_text(sound)


@tried(20)
@given(data=st.data())
def test_a_baseline_in_which_something_is_something_else(place: Path, data: st.DataObject) -> None:
    sound = json.loads((Path(__file__).parents[2] / "results/baselines/gate.json").read_text())
    (place / "b.json").write_text(json.dumps(altered(sound, data)))
    refused_in_one_line(lambda: read_baseline(place / "b.json"))


# Videos


@tried(40)
@given(edits=EDITS)
def test_bytes_of_a_video(place: Path, edits: list[tuple[str, float, bytes]]) -> None:
    (place / "x.mp4").write_bytes(damaged((place / "clip.mp4").read_bytes(), edits))
    refused_in_one_line(lambda: list(Video(place / "x.mp4").frames(Sampling.parse("2"))), UnreadableVideo)
