"""The runs behind a baseline, made anew in a folder of their own, and what of each the gate looks at."""

from __future__ import annotations

import hashlib
import os
import platform
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ctvr_bench.bench.gate.baseline import Baseline, BaselineRow, BaselineRun, BaselineStore
from ctvr_bench.bench.gate.tolerance import LEVEL, metric_tolerances
from ctvr_bench.bench.records.finished import read_log, read_metrics, read_ranks
from ctvr_bench.bench.records.record import PROTOCOL, RankTable, RunRecord
from ctvr_bench.bench.run.jobs import ignore
from ctvr_bench.bench.suite.config import SuiteConfig, make_suite, read_suites
from ctvr_bench.bench.suite.stores import store_path
from ctvr_bench.bench.suite.suite import OnRun, plan, run_suite
from ctvr_bench.features.cache import world_of
from ctvr_bench.features.default_store import default_store
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.stages import OnStage
from ctvr_bench.features.store import open_store
from ctvr_bench.features.tables import read_toml

_FOLDERS = {"store", "out", "jobs", "against", "ensemble", "executor", "scheduler", "stage", "keep"}
_FACTS = ("torch", "numpy", "faiss-cpu", "device", "threads")


@dataclass(frozen=True)
class Measured:
    """The finished runs of one label. unfinished: what did not end well, in words. seconds: that all of them took."""

    label: str
    config: dict[str, Any]
    runs: tuple[BaselineRun, ...]
    unfinished: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class Measurement:
    """A suite measured: rows by label, what the last bits depend on, commit, and test queries of the stream.

    repeatable: the same seed gives the same bits, as it does on a CPU; on a GPU sums have no fixed order.
    """

    rows: dict[str, Measured]
    environment: dict[str, str]
    commit: str
    queries: int
    repeatable: bool


def measure(config: SuiteConfig, labels: Collection[str] = (), on_run: OnRun = ignore) -> Measurement:
    """Make every run of a suite (or only those of some labels) from nothing, and take down what the gate looks at.

    Each run alone: the last bits of one in an ensemble depend on how many seeds were with it.
    """
    shared = Path.cwd() if config.scheduler else None  # a cluster's nodes do not see this machine's own folder
    with tempfile.TemporaryDirectory(prefix="ctvr-check-", dir=shared) as folder:
        config = _only(config.model_copy(update={"out": Path(folder), "ensemble": "off", "keep": ()}), labels)
        records = run_suite(config, on_run=on_run)
        rows: dict[str, list[RunRecord]] = {}
        for record in records:
            rows.setdefault(record.label, []).append(record)
        done = [record for record in records if record.status == "done"]
        return Measurement(
            {label: _measured(label, members, config.directory) for label, members in rows.items()},
            environment_facts(records[0]),
            str(records[0].environment["commit"]),
            len(read_ranks(config.directory / done[0].run_id).task_N) if done else 0,
            records[0].environment["device"] == platform.machine(),
        )


def environment_facts(record: RunRecord) -> dict[str, str]:
    """What the last bits of a run depend on: libraries, device, threads, features, processor, system."""
    facts = {key: str(record.environment[key]) for key in _FACTS} | {"store": record.config.store.digest[:12]}
    return facts | {"processor": _processor(), "system": f"{platform.system()} {'-'.join(platform.libc_ver())}"}


def make_baseline(
    config: SuiteConfig, store: BaselineStore, noise_seeds: int, found: Measurement, level: float = LEVEL
) -> Baseline:
    """A baseline whose first `config.seeds` seeds a check repeats; `found` has the runs of all noise seeds.

    Raises InputError where a run did not finish: nothing could be compared with it.
    """
    for row in found.rows.values():
        if row.unfinished:
            raise InputError(f"a baseline needs finished runs; {row.label}: {row.unfinished[0]}")
    noise = {label: {run.key: run.metrics for run in row.runs} for label, row in found.rows.items()}
    kept = {label: tuple(r for r in row.runs if r.seed < config.seeds) for label, row in found.rows.items()}
    metrics = metric_tolerances(noise, {label: len(runs) for label, runs in kept.items()}, found.queries, level)
    return Baseline(
        commit=found.commit,
        protocol=PROTOCOL,
        level=level,
        noise_seeds=noise_seeds,
        suite=config.model_dump(mode="json", exclude=_FOLDERS),
        store=store,
        environment=found.environment,
        rows=tuple(
            BaselineRow(label=label, config=row.config, metrics=metrics[label], runs=kept[label])
            for label, row in found.rows.items()
        ),
    )


