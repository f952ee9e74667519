"""Values that a search chose, taken by a suite."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctvr_bench.bench.suite.config import make_suite, read_suites
from ctvr_bench.bench.suite.suite import plan
from ctvr_bench.features.errors import InputError
from tests.stores import small_store


def test_a_suite_takes_tuned_values_and_its_own_are_stronger(tmp_path: Path) -> None:
    (tmp_path / "chosen.toml").write_text("[lwf]\nlr = 5e-4\nweight = 3.0\n[ewc]\nstrength = 7.0\n")
    (tmp_path / "s.toml").write_text(
        f'store = "{small_store().path}"\ntuned = "chosen.toml"\nseeds = 1\n'
        'methods = ["lwf", {name = "lwf", set = {weight = 2.0}}, "finetune"]\n'
    )
    (config,) = read_suites(tmp_path / "s.toml", {})
    jobs = plan(config, small_store())
    taken = [(job.config.config["lr"], job.config.config.get("weight")) for job in jobs]
    assert taken == [(5e-4, 3.0), (5e-4, 2.0), (2.6e-4, None)]
    assert [job.config.config["recipe"] for job in jobs] == ["fixed", "fixed", "auto"]  # a rate was given
    assert [job.label for job in jobs[:2]] == ["lwf [lr=0.0005, weight=3.0]", "lwf [lr=0.0005, weight=2.0]"]


def test_tuned_values_that_a_method_does_not_take_are_refused(tmp_path: Path) -> None:
    (tmp_path / "chosen.toml").write_text("[lwf]\nwait = 3.0\n")
    values = {"store": small_store().path, "methods": ("lwf",), "tuned": tmp_path / "chosen.toml"}
    with pytest.raises(InputError, match="did you mean 'weight'"):
        plan(make_suite(values, "here"), small_store())
    (tmp_path / "chosen.toml").write_text("lwf = 3\n")
    with pytest.raises(InputError, match="a table of values for each method"):
        plan(make_suite(values, "here"), small_store())
