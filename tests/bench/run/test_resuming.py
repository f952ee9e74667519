"""A run that is cut off anywhere and goes on is, bit for bit and field for field, the run that was not."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ctvr_bench.bench.executors import planning
from ctvr_bench.bench.records import files, record, state
from ctvr_bench.bench.records.record import RunRecord, read_record
from ctvr_bench.bench.run import training
from ctvr_bench.bench.run.jobs import Progress
from ctvr_bench.bench.run.training import Lesson
from ctvr_bench.bench.suite.suite import run_suite
from ctvr_bench.features.hdf5 import map_file
from tests.bench.run.test_runner import suite

TIMES = {"load_s", "train_s", "evaluate_s", "write_s", "encode_s", "peak_memory_bytes"}


class Killed(BaseException):
    """As if the process had ended here: nothing catches it."""


@contextmanager
def killed_at(name: str, time: int) -> Iterator[None]:
    """The process ends just before a file whose name begins like this is written for the nth time (from 1)."""
    seen = 0

    def write(path: Path, content: bytes) -> str:
        nonlocal seen
        seen += path.name.startswith(name)
        if path.name.startswith(name) and seen == time:
            raise Killed
        return files.write_bytes(path, content)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record, "write_bytes", write)
        patch.setattr(state, "write_bytes", write)
        with pytest.raises(Killed):
            yield


def told(record: RunRecord) -> dict[str, Any]:
    """All of a record but times, its end, what a process used, and the digest of ranks.h5, which holds a time."""
    values = record.model_dump()
    values["files"].pop("ranks.h5", None)
    del values["ended"]
    return values | {"cost": {key: value for key, value in values["cost"].items() if key not in TIMES}}


def contents(path: Path) -> dict[str, bytes]:
    return {name: values.tobytes() for name, values in map_file(path).arrays.items()}


def same_results(first: Path, second: Path, records: list[RunRecord]) -> None:
    for each in records:
        one, other = first / "default" / each.run_id, second / "default" / each.run_id
        assert sorted(path.name for path in one.iterdir()) == sorted(path.name for path in other.iterdir())
        for name in ("metrics.json", "training.jsonl"):
            if (one / name).exists():
                assert (one / name).read_bytes() == (other / name).read_bytes(), name
        if (one / "ranks.h5").exists():
            assert contents(one / "ranks.h5") == contents(other / "ranks.h5")
        assert told(read_record(one)) == told(read_record(other))


@pytest.mark.parametrize("name", ["joint", "cumulative", "lwf", "er", "ridge", "structalign"])
def test_every_field_of_a_resumed_run_is_that_of_the_run_that_was_not_cut_off(tmp_path: Path, name: str) -> None:
    methods = [{"name": name, "set": {"features": 200} if name == "ridge" else {"epochs": 1}}]
    whole = run_suite(suite(tmp_path / "whole", methods=methods))
    for stop in (1, 2):
        with killed_at("gallery-" if stop == 1 else "metrics", 2 if stop == 1 else 1):
            run_suite(suite(tmp_path / "parts", methods=methods))
    same_results(tmp_path / "whole", tmp_path / "parts", run_suite(suite(tmp_path / "parts", methods=methods)))
    assert whole[0].cost.pair_flops > 0 or name == "ridge"
    assert whole[0].cost.train_flops > 0 or name == "ridge"


@pytest.fixture
def pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stacks of two, so that a test takes little."""
    monkeypatch.setitem(planning.BLOCK, "cpu", 2)
    monkeypatch.setitem(planning.FEWEST, "cpu", 2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(planning.BLOCK, "cpu", 2)
        patch.setitem(planning.FEWEST, "cpu", 2)
        records = run_suite(suite(folder, "finetune", seeds=2))
    assert [record.together for record in records] == [2, 2]
    return folder


@pytest.mark.usefixtures("pairs")
@pytest.mark.parametrize(
    ("name", "time"),  # the first two tasks of both runs, then the run.json with which each ends
    [*(("progress", time) for time in (1, 2, 3, 4)), ("metrics", 1), ("run.json", 3), ("metrics", 2), ("run.json", 4)],
)
def test_a_stack_that_is_cut_off_between_any_two_saves_goes_on_to_the_same_bits(
    tmp_path: Path, whole: Path, name: str, time: int
) -> None:
    with killed_at(name, time):
        run_suite(suite(tmp_path, "finetune", seeds=2))
    records = run_suite(suite(tmp_path, "finetune", seeds=2))
    assert [record.together for record in records] == [2, 2]
    same_results(whole, tmp_path, records)


@pytest.mark.usefixtures("pairs")
@pytest.mark.parametrize(("name", "time"), [("progress", 2), ("run.json", 3), ("progress", 3), ("metrics", 1)])
def test_a_stack_of_which_one_diverged_goes_on_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, time: int
) -> None:
    """One is lost in the second task, which both began together: the other learned it beside the lost one."""

    def lesson(method: Any, data: Any, seed: int, task: int, on_epoch: Any) -> Lesson:
        if (seed, task) == (0, 1):
            method.head.caption.up.data[0, 0] = float("nan")
        return Lesson(method, data, seed, task, on_epoch)

    monkeypatch.setattr(training, "Lesson", lesson)
    records = run_suite(suite(tmp_path / "whole", "finetune", seeds=2))
    assert [(record.status, record.tasks) for record in records] == [("diverged", 1), ("done", 3)]
    with killed_at(name, time):
        run_suite(suite(tmp_path / "parts", "finetune", seeds=2))
    same_results(tmp_path / "whole", tmp_path / "parts", run_suite(suite(tmp_path / "parts", "finetune", seeds=2)))


