"""Readers of a stranger's files under atheris, which looks for bytes that reach new code (pip install atheris).

python -m tests.soak.coverage_guided                              names the readers
python -m tests.soak.coverage_guided READER [FOLDER] [SECONDS]    of a core, so that a busy machine tries as much

What breaks a reader is kept in FOLDER (build/fuzz) as crash-*; it becomes an example in the tests of that reader.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import pickle
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ctvr_bench.bench.analysis import claims
from ctvr_bench.bench.authoring import tune_evidence, validation
from ctvr_bench.bench.gate import baseline
from ctvr_bench.bench.records import record
from ctvr_bench.bench.suite import config
from ctvr_bench.features import (
    array_files,
    arrays,
    ctvr,
    hdf5,
    pickles,
    registry,
    schema,
    sources,
    store,
    tables,
    video,
)
from ctvr_bench.features.errors import InputError
from tests.commands import ROOT, called
from tests.soak import scenes

_LONGEST = 10.0  # seconds of a core that an input may take
_HANGS = 200  # seconds, by the clock, after which it will not end
INSTRUMENTED = (
    *(claims, tune_evidence, validation, baseline, record, config, array_files, arrays, ctvr, hdf5, pickles, registry),
    *(schema, sources, store, tables, video),
)
"""Modules whose branches guide the search."""


def _array(path: Path) -> None:
    (path.parent / "list.csv").write_text(f"what,file\nframes,{path.name}\n")
    array_files.ArrayTable(path.parent / "list.csv").all("frames")


def _array_as(kind: str) -> Callable[[Path], bytes]:
    def made(folder: Path) -> bytes:
        values, path = np.zeros((1, 2), np.float32), folder / f"x.{kind}"
        writers: dict[str, Callable[[], Any]] = {
            "npy": lambda: np.save(path, values),
            "npz": lambda: np.savez(path, frames=values),
            "pt": lambda: torch.save({"frames": torch.from_numpy(values)}, path),
        }
        writers[kind]()
        return path.read_bytes()

    return made


def _store(folder: Path) -> bytes:
    scenes.arrays(folder)
    assert called("features", "import-arrays", *scenes.IMPORT, "--out", "x.h5", cwd=folder).returncode == 0
    return (folder / "x.h5").read_bytes()


def _look(path: Path) -> None:
    store.verify_store(path)
    opened = store.open_store(path)
    store.describe_store(opened)
    store.check_content(opened)


def _clip(folder: Path) -> bytes:
    video.write_video(folder / "x.mp4", np.zeros((3, 16, 16, 3), np.uint8), fps=4, preset="ultrafast")
    return (folder / "x.mp4").read_bytes()


def _run(path: Path) -> None:
    """A record with the digest that its values have, as of one who means it."""
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        values = None
    if isinstance(values, dict):
        values.pop("digest", None)
        with suppress(ValueError):  # a number that is not finite has no digest: the bytes stay as they came
            record.write_checked(path, values)
    record.read_record(path.parent)


def _record(folder: Path) -> bytes:
    found = json.loads(next((ROOT / "results/registry/results").rglob("run.json")).read_text())
    return json.dumps({**found, "run_id": "run"}).encode()


def _said(content: bytes) -> Callable[[Path], bytes]:
    return lambda folder: content


def _of(path: str) -> Callable[[Path], bytes]:
    return lambda folder: (ROOT / path).read_bytes()


READERS: dict[str, tuple[str, Callable[[Path], object], Callable[[Path], bytes]]] = {
    "pickle": ("x.pkl", ctvr.read_split, _said(pickle.dumps({side: {1: {"x": [side]}} for side in ("train", "val")}))),
    "npy": ("x.npy", _array, _array_as("npy")),
    "npz": ("x.npz", _array, _array_as("npz")),
    "pt": ("x.pt", _array, _array_as("pt")),
    "csv": (
        "x.csv",
        lambda path: list(tables.read_table(path, "video", "caption")),
        _said(b'video,caption\na,"one, two"\n'),
    ),
    "json": ("x.json", tables.read_json, _said(b'{"a": ["b", 1.5, null]}')),
    "toml": (
        "x.toml",
        lambda path: tables.read_toml(path, "a suite"),
        _said(b'seeds = 1\nmethods = [{name = "a"}]\n'),
    ),
    "captions": ("x.csv", ctvr.read_captions, _said(b"video_id,sentence\na,one\n")),
    "captions-json": ("x.json", ctvr.read_captions, _said(b'{"sentences": [{"video_id": "a", "caption": "one"}]}')),
    "stream": (
        "x.csv",
        lambda path: sources.read_sources([path], path),
        _said(b"video,category,task,role,caption\na,x,1,train,one\nb,x,1,test,two\n"),
    ),
    "suite": (
        "x.toml",
        lambda path: config.read_suites(path, {"store": path.parent / "none.h5"}),
        _said(b'seeds = 2\nshots = 4\nmethods = ["zero_shot", {name = "finetune", set = {lr = 1e-3}}]\n'),
    ),
    "claims": ("x.toml", claims.read_claims, _of("results/claims/structalign_dose.toml")),
    "numbers": ("x.csv", claims.read_numbers, _of("results/claims/structalign_dose.csv")),
    "registry": (
        "x.toml",
        registry.read_registry,
        _said(
            b'[[store]]\nname = "a"\nurl = "https://a.invalid/a.h5"\nsha256 = "' + b"0f" * 32 + b'"\n'
            b'size = 1\nlicence = "CC0"\ncard = "https://a.invalid"\n'
        ),
    ),
    "baseline": ("x.json", baseline.read_baseline, _of("results/baselines/gate.json")),
    "record": ("run/run.json", _run, _record),
    "evidence": ("x.json", tune_evidence.read_evidence, _said(b'{"method": "er", "chosen": {"lr": 0.1}}')),
    "hdf5": ("x.h5", _look, _store),
    "video": ("x.mp4", lambda path: list(video.Video(path).frames(video.Sampling.parse("2"))), _clip),
}
"""Name that a file has, what reads it, and what makes a sound one to begin with."""


def read(reader: str, content: bytes, folder: Path) -> None:
    """Read such a file: it may give something or be refused in one line. Anything else is raised."""
    name, reads, _ = READERS[reader]
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    try:
        reads(folder / name)
    except (InputError, video.UnreadableVideo) as error:
        if len(str(error).splitlines()) != 1:
            raise AssertionError(f"not one line: {error}") from error


class Search:
    """Tries inputs until one breaks the reader, or so many seconds of a core are spent, and says how many."""

    def __init__(self, reader: str, folder: Path, corpus: Path, seconds: float) -> None:
        self._reader, self._folder, self._corpus, self._seconds = reader, folder, corpus, seconds
        self._inputs, self._begun = 0, time.process_time()

    def attempt(self, content: bytes) -> None:
        """Keep what breaks the reader. Ends the process at once: the interpreter takes longer than it may to end."""
        start, self._inputs = time.process_time(), self._inputs + 1
        try:
            read(self._reader, content, self._folder)
            if time.process_time() - start > _LONGEST:
                raise AssertionError(f"it took over {_LONGEST} s of a core")
        except BaseException:
            (self._corpus / f"crash-{hashlib.sha256(content).hexdigest()[:16]}").write_bytes(content)
            traceback.print_exc()
            self._end(1)
        if time.process_time() - self._begun > self._seconds:
            self._end(0)

    def _end(self, status: int) -> None:
        came = "broken by the last of" if status else "sound under"
        print(f"{self._reader}: {came} {self._inputs} inputs, {time.process_time() - self._begun:.0f} s of a core")
        shutil.rmtree(self._folder, ignore_errors=True)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def main() -> None:
    """Try bytes until one breaks the reader, or the time is over."""
    if len(sys.argv) == 1:
        print(*READERS)
        return
    import atheris

    reader, *rest = sys.argv[1:]
    corpus = Path(rest[0] if rest else "build/fuzz") / reader
    corpus.mkdir(parents=True, exist_ok=True)
    for module in INSTRUMENTED:
        owners = [module, *(kind for kind in vars(module).values() if inspect.isclass(kind))]
        for function in (found for owner in owners for found in vars(owner).values()):
            if inspect.isfunction(function) and function.__module__ == module.__name__:
                atheris.instrument_func(function)
    folder = Path(tempfile.mkdtemp())
    sound = READERS[reader][2](folder)
    (corpus / "sound").write_bytes(sound)
    read(reader, sound, folder)
    line = [sys.argv[0], str(corpus), f"-artifact_prefix={corpus}/", f"-max_len={4096 + len(sound)}"]
    line += ["-rss_limit_mb=3000", f"-timeout={_HANGS}"]
    atheris.Setup(line, Search(reader, folder, corpus, float(rest[1] if len(rest) > 1 else 600)).attempt)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
