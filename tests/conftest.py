"""Fixtures of many tests."""

from __future__ import annotations

import pytest


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without figures, which take seconds to draw and have tests of their own."""
    monkeypatch.setattr("ctvr_bench.bench.report.plots.save_figures", lambda *_: {})