def test_selection_by_validation_goes_on_after_a_task(tmp_path: Path) -> None:
    run_suite(suite(tmp_path / "whole", "finetune", selection="validation"))
    with killed_at("progress", 2):
        run_suite(suite(tmp_path / "parts", "finetune", selection="validation"))
    seen: list[int] = []
    config = suite(tmp_path / "parts", "finetune", selection="validation")
    records = run_suite(config, lambda progress: seen.append(progress.task))
    assert min(seen) == 2
    same_results(tmp_path / "whole", tmp_path / "parts", records)


@pytest.mark.usefixtures("pairs")
def test_another_row_changes_no_bit_of_a_stack(tmp_path: Path, whole: Path) -> None:
    other = {"name": "finetune", "set": {"epochs": 1, "lr": 0.5}}
    run_suite(suite(tmp_path, methods=[other, {"name": "finetune", "set": {"epochs": 1}}], seeds=2))
    records = run_suite(suite(tmp_path, "finetune", seeds=2))
    for each in records:
        one, another = (folder / "default" / each.run_id for folder in (whole, tmp_path))
        assert told(read_record(one)) == told(read_record(another)) | {"position": 0}
        assert contents(one / "ranks.h5") == contents(another / "ranks.h5")
        assert (one / "training.jsonl").read_bytes() == (another / "training.jsonl").read_bytes()


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two finished tasks, beside the same run finished: `parts` and `whole`."""
    folder = tmp_path_factory.mktemp("unfinished")
    run_suite(suite(folder / "whole", "finetune"))
    with killed_at("metrics", 1):
        run_suite(suite(folder / "parts", "finetune"))
    return folder


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("name", "damage", "task"),  # of the tasks 1 to 3, the first that is made again
    [
        ("state/gallery-0.safetensors", lambda path: path.write_bytes(path.read_bytes()[:50]), 1),
        ("state/gallery-1.safetensors", flipped, 2),
        ("state/method-1.safetensors", flipped, 2),
        ("state/method-1.safetensors", Path.unlink, 2),
        ("state/ranks-1.h5", flipped, 2),
        ("state/progress-1.json", flipped, 2),
        ("state/progress-1.json", lambda path: path.write_bytes(b""), 2),
        ("state/progress-1.json", lambda path: path.write_bytes(b"\xff{"), 2),
        ("training.jsonl", lambda path: path.write_text(""), 1),
    ],
)
def test_state_that_cannot_be_used_is_set_aside_and_its_task_made_again(
    tmp_path: Path, unfinished: Path, name: str, damage: Any, task: int
) -> None:
    shutil.copytree(unfinished / "parts", tmp_path / "parts")
    (path,) = (tmp_path / "parts/default").glob(f"finetune-*/{name}")
    damage(path)
    told: list[str] = []
    seen: list[int] = []

    def watch(progress: Progress) -> None:
        told.append(progress.note) if progress.note else seen.append(progress.task)

    records = run_suite(suite(tmp_path / "parts", "finetune"), watch)
    assert told
    assert all("is set aside and made again" in note for note in told)
    assert any(path.name in note for note in told)
    assert min(seen) == task
    same_results(unfinished / "whole", tmp_path / "parts", records)


def test_a_kill_while_the_state_of_a_finished_run_is_removed_leaves_nothing(tmp_path: Path, unfinished: Path) -> None:
    """The record is written first; what is left of the state goes with the next command."""
    shutil.copytree(unfinished / "whole", tmp_path / "o")
    (run,) = (tmp_path / "o/default").glob("finetune-*")
    (run / "state").mkdir()
    (run / "state/progress-1.json").write_text("{}")
    records = run_suite(suite(tmp_path / "o", "finetune"))
    same_results(unfinished / "whole", tmp_path / "o", records)


def test_a_state_file_that_could_not_be_removed_at_first_is_not_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "state").mkdir()
    for name in ("ranks-0.h5", "progress-0.json"):
        (tmp_path / "state" / name).touch()
    refused, unlink = [], os.unlink

    def once(path: Any, *arguments: Any, **named: Any) -> None:
        if not refused:
            refused.append(path)
            raise OSError(errno.EIO, "no answer")
        unlink(path, *arguments, **named)

    monkeypatch.setattr(os, "unlink", once)
    state.StateFolder(tmp_path, print).remove()
    assert refused
    assert not (tmp_path / "state").exists()
