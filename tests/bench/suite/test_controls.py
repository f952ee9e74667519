"""What a method is without its idea stands beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctvr_bench.bench.suite.config import SuiteConfig, make_suite
from ctvr_bench.bench.suite.controls import with_controls
from ctvr_bench.bench.suite.suite import plan
from ctvr_bench.features.store import open_store
from ctvr_bench.methods.shared.registry import find_method, known_methods
from tests.commands import called
from tests.stores import small_store

PROMPTS = ("l2p", "dualprompt", "coda_prompt", "s_prompts")


def suite(*methods: object, **values: object) -> SuiteConfig:
    return make_suite({"store": small_store().path, "methods": list(methods), **values}, "test")


def labels(config: SuiteConfig) -> list[str]:
    """Rows as tables call them, in order."""
    planned = plan(with_controls(config, lambda line: None), open_store(config.store))
    return list(dict.fromkeys(job.label for job in planned))


@pytest.mark.parametrize("name", PROMPTS)
def test_the_head_without_prompts_stands_beside_every_prompt_method(name: str) -> None:
    assert labels(suite("lwf", name)) == ["lwf", "attention_head", name]


def test_one_control_serves_all_that_are_scored_alike() -> None:
    assert labels(suite(*PROMPTS)) == ["attention_head", *PROMPTS]
    named = suite("l2p", {"name": "attention_head", "set": {"lr": 1e-3}})
    assert with_controls(named, lambda line: None) == named


def test_a_control_is_scored_as_its_method_is() -> None:
    fused = {"name": "l2p", "set": {"scoring": "fused"}}
    assert labels(suite("attention_head", fused)) == [
        "attention_head",
        "attention_head [scoring=fused]",
        "l2p [scoring=fused]",
    ]
    told: list[str] = []
    with_controls(suite("l2p", set={"l2p": {"scoring": "word_frame"}}), told.append)
    assert told == ["attention_head joins the suite: the control of l2p, the same without its idea"]


def test_every_control_is_a_method_that_needs_none() -> None:
    controls = {entry.method.control for entry in known_methods().values()} - {""}
    assert controls == {"attention_head", "video_frozen"}
    assert not any(find_method(name).method.control for name in controls)


def test_a_method_in_a_file_of_its_own_may_name_a_control(tmp_path: Path) -> None:
    text = "from methods.l2p import L2P\n\n\nclass Mine(L2P):\n    name = 'mine'\n"
    (tmp_path / "mine.py").write_text(text, encoding="utf-8")
    control, mine = labels(suite(f"{tmp_path / 'mine.py'}:Mine"))
    assert control == "attention_head"
    assert mine == "mine"


def test_run_says_that_a_control_joins(tmp_path: Path, no_figures: None) -> None:
    given = (
        "--methods",
        "l2p[epochs=1]",
        "--recipe",
        "fixed",
        "--seeds",
        "1",
        "--jobs",
        "1",
        "--out",
        tmp_path,
        "--json",
    )
    result = called("run", "--store", small_store().path, *given)
    assert result.returncode == 0, result.stderr
    assert "attention_head joins the suite" in result.stderr
    assert '"attention_head"' in result.stdout
