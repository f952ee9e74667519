"""Readers of a stranger's files under atheris, which looks for bytes that reach new code (pip install atheris).

python -m tests.soak.coverage_guided READER [FOLDER] [SECONDS]    READER: pickle, npy, csv, json, toml, captions

What breaks a reader is kept in FOLDER (build/fuzz) as crash-*; it becomes an example in tests/features/test_fuzzed.py.
"""

from __future__ import annotations

import inspect
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from ctvr_bench.features import array_files, arrays, ctvr, pickles, tables
from ctvr_bench.features.array_files import ArrayTable
from ctvr_bench.features.ctvr import read_captions, read_split
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.tables import read_json, read_table, read_toml


def _npy(path: Path) -> None:
    (path.parent / "list.csv").write_text(f"what,file\nframes,{path.name}\n")
    ArrayTable(path.parent / "list.csv").all("frames")


READERS: dict[str, tuple[str, Callable[[Path], object], bytes]] = {
    "pickle": ("x.pkl", read_split, b"\x80\x04}\x8c\x05train}K\x01}\x8c\x01x]\x8c\x01aass."),
    "npy": ("x.npy", _npy, b"\x93NUMPY\x01\x00\x16\x00{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }\n"),
    "csv": ("x.csv", lambda path: list(read_table(path, "video", "caption")), b'video,caption\na,"one, two"\n'),
    "json": ("x.json", read_json, b'{"a": ["b", 1.5, null]}'),
    "toml": ("x.toml", lambda path: read_toml(path, "a suite"), b'seeds = 1\nmethods = [{name = "a"}]\n'),
    "captions": ("x.csv", read_captions, b"video_id,sentence\na,one\n"),
}
"""Name that a file has, what reads it, and a sound one to begin with."""


def read(reader: str, content: bytes, folder: Path) -> None:
    """Read such a file: it may give something or be refused in one line. Anything else is raised."""
    name, reads, _ = READERS[reader]
    (folder / name).write_bytes(content)
    try:
        reads(folder / name)
    except InputError as error:
        if len(str(error).splitlines()) != 1:
            raise AssertionError(f"not one line: {error}") from error


def main() -> None:
    """Try bytes until one breaks the reader, or the time is over."""
    import atheris

    reader, *rest = sys.argv[1:]
    corpus = Path(rest[0] if rest else "build/fuzz") / reader
    corpus.mkdir(parents=True, exist_ok=True)
    (corpus / "sound").write_bytes(READERS[reader][2])
    for module in (array_files, arrays, ctvr, pickles, tables):
        for function in vars(module).values():
            if inspect.isfunction(function) and function.__module__ == module.__name__:
                atheris.instrument_func(function)
    with tempfile.TemporaryDirectory() as folder:
        line = [sys.argv[0], str(corpus), f"-max_total_time={rest[1] if len(rest) > 1 else 600}"]
        line += [f"-artifact_prefix={corpus}/", "-rss_limit_mb=3000", "-timeout=10", "-max_len=4096"]
        atheris.Setup(line, lambda content: read(reader, content, Path(folder)))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
