"""Fixtures of many tests, and the order of all."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files whose shared set-up takes seconds come first: workers that run dry take from the end of others' queues, so
    no second worker sets such a file up.
    """
    items.sort(key=lambda item: item.get_closest_marker("set_up_once") is None)


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """What tests write need not survive a power cut; that it is synced is asked by tests that put their own here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without figures, which take seconds to draw and have tests of their own."""
    monkeypatch.setattr("ctvr_bench.bench.report.plots.save_figures", lambda *_: {})
