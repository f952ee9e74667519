"""An item without direction scores 0, as `verify` says, and the run goes on."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from ctvr_bench.bench.geometry import stage_measures
from ctvr_bench.bench.records.record import RankTable
from ctvr_bench.bench.suite.config import make_suite
from ctvr_bench.bench.suite.suite import run_suite
from ctvr_bench.features.store import create_store
from ctvr_bench.features.verification import verify_store
from tests.stores import small_store, small_stream


def with_zeros(path: Path) -> tuple[Path, int]:
    """The small store with some captions, videos, words and frames all zero, and the row of the zero query."""
    old, task = small_store(), small_stream().tasks[0]
    datasets: dict[str, np.ndarray] = {}
    with h5py.File(old.path) as file:
        file.visititems(
            lambda name, item: datasets.update({name: item[...]}) if isinstance(item, h5py.Dataset) else None
        )
    (learned, shown, worded), (query, gallery) = task.train[:3], task.test[:2]
    datasets["captions/pooled"][[learned, query]] = 0
    datasets["videos/frames"][old.caption_video_M[gallery]] = 0
    datasets["videos/frames"][old.caption_video_M[shown], 0] = 0
    datasets["captions/words"][datasets["captions/word_offsets"][worded]] = 0
    with create_store(path, name="zeros") as writer:
        for name, values in datasets.items():
            writer[name] = [text.decode() for text in values] if values.dtype.hasobject else values
    return path, int(query)


def test_a_store_with_zero_vectors_passes_verify_and_runs(tmp_path: Path) -> None:
    path, query = with_zeros(tmp_path / "zeros.h5")
    findings = verify_store(path)
    assert {finding.severity for finding in findings} == {"warning"}
    assert any("captions/pooled: 2 rows are all zero; such an item scores 0" in finding.message for finding in findings)
    methods = [{"name": "zero_shot"}, *({"name": name, "set": {"epochs": 1}} for name in ("finetune", "structalign"))]
    suite = make_suite({"store": path, "methods": methods, "seeds": 1, "out": tmp_path, "jobs": 1}, "test")
    records = run_suite(suite)
    assert [(record.status, record.reason) for record in records] == [("done", "")] * 3
    assert all(stage["modality_gap"] is not None for record in records for stage in record.geometry)
    table, tests = (
        RankTable.load(suite.directory / records[0].run_id / "ranks.h5"),
        small_stream().tasks[0].test.tolist(),
    )
    own = table.ranks["stored/own/t2v"][-1, table.task_N == 0]
    assert own[tests.index(query)] == len(tests)  # it scores 0 everywhere, and ties count against the query


def test_pairs_without_direction_are_left_out_of_the_geometry() -> None:
    rng = np.random.default_rng(0)
    text, video, before_text, before_video = rng.standard_normal((4, 9, 5))
    category, old = np.arange(9) % 3, np.arange(9) < 6
    expected = stage_measures(text[2:], video[2:], before_text[2:], before_video[2:], category[2:], old[2:])
    text[0], before_video[1] = 0, 0
    assert stage_measures(text, video, before_text, before_video, category, old) == expected
    assert len(expected) == 10
    nothing = stage_measures(text, 0 * video, before_text, before_video, category, old)
    assert nothing == {"modality_gap": None, "spread_text": None, "spread_video": None}
