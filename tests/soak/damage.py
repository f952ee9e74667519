"""Files damaged at random, then used: what is wrong must be said, made again, or make no difference."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tests.commands import ROOT
from tests.soak import child
from tests.soak.facts import facts_of
from tests.soak.faults import counting, stopping
from tests.soak.ledger import Ledger
from tests.soak.scenes import (
    CHECK,
    EXTRACT,
    IMPORT,
    PUBLISHED,
    RUN,
    arrays,
    baseline,
    finished,
    published,
    submitted,
    toy_encoder,
    with_store,
)
from tests.toy_extraction import write_inputs

SECONDS, BYTES = 10.0, 1 << 30
"""What a command may take on a damaged file: time of a core, and memory beyond what it began with."""
Damage = Callable[[bytes, np.random.Generator], bytes]


def flip(content: bytes, rng: np.random.Generator) -> bytes:
    """One bit the other way."""
    place = int(rng.integers(len(content)))
    return content[:place] + bytes([content[place] ^ 1 << int(rng.integers(8))]) + content[place + 1 :]


def cut(content: bytes, rng: np.random.Generator) -> bytes:
    """The end is missing."""
    return content[: int(rng.integers(len(content)))]


def blank(content: bytes, rng: np.random.Generator) -> bytes:
    """Up to 512 bytes in a row are zero, as where a block was never written."""
    place = int(rng.integers(len(content)))
    size = min(512, len(content) - place)
    return content[:place] + bytes(size) + content[place + size :]


def noise(content: bytes, rng: np.random.Generator) -> bytes:
    """Up to 64 bytes in a row are anything."""
    place = int(rng.integers(len(content)))
    size = min(64, len(content) - place)
    return content[:place] + rng.bytes(size) + content[place + size :]


DAMAGES: tuple[Damage, ...] = (flip, cut, blank, noise)


@dataclass(frozen=True)
class Use:
    """Files of a folder, and the command that reads them.

    judged: by what the command leaves, which must be what it leaves of sound files, where it ends with 0. False where
    the files hold what a person wrote, of which another value is as good.
    """

    name: str
    prepare: Callable[[Path], None]
    files: str
    arguments: tuple[str, ...]
    judged: bool = True
    patch: child.Patch = child.nothing


def _cut_off(folder: Path) -> None:
    """A run that ended when the state of its last task was whole."""
    with_store(folder)
    log = folder.with_name(f"{folder.name}.calls")
    rehearsal = folder.with_name(f"{folder.name}.rehearsal")
    shutil.copytree(folder, rehearsal)
    assert child.run(_LWF, rehearsal, counting(log)).status == 0
    shutil.rmtree(rehearsal)
    kept = [place for place, call in enumerate(log.read_text().splitlines()) if "/state/.progress" in call]
    child.run(_LWF, folder, stopping(kept[-1], True, folder, False))
    assert list(folder.rglob("state/*")), "nothing was kept"


def _packed(folder: Path) -> None:
    """The arrays as PyTorch and NumPy pack them."""
    arrays(folder)
    frames, pooled, words = (np.load(folder / f"{name}.npy") for name in ("frames", "pooled", "words"))
    torch.save({"frames": torch.from_numpy(frames), "pooled": torch.from_numpy(pooled)}, folder / "videos.pt")
    np.savez(folder / "captions.npz", words=words)
    (folder / "arrays.csv").write_text(
        "what,file,key\nframes,videos.pt,frames\npooled,videos.pt,pooled\nwords,captions.npz,\n"
    )


def _in_json(folder: Path) -> None:
    published(folder)
    lines = (folder / "sentences.csv").read_text().splitlines()[1:]
    sentences = [dict(zip(("video_id", "caption"), line.split(","), strict=True)) for line in lines]
    (folder / "sentences.json").write_text(json.dumps({"sentences": sentences}))


def _suite(folder: Path) -> None:
    """A suite and its tuned values, by a store that is not damaged."""
    with_store(folder)
    (folder / "tuned.toml").write_text("[finetune]\nlr = 1e-3\nepochs = 2\n")
    (folder / "suite.toml").write_text(
        'store = "store.h5"\ntuned = "tuned.toml"\nseeds = 2\nshots = 4\n'
        'methods = ["zero_shot", "finetune", {name = "lwf", set = {epochs = 1}}]\n'
    )


def _claims(folder: Path) -> None:
    for suffix in ("toml", "csv"):
        shutil.copy(ROOT / f"results/claims/structalign_dose.{suffix}", folder / f"claims.{suffix}")


_LWF = (*RUN, "--methods", "lwf[epochs=1]", "--seeds", "1", "--ensemble", "off")
_SHOWN = (*RUN, "--methods", "finetune[epochs=1],zero_shot", "--seeds", "1")
USES = (
    Use("store, run", with_store, "store.h5", _LWF),
    Use("store, verify", with_store, "store.h5", ("features", "verify", "store.h5")),
    Use("finished runs, shown again", finished, "runs/default/*-*/*", _SHOWN),
    Use("finished runs, report", finished, "runs/default/*-*/*", ("report", "runs/default", "--format", "csv")),
    Use("an unfinished run's state", _cut_off, "runs/default/*/state/*", _LWF),
    Use(
        "a published split",
        published,
        "split.pkl",
        ("features", "import-ctvr", *PUBLISHED, "--out", "s.h5"),
        judged=False,
    ),
    Use("videos", write_inputs, "videos/*.mp4", EXTRACT, judged=False, patch=toy_encoder),
    Use("runs, verified", finished, "runs/default/*-*/*", ("verify", "runs/default")),
    Use("a baseline", baseline, "b.json", CHECK),
    Use("arrays", arrays, "*.npy", ("features", "import-arrays", *IMPORT, "--out", "store.h5"), judged=False),
    Use("tables", arrays, "*.csv", ("features", "import-arrays", *IMPORT, "--out", "store.h5"), judged=False),
    Use(
        "arrays, packed",
        _packed,
        "[vc]*s.[np]*",
        ("features", "import-arrays", *IMPORT, "--out", "s.h5"),
        judged=False,
    ),
    Use(
        "captions in JSON",
        _in_json,
        "sentences.json",
        ("features", "import-ctvr", "split.pkl", "--captions", "sentences.json", "--out", "s.h5"),
        judged=False,
    ),
    Use("a suite", _suite, "*.toml", ("run", "--suite", "suite.toml", "--dry-run"), judged=False),
    Use("claims", _claims, "claims.*", ("claims", "claims.toml", "claims.csv"), judged=False),
    Use("a registry", submitted, "registry/**/*", ("verify", "registry")),
)
"""What is damaged, and how it is used."""


SOUND = {
    "said",
    "made again, or no difference",
    "no difference in what is shown",
    "not damaged",
    "said, or taken as it is written",
}
_PORTION = 40


def spoil(use: Use, folder: Path, numbers: Iterable[int], seed: int = 0) -> Iterator[tuple[str, str]]:
    """Damage a file of a use once for each number, each in a fresh copy; yields its name and what came of it."""
    sound = folder / "sound"
    sound.mkdir(parents=True)
    use.prepare(sound)
    files = sorted(path.relative_to(sound) for path in sound.glob(use.files) if path.is_file() and path.stat().st_size)
    good = folder / "good"
    shutil.copytree(sound, good)
    ended = child.run(use.arguments, good, use.patch)
    assert ended.status == 0, ended.output
    expected = facts_of(good), ended.output
    for number in numbers:
        rng = np.random.default_rng([seed, number])
        place, name = folder / str(number), files[int(rng.integers(len(files)))]
        shutil.copytree(sound, place)
        content = (place / name).read_bytes()
        (place / name).write_bytes(DAMAGES[number % len(DAMAGES)](content, rng))
        unchanged = (place / name).read_bytes() == content
        result = child.run(use.arguments, place, use.patch, seconds=30 * SECONDS)
        came = "not damaged" if unchanged else _what_came(use, result, place, str(name), expected)
        yield name.name, came
        shutil.rmtree(place)


def _what_came(use: Use, result: child.Ended, place: Path, name: str, expected: tuple[dict[str, str], str]) -> str:
    if result.cpu > SECONDS or result.status is None:
        return "longer than 10 s" if max(result.cpu, result.seconds) > SECONDS else "ended by a signal"
    if result.grown > BYTES:
        return "more than 1 GB"
    if result.traceback:
        return "a traceback: " + result.output.strip().splitlines()[-1]
    if result.status:
        lines = [line for line in result.output.splitlines() if line.strip()]
        return "said" if lines else "ended without a word"
    if not use.judged:
        return "said, or taken as it is written"
    try:
        found = facts_of(place)
    except Exception as error:  # a file that was left damaged and not said
        return f"used silently: {type(error).__name__}"
    differs = [key for key in expected[0] if found.get(key) != expected[0][key]]
    if set(differs) - {name}:
        return f"used silently: {differs[0]}"
    if differs:
        return "no difference in what is shown" if result.output == expected[1] else "said, or used silently"
    return "made again, or no difference"


def campaign(times: int, folder: Path, ledger: Ledger, seed: int = 0) -> None:
    """Damages of every use, shared out evenly, until there are so many or the ledger's time is over."""

    def spoil_some(place: int, work: Path, numbers: range) -> Iterator[tuple[str, str]]:
        return ((_kind_of(file), came) for file, came in spoil(USES[place], work, numbers, seed + 1000 * place))

    ledger.campaign("damage", [use.name for use in USES], times, _PORTION, folder, spoil_some, SOUND)


def _kind_of(name: str) -> str:
    """A file's name without the number of its task."""
    return "".join(letter for letter in name if not letter.isdecimal()) if name != "ranks.h5" else name
