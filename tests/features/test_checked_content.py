"""What a run uses of a store is what its digests say: no edited store keeps its identity."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from ctvr_bench.bench.suite.suite import run_suite
from ctvr_bench.features import hdf5, verification
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.merge import merge
from ctvr_bench.features.store import open_store
from ctvr_bench.features.verification import check_content, verify_store
from tests.bench.run.test_runner import suite
from tests.stores import redigest, small_store


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CTVR_CACHE", str(tmp_path / "cache"))
    return Path(shutil.copy(small_store().path, tmp_path / "store.h5"))


def test_a_flipped_bit_anywhere_in_the_features_is_refused_by_run_as_by_verify(copy: Path) -> None:
    whole, draw, found = copy.read_bytes(), random.Random(0), 0
    frames = np.ascontiguousarray(open_store(copy).feature("videos/frames")).tobytes()
    pooled = np.ascontiguousarray(open_store(copy).feature("captions/pooled")).tobytes()
    for content in (frames, pooled):
        first = whole.index(content)
        for _ in range(5):
            at = first + draw.randrange(len(content))
            copy.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << draw.randrange(8)]) + whole[at + 1 :])
            assert [finding.severity for finding in verify_store(copy)].count("error") >= 1
            with pytest.raises(InputError, match=r"content does not match its digest|NaN or infinity"):
                check_content(open_store(copy))
            found += 1
    assert found == 10


def test_a_store_that_is_edited_in_place_is_not_answered_with_old_results(tmp_path: Path, copy: Path) -> None:
    (before,) = run_suite(suite(tmp_path / "o", "zero_shot", store=copy))
    with h5py.File(copy, "r+") as file:
        file["videos/frames"][:] = file["videos/frames"][:][::-1]
    with pytest.raises(InputError, match="videos/frames: content does not match its digest"):
        run_suite(suite(tmp_path / "o", "zero_shot", store=copy))
    redigest(copy)
    (after,) = run_suite(suite(tmp_path / "o", "zero_shot", store=copy))
    assert after.run_id != before.run_id


@pytest.mark.parametrize(("name", "value"), [("simulated", 0), ("name", b"another"), ("encoder", b'{"family": "x"}')])
def test_what_attributes_say_belongs_to_what_is_digested(copy: Path, name: str, value: object) -> None:
    before = open_store(copy).digest
    with h5py.File(copy, "r+") as file:
        file.attrs[name] = value
    assert open_store(copy).digest != before
    assert any("attributes" in finding.message for finding in verify_store(copy))
    with pytest.raises(InputError, match="do not match their digest"):
        check_content(open_store(copy))


def test_a_dataset_without_a_digest_is_refused(tmp_path: Path, copy: Path) -> None:
    with h5py.File(copy, "r+") as file:
        del file["captions/pooled"].attrs["digest"]
    with pytest.raises(InputError, match="captions/pooled has no digest"):
        run_suite(suite(tmp_path / "o", "zero_shot", store=copy))
    assert not (tmp_path / "o").exists()


def test_damaged_features_are_not_merged_under_a_new_digest(tmp_path: Path, copy: Path) -> None:
    with h5py.File(copy, "r+") as file:
        file["captions/pooled"][0, 0] += 1
    with pytest.raises(InputError, match="captions/pooled: content does not match its digest"):
        merge(copy, copy, tmp_path / "merged.h5")
    assert not (tmp_path / "merged.h5").exists()


def test_a_large_store_is_read_once_a_day_and_after_every_change(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "_LARGE", 1)
    reads: list[str] = []
    digest_of = hdf5.digest_of
    monkeypatch.setattr(hdf5, "digest_of", lambda values: reads.append("") or digest_of(values))

    def reading() -> bool:
        reads.clear()
        check_content(open_store(copy))
        return bool(reads)

    assert [reading() for _ in range(3)] == [True, False, False]
    old = copy.stat()
    copy.write_bytes(copy.read_bytes())
    os.utime(copy, ns=(old.st_atime_ns, old.st_mtime_ns))  # whoever sets the times back changes another one
    assert [reading(), reading()] == [True, False]
    (remembered,) = (copy.parent / "cache/checked").iterdir()
    known = json.loads(remembered.read_text())
    remembered.write_text(json.dumps({**known, "at": time.time() - 100_000}))
    assert [reading(), reading()] == [True, False]
    remembered.write_text("{")
    assert reading()
