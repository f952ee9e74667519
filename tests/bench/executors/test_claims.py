"""One owner for each run; whoever dies loses it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from ctvr_bench.bench.executors import claims, workers
from ctvr_bench.bench.executors.claims import Owner, claim_file, claimed, owner_of
from ctvr_bench.bench.suite.suite import run_suite
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.partial import partial_of
from tests.bench.run.test_runner import suite


def write_claim(folder: Path, **changes: Any) -> Path:
    """A claim of this process, or with something changed."""
    path = claim_file(folder)
    path.write_text(claims._myself().model_copy(update=changes).model_dump_json())
    return path


def test_a_claim_is_held_by_one_and_released_at_the_end(tmp_path: Path) -> None:
    runs = [tmp_path / "a", tmp_path / "b"]
    with claimed(runs) as other:
        assert other is None
        assert owner_of(runs[0]) == owner_of(runs[1])
        with claimed([runs[1], tmp_path / "c"]) as second:
            assert isinstance(second, Owner)
            assert second.pid == os.getpid()
        assert owner_of(tmp_path / "c") is None, "whoever gets not all gets none"
    assert list(tmp_path.iterdir()) == []


def test_of_many_at_once_one_gets_it(tmp_path: Path) -> None:
    """Eight threads, a stale claim in their way."""
    write_claim(tmp_path / "a", pid=2**22 - 1, started="1")
    got: list[bool] = []
    start, over = threading.Barrier(8), threading.Barrier(8)

    def compete() -> None:
        start.wait()
        with claimed([tmp_path / "a"]) as other:
            got.append(other is None)
            over.wait()

    threads = [threading.Thread(target=compete) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == [False] * 7 + [True]
    assert list(tmp_path.iterdir()) == []


def test_a_claim_made_while_another_looks_for_a_stale_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between "there is a claim" and a look at it the stale one is removed, and right after it a new one is made."""
    path, read = write_claim(tmp_path / "a", pid=2**22 - 1, started="1"), claims._read

    def gone_at_the_look(looked: Path) -> Owner | None:
        monkeypatch.setattr(claims, "_read", read)
        path.unlink()
        found = read(looked)
        write_claim(tmp_path / "a")
        return found

    monkeypatch.setattr(claims, "_read", gone_at_the_look)
    with claimed([tmp_path / "a"]) as other:
        assert other == read(path) is not None


def test_a_claim_that_was_taken_over_is_not_released_by_who_had_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks at its claim under the lock that whoever takes claims over needs."""
    with claimed([tmp_path / "a"]) as other:
        assert other is None
        read = claims._read

        def locked(looked: Path) -> Owner | None:
            handle = os.open(tmp_path, os.O_RDONLY)
            with pytest.raises(BlockingIOError):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.close(handle)
            return read(looked)

        monkeypatch.setattr(claims, "_read", locked)
    assert list(tmp_path.iterdir()) == []


def test_the_claim_of_a_process_that_is_gone_is_taken_over(tmp_path: Path) -> None:
    script = "import os, sys; from pathlib import Path; from ctvr_bench.bench.executors.claims import claimed\n"
    script += "with claimed([Path(sys.argv[1])]): os._exit(9)"
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path / "a")], check=False).returncode == 9
    assert claim_file(tmp_path / "a").is_file()
    assert owner_of(tmp_path / "a") is None
    with claimed([tmp_path / "a"]) as other:
        assert other is None


@pytest.mark.parametrize(
    ("changes", "age", "owned"),
    [
        ({}, 10_000, True),  # this process lives, however silent
        ({"started": "1"}, 0, False),  # its number was given out again
        ({"boot": "before"}, 1e9, False),  # the host was started again since
        ({"boot": "before"}, 0, True),  # another machine of that name
        ({"host": "elsewhere"}, 0, True),
        ({"host": "elsewhere"}, 10_000, True),  # says a clock, perhaps since it was set
        ({"processes": "pid:[1]"}, 10_000, True),  # another container, whose numbers say nothing
    ],
)
def test_when_a_claim_is_stale_at_one_look(tmp_path: Path, changes: dict[str, str], age: float, owned: bool) -> None:
    path = write_claim(tmp_path / "a", **changes)
    os.utime(path, (time.time() - age, time.time() - age))
    assert (owner_of(tmp_path / "a") is not None) == owned
    with claimed([tmp_path / "a"]) as other:
        assert (other is not None) == owned


class Clock:
    """The clock that nobody sets, as a test sets it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1e6
        monkeypatch.setattr(claims.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(claims.time, "sleep", self.wait)

    def wait(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize(("age", "patience"), [(10_000, 30), (100, 180), (-10_000, 180)])
def test_another_hosts_claim_is_stale_when_it_was_seen_to_be_silent_whatever_the_clocks_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age: float, patience: float
) -> None:
    """A day between two looks would do as well as many looks; then who looks for the first time knows it too."""
    clock, path = Clock(monkeypatch), write_claim(tmp_path / "a", host="elsewhere")
    seen = time.time() - age
    for renewal in range(20):  # its clock is set back by hours in the middle
        seen += 10 - 40_000 * (renewal == 10)
        os.utime(path, (seen, seen))
        clock.wait(10)
        assert owner_of(tmp_path / "a") is not None
    os.utime(path, (time.time() - age, time.time() - age))
    assert owner_of(tmp_path / "a") is not None
    clock.wait(patience)
    assert owner_of(tmp_path / "a") is not None
    clock.wait(1)
    assert owner_of(tmp_path / "a") is None
    claims._seen.clear()
    with claimed([tmp_path / "a"]) as other:
        assert other is None


def test_a_claim_that_was_given_up_by_mistake_is_its_owners_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, path = Clock(monkeypatch), write_claim(tmp_path / "a", host="elsewhere")
    assert owner_of(tmp_path / "a") is not None
    clock.wait(200)
    assert owner_of(tmp_path / "a") is None
    os.utime(path)
    assert owner_of(tmp_path / "a") is not None


def test_who_is_patient_waits_until_it_is_sure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, path = Clock(monkeypatch), write_claim(tmp_path / "a", host="elsewhere")
    with claimed([tmp_path / "a"], patient=True) as other:
        assert (other is None, clock.now) == (False, 1e6), "it is being made: nothing to wait for"
    os.utime(path, (1, 1))
    with claimed([tmp_path / "a"], patient=True) as other:
        assert (other is None, clock.now) == (True, 1e6 + 31)


def test_a_folder_that_is_only_read_can_be_asked_for_owners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "read-only")

    path = write_claim(tmp_path / "a", host="elsewhere")
    monkeypatch.setattr(claims.tempfile, "NamedTemporaryFile", refuses)
    assert claims.shown_owner_of(tmp_path / "a") is not None
    os.utime(path, (time.time() - 400, time.time() - 400))
    assert claims.shown_owner_of(tmp_path / "a") is None
    assert owner_of(tmp_path / "a") is not None


