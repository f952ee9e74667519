"""What a dead writer leaves is removed by the next one, and what a living one writes is not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from ctvr_bench.features.partial import partial_of


def test_only_what_a_dead_process_left_of_the_same_file_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "store[1].h5"
    mark = partial_of(path).name.removesuffix(str(os.getpid()))
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = {f"{mark}{dead.pid}", f"{mark}{os.getpid()}", f"{mark}1", f"{mark}x", f".other.partial-abcdef-{dead.pid}"}
    for name in names - {f"{mark}{dead.pid}"}:
        (tmp_path / name).touch()
    (tmp_path / f"{mark}{dead.pid}" / "folder").mkdir(parents=True)  # of what is a folder of files
    assert partial_of(path) == tmp_path / f"{mark}{os.getpid()}"
    assert {found.name for found in tmp_path.iterdir()} == names - {f"{mark}{dead.pid}"}
