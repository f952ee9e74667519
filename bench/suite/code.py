"""Which of the suite's own code can change a run's numbers: its digest is part of what names a run.

That is the method's file with what it imports of `methods/`, and the modules of MAKES_NUMBERS with theirs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from ctvr_bench.bench.records.code import digests_of, imported_methods
from ctvr_bench.bench.records.record import RunConfig, read_record
from ctvr_bench.bench.run.jobs import Job
from ctvr_bench.bench.suite.plugins import sources_of
from ctvr_bench.features.errors import InputError
from ctvr_bench.methods.shared.registry import Entry

MAKES_NUMBERS = (
    "bench/geometry.py",
    "bench/losses.py",
    "bench/metrics.py",
    "bench/run/budget.py",
    "bench/evaluation/dense.py",
    "bench/evaluation/first_stage.py",
    "bench/evaluation/grid.py",
    "bench/run/jobs.py",
    "bench/evaluation/protocol.py",
    "bench/run/recipe.py",
    "bench/run/runner.py",
    "bench/evaluation/queries.py",
    "bench/evaluation/ranking.py",
    "bench/evaluation/scores.py",
    "bench/evaluation/search.py",
    "bench/run/stacks/ensemble.py",
    "bench/run/stacks/optimiser.py",
    "bench/run/tally.py",
    "bench/run/training.py",
    "features/sent.py",
    "features/streams.py",
)
SCORES_A_TRIAL = "bench/authoring/validation.py"
"""What makes a number of a search's trial beside these."""
Found = Callable[[Job], Iterable[tuple[RunConfig, Mapping[str, str]]]]
"""Earlier runs that may be the same as a job's but for the code: what decided each, and the digests of its code."""


def code_of(entry: Entry, also: Iterable[str] = ()) -> dict[str, str]:
    """Digest of each file of the suite that can change a number of this method, by its path in the repository.

    also: paths of files that count too. The file of a method from outside is not among them (see Entry.code), but what
    it imports of the suite is.
    """
    sources = sources_of(entry)
    mine = [path for source in sources for path in imported_methods(source)]
    if not sources:
        mine = [entry.method.__module__.removeprefix("ctvr_bench.").replace(".", "/") + ".py"]
    return digests_of([*MAKES_NUMBERS, *also, *mine])


def earlier_runs(directory: Path) -> Found:
    """Looks for a job's earlier runs among those of a folder."""

    def found(job: Job) -> Iterable[tuple[RunConfig, Mapping[str, str]]]:
        for path in directory.glob(f"{job.config.run_id.rpartition('-')[0]}-*/run.json"):
            try:
                record = read_record(path.parent)
            except InputError:
                continue  # no run of this suite: whoever shows it says what is wrong with it
            if record.status == "done":
                yield record.config, record.made_by

    return found


def why_again(jobs: Sequence[Job], found: Found) -> str:
    """How many of these runs were made before, and what changed since, in a line; empty where none was."""
    changed: Counter[str] = Counter()
    again = 0
    for job in jobs:
        earlier = [(config, made_by) for config, made_by in found(job) if _same_but_code(job.config, config)]
        if earlier:
            again += 1
            ways = [_changes(job, config, made_by) for config, made_by in earlier]
            changed.update(sorted(ways, key=len)[0])
    if not again:
        return ""
    files = ", ".join(f"{path} ({count})" for path, count in changed.most_common())
    return f"{again} of {len(jobs)} runs were made before and are made again; changed since: {files}"


def _same_but_code(config: RunConfig, other: RunConfig) -> bool:
    apart = {"harness", "code", "stack"}
    return config.model_dump(mode="json", exclude=apart) == other.model_dump(mode="json", exclude=apart)


def _changes(job: Job, config: RunConfig, before: Mapping[str, str]) -> list[str]:
    own = [job.entry.written_as] if job.config.code != config.code else []
    paths = {*before, *job.made_by}
    changed = own + sorted(path for path in paths if before.get(path) != job.made_by.get(path))
    return changed or ["the runs beside them"]
