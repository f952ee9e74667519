"""The gate inside a test suite: `def test_metrics(ctvr_baseline): ...` with `pytest --ctvr-baseline FILE`.

Such a test runs once for each method of the baseline, makes that method's runs anew, and fails where the gate would
(see bench.gate.gate); its body can assert more. Nothing heavy is imported before the first of them runs.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

if TYPE_CHECKING:
    from ctvr_bench.bench.gate.gate import RowOutcome

_FIXTURE = "ctvr_baseline"
_HOW = pytest.StashKey[str]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the gate."""
    group = parser.getgroup("ctvr", "gate of the continual text-to-video retrieval benchmark")
    group.addoption("--ctvr-baseline", metavar="FILE", help="baseline whose runs tests with ctvr_baseline repeat")
    group.addoption("--ctvr-store", metavar="FILE", help="where the baseline's feature store lies on this machine")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each method of the baseline."""
    if _FIXTURE not in metafunc.fixturenames:
        return
    name = metafunc.config.getoption("--ctvr-baseline")
    if name is None:
        skip = pytest.param(None, marks=pytest.mark.skip(reason="no --ctvr-baseline FILE was given"), id="no-baseline")
        metafunc.parametrize(_FIXTURE, [skip], indirect=True)
        return
    metafunc.parametrize(_FIXTURE, _labels(_path(metafunc.config, name)), indirect=True, scope="session")


@pytest.fixture(scope="session")
def ctvr_baseline(request: pytest.FixtureRequest) -> RowOutcome:
    """The verdict on one method of the baseline: label, verdict, reasons, moves, and `now`, its metrics by key."""
    from ctvr_bench.bench.gate.baseline import read_baseline
    from ctvr_bench.bench.gate.gate import check
    from ctvr_bench.bench.gate.measure import measure, suite_of
    from ctvr_bench.bench.gate.output import how_compared
    from ctvr_bench.features.errors import InputError

    path = _path(request.config, request.config.getoption("--ctvr-baseline"))
    store = request.config.getoption("--ctvr-store")
    try:
        recorded = read_baseline(path)
        config = suite_of(path, recorded, store and _path(request.config, store), jobs=1)
        found = check(recorded, measure(config, [request.param]), [request.param])
    except InputError as error:
        pytest.fail(str(error), pytrace=False)
    request.config.stash[_HOW] = "\n".join(how_compared(found))
    return found.rows[0]


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Fail a test that asks for `ctvr_baseline` where the gate fails, after what its own body asserts."""
    outcome = yield
    if _FIXTURE in pyfuncitem.fixturenames:
        row = cast("RowOutcome", pyfuncitem.funcargs[_FIXTURE])
        if not row.ok:
            from ctvr_bench.bench.gate.output import row_lines

            pytest.fail("\n".join([*row_lines(row), pyfuncitem.config.stash[_HOW]]), pytrace=False)
    return outcome


def _labels(path: Path) -> list[str]:
    try:
        return [row["label"] for row in json.loads(path.read_text(encoding="utf-8"))["rows"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise pytest.UsageError(f"--ctvr-baseline {path}: cannot be read as a baseline ({error})") from error


def _path(config: pytest.Config, name: str) -> Path:
    """A path as it was typed, from where pytest was called."""
    return config.invocation_params.dir / name
