"""The report under the tools that will read it: LaTeX, an HTML parser, axe in headless Chromium.

axe-core is taken from the package axe-core-python, or a newer axe.min.js that the variable AXE_CORE names.
"""

from __future__ import annotations

import html
import importlib.util
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from pylatexenc.latex2text import LatexNodes2Text
from pylatexenc.latexwalker import LatexWalker, LatexWalkerParseError

from ctvr_bench.bench.records.aggregate import read_results
from ctvr_bench.bench.report.latex import Marks, latex_table
from ctvr_bench.bench.report.report import write_report
from tests.bench.fake_suite import write_suite

AWKWARD = ["zero_shot", "lwf", "er [a_b=1e-4, note=50% & #1]", r"x\y {z} ~ ^ < > | $5"]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = write_suite(tmp_path_factory.mktemp("runs") / "made_up", AWKWARD, orders=2, failed=["broken & <b>"])
    return write_report(directory)


def test_latex_is_sound_whatever_a_label_holds(tmp_path: Path) -> None:
    """Parsed strictly, and compiled where a LaTeX is on the path."""
    suites = [read_results(write_suite(tmp_path / f"t_{tasks}", AWKWARD, tasks=tasks)) for tasks in (2, 3)]
    marks = [Marks(("lwf",), "zero_shot", (AWKWARD[2],), (AWKWARD[3],))] * 2
    tables = latex_table(suites[0]) + latex_table(*suites, marks=marks)
    parses(tables)
    for broken in (tables.replace(r"\end{tabular}", "", 1), tables + "{", tables + "$x"):
        with pytest.raises(LatexWalkerParseError):
            parses(broken)
    text = tables.replace("~", " ")
    for macro, sign in (("less", "<"), ("greater", ">"), ("bar", "|"), ("asciicircum", "^")):
        text = text.replace(rf"\text{macro}{{}}", sign)
    assert all(label in LatexNodes2Text(math_mode="text").latex_to_text(text).replace("\xa0", " ") for label in AWKWARD)
    compiler = shutil.which("pdflatex") or shutil.which("tectonic")
    if compiler is not None:
        compiles(tables, compiler, tmp_path)


def parses(text: str) -> None:
    LatexWalker(text, tolerant_parsing=False).get_latex_nodes()


def compiles(tables: str, compiler: str, tmp_path: Path) -> None:
    packages = r"\usepackage[T1]{fontenc}\usepackage{booktabs}"
    source = rf"\documentclass{{article}}{packages}\begin{{document}}{tables}\end{{document}}"
    (tmp_path / "paper.tex").write_text(source, encoding="utf-8")
    options = ["-interaction=nonstopmode", "-halt-on-error"] if "pdflatex" in compiler else []
    result = subprocess.run([compiler, *options, "paper.tex"], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-1500:]
    assert "Missing character" not in (tmp_path / "paper.log").read_text(errors="replace")
    assert (tmp_path / "paper.pdf").read_bytes().startswith(b"%PDF")


def test_html_parses_without_an_error(page: Path) -> None:
    parser_of = pytest.importorskip("tinyhtml5.parser", reason="tinyhtml5 of the extra dev is not installed")
    for text, faulty in ((page.read_text(encoding="utf-8"), False), ("<p><table><p></b>", True)):
        parser = parser_of.HTMLParser()
        parser.parse(text)
        assert bool(parser.errors) is faulty, parser.errors


def test_axe_finds_no_barrier_and_finds_one_where_it_is(page: Path, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium is on the path")
    for scheme in ("light", "dark"):
        found = axe(browser, axe_core(), page.read_text(encoding="utf-8"), tmp_path, scheme)
        assert found["violations"] == []
        assert found["passes"] > 20
    body = "<main><h1>x</h1><img src='data:,'></main>"
    bare = f"<!DOCTYPE html><html><head><title>x</title></head><body>{body}</body></html>"
    found = axe(browser, axe_core(), bare, tmp_path, "light")
    assert {"image-alt", "html-has-lang"} <= {violation[0] for violation in found["violations"]}


def axe_core() -> str:
    """The text of axe.min.js; skips where there is none."""
    named = os.environ.get("AXE_CORE")
    spec = importlib.util.find_spec("axe_core_python")
    if named is None and (spec is None or spec.origin is None):
        pytest.skip("no axe-core: install axe-core-python (extra dev), or name an axe.min.js with AXE_CORE")
    path = Path(named) if named else Path(str(spec and spec.origin)).parent / "axe.min.js"
    return path.read_text(encoding="utf-8").replace("</script", "<\\/script")


def axe(browser: str, core: str, text: str, folder: Path, scheme: str) -> dict[str, Any]:
    """What axe finds in the page with everything unfolded, run inside the browser without a network."""
    run = """
    document.querySelectorAll('details').forEach(one => one.open = true);
    axe.run().then(found => {
      const all = found.violations.map(v => [v.id, v.help, v.nodes.slice(0, 3).map(n => n.html.slice(0, 200))]);
      const out = document.createElement('pre');
      out.id = 'axe';
      out.textContent = JSON.stringify({passes: found.passes.length, violations: all});
      document.body.replaceChildren(out);
    });"""
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)  # it would not let axe run
    (folder / "page.html").write_text(
        text.replace("</body>", f"<script>{core}</script><script>{run}</script></body>"), encoding="utf-8"
    )
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    options += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=30000"]
    options += ["--blink-settings=preferredColorScheme=" + {"dark": "0", "light": "1"}[scheme]]
    command = [browser, *options, "--dump-dom", (folder / "page.html").as_uri()]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    match = re.search(r'<pre id="axe">(.*?)</pre>', result.stdout, re.S)
    assert match is not None, result.stderr[-1000:]
    found: dict[str, Any] = json.loads(html.unescape(match.group(1)))
    return found
