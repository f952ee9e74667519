"""The small simulated store that tests share: that of the contract's checks; and stores edited by hand."""

from __future__ import annotations

from pathlib import Path

import h5py

from ctvr_bench.bench.authoring.tryout import small_store, small_stream
from ctvr_bench.features import hdf5

__all__ = ["redigest", "small_store", "small_stream"]


def redigest(path: Path) -> Path:
    """Make digests of what an edited store holds now, as if it had been written so."""
    file = hdf5.map_file(path)
    found = {name: hdf5.digest_of(values) for name, values in file.arrays.items()}
    found |= {name: hdf5.digest_of(file.text(name)) for name in file.text_lengths}
    del file
    with h5py.File(path, "r+") as opened:
        for name, digest in found.items():
            opened[name].attrs["digest"] = digest.encode()
    return path