@pytest.mark.parametrize("content", ["", "{", json.dumps({"host": 3})])
def test_a_claim_that_cannot_be_read_counts_as_another_hosts(tmp_path: Path, content: str) -> None:
    path = claim_file(tmp_path / "a")
    path.write_text(content)
    assert owner_of(tmp_path / "a") is not None
    os.utime(path, (0, 0))
    assert owner_of(tmp_path / "a") is None


def test_a_claim_is_renewed_while_it_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "_RENEWED", 0.001)
    with claimed([tmp_path / "a"]):
        path = claim_file(tmp_path / "a")
        os.utime(path, (0, 0))
        deadline = time.monotonic() + 10
        while path.stat().st_mtime == 0:
            assert time.monotonic() < deadline


def test_a_claim_that_was_taken_over_is_not_renewed_by_its_first_owner(tmp_path: Path) -> None:
    """As of a process that slept for longer than others wait."""
    path = write_claim(tmp_path / "a", token="another's")
    os.utime(path, (0, 0))

    class Once(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            stop, self.asked = getattr(self, "asked", False), True
            return stop

    claims._renew([path], claims._myself(), Once())
    assert path.stat().st_mtime == 0
    mine = claims._read(path)
    assert mine is not None
    claims._renew([path], mine, Once())
    assert path.stat().st_mtime > 0


def test_where_a_disk_has_no_links_one_of_many_still_gets_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuses)
    with claimed([tmp_path / "a"]) as other:
        assert other is None
        with claimed([tmp_path / "a"]) as second:
            assert isinstance(second, Owner)
    assert list(tmp_path.iterdir()) == []


def test_what_the_dead_left_of_claims_is_swept_and_nothing_else(tmp_path: Path) -> None:
    gone = {"pid": 2**22 - 1, "started": "1"}
    kept = {write_claim(tmp_path / "begun", **gone), write_claim(tmp_path / "mine")}
    left = [write_claim(tmp_path / "done", **gone)]
    draft = partial_of(claim_file(tmp_path / "half"))
    for pid, files in ((gone["pid"], left), (os.getpid(), kept)):
        place = draft.with_name(draft.name.replace(f"-{os.getpid()}", f"-{pid}-0123"))
        place.touch()
        files.append(place) if isinstance(files, list) else files.add(place)
    claims.sweep(tmp_path, ["done", "mine"])
    assert not any(path.exists() for path in left)
    assert set(tmp_path.iterdir()) == kept
    claims.sweep(tmp_path / "none", [])


def test_a_disk_that_fills_while_a_claim_is_written_keeps_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left"), claimed([tmp_path / "run"]):
        pass
    assert not list(tmp_path.glob("*claim*"))
    assert not list(tmp_path.glob(".*claim*"))


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"), claimed([tmp_path / "file/run"]):
        pass


def test_a_run_that_another_makes_is_waited_for_and_not_made_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other finishes it while this one waits, which makes the rest of the suite meanwhile."""
    (theirs,) = run_suite(suite(tmp_path / "theirs", "finetune"))
    told: list[str] = []
    held = claimed([tmp_path / "ours/default" / theirs.run_id])
    held.__enter__()

    def wait(seconds: float) -> None:
        assert len(list((tmp_path / "ours/default").glob("zero_shot*/metrics.json"))) == 1
        (tmp_path / "theirs/default" / theirs.run_id).rename(tmp_path / "ours/default" / theirs.run_id)
        held.__exit__(None, None, None)

    monkeypatch.setattr(workers.time, "sleep", wait)
    records = run_suite(suite(tmp_path / "ours", "finetune", "zero_shot"), lambda progress: told.append(progress.note))
    assert [record.status for record in records] == ["done", "done"]
    assert records[0].model_dump() == theirs.model_dump()
    assert any(f"process {os.getpid()}" in note and "waiting" in note for note in told)


@pytest.mark.parametrize("links", [True, False])
def test_a_claim_is_on_the_disk_before_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def seen(handle: int) -> None:
        synced.append((os.fstat(handle).st_ino, os.fstat(handle).st_size))

    def refuses(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    synced: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "fsync", seen)
    if not links:
        monkeypatch.setattr(os, "link", refuses)
    with claimed([tmp_path / "run"]) as owner:
        assert owner is None
        found = claim_file(tmp_path / "run").stat()
        assert synced[-1] == (found.st_ino, found.st_size)
        assert found.st_size > 0
