"""What a suite would do, before it does it."""

from __future__ import annotations

from ctvr_bench.bench.executors.planning import units
from ctvr_bench.bench.records.record import finished_record
from ctvr_bench.bench.records.suites import PlannedRun
from ctvr_bench.bench.suite.config import SuiteConfig
from ctvr_bench.bench.suite.folders import seconds_left
from ctvr_bench.bench.suite.suite import plan
from ctvr_bench.features.store import open_store


def outlook(config: SuiteConfig) -> str:
    """Lines: each row with how many of its runs are there and how many would be made, and about how long they take.

    The time is reckoned from finished runs of the same row, or of all rows. Nothing is written. Raises InputError as
    `run_suite` does before its first run.
    """
    finished, left, rows = [], [], dict[str, list[bool]]()
    for unit in units(plan(config, open_store(config.store))):
        records = [finished_record(config.directory / job.config.run_id, config.kept) for job in unit.group]
        there = None not in records  # a stack is made whole
        for job, record in zip(unit.group, records, strict=True):
            rows.setdefault(job.label, []).append(there)
            if record is not None:
                finished.append(record.model_copy(update={"label": job.label}))
            if not there:
                left.append(PlannedRun(run_id=job.config.run_id, label=job.label, position=job.position))
    lines = [f"{config.directory}: {len(left)} of {sum(map(len, rows.values()))} runs would be made"]
    lines += [f"  {label}: {sum(there)} there, {there.count(False)} to make" for label, there in rows.items()]
    seconds = seconds_left(left, finished, 1)
    if left:
        lines.append(
            "  no run of this suite is finished, so how long they take is not known"
            if seconds is None
            else f"  about {seconds:.0f} s, one after the other"
        )
    return "\n".join(lines)
