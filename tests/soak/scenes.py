"""Commands that write, each in a folder of its own with what it reads."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.soak import child
from tests.stores import small_store


@dataclass(frozen=True)
class Scene:
    """A command line, and what makes its folder ready."""

    name: str
    arguments: tuple[str, ...]
    prepare: Callable[[Path], None] = lambda folder: None


def with_store(folder: Path) -> None:
    shutil.copy(small_store().path, folder / "store.h5")


def arrays(folder: Path) -> None:
    rng = np.random.default_rng(0)
    np.save(folder / "frames.npy", rng.standard_normal((4, 3, 6)).astype(np.float32))
    np.save(folder / "pooled.npy", rng.standard_normal((4, 6)).astype(np.float32))
    np.save(folder / "words.npy", rng.standard_normal((4, 2, 6)).astype(np.float32))
    (folder / "arrays.csv").write_text("what,file\nframes,frames.npy\npooled,pooled.npy\nwords,words.npy\n")
    (folder / "captions.csv").write_text("video,caption\na,one\nb,two\nc,three\nd,four\n")
    (folder / "stream.csv").write_text("video,category,task,role\na,x,1,train\nb,x,1,test\nc,y,2,train\nd,y,2,test\n")


def _made(folder: Path, arguments: tuple[str, ...], prepare: Callable[[Path], None]) -> None:
    prepare(folder)
    ended = child.run(arguments, folder)
    assert ended.status == 0, ended.output


IMPORT = ("arrays.csv", "--captions", "captions.csv", "--stream", "stream.csv")
RUN = ("run", "--store", "store.h5", "--jobs", "1", "--out", "runs", "--json", "--quiet")


def finished(folder: Path) -> None:
    """A store and a finished suite on it."""
    _made(folder, (*RUN, "--methods", "finetune[epochs=1],zero_shot", "--seeds", "1"), with_store)


_SMALL = ("--categories", "4", "--tasks", "2", "--train", "3", "--test", "2", "--reference", "8")
_TUNE = ("--store", "store.h5", "--seeds", "1", "--jobs", "1", "--out", "evidence", "--runs", "runs", "--quiet")


def _baseline(folder: Path) -> None:
    with_store(folder)
    (folder / "suite.toml").write_text('seeds = 1\nmethods = [{name = "finetune", set = {epochs = 1}}]\n')


SCENES = (
    Scene("import-arrays", ("features", "import-arrays", *IMPORT, "--out", "store.h5"), arrays),
    Scene("run", (*RUN, "--methods", "lwf[epochs=1],zero_shot", "--seeds", "2"), with_store),
    Scene(
        "run, replay and prototypes",
        (*RUN, "--methods", "er[epochs=1],structalign[epochs=1]", "--seeds", "1"),
        with_store,
    ),
    Scene("run, stacks", (*RUN, "--methods", "finetune[epochs=1]", "--seeds", "5"), with_store),
    Scene(
        "run, selection",
        (*RUN, "--methods", "finetune[epochs=2]", "--seeds", "1", "--selection", "validation"),
        with_store,
    ),
    Scene("report", ("report", "runs/default"), finished),
    Scene("synth", ("features", "synth", "--out", "made.h5", *_SMALL)),
    Scene("tune", ("tune", "finetune", "--grid", "epochs=1", "--grid", "lr=1e-3,1e-2", *_TUNE), with_store),
    Scene(
        "check --accept",
        (
            "check",
            "b.json",
            "--accept",
            "--suite",
            "suite.toml",
            "--store",
            "store.h5",
            "--noise-seeds",
            "2",
            "--jobs",
            "1",
        ),
        _baseline,
    ),
)
"""What is killed and gone on with."""