def suite_of(
    path: Path,
    baseline: Baseline,
    store: Path | None = None,
    jobs: int = 0,
    *,
    anew: bool = False,
    on_stage: OnStage = ignore,
) -> SuiteConfig:
    """The suite that a baseline records, ready to run. store: where its features lie here, if elsewhere.

    on_stage: of a world that must be built first. Raises InputError where the store or the protocol is another than
    the baseline's, unless it is made anew.
    """
    recorded = baseline.store
    if store is None:
        store = Path(recorded.path) if recorded.source == "world" else path.parent / recorded.path
    store = store_path(store, on_stage)
    found = open_store(store)
    same = found.digest == recorded.digest or (recorded.recipe and _recipe(store) == recorded.recipe)
    if not same and not anew:
        raise InputError(
            f"{path}: was made on store {recorded.name} ({recorded.digest[:12]}), but {store} is {found.name} "
            f"({found.digest[:12]}); name the first with --store, or make the baseline anew with --accept"
        )
    if baseline.protocol != PROTOCOL and not anew:
        raise InputError(
            f"{path}: was measured with protocol {baseline.protocol}, this is protocol {PROTOCOL}; "
            "make the baseline anew with --accept"
        )
    return make_suite({**baseline.suite, "store": store, "jobs": jobs}, str(path))


def suite_from(path: Path | None, store: Path | None, jobs: int = 0, on_stage: OnStage = ignore) -> SuiteConfig:
    """The suite of a first baseline: a TOML file, or the default one; on the default store unless another is named."""
    given: dict[str, Any] = {"jobs": jobs}
    if store is not None:
        given["store"] = store_path(store, on_stage)
    elif path is None or not _names_store(path):
        given["store"] = default_store(on_stage)
    if path is None:
        return make_suite(given, "the default suite")
    suites = read_suites(path, given, on_stage)
    if len(suites) > 1:
        raise InputError(f"{path}: names several stores, and a baseline is of one; give it with --store")
    return suites[0]


def store_of(config: SuiteConfig, baseline: Path) -> BaselineStore:
    """How a baseline in that file names the suite's store."""
    store, recipe = open_store(config.store), _recipe(config.store)
    if recipe:
        where = f"moving-shapes:{world_of(config.store)}"
        return BaselineStore(source="world", name=store.name, digest=store.digest, path=where, recipe=recipe)
    where = Path(os.path.relpath(config.store.resolve(), baseline.resolve().parent)).as_posix()
    return BaselineStore(source="file", name=store.name, digest=store.digest, path=where)


def _recipe(store: Path) -> str:
    """The name under which the cache keeps a world: its seed and a digest of all that it is made from; or nothing."""
    return "" if world_of(store) is None else store.stem


def _measured(label: str, records: Sequence[RunRecord], directory: Path) -> Measured:
    return Measured(
        label,
        records[0].config.config,
        tuple(_run(record, directory / record.run_id) for record in records if record.status == "done"),
        tuple(
            f"order {record.config.options['order']}, seed {record.config.seed}: {record.status} ({record.reason})"
            for record in records
            if record.status != "done"
        ),
        sum(record.cost.seconds for record in records if record.cost is not None),
    )


def _run(record: RunRecord, directory: Path) -> BaselineRun:
    assert record.cost is not None
    cost, final = record.cost, read_metrics(directory)["final"]
    last = {f"geometry/{key}": value for key, value in record.geometry[-1].items() if value is not None}
    return BaselineRun(
        order=record.config.options["order"],
        seed=record.config.seed,
        ranks=_ranks_digest(read_ranks(directory)),
        trained_on=tuple(record.trained_on),
        counts={"trainable": cost.trainable, "stored_bytes": cost.stored_bytes, "steps": cost.steps},
        metrics={**final, **_loss_terms(read_log(directory)), **last},
    )


def _loss_terms(log: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Every loss term in the last epoch of each task, averaged over the tasks that have it."""
    last = {line["task"]: line["terms"] for line in log}
    terms: dict[str, list[float]] = {}
    for found in last.values():
        for name, value in found.items():
            terms.setdefault(name, []).append(value)
    return {f"training/{name}": float(np.mean(values)) for name, values in terms.items()}


def _ranks_digest(table: RankTable) -> str:
    digest = hashlib.sha256()
    for name in sorted(table.ranks):
        digest.update(name.encode() + np.ascontiguousarray(table.ranks[name]).tobytes())
        digest.update(np.ascontiguousarray(table.best[name]).tobytes())
    digest.update(np.ascontiguousarray(table.ahead_N).tobytes() + np.ascontiguousarray(table.before_N).tobytes())
    return digest.hexdigest()


def _only(config: SuiteConfig, labels: Collection[str]) -> SuiteConfig:
    """The suite cut down to the methods that give these labels; all where none is named."""
    if not labels:
        return config
    wanted = {job.position for job in plan(config, open_store(config.store)) if job.label in labels}
    methods = tuple(choice for position, choice in enumerate(config.methods) if position in wanted)
    names = {choice.name for choice in methods}
    settings = {name: values for name, values in config.set.items() if name in names}
    return config.model_copy(update={"methods": methods, "set": settings})


def _names_store(path: Path) -> bool:
    """Whether a suite file says which store; what is wrong with the file is for `read_suites` to say."""
    try:
        return not {"store", "stores"}.isdisjoint(read_toml(path, "a suite"))
    except InputError:
        return True


def _processor() -> str:
    """Maker, family and model of the processor, which choose the arithmetic of a library."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    pairs = (line.partition(":") for line in lines)
    facts = {key.strip(): value.strip() for key, _, value in pairs}
    return " ".join(facts[key] for key in ("vendor_id", "cpu family", "model") if key in facts) or platform.machine()
