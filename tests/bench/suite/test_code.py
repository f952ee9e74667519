"""A run is named by the code that made it: an edit that can change a number is never answered with old results."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ctvr_bench.bench.records import code
from ctvr_bench.bench.records.code import digest_of_source
from ctvr_bench.bench.suite.code import MAKES_NUMBERS, SCORES_A_TRIAL, code_of
from ctvr_bench.bench.suite.plugins import find_method
from ctvr_bench.bench.suite.suite import plan, run_suite
from ctvr_bench.methods.shared.registry import known_methods
from tests.bench.run.test_runner import suite
from tests.commands import ROOT
from tests.stores import small_store
from tests.test_layers import own_imports

CHANGES_NO_NUMBER = {
    "bench/records/code.py": "digests of code",
    "bench/records/environment.py": "what is recorded about the machine",
    "bench/records/files.py": "writes files",
    "bench/records/kept.py": "writes what is kept beside ranks; no number is made of it",
    "bench/run/kept.py": "likewise",
    "bench/records/record.py": "reads and writes records; PROTOCOL is in the identity as such",
    "bench/records/summary.py": "derives metrics from ranks; what it derives is derived again when it changes",
    "bench/forgetting.py": "likewise",
    "bench/records/state.py": "keeps and checks bits; a run that goes on is tested to be the one that was not cut off",
    "features/store.py": "opens what has a digest of its own",
    "features/hdf5.py": "likewise",
    "features/schema.py": "likewise",
}
FOLLOWED = ("methods/",)
WORDS = ("features/errors.py",)


def test_every_module_behind_a_run_is_known_to_change_numbers_or_not_to() -> None:
    """A new file that training or evaluation imports must be put on one of the two lists."""
    seen: set[str] = set()
    waiting = [ROOT / "bench/run/runner.py", ROOT / SCORES_A_TRIAL]
    while waiting:
        path = waiting.pop()
        name = str(path.relative_to(ROOT))
        if path.suffix != ".py" or name in seen:
            continue
        seen.add(name)
        if name not in CHANGES_NO_NUMBER:
            waiting += own_imports(path)
    known = {*MAKES_NUMBERS, SCORES_A_TRIAL, *CHANGES_NO_NUMBER, *WORDS}
    assert {name for name in seen if not name.startswith(FOLLOWED)} <= known
    assert set(MAKES_NUMBERS) <= seen


def test_where_a_field_is_searched_names_no_run() -> None:
    plain = digest_of_source(b"class C:\n    lr: NotNegative = 1e-3\n")
    assert digest_of_source(b"class C:\n    lr: Annotated[NotNegative, Search(1e-5, 1e-2)] = 1e-3\n") == plain
    assert digest_of_source(b"class C:\n    lr: Annotated[NotNegative, Among((1, 2))] = 1e-3\n") == plain
    assert digest_of_source(b"class C:\n    lr: Annotated[Positive, Search(1e-5, 1e-2)] = 1e-3\n") != plain
    assert digest_of_source(b"class C:\n    lr: Annotated[NotNegative, Search(1e-5, 1e-2)] = 1e-2\n") != plain
    bounded = digest_of_source(b"class C:\n    lr: Annotated[float, Field(ge=0)] = 1\n")
    assert digest_of_source(b"class C:\n    lr: Annotated[float, Field(ge=0), Search(1, 2)] = 1\n") == bounded
    assert digest_of_source(b"class C:\n    lr: Annotated[float, Field(ge=1)] = 1\n") != bounded


def test_a_method_is_its_file_and_what_it_imports_of_the_methods() -> None:
    mine = {path for path in code_of(find_method("lwf")) if path.startswith("methods/")}
    assert {"methods/lwf.py", "methods/finetune.py", "methods/shared/losses.py", "methods/shared/base.py"} <= mine
    assert not {"methods/ewc.py", "methods/shared/etf.py", "methods/shared/registry.py"} & mine
    for name, entry in known_methods().items():
        assert entry.method.__module__.split(".")[-1] + ".py" in {Path(path).name for path in code_of(entry)}, name


PLAIN = 'class A:\n    idea = "One."\n\n    def loss(self, x):\n        return -x\n'


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("class A:\n", '"""A file."""\nclass A:\n    """A class."""\n', True),
        ("return -x", "return (-x)  # a comment", True),
        ('"One."', '"Another" " sentence."', True),
        ("        return", '        """Text."""\n\n        return', True),
        ("return -x", "return +x", False),
        ("return -x", 'return "x"', False),
        ("idea =", "scale =", False),
    ],
)
def test_what_a_file_says_counts_and_not_how(old: str, new: str, same: bool) -> None:
    assert old in PLAIN
    assert (digest_of_source(PLAIN.replace(old, new).encode()) == digest_of_source(PLAIN.encode())) == same


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The suite's own files, to be edited."""
    for folder in ("bench", "methods", "features"):
        shutil.copytree(
            ROOT / folder, tmp_path / "code" / folder, ignore=shutil.ignore_patterns("[!_]*.[!p]*", "__py*")
        )
    monkeypatch.setattr(code, "_ROOT", tmp_path / "code")
    return tmp_path / "code"


def append(path: Path, line: str) -> None:
    path.write_text(path.read_text(encoding="utf-8") + f"\n{line}\n", encoding="utf-8")


def test_an_edited_method_of_the_suite_is_run_again_and_the_reason_is_said(tmp_path: Path, copy: Path) -> None:
    said: list[str] = []

    def made() -> str:
        (record,) = run_suite(suite(tmp_path / "o", "zero_shot"), tell=said.append)
        return record.run_id

    first = made()
    append(copy / "methods/zero_shot.py", "# a comment")
    append(copy / "bench/report/report.py", "planted = 1")
    assert made() == first
    append(copy / "methods/zero_shot.py", "planted = 1")
    second = made()
    assert second != first
    append(copy / "bench/evaluation/scores.py", "planted = 1")
    assert made() not in (first, second)
    assert said == [
        "1 of 1 runs were made before and are made again; changed since: methods/zero_shot.py (1)",
        "1 of 1 runs were made before and are made again; changed since: bench/evaluation/scores.py (1)",
    ]


@pytest.mark.parametrize("path", [*MAKES_NUMBERS, "methods/finetune.py", "methods/shared/losses.py"])
def test_a_runs_id_changes_with_every_file_that_can_change_a_number(tmp_path: Path, copy: Path, path: str) -> None:
    (before,) = plan(suite(tmp_path, "finetune"), small_store())
    append(copy / path, "planted = 1")
    (after,) = plan(suite(tmp_path, "finetune"), small_store())
    assert before.config.run_id != after.config.run_id
    assert {key for key in after.made_by if before.made_by.get(key) != after.made_by[key]} == {path}


def test_a_trial_is_named_by_what_scores_it_too(tmp_path: Path, copy: Path) -> None:
    (run,), (trial,) = (plan(suite(tmp_path, "finetune"), small_store(), sweep=sweep) for sweep in (False, True))
    assert set(trial.made_by) - set(run.made_by) == {SCORES_A_TRIAL}
    append(copy / SCORES_A_TRIAL, "planted = 1")
    (other,) = plan(suite(tmp_path, "finetune"), small_store(), sweep=True)
    assert other.config.run_id != trial.config.run_id
