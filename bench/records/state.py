"""What an unfinished run keeps, so that it goes on after a finished task: every file's digest is checked before use.

state/progress-3.json          what happened up to task 3 (from 0), with the digests of all files that it needs; last
     /method-3.safetensors     parameters and buffers after task 3
     /ranks-3.h5               ranks of all tasks so far
     /gallery-3.safetensors    what the evaluator keeps of task 3, which does not change any more; a run on a CPU
                               goes on with this file's map, so that memory need not hold it
     /validation-3.safetensors the same of the evaluator that picks epochs, where there is one
     /aside/                   what could not be used

The states of the newest two tasks are kept. A run of a stack may have finished a task that another has not when all
are killed; then both go back to the last task that they share, because what a run learns depends on the runs beside it.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save
from torch import Tensor

from ctvr_bench.bench.records.files import write_bytes
from ctvr_bench.bench.records.record import RankTable, read_checked, write_checked
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.partial import partial_of
from ctvr_bench.features.whole import digest_of_file

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Saved:
    """A run after a task (from 0). facts: times and counts; log: lines of training; galleries: one for each task."""

    task: int
    facts: dict[str, Any]
    log: list[str]
    table: RankTable
    method: dict[str, Tensor]
    galleries: list[dict[str, Tensor]]
    validation: list[dict[str, Tensor]]


class StateFolder:
    """The state of the run in `directory`. tell: gets a line about anything that cannot be used."""

    def __init__(self, directory: Path, tell: Callable[[str], None]) -> None:
        self._folder, self._log, self._tell = directory / "state", directory / "training.jsonl", tell

    def save(
        self,
        task: int,
        facts: Mapping[str, Any],
        log: Sequence[str],
        table: RankTable,
        method: Tensors,
        gallery: Tensors,
        validation: Tensors | None,
    ) -> None:
        """Keep the run as it is after `task`; the state of the task before last is removed."""
        files = dict(self._files(task - 1)) if task else {}
        parts = {"method": method, "gallery": gallery} | ({"validation": validation} if validation else {})
        for part, tensors in parts.items():
            plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
            name = f"{part}-{task}.safetensors"
            files[name] = write_bytes(self._folder / name, save(plain))
        table.save(self._folder / f"ranks-{task}.h5")
        files[f"ranks-{task}.h5"] = digest_of_file(self._folder / f"ranks-{task}.h5")
        for part in (f"method-{task - 1}.safetensors", f"ranks-{task - 1}.h5"):
            files.pop(part, None)
        facts = {**facts, "log_lines": len(log), "log": _digest(log), "files": files}
        write_checked(self._folder / f"progress-{task}.json", facts)
        for name in (f"progress-{task - 2}.json", f"method-{task - 2}.safetensors", f"ranks-{task - 2}.h5"):
            (self._folder / name).unlink(missing_ok=True)

    def whole(self) -> list[int]:
        """Tasks after which the run can go on, the newest first. What is damaged is set aside, and told."""
        numbers = [path.stem.removeprefix("progress-") for path in self._folder.glob("progress-*.json")]
        tasks = sorted((int(number) for number in numbers if number.isdecimal()), reverse=True)
        return [task for task in tasks if self._is_whole(task)]

    def load(self, task: int, device: str) -> Saved:
        """The run as it was after a task of `whole`."""
        facts = read_checked(self._folder / f"progress-{task}.json")

        def tensors(part: str, number: int) -> dict[str, Tensor]:
            loaded = load_file(self._folder / f"{part}-{number}.safetensors")
            return {name: value.to(device) for name, value in loaded.items()}

        asked = range(task + 1)
        return Saved(
            task,
            facts,
            self._lines()[: facts["log_lines"]],
            RankTable.load(self._folder / f"ranks-{task}.h5"),
            tensors("method", task),
            [tensors("gallery", number) for number in asked],
            [tensors("validation", number) for number in asked if f"validation-{number}.safetensors" in facts["files"]],
        )

    def gallery(self, task: int) -> dict[str, Tensor]:
        """What was kept of a task's gallery, as a map of its file on the host: pages that memory may give up."""
        return load_file(self._folder / f"gallery-{task}.safetensors")

    def remove(self) -> None:
        """Of a run that has ended: nothing is left. A disk that refuses once is asked again."""
        for _ in range(2):
            shutil.rmtree(self._folder, ignore_errors=True)

    def _files(self, task: int) -> Mapping[str, str]:
        files: Mapping[str, str] = read_checked(self._folder / f"progress-{task}.json")["files"]
        return files

    def _is_whole(self, task: int) -> bool:
        progress = self._folder / f"progress-{task}.json"
        try:
            facts = read_checked(progress)
            for name, digest in facts["files"].items():
                if digest_of_file(self._folder / name) != digest:
                    return self._set_aside(task, self._folder / name, "is not what was written")
            if _digest(self._lines()[: facts["log_lines"]]) != facts["log"]:
                return self._set_aside(task, self._log, "is not what was written")
        except FileNotFoundError as error:
            return self._set_aside(task, Path(error.filename), "is missing")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return self._set_aside(task, progress, "cannot be read")
        return True

    def _set_aside(self, task: int, damaged: Path, what: str) -> bool:
        aside = self._folder / "aside"
        aside.mkdir(exist_ok=True)
        for path in {damaged, self._folder / f"progress-{task}.json"} - {self._log}:
            if path.exists():
                path.replace(aside / path.name)
        self._tell(f"{damaged}: {what}; the state after task {task + 1} is set aside and made again")
        return False

    def _lines(self) -> list[str]:
        return self._log.read_text(encoding="utf-8").splitlines() if self._log.is_file() else []


def lay_aside(folder: Path, tensors: Tensors) -> dict[str, Tensor]:
    """These tensors as the map of a file that has no name any more: gone when they are, however the process ends."""
    partial = partial_of(folder / "aside.safetensors")
    try:
        partial.write_bytes(save(dict(tensors)))
        return load_file(partial)
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written ({error.strerror or error}); choose a writable folder"
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def _digest(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
