"""What a folder holds, without what differs from one making to the next: times, memory, command lines."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ctvr_bench.features import hdf5

_PASSING = {
    "load_s",
    "train_s",
    "evaluate_s",
    "write_s",
    "encode_s",
    "peak_memory_bytes",
    "seconds",
    "host",
    "ranks.h5",
}
_PASSING |= {"begun", "report", "ended", "submitted", "elapsed_s", "command_line", "started", "finished", "time"}
_WORDS = {".md", ".csv", ".tex", ".html", ".txt", ".png", ".svg"}


def facts_of(folder: Path) -> dict[str, str]:
    """A digest for each file by its path; of files for readers and of what was said only that they are there."""
    return {str(path.relative_to(folder)): _fact(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def _fact(path: Path) -> str:
    if path.suffix in _WORDS or path.name == "said.json":  # which names the folder
        return "there"
    if path.suffix == ".h5":
        file = hdf5.map_file(path)
        content: Any = {name: hdf5.digest_of(values) for name, values in file.arrays.items()}
        content |= {name: hdf5.digest_of(file.text(name)) for name in file.text_lengths}
    elif path.suffix == ".json":
        content = _lasting(json.loads(path.read_text(encoding="utf-8")))
        if isinstance(content, dict):
            content.pop("digest", None)  # of its own values, those that pass among them
    else:
        content = path.read_bytes().hex()
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _lasting(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lasting(item) for key, item in value.items() if not _passes(key, item)}
    return [_lasting(item) for item in value] if isinstance(value, list) else value


def _passes(key: str, value: Any) -> bool:
    """Whether it may differ from one making to the next; no time is less than none."""
    return key.removeprefix("cost/") in _PASSING and not (isinstance(value, int | float) and value < 0)
