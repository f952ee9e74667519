"""What a run lays into files so that memory need not hold it."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
import torch

from ctvr_bench.bench.records.record import RankTable
from ctvr_bench.bench.records.state import StateFolder, lay_aside
from ctvr_bench.features.errors import InputError

TENSORS = {"frames_MFD": torch.arange(24.0).reshape(2, 3, 4), "frame_mask_MF": torch.tensor([[True, False, True]])}


def test_tensors_laid_aside_keep_their_values_and_leave_no_file(tmp_path: Path) -> None:
    laid = lay_aside(tmp_path, TENSORS)
    assert list(tmp_path.iterdir()) == []
    again = lay_aside(tmp_path, {name: -x.float() for name, x in TENSORS.items()})  # which reaches for the same name
    for name, x in TENSORS.items():
        assert torch.equal(laid[name], x)
        assert torch.equal(again[name], -x.float())
    assert is_mapped("aside.safetensors")


@pytest.mark.parametrize("written", [0, 8])
def test_a_full_disk_is_an_error_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    def full(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[:written])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match="No space left on device"):
        lay_aside(tmp_path, TENSORS)
    assert list(tmp_path.iterdir()) == []


def test_a_gallery_of_the_state_is_a_map_of_its_file(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path, print)
    table = RankTable({}, {}, *(np.arange(2, dtype=np.int32) for _ in range(7)))
    folder.save(0, {}, [], table, {}, TENSORS, None)
    kept = folder.gallery(0)
    assert all(torch.equal(kept[name], x) for name, x in TENSORS.items())
    assert is_mapped(str(tmp_path / "state/gallery-0.safetensors"))


def is_mapped(name: str) -> bool:
    """Whether a file of this name, there or removed, is part of this process's memory; Linux tells."""
    maps = Path("/proc/self/maps")
    return not maps.exists() or name in maps.read_text(encoding="utf-8")
