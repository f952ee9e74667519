"""A baseline written anew: the first one, or one that replaces what a file holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ctvr_bench.bench.gate.baseline import Baseline, read_baseline, write_baseline
from ctvr_bench.bench.gate.gate import Outcome, check
from ctvr_bench.bench.gate.measure import make_baseline, measure, store_of, suite_from, suite_of
from ctvr_bench.bench.gate.tolerance import LEVEL, NOISE_SEEDS
from ctvr_bench.bench.records.record import PROTOCOL
from ctvr_bench.bench.run.jobs import ignore
from ctvr_bench.bench.suite.config import MOST, SuiteConfig
from ctvr_bench.bench.suite.suite import OnRun
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.partial import ensure_writable
from ctvr_bench.features.stages import OnStage

_FEWEST = 5


@dataclass(frozen=True)
class Prepared:
    """What is about to be measured: the baseline that the file holds (None: a first one) and the suite to run."""

    path: Path
    old: Baseline | None
    config: SuiteConfig


@dataclass(frozen=True)
class Accepted:
    """The baseline that the file held, the new one, and what moved between them.

    moved: None where the two cannot be compared: a first baseline, another store, another protocol.
    """

    old: Baseline | None
    new: Baseline
    moved: Outcome | None


def prepare(
    path: Path, suite: Path | None = None, store: Path | None = None, jobs: int = 0, on_stage: OnStage = ignore
) -> Prepared:
    """Read what there is. suite: default the one that the baseline records, else the default suite.

    on_stage: of a world that must be built first.
    """
    old = read_baseline(path) if path.is_file() else None
    if old is not None and suite is None:
        return Prepared(path, old, suite_of(path, old, store, jobs, anew=True, on_stage=on_stage))
    return Prepared(path, old, suite_from(suite, store, jobs, on_stage))


def accept(
    prepared: Prepared, noise_seeds: int | None = None, level: float = LEVEL, on_run: OnRun = ignore
) -> Accepted:
    """Run the suite with every noise seed and write the baseline. noise_seeds: default as before, else NOISE_SEEDS.

    Raises InputError where seed noise could not be measured or a run did not finish.
    """
    old, config = prepared.old, prepared.config
    if config.limit:
        raise InputError(
            f"{prepared.path}: a baseline asks the whole stream; this suite is a smoke test, leave limit out"
        )
    noise = noise_seeds or (old.noise_seeds if old else max(NOISE_SEEDS, config.seeds))
    check_noise_seeds(noise, config.seeds)
    ensure_writable(prepared.path)
    found = measure(config.model_copy(update={"seeds": noise}), on_run=on_run)
    new = make_baseline(config, store_of(config, prepared.path), noise, found, level)
    comparable = old is not None and _same_store(old, new) and old.protocol == PROTOCOL
    moved = check(old, found) if old is not None and comparable else None
    write_baseline(prepared.path, new)
    return Accepted(old, new, moved)


def check_noise_seeds(noise: int, seeds: int = 0) -> None:
    """That tolerances can be measured from so many; seeds: of the suite, where they are known. Raises InputError."""
    if not (least := max(_FEWEST, seeds)) <= noise <= MOST:
        own = " (the suite's own seeds)" if seeds > _FEWEST else ""
        raise InputError(f"--noise-seeds must be at least {least}{own} and at most {MOST}; got {noise}")


def _same_store(old: Baseline, new: Baseline) -> bool:
    return old.store.digest == new.store.digest or (new.store.recipe != "" and old.store.recipe == new.store.recipe)
