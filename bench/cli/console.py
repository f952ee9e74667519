"""What a person sees while a suite runs, and the tables printed at its end."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich import progress as bars
from rich.console import Console
from rich.table import Table

from ctvr_bench.features.errors import one_line

if TYPE_CHECKING:
    from ctvr_bench.bench.authoring.validation import Trial
    from ctvr_bench.bench.records.record import RunRecord
    from ctvr_bench.bench.run.jobs import Progress
    from ctvr_bench.bench.run.training import Epoch


def say(message: str, quiet: bool = False) -> None:
    """One line to standard error, unless quiet."""
    if not quiet:
        print(one_line(message), file=sys.stderr, flush=True)


class _Bars:
    """Progress bars on a terminal: what is done, how much of it, a note that the caller sets, and a clock."""

    def __init__(self, clock: bars.ProgressColumn, quiet: bool = False) -> None:
        console = Console(stderr=True)
        self._live = not quiet and console.is_terminal
        note = bars.TextColumn("{task.fields[note]}", markup=False)
        described = bars.TextColumn("{task.description}", markup=False)
        columns = (described, bars.BarColumn(), bars.MofNCompleteColumn(), note, clock)
        self._bars = bars.Progress(*columns, console=console, disable=not self._live)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()


class SuiteBars(_Bars):
    """Live progress on a terminal; one line for each finished run anywhere else; nothing when quiet.

    verbose: also a line for each task that a run has learned, with its loss terms.
    """

    def __init__(self, quiet: bool, verbose: bool = False) -> None:
        super().__init__(bars.TimeElapsedColumn(), quiet)
        self._quiet, self._verbose = quiet, verbose
        self._learned: dict[str, Epoch] = {}  # the last epoch of each row
        self._begun: float | None = None  # when the first run that had to be made was heard of
        self._there = 0  # runs that were finished before
        self._suite = self._bars.add_task("runs", total=None, note="", visible=False)  # until their number is known
        self._runs: dict[str, bars.TaskID] = {}

    def watch(self, progress: Progress) -> None:
        """Show where one run is, and say its note."""
        self._begun = self._begun or time.monotonic()
        if progress.note:
            say(progress.note, self._quiet)
            return
        if self._verbose:
            self._say_what_was_learned(progress)
        if not self._live:
            return
        if progress.label not in self._runs:
            shown = one_line(progress.label)
            self._runs[progress.label] = self._bars.add_task(shown, total=progress.tasks, note="")
        epoch = progress.epoch
        note = (
            "evaluating"
            if epoch is None
            else f"epoch {epoch.epoch}/{epoch.epochs}, loss {sum(epoch.terms.values()):.3f}"
        )
        done = progress.task - (1 if epoch else 0)
        self._bars.update(self._runs[progress.label], completed=done, note=note)

    def _say_what_was_learned(self, progress: Progress) -> None:
        if progress.epoch is not None:
            self._learned[progress.label] = progress.epoch
        elif epoch := self._learned.pop(progress.label, None):
            terms = ", ".join(f"{name} {value:.4f}" for name, value in epoch.terms.items())
            told = f"{epoch.epoch} of {epoch.epochs} epochs, {epoch.steps} steps in the last; {terms}"
            say(f"{progress.label}, task {progress.task} of {progress.tasks}: {told}")

    def finished(self, number: int, total: int, record: RunRecord | Trial) -> None:
        """Count a finished run and say how long the rest will take, by those that were made now."""
        if self._begun is None:
            self._there, left = number, ""
        else:
            each = (time.monotonic() - self._begun) / (number - self._there)
            left = f"about {each * (total - number):.0f} s left"
        if bar := self._runs.pop(record.label, None):
            self._bars.remove_task(bar)
        self._bars.update(self._suite, completed=number, total=total, note=left, visible=True)
        if not self._live and not self._quiet:
            where = f"order {record.config.options['order']}, seed {record.config.seed}"
            say(f"[{number}/{total}] {record.label} ({where}): {record.status}{left and ', '}{left}")


class StageBars(_Bars):
    """Live progress with rate and time left for work in stages; a line for each stage where there is no terminal."""

    def __init__(self, quiet: bool = False) -> None:
        super().__init__(bars.TimeRemainingColumn(), quiet)
        self._quiet = quiet
        self._stages: dict[str, tuple[bars.TaskID, float]] = {}

    def show(self, stage: str, done: int, total: int) -> None:
        """Say how much of a stage is done."""
        if stage not in self._stages:
            self._stages[stage] = (self._bars.add_task(stage, total=total, note=""), time.monotonic())
            if not self._live:
                say(f"{stage}: {total}", self._quiet)
        task, start = self._stages[stage]
        rate = done / max(time.monotonic() - start, 1e-3)
        self._bars.update(task, completed=done, total=total, note=f"{rate:.1f}/s")


def print_table(table: Table, measured: Mapping[str, str]) -> None:
    """A result table and how it was measured, to standard output."""
    console = Console()
    console.print(table)
    for key, value in measured.items():
        console.print(one_line(f"{key}: {value}"), style="dim", highlight=False, markup=False)
