"""What a finished run left, read with its digests checked: metrics, ranks, training log.

Metrics that other code derived than that of today are derived again from the ranks, so that no table mixes definitions.
"""

from __future__ import annotations

import json
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import pydantic
from typing_extensions import TypedDict

from ctvr_bench.bench.records.code import metrics_code
from ctvr_bench.bench.records.files import check_below
from ctvr_bench.bench.records.record import RankTable, RunRecord, read_record, save_record, write_json
from ctvr_bench.bench.records.summary import BWF, HEADLINE, metrics_of
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.whole import digest_of_file, read_whole


class _Metrics(TypedDict):
    final: dict[str, pydantic.FiniteFloat]
    stages: list[dict[str, pydantic.FiniteFloat]]
    matrices: dict[str, list[list[pydantic.FiniteFloat | None]]]
    before: list[pydantic.FiniteFloat]
    ahead: list[pydantic.FiniteFloat]


_METRICS = pydantic.TypeAdapter(_Metrics)
_TABLES = 256  # tables kept; each holds a file open
_AGAIN = "remove the folder, and the same 'run' makes it again"


def read_metrics(directory: Path) -> dict[str, Any]:
    """The metrics of a finished run. Raises InputError where metrics.json is not what was written."""
    record = read_record(directory)
    if record.derived_by and record.derived_by != metrics_code():
        return metrics_of(read_ranks(directory))
    path = directory / "metrics.json"
    _check(record, path, "derive it again with 'report --recompute'")
    try:
        metrics: dict[str, Any] = json.loads(read_whole(path).decode())
        _check_metrics(metrics)
    except (OSError, ValueError, RecursionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: cannot be read ({reason}); derive it again with 'report --recompute'") from error
    return metrics


def _check_metrics(metrics: Any) -> None:
    """Raise ValueError unless these are metrics as `metrics_of` makes them: finite numbers, square matrices."""
    try:
        _METRICS.validate_python(metrics, strict=True)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc'])) or 'it'}: {first['msg'].lower()}") from error
    tasks, needed = len(metrics["stages"]), (HEADLINE, BWF, "t2v/stored/own/R@1")
    if missing := [key for key in needed if key not in metrics["final"] and key not in metrics["matrices"]]:
        raise ValueError(f"{missing[0]} is missing")
    if not tasks or any(len(rows) != tasks or {*map(len, rows)} != {tasks} for rows in metrics["matrices"].values()):
        raise ValueError(f"its matrices are not of its {tasks} tasks")


def read_ranks(directory: Path) -> RankTable:
    """The ranks of a finished run. Raises InputError where ranks.h5 is not what was written.

    Not to be written to: as long as the files stay what they are, whoever asks next is given the same table.
    """
    return _ranks_of(directory, *(_stamp(directory / name) for name in ("run.json", "ranks.h5")))


@lru_cache(maxsize=_TABLES)
def _ranks_of(directory: Path, *_stamps: tuple[int, ...]) -> RankTable:
    path = directory / "ranks.h5"
    _check(read_record(directory), path, _AGAIN)
    return RankTable.load(path)


def _stamp(path: Path) -> tuple[int, ...]:
    """What changes with a file's content; none of one that is not there, which its reader says."""
    with suppress(OSError):
        found = path.stat()
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
    return ()


def read_log(directory: Path) -> list[dict[str, Any]]:
    """A line for each epoch of a run; none of one that was not trained. Raises InputError as above."""
    path = directory / "training.jsonl"
    _check(read_record(directory), path, _AGAIN)
    try:
        return [json.loads(line) for line in read_whole(path).decode().splitlines()] if path.exists() else []
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({error}); {_AGAIN}") from error


def derive_again(directory: Path) -> None:
    """Write the metrics.json of a finished run anew from its ranks.h5."""
    check_below(directory.parent, directory)
    write_json(directory / "metrics.json", metrics_of(read_ranks(directory)))
    save_record(directory, read_record(directory).model_copy(update={"derived_by": metrics_code()}))


def _check(record: RunRecord, path: Path, next_step: str) -> None:
    if path.name not in record.files:
        return
    try:
        same = digest_of_file(path) == record.files[path.name]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); {next_step}") from error
    if not same:
        raise InputError(f"{path}: is not what its run wrote (run.json has another digest); {next_step}")
