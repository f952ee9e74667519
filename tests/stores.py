"""The small simulated store that tests share, that of the contract's checks; the same asked thrice; edited stores."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import h5py
import numpy as np

from ctvr_bench.bench.authoring.tryout import small_store, small_stream
from ctvr_bench.features import hdf5
from ctvr_bench.features.schema import TEST
from ctvr_bench.features.simulation.config import SyntheticConfig
from ctvr_bench.features.simulation.write import generated_structure, synthesise
from ctvr_bench.features.store import FeatureStore, open_store
from ctvr_bench.features.structure import Structure

__all__ = ["ask_thrice", "asked_thrice", "redigest", "small_store", "small_stream"]

_folder = TemporaryDirectory(prefix="ctvr-thrice-")


def ask_thrice(structure: Structure) -> Structure:
    """The structure with two more captions for every test video of its only stream, which are asked too."""
    (stream,) = structure.streams
    tested, known = np.flatnonzero(stream.role_of_video_N == TEST), len(structure.captions)
    further_NK = np.full((len(structure.video_ids), 2), -1)
    further_NK[tested] = known + np.arange(2 * len(tested)).reshape(-1, 2)
    told = [f"another word for video {video}, number {number}" for video in tested for number in (1, 2)]
    return replace(
        structure,
        captions=[*structure.captions, *told],
        caption_video_M=np.concatenate([structure.caption_video_M, np.repeat(tested, 2)]),
        streams=[replace(stream, further_queries_NK=further_NK)],
    )


@cache
def asked_thrice() -> FeatureStore:
    """Six categories in three tasks, 32-d; every test video is asked for by three captions."""
    path = Path(_folder.name) / "thrice.h5"
    structure = generated_structure(
        categories=6, tasks=3, train_per_category=4, test_per_category=3, captions_per_train_video=3, seed=4
    )
    knobs = SyntheticConfig(dim=32, frames=4, latent_dim=16, agreement=0.8, seed=5)
    synthesise(ask_thrice(structure), knobs, path, name="thrice")
    return open_store(path)


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
