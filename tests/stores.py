"""Small simulated stores that tests share."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from features.store import FeatureStore, open_store
from features.streams import Stream, make_stream
from features.synthetic import SyntheticConfig, generated_structure, synthesise


@cache
def small_store() -> FeatureStore:
    """Six categories in three tasks, 32-d, five frames, six training videos a category with four captions each."""
    path = Path(mkdtemp(prefix="ctvr-tests-")) / "small.h5"
    structure = generated_structure(
        categories=6,
        tasks=3,
        train_per_category=6,
        test_per_category=5,
        validation_per_category=2,
        captions_per_train_video=4,
        seed=3,
    )
    synthesise(structure, SyntheticConfig(dim=32, frames=5, latent_dim=16, seed=5), path, name="small", reference=24)
    return open_store(path)


def small_stream() -> Stream:
    """The published order of the small store."""
    return make_stream(small_store())
