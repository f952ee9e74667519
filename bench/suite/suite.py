"""Many runs: every method with every seed and order over one stream, each in a directory of its own, only once."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from ctvr_bench.bench.executors.claims import sweep
from ctvr_bench.bench.executors.cluster import opened
from ctvr_bench.bench.executors.planning import in_stacks, units
from ctvr_bench.bench.executors.workers import Workshop, run_jobs
from ctvr_bench.bench.records.code import digest_of_code
from ctvr_bench.bench.records.files import check_below
from ctvr_bench.bench.records.record import RunConfig, RunRecord, finished_record
from ctvr_bench.bench.records.versions import is_earlier
from ctvr_bench.bench.run.jobs import Job, Watch, feature_spec, ignore, make_method, store_id
from ctvr_bench.bench.run.runner import run_together
from ctvr_bench.bench.suite.choices import labels_of
from ctvr_bench.bench.suite.code import SCORES_A_TRIAL, code_of, earlier_runs, why_again
from ctvr_bench.bench.suite.config import SuiteConfig, configured
from ctvr_bench.bench.suite.remembered import remember
from ctvr_bench.bench.suite.stores import is_embedded
from ctvr_bench.bench.suite.unfinished import lost_runs, remove_begun
from ctvr_bench.features.errors import InputError, unknown_name
from ctvr_bench.features.store import FeatureStore, open_store
from ctvr_bench.features.streams import make_stream
from ctvr_bench.features.verification import check_content, leaked_videos
from ctvr_bench.methods.shared.base import MethodConfig, TrainedConfig, learns
from ctvr_bench.methods.shared.registry import Entry

OnRun = Callable[[int, int, RunRecord], None]


def run_suite(
    config: SuiteConfig, watch: Watch = ignore, on_run: OnRun = ignore, tell: Callable[[str], None] = ignore
) -> list[RunRecord]:
    """Make every run that is missing and return the records of all, in the order of the suite.

    Runs that are done or diverged are taken as they are; unfinished ones continue. on_run(number finished, total,
    record) follows each run; tell gets a line where runs are made again. Raises InputError for anything wrong with the
    input, before the first run where it can be known then.
    """
    device = config.chosen_device
    store = open_store(config.store)
    jobs = plan(config, store)
    check_content(store)
    if leaked := leaked_videos(store, store.stream(config.stream).name):
        tell(
            f"WARNING: {len(leaked)} test videos have the frames of a training video (first row {leaked[0]} of the "
            "store); what they are found by was trained on, so no number of this suite is a test"
        )
    records: dict[str, RunRecord] = {}
    missing, lacking = [], set[str]()
    for unit in units(jobs):
        finished = [finished_record(config.directory / job.config.run_id, config.kept) for job in unit.group]
        if None in finished:  # a stack is made whole: what one of its runs learns depends on the others
            missing.append(unit)
            lacking |= {
                job.config.run_id for job in unit.group if finished_record(config.directory / job.config.run_id)
            }
        for record in finished if None not in finished else ():
            assert record is not None
            records[record.run_id] = record
            on_run(len(records), len(jobs), record)
            shutil.rmtree(config.directory / record.run_id / "state", ignore_errors=True)  # of a kill at the very end
    begun = [job for unit in missing for job in unit.group]
    sweep(config.directory, records)
    if missing:
        _check_sizes(begun, store)
        if lacking and config.keep:
            tell(f"{len(lacking)} finished runs did not keep {config.kept} and are made again; no rank changes")
        if again := why_again(
            [job for job in begun if job.config.run_id not in lacking], earlier_runs(config.directory)
        ):
            tell(again)
    for job in begun:
        check_below(config.directory, config.directory / job.config.run_id / "state")
    suite = remember(config, jobs)
    try:
        where = (config.store, config.directory, device)
        shop = Workshop(run_together, *where, config.jobs, config.threads, watch, partial(lost_runs, config.directory))
        with opened(config.cluster) as executor:
            for made in run_jobs(missing, shop, executor):
                for record in made:
                    records[record.run_id] = record
                    on_run(len(records), len(jobs), record)
    except InputError:
        remove_begun(config.directory, begun)
        raise
    return suite.shown(list(records.values()))


def _check_sizes(jobs: Sequence[Job], store: FeatureStore) -> None:
    """Build each method once, so that features of a size that it cannot take are refused before the first run."""
    spec, built = None, set[str]()
    for job in jobs:
        key = f"{job.config.method} {job.config.config}"
        if key not in built:
            spec = spec or feature_spec(store, make_stream(store, job.config.stream))
            make_method(job, spec, "cpu")
            built.add(key)


def plan(config: SuiteConfig, store: FeatureStore, *, sweep: bool = False) -> list[Job]:
    """The suite's runs, every configuration checked; a run that appears twice is planned once.

    sweep: stacks may hold runs of several rows, as a search's trials (bench.executors.planning).
    """
    device = config.chosen_device
    stream = store.stream(config.stream).name
    options = config.stream_options
    jobs: dict[str, Job] = {}
    recipe = config.recipe or ("fixed" if is_embedded(store) else "auto")
    chosen = configured(config, recipe)
    for position, ((entry, method_config), label) in enumerate(zip(chosen, labels_of(chosen, recipe), strict=True)):
        if entry.method.needs_reference and not store.has_reference:
            raise InputError(
                f"{store.path}: {entry.name} needs a reference bank (reference/captions, reference/frames) and this "
                "store has none; build it with one, or leave the method out"
            )
        if not store.has_words and method_config.needs_words:
            raise InputError(without_words(store.path, entry, method_config))
        trained, made_by = isinstance(method_config, TrainedConfig), code_of(entry, [SCORES_A_TRIAL] if sweep else [])
        drawn = learns(entry.method)  # from the seed
        for order in range(config.orders):
            made = make_stream(store, stream, replace(options, order=order))
            if sum(len(task.test) for task in made.tasks) < 2:
                raise InputError(
                    f"{store.path}: stream {stream!r} asks one test query in all, from which nothing can be said with "
                    "an interval; give it two test videos or more"
                )
            for seed in range(config.seeds if drawn else 1):
                run = RunConfig(
                    method=entry.name,
                    config=asdict(method_config),
                    stream=stream,
                    options=made.options.recorded,
                    seed=seed,
                    selection=config.selection if trained else "last",
                    store=store_id(store),
                    code=entry.code,
                    first_stage=config.first_stage,
                    engine=config.engine,
                    reencoded=config.measure,
                    device=device,
                    threads=config.threads,
                    harness=digest_of_code(made_by),
                )
                jobs.setdefault(run.run_id, Job(entry, run, label, position, made_by=made_by, keep=config.kept))
    labels = {job.label for job in jobs.values()}
    if config.against is not None and config.against not in labels and not is_earlier(config.against):
        raise unknown_name("row to compare with (against)", config.against, labels)
    return list(jobs.values()) if config.ensemble == "off" else in_stacks(list(jobs.values()), device, sweep=sweep)


def without_words(path: Path, entry: Entry, config: MethodConfig) -> str:
    """Why a method cannot run on a store without words, and how it could."""
    wordless = {"scoring": "cosine", "proto_caption": "pooled"}
    changes = {field: value for field, value in wordless.items() if getattr(config, field, value) != value}
    said = ", ".join(f"{field}={getattr(config, field)}" for field in changes)
    how = " ".join(f"--set {entry.name}.{field}={value}" for field, value in changes.items())
    return f"{path}: {entry.name} ({said}) compares words and this store has none; use {how}, or leave the method out"
