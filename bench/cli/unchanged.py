"""What a `run` said, said again at once while nothing that it was made from has changed.

The note `said.json` in a suite's folder holds the digest of the command (its options, the code, the libraries, the
screen), a mark of every file that was read or written, and what was printed. Asking it loads no heavy library.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ctvr_bench.bench.records.files import SAID, write_bytes
from ctvr_bench.features.errors import InputError, in_lines
from ctvr_bench.features.whole import digest_of_file, read_whole

if TYPE_CHECKING:
    from ctvr_bench.bench.records.record import RunRecord
    from ctvr_bench.bench.suite.config import SuiteConfig

_CODE = Path(__file__).resolve().parents[2]
_LAYERS = ("features", "methods", "bench")
_READ_WHOLE = 1 << 22  # bytes; of a larger file size, times and inode are its mark
_VARIABLES = ("CTVR_CACHE", "XDG_CACHE_HOME", "HOME", "CUDA_VISIBLE_DEVICES")


class Said:
    """What one command says, and what that is made from.

    asked: the command's options by name. place: the suite's folder; None where it cannot be told, and then nothing is
    kept or said again.
    """

    def __init__(self, asked: Mapping[str, Any], place: Path | None) -> None:
        self._file = None if place is None else place / SAID
        self._asked, self._marks = dict(asked), dict[str, str]()
        self._runs = 0
        self._heard: list[tuple[str, str]] = []

    def again(self, quiet: bool) -> bool:
        """Whether the note holds; then what it says was said."""
        if self._file is None or not self._file.is_file():
            return False
        try:
            note = json.loads(read_whole(self._file))
            holds = note.pop("digest") == _digest_of_note(note) and note["of"] == _digest_of_command(self._asked)
            holds = holds and all(mark_of(Path(path)) == mark for path, mark in note["made_from"].items())
            said = [(str(stream), str(text)) for stream, text in note["said"]]
            runs = int(note["runs"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            return False
        if not holds:
            return False
        if not quiet:
            print(f"all {runs} runs are there, and nothing has changed since the report", file=sys.stderr, flush=True)
        for stream, text in said:
            (sys.stdout if stream == "out" else sys.stderr).write(in_lines(text))
        return True

    def tell(self, line: str) -> None:
        """Remember a line that was said to standard error."""
        self._heard.append(("err", line + "\n"))

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Remember what is printed, which is printed all the same."""
        out, err = _Heard(sys.stdout, "out", self._heard), _Heard(sys.stderr, "err", self._heard)
        with redirect_stdout(out), redirect_stderr(err):
            yield

    def made_from(self, paths: Iterable[Path | None]) -> None:
        """Mark files that are about to be read, or folders of which the names count."""
        self._marks |= {str(path): mark_of(path) for path in paths if path is not None}

    def made_from_suite(self, config: SuiteConfig, suite: Path | None) -> None:
        """Mark what a suite is read from before its runs are made; nothing is kept where a package makes a method."""
        from ctvr_bench.bench.suite.plugins import file_named
        from ctvr_bench.methods.shared.registry import known_methods

        files = {choice.name: file_named(choice.name) for choice in config.methods}
        if any(file is None and name not in known_methods() for name, file in files.items()):
            self._file = None
        self.made_from([suite, config.tuned, config.store, *files.values()])

    def made_from_runs(self, config: SuiteConfig, records: Iterable[RunRecord]) -> None:
        """Mark the runs of a suite before its report is made of them."""
        folder = config.directory
        for record in records:
            self._runs += 1
            self.made_from(folder / record.run_id / name for name in ("run.json", *record.files))
        self.made_from([folder / "suite.json", folder / "suites", *(folder / "suites").glob("*.json")])

    def keep(self, written: Iterable[Path]) -> None:
        """Write the note, when everything was said; written: files that must be there, or folders of such."""
        if self._file is None:
            return
        for place in written:
            self.made_from([place] if place.is_file() else [path for path in place.rglob("*") if path.is_file()])
        note = {
            "of": _digest_of_command(self._asked),
            "runs": self._runs,
            "made_from": self._marks,
            "said": self._heard,
        }
        with suppress(InputError):  # a folder that takes no more
            write_bytes(self._file, json.dumps({**note, "digest": _digest_of_note(note)}, indent=1).encode())


def place_of(suite: Path | None, name: str | None, out: Path | None) -> Path | None:
    """The folder of the suite that these options name; None where a suite file cannot be read."""
    values: dict[str, Any] = {}
    if suite is not None:
        try:
            values = {"name": suite.stem, **tomllib.loads(read_whole(suite).decode())}
        except (OSError, ValueError):
            return None
    try:
        return Path(out or values.get("out") or "results/runs") / (name or values.get("name") or "default")
    except TypeError:  # a value of the file that is no name
        return None


def mark_of(path: Path) -> str:
    """What tells one state of a file from another: its bytes' digest, of a large one its size, times and inode.

    Of a folder the names in it; empty where there is nothing.
    """
    try:
        if path.is_dir():
            return " ".join(sorted(os.listdir(path)))  # noqa: PTH208 - names alone
        found = path.stat()
        if found.st_size > _READ_WHOLE:
            return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}"
        return digest_of_file(path)
    except OSError:
        return ""


def _digest_of_note(note: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(note, sort_keys=True).encode()).hexdigest()


def _digest_of_command(asked: Mapping[str, Any]) -> str:
    """Of everything beside files of data that can change what a command says: options, code, libraries, screen."""
    from rich.console import Console

    sha = hashlib.sha256()
    for file in sorted(file for layer in _LAYERS for file in (_CODE / layer).rglob("*")):
        if file.is_file() and file.parent.name != "__pycache__":
            sha.update(f"{file.relative_to(_CODE)}\0".encode() + file.read_bytes())
    screen = Console()
    facts = {
        "asked": asked,
        "folder": str(Path.cwd()),
        "variables": {name: os.environ.get(name) for name in _VARIABLES},
        "python": [sys.version, sys.prefix],
        "libraries": sorted(name for folder in sys.path for name in _names(folder) if name.endswith("-info")),
        "cards": sorted(name for name in _names("/dev") if name.startswith("nvidia")),
        "screen": [screen.width, screen.color_system, screen.is_terminal, screen.encoding],
    }
    sha.update(json.dumps(facts, sort_keys=True, default=str).encode())
    return sha.hexdigest()


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder or ".")  # noqa: PTH208 - names alone
    except OSError:
        return []


class _Heard:
    """A stream that remembers what passes through it."""

    def __init__(self, stream: IO[str], name: str, heard: list[tuple[str, str]]) -> None:
        self._stream, self._name, self._heard = stream, name, heard

    def write(self, text: str) -> int:
        self._heard.append((self._name, text))
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
