"""A committed reference for the gate: what was run, on which features, every metric, and how far each may move."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import pydantic

from ctvr_bench.bench.records.record import digest_of_values, read_checked, write_text
from ctvr_bench.features.errors import InputError

_WIDTH = 118


class _Part(pydantic.BaseModel):
    """A part of the file; a field that is not known is refused."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class BaselineStore(_Part):
    """source: 'world' for one of the embedded benchmark, or 'file'.

    path: name of the world, or where the file lies, from the baseline's folder. recipe: of a world, which may be built
    with other last bits on another machine.
    """

    source: Literal["world", "file"]
    name: str
    digest: str
    path: str
    recipe: str = ""


class Metric(_Part):
    """mean and std (between seeds, within orders) of the noise runs; tolerance: for the mean of the runs of a check."""

    mean: float
    std: float
    tolerance: float

    @property
    def range(self) -> tuple[float, float]:
        """Where the mean of the runs of a check may lie."""
        return self.mean - self.tolerance, self.mean + self.tolerance


class BaselineRun(_Part):
    """A run that a check repeats.

    ranks: digest of every rank. trained_on: pairs and digest of the videos of each training. counts: trainable
    parameters, stored bytes, training steps.
    """

    order: int
    seed: int
    ranks: str
    trained_on: tuple[str, ...]
    counts: dict[Literal["trainable", "stored_bytes", "steps"], int]
    metrics: dict[str, float]

    @property
    def key(self) -> tuple[int, int]:
        return self.order, self.seed

    @property
    def name(self) -> str:
        return f"order {self.order}, seed {self.seed}"


class BaselineRow(_Part):
    """A method as configured, all values of its Config."""

    label: str
    config: dict[str, Any]
    metrics: dict[str, Metric]
    runs: tuple[BaselineRun, ...]

    @pydantic.model_validator(mode="after")
    def _runs_have_its_metrics(self) -> Self:
        for run in self.runs:
            if lacking := sorted(self.metrics.keys() - run.metrics.keys()):
                raise ValueError(f"{run.name} of {self.label} lacks {lacking[0]}")
        return self


class Baseline(_Part):
    """The whole file.

    suite: fields of SuiteConfig without folders; its seeds are repeated by a check. noise_seeds: seeds
    behind the tolerances. level: false alarms of a whole check, at most. environment: what the last bits depend on.
    """

    schema_: Literal["ctvr-baseline"] = pydantic.Field(default="ctvr-baseline", alias="schema")
    version: Literal[1] = 1
    commit: str
    protocol: int
    level: float
    noise_seeds: int
    suite: dict[str, Any]
    store: BaselineStore
    environment: dict[str, str]
    rows: tuple[BaselineRow, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(row.label for row in self.rows)


def read_baseline(path: Path) -> Baseline:
    """Raises InputError where the file is missing, is no baseline, or is not what was written."""
    try:
        return Baseline.model_validate(read_checked(path))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); 'check {path} --accept' makes a first baseline") from error
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if isinstance(error, pydantic.ValidationError):
            first = error.errors()[0]
            where, what = ".".join(map(str, first["loc"])) or "file", first["msg"]
            reason = f"{where}: {what[:1].lower() + what[1:]}"
        raise InputError(f"{path}: is no baseline ({reason}); name a file that 'check --accept' wrote") from error


def write_baseline(path: Path, baseline: Baseline) -> None:
    """Write the file whole or not at all, a metric to a line, so that a change of it can be reviewed."""
    values = baseline.model_dump(mode="json", by_alias=True)
    write_text(path, _lines({**values, "digest": digest_of_values(values)}) + "\n")


def _lines(value: Any, indent: int = 0) -> str:
    """JSON on one line where it fits, else an item to a line."""
    flat = json.dumps(value, allow_nan=False)
    if not isinstance(value, (list, Mapping)) or len(flat) + indent <= _WIDTH:
        return flat
    pad = " " * (indent + 1)
    if isinstance(value, Mapping):
        items = [f"{pad}{json.dumps(key)}: {_lines(item, indent + 1)}" for key, item in value.items()]
        return "{\n" + ",\n".join(items) + "\n" + " " * indent + "}"
    return "[\n" + ",\n".join(pad + _lines(item, indent + 1) for item in value) + "\n" + " " * indent + "]"
