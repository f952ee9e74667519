"""Finished blocks of a long job, in a folder beside its result, so that a killed job continues where it was.

A block's file name holds a digest of everything its content depends on, so that a block of another job, or of a video
that changed since, is not found. Blocks are written whole; one that cannot be read is made again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ctvr_bench.features.errors import InputError
from ctvr_bench.features.partial import partial_of
from ctvr_bench.features.schema import Array


class Blocks(Protocol):
    """Finished blocks of a job: arrays by name, known by their stage and what they were made of (plain values)."""

    def find(self, stage: str, inputs: object, *names: str) -> dict[str, Array] | None:
        """These arrays of the block made of `inputs`, or None where it is to be made (again)."""

    def load(self, stage: str, inputs: object, *names: str) -> dict[str, Array]:
        """`find`, of a block that was made; raises InputError where it was damaged since."""

    def save(self, stage: str, inputs: object, block: Mapping[str, Array]) -> None:
        """Keep a block."""

    def remove(self) -> None:
        """All blocks."""


class Held:
    """Blocks in memory: of a job whose inputs end with it, so that no later one could go on."""

    def __init__(self) -> None:
        self._blocks: dict[str, dict[str, Array]] = {}

    def find(self, stage: str, inputs: object, *names: str) -> dict[str, Array] | None:
        block = self._blocks.get(_known(stage, inputs))
        return None if block is None else {name: block[name] for name in names}

    def load(self, stage: str, inputs: object, *names: str) -> dict[str, Array]:
        block = self._blocks[_known(stage, inputs)]
        return {name: block[name] for name in names}

    def save(self, stage: str, inputs: object, block: Mapping[str, Array]) -> None:
        self._blocks[_known(stage, inputs)] = dict(block)

    def remove(self) -> None:
        self._blocks.clear()


class WorkFolder:
    """Blocks of the job whose result is `out`: files in `.NAME.work/` beside it.

    job: what all blocks depend on, as plain values (encoder, sampling, dtype, ...).
    """

    def __init__(self, out: Path, job: Mapping[str, Any]) -> None:
        self.path = out.with_name(f".{out.name}.work")
        self._job = json.dumps(dict(job), sort_keys=True)

    def find(self, stage: str, inputs: object, *names: str) -> dict[str, Array] | None:
        try:
            with self._file(stage, inputs).open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in names}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None

    def load(self, stage: str, inputs: object, *names: str) -> dict[str, Array]:
        block = self.find(stage, inputs, *names)
        if block is None:
            raise InputError(f"{self.path}: {stage} are damaged there; remove the folder and start again")
        return block

    def save(self, stage: str, inputs: object, block: Mapping[str, Array]) -> None:
        file = self._file(stage, inputs)
        partial = partial_of(file)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as stream:
                np.savez(stream, allow_pickle=False, **block)
            partial.replace(file)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written ({error.strerror or error}); make room there") from error
        finally:
            partial.unlink(missing_ok=True)

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def _file(self, stage: str, inputs: object) -> Path:
        digest = hashlib.sha256(f"{self._job}\n{json.dumps(inputs, sort_keys=True)}".encode()).hexdigest()
        return (
            self.path / f"{stage}-{digest[:2]}" / f"{digest[2:24]}.npz"
        )  # no folder grows to a hundred thousand files


def _known(stage: str, inputs: object) -> str:
    return f"{stage} {json.dumps(inputs, sort_keys=True)}"
