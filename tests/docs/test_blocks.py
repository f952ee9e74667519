"""Code on the pages: Python runs, commands are parsed by the command line itself, and what cannot run says why."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer.main

from ctvr_bench.bench.cli.app import app
from ctvr_bench.bench.suite.plugins import GROUP, find_method
from ctvr_bench.features.store import open_store
from ctvr_bench.methods.shared.ranges import searched_fields
from tests.commands import ROOT, called
from tests.docs.pages import Block, blocks, pages

SHELL = ("python ", "python3 ", ".venv/bin/python", "make ", "pip ", "ctvr-bench ", "for ", "dask ", "#!", "#")
NOT_RUN = {
    "flowchart TB": "a figure",
    "name: metrics": "a workflow for another program",
    "apiVersion": "for another program; parsed in tests/bench/executors/test_cluster.py",
    "tolerance = max": "an equation",
    "2 D (V F": "an equation",
    "-log softmax": "an equation",
    "def test_metrics(ctvr_baseline)": "run in tests/bench/gate/test_pytest_plugin.py",
    "[project.entry-points": "read below",
    "what,file": "a table for import-arrays; imported below",
    "weight: Annotated": "fields of a class; built below",
}
"""Code that is no command and is not run as it stands, by how it begins, and why."""
IMPORTS = """
from dataclasses import dataclass
from typing import Annotated, Literal
from ctvr_bench.methods.finetune import FinetuneConfig
from ctvr_bench.methods.shared.ranges import Among, NotNegative, Search, Share
"""
TWO = {"a": [(0, "train"), (1, "test")], "b": [(2, "train"), (3, "test")]}
PYTHON = ("import ctvr_bench", "from concurrent.futures")
"""Run, the first at the end of the tutorial (test_tutorial.py), the second below."""
BLOCKS = [block for page in pages() for block in blocks(page)]
COMMANDS = typer.main.get_command(app)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def commands(block: Block) -> Iterator[list[str]]:
    """The words of each command of a block; comments and what the shell does with them are gone."""
    for line in block.text.replace("\\\n", " ").split("\n"):
        lexer = shlex.shlex(line, posix=True, punctuation_chars="&;|<>")
        lexer.whitespace_split, lexer.commenters = True, "#"
        words: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set("&;|<>"):
                if words:
                    yield words
                words = []
            else:
                words.append(word)


def of_the_suite(block: Block) -> Iterator[list[str]]:
    """What each command of a block that starts this program gives to it."""
    for words in commands(block):
        for start in range(len(words)):
            if words[start].endswith("run_benchmark.py") or (start == 0 and words[0] == "ctvr-bench"):
                yield words[start + 1 :]
                break


GIVEN = [(f"{block.page}:{block.line}", words) for block in BLOCKS for words in of_the_suite(block)]


def parsed(words: list[str]) -> dict[str, Any]:
    """What the command line makes of these words, nothing of it being done; raises for any that it refuses."""
    command, name, rest = COMMANDS, "", list(words)
    while True:
        context = command.make_context(name, rest, allow_interspersed_args=not hasattr(command, "commands"))
        rest = [*getattr(context, "_protected_args", []), *context.args]
        if not hasattr(command, "commands") or not rest:
            return {"command": name, **context.params}
        name, command, rest = command.resolve_command(context, rest)


@pytest.mark.parametrize(("where", "words"), GIVEN, ids=[f"{where} {' '.join(words[:3])}" for where, words in GIVEN])
def test_a_command_of_the_docs_is_one_that_the_program_takes(where: str, words: list[str]) -> None:
    assert not [word for word in words if word.startswith("$(")]
    given = parsed(words)
    for name in re.findall(r"(?:^|,)([a-z_0-9]+)(?=[\[,]|$)", re.sub(r"\[[^\]]*\]", "", given.get("methods") or "")):
        if given["command"] == "run":
            find_method(name)
    for option in ("suite", "tuned"):
        path = given.get(option)
        if isinstance(path, Path) and str(path).startswith("results/"):
            assert (ROOT / path).is_file(), f"{where}: {path}"


def test_a_command_that_is_wrong_would_be_found() -> None:
    assert len(GIVEN) > 60
    for words in (["run", "--seed", "3"], ["runn"], ["features", "extract", "--videos", "a"], ["check"]):
        with pytest.raises(Exception, match=r"(?i)no such|missing"):
            parsed(words)


def test_words_that_make_modules_and_extras_of_the_docs_are_there() -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for block in BLOCKS:
        for words in commands(block):
            if words[0] == "make":
                assert {word for word in words[1:] if "=" not in word} <= {*targets}, block
            if words[0].endswith("python") and words[1] == "-m" and words[2].startswith(("ctvr_bench", "tests")):
                assert find_spec(words[2]), block
            for extras in re.findall(r"(?:ctvr-bench|^\.)\[([\w,]+)\]", " ".join(words) if "pip" in words else ""):
                assert {*extras.split(",")} <= {*PROJECT["project"]["optional-dependencies"]}, block


def test_every_block_is_run_parsed_or_has_a_reason() -> None:
    used = set()
    for block in BLOCKS:
        begins = [start for start in (*SHELL, *PYTHON, *NOT_RUN) if block.text.startswith(start)]
        assert begins, f"{block.page}:{block.line}: {block.lines[0]}"
        used |= {*begins}
    assert {*NOT_RUN, *PYTHON} <= used


def block_that_begins(start: str) -> str:
    (found,) = (block.text for block in BLOCKS if block.text.startswith(start))
    return found


def run(code: str, names: dict[str, Any]) -> None:
    exec(compile(code, "<docs>", "exec", dont_inherit=True), names)


def put(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new)


def test_the_python_of_sharded_ranks_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("gallery.npy", np.eye(5, dtype=np.float32))
    names: dict[str, Any] = {"query": torch.eye(5)[:2], "target": np.array([0, 3])}
    code = put(block_that_begins("from concurrent.futures"), "ProcessPoolExecutor", "ThreadPoolExecutor")
    run(put(code, "(16)", "(2)"), names)
    assert np.array_equal(names["rank"], [1, 5])


def test_fields_and_entry_points_of_the_docs_are_ones_that_the_suite_takes() -> None:
    body = "    " + block_that_begins("weight: Annotated").replace("\n", "\n    ")
    names: dict[str, Any] = {}
    run(f"{IMPORTS}\n@dataclass(frozen=True)\nclass C(FinetuneConfig):\n{body}", names)
    assert {"weight", "mix", "keys", "lr"} <= {*searched_fields(names["C"])}
    entry = tomllib.loads(block_that_begins("[project.entry-points"))["project"]["entry-points"]
    assert {*entry} == {GROUP}


def test_arrays_of_items_of_one_frame_are_imported_as_the_page_says(tmp_path: Path) -> None:
    (tmp_path / "arrays.csv").write_text(block_that_begins("what,file"))
    items = [f"item{number},{kind},{task},{role}" for task, kind in enumerate("ab") for number, role in TWO[kind]]
    (tmp_path / "stream.csv").write_text("\n".join(["item,category,task,role", *items]))
    captions = [f"{item.split(',')[0]},seen from {row}" for row, item in enumerate(items)]
    (tmp_path / "captions.csv").write_text("\n".join(["item,caption", *captions]))
    frames, pooled = np.random.default_rng(0).normal(size=(2, len(items), 16)).astype(np.float32)
    np.save(tmp_path / "frames.npy", frames)
    np.save(tmp_path / "captions.npy", pooled)
    (words,) = (words for _, words in GIVEN if words[:2] == ["features", "import-arrays"] and "--encoder" in words)
    done = called(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    store = open_store(tmp_path / "store.h5")
    np.testing.assert_array_equal(store.feature("videos/frames")[:, 0], frames)
    np.testing.assert_array_equal(store.feature("captions/pooled"), pooled)
    assert store.provenance["encoder"]["name"] == "SigLIP ViT-B/16"


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in re.findall(
        r"`((?:tests|bench|features|methods|results|docs)/[\w./-]*\w\.(?:py|md|toml|json))(?:::\w+)?`", text
    ):
        assert (ROOT / name).is_file(), f"{page.name}: {name}"
