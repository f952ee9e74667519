"""Commands that write, each in a folder of its own with what it reads."""

from __future__ import annotations

import hashlib
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ctvr_bench.features import extract
from ctvr_bench.features.worlds import build
from ctvr_bench.features.worlds.world import Knobs
from tests.soak import child
from tests.stores import small_store
from tests.toy_extraction import ToyEncoder, write_inputs


@dataclass(frozen=True)
class Scene:
    """A command line, what makes its folder ready, and what is changed in the process before it begins."""

    name: str
    arguments: tuple[str, ...]
    prepare: Callable[[Path], None] = lambda folder: None
    patch: child.Patch = child.nothing


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
PUBLISHED = ("split.pkl", "--captions", "sentences.csv")


def published(folder: Path) -> None:
    """A published split of the videos of `arrays`, and its sentences."""
    sides = {"train": {1: {"x": ["a"]}, 2: {"y": ["c"]}}, "val": {1: {"x": ["b"]}, 2: {"y": ["d"]}}}
    (folder / "split.pkl").write_bytes(pickle.dumps(sides))
    (folder / "sentences.csv").write_text("video_id,sentence\na,one\nb,two\nc,three\nd,four\n")


def _to_be_merged(folder: Path) -> None:
    published(folder)
    _made(folder, ("features", "import-ctvr", *PUBLISHED, "--out", "shell.h5"), arrays)
    _made(folder, ("features", "import-arrays", *IMPORT, "--out", "filled.h5"), lambda _: None)


def submitted(folder: Path) -> None:
    _made(folder, ("submit", "runs/default", "--to", "registry"), finished)


def toy_encoder() -> None:
    """An encoder of 8 x 8 pixels in place of CLIP, and small blocks, so that there are many of them."""
    extract.load_encoder = lambda *_: ToyEncoder()
    extract._CAPTION_BLOCK = extract.FRAME_BATCH = 4


def _tiny_world() -> None:
    """A world of 60 videos seen by the toy encoder."""
    whole = build.make_world
    build.make_world = lambda seed, _: whole(seed, Knobs(train=1, validation=1, test=1, captions=1))
    build.load_encoder, build._REFERENCES = ToyEncoder, 8


def _listed(folder: Path) -> None:
    """A mirror of one store, and the registry that lists it."""
    (folder / "mirror").mkdir()
    content = small_store().path.read_bytes()
    (folder / "mirror/a.h5").write_bytes(content)
    (folder / "stores.toml").write_text(
        f'[[store]]\nname = "a"\nurl = "https://a.invalid/a.h5"\nsha256 = "{hashlib.sha256(content).hexdigest()}"\n'
        f'size = {len(content)}\nlicence = "CC0"\ncard = "https://a.invalid"\n'
    )


_TUNE = ("--store", "store.h5", "--seeds", "1", "--jobs", "1", "--out", "evidence", "--runs", "runs", "--quiet")


CHECK = ("check", "b.json", "--store", "store.h5", "--jobs", "1")


def baseline(folder: Path) -> None:
    """A baseline of one row."""
    _made(folder, (*CHECK, "--accept", "--suite", "suite.toml", "--noise-seeds", "5"), _baseline)


def _baseline(folder: Path) -> None:
    with_store(folder)
    (folder / "suite.toml").write_text('seeds = 1\nmethods = [{name = "finetune", set = {epochs = 1}}]\n')


EXTRACT: tuple[str, ...] = (
    *("features", "extract", "--videos", "videos", "--captions", "stream.csv", "--stream", "stream.csv"),
    *("--model", "toy", "--frames", "6", "--out", "store.h5"),
)
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
    Scene(
        "run, oracle, what is kept",
        (
            *(*RUN, "--methods", "finetune[epochs=2]", "--seeds", "1"),
            *("--selection", "test-oracle", "--keep", "weights", "--keep", "embeddings", "--keep", "top=2"),
        ),
        with_store,
    ),
    Scene("rerun", ("rerun", "runs/default", "--jobs", "1"), finished),
    Scene("report", ("report", "runs/default"), finished),
    Scene("report, one page", ("report", "runs/default", "--format", "html", "--out", "page.html"), finished),
    Scene("export", ("export", "runs/default", "--format", "csv", "--out", "told"), finished),
    Scene("import-ctvr", ("features", "import-ctvr", *PUBLISHED, "--out", "shell.h5"), published),
    Scene("features merge", ("features", "merge", "shell.h5", "filled.h5", "--out", "store.h5"), _to_be_merged),
    Scene("extract", EXTRACT, write_inputs, toy_encoder),
    Scene("build-world", ("features", "build-world", "3", "--out", "world.h5"), patch=_tiny_world),
    Scene("merge", ("merge", "runs/default", "--into", "joined"), finished),
    Scene("submit", ("submit", "runs/default", "--to", "registry"), finished),
    Scene("leaderboard", ("leaderboard", "registry"), submitted),
    Scene(
        "features card",
        ("features", "card", "store.h5", "--url", "file:///store.h5", "--creator", "me", "--date", "2026-01-01"),
        with_store,
    ),
    Scene("features pull", ("features", "pull", "a", "--mirror", "mirror"), _listed),
    Scene("new-method", ("new-method", "my_method"), lambda folder: None),
    Scene("synth", ("features", "synth", "--out", "made.h5", *_SMALL)),
    Scene("tune", ("tune", "finetune", "--trials", "3", "--search", "lr=1e-3:1e-2", *_TUNE), with_store),
    Scene(
        "check --accept",
        (*CHECK, "--accept", "--suite", "suite.toml", "--noise-seeds", "5"),
        _baseline,
    ),
)
"""What is killed and gone on with."""
