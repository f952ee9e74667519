"""What stands in a file's place and is none, or is far too large, is refused before it is read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ctvr_bench.features.errors import InputError
from ctvr_bench.features.pickles import read_plain_pickle
from ctvr_bench.features.tables import columns_of, read_json, read_table, read_toml
from ctvr_bench.features.whole import read_whole

READERS: dict[str, Callable[[Path], object]] = {
    "table": lambda path: list(read_table(path, "a")),
    "first line": columns_of,
    "json": read_json,
    "toml": lambda path: read_toml(path, "a suite"),
    "pickle": read_plain_pickle,
}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS.keys())
@pytest.mark.parametrize("kind", ["pipe", "device", "link to a device", "folder"])
def test_what_is_no_file_is_refused_and_not_waited_for(
    tmp_path: Path, reader: Callable[[Path], object], kind: str
) -> None:
    path = {"device": Path("/dev/zero"), "folder": tmp_path}.get(kind, tmp_path / "x")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link to a device":
        path.symlink_to("/dev/zero")
    with pytest.raises(InputError, match=r"no ordinary file|Is a directory"):
        reader(path)


def test_a_file_past_its_bound_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"12345")
    assert read_whole(tmp_path / "x", 5) == b"12345"
    with pytest.raises(OSError, match="over 4 bytes"):
        read_whole(tmp_path / "x", 4)
    with (tmp_path / "sparse.json").open("wb") as file:
        file.truncate(1 << 40)
    for reader in (read_json, lambda path: read_toml(path, "a suite"), read_plain_pickle):
        with pytest.raises(InputError, match="over"):
            reader(tmp_path / "sparse.json")
