"""The notebook is what it was when it was executed: every output comes again, and nothing of a machine is in it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot

from tests.commands import ROOT
from tests.docs.notebook import code_cells, kept, shown
from tests.docs.pages import blocks

TUTORIAL = ROOT / "docs/tutorial.ipynb"
CELLS = code_cells(TUTORIAL)
DECIMAL = re.compile(r"[+-]?\d+\.\d*")


def words(text: str) -> str:
    """The text with 0 for every number and a blank for every gap."""
    return re.sub(r"\s+", " ", re.sub(r"[+-]?\d+\.?\d*", "0", text))


def python_of_the_readme() -> str:
    """The README's example on what the tutorial has run, so that nothing is run for it."""
    (code,) = (block.text for block in blocks(ROOT / "README.md") if block.text.startswith("import ctvr_bench"))
    for old, new in {
        "MyMethod": "Stay",
        "my_method": "stay",
        'store="moving-shapes:0"': 'store="tutorial.h5", recipe="fixed", out="runs"',
        "results/runs/default": "runs/default",
        "run(Stay, keep": 'run(Stay, "tutorial.h5", recipe="fixed", out="runs", name="kept", seeds=1, keep',
    }.items():
        assert old in code
        code = code.replace(old, new)
    return code


def test_every_output_of_the_tutorial_comes_again_and_the_readmes_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Words and counts of rows are equal, decimals within 2: other processors may rank a query otherwise."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pyplot, "show", lambda: pyplot.close("all"))
    numbers = 0
    for cell, (now, names) in zip(CELLS, shown(CELLS), strict=True):
        then = kept(cell)
        assert words(now) == words(then)
        found = [[float(number) for number in DECIMAL.findall(text)] for text in (now, then)]
        np.testing.assert_allclose(*found, rtol=0, atol=2.0)
        numbers += len(found[0])
        if cell is CELLS[-1]:
            names["ax"] = pyplot.figure().add_subplot()
            exec(compile(python_of_the_readme(), "README.md", "exec", dont_inherit=True), names)
            assert names["found"].labels == ["zero_shot", "finetune", "stay"]
            assert [len(line.get_xdata()) for line in names["ax"].get_lines()] == [3, 3, 3]
            assert len(names["kept"].top()) > 0
    assert numbers > 30


def test_it_was_executed_once_from_above_and_holds_nothing_of_the_machine() -> None:
    text = TUTORIAL.read_text(encoding="utf-8")
    assert [cell["execution_count"] for cell in CELLS] == [*range(1, len(CELLS) + 1)]
    assert not any(out.get("name") == "stderr" or out["output_type"] == "error" for c in CELLS for out in c["outputs"])
    assert not re.findall(r"/(?:home|root|tmp|work|Users|usr)/", text)
    assert len(text) < 300_000
    assert text.count('"image/png"') == 2
