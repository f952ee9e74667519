"""The command line in tests: as a process of its own, or, far sooner, inside the test's."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from ctvr_bench.bench.cli.start import main

ROOT = Path(__file__).resolve().parents[1]


def python(cwd: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """The interpreter with these arguments."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
    line = [sys.executable, *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, cwd=cwd, env=variables)


def command(*arguments: object, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """`run_benchmark.py` as a person starts it."""
    return python(cwd, ROOT / "run_benchmark.py", *arguments, **environment)


def called(*arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """The same inside this process, which has loaded torch already; for commands that leave nothing in it."""
    line = [str(ROOT / "run_benchmark.py"), *map(str, arguments)]
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", line)
        patch.setattr(sys, "unraisablehook", sys.unraisablehook)
        patch.chdir(cwd)
        with pytest.raises(SystemExit) as stop:
            main()
    assert isinstance(stop.value.code, int)
    return subprocess.CompletedProcess(line, stop.value.code, out.getvalue(), err.getvalue())


def fails(tmp_path: Path, *arguments: object) -> str:
    """The one line of a command that must refuse its input and leave nothing behind."""
    before = sorted(tmp_path.rglob("*"))
    result = called(*arguments, cwd=tmp_path)
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.returncode == 2, result.stderr
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert sorted(tmp_path.rglob("*")) == before
    return lines[0]


def hear_ctrl_c() -> None:
    """To be called in a child before it starts: a shell lets what it runs in the background ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
