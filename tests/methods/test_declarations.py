"""What a method says of itself is true: sources, deviations, published values, and numbers in its prose."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from ctvr_bench.bench.cli.values import parse_methods
from ctvr_bench.bench.run.training import generator_for
from ctvr_bench.methods.finetune import Finetune
from ctvr_bench.methods.shared.base import TrainedConfig, config_fields
from ctvr_bench.methods.shared.registry import find_method, known_methods
from tests.learning import begin, make, train_pairs
from tests.methods import reproduction

NAMES = sorted(known_methods())
NUMBER = r"(\d*\.?\d+(?:e-?\d+)?)"
FRACTION = r"(?i)\b(?:\d+|half|halves|halved|quarter|third|tenth|twice|doubled?)\b(?! space)"


def published(name: str) -> dict[str, Any]:
    text = find_method(name).method.published
    values: dict[str, Any] = parse_methods(f"{name}[{text}]")[0]["set"] if text else {}
    return values


@pytest.mark.parametrize("name", NAMES)
def test_a_method_names_what_it_was_compared_with(name: str) -> None:
    method = find_method(name).method
    assert (
        method.source == "the definition" or "equation" in method.source or re.search(r"@[0-9a-f]{7} ", method.source)
    )


def test_declarations_are_not_inherited_by_a_method_with_another_name() -> None:
    class Mine(Finetune):
        """A stranger's."""

        name = "mine"

    class Same(Finetune):
        """The same method, trained otherwise."""

    assert (Mine.source, Mine.fidelity, Mine.deviations, Mine.published) == ("", "exact", "", "")
    assert (Same.source, Same.fidelity, Same.deviations) == (Finetune.source, "adapted", Finetune.deviations)


@pytest.mark.parametrize("name", NAMES)
def test_deviations_name_fields_that_exist(name: str) -> None:
    method = find_method(name).method
    for field in re.findall(r"`(\w+)`", method.deviations):
        assert field in config_fields(method.Config)


@pytest.mark.parametrize("name", [name for name in NAMES if published(name)])
def test_published_values_differ_from_the_defaults_and_give_a_finite_loss(name: str) -> None:
    entry, values = find_method(name), published(name)
    defaults, chosen = dataclasses.asdict(entry.config()), dataclasses.asdict(entry.config(values))
    assert {key for key in defaults if defaults[key] != chosen[key]} == values.keys()
    if not issubclass(entry.method.Config, TrainedConfig):
        return
    method = make(name, **values)
    begin(method, 0)
    batch = method.prepare(train_pairs(0).pairs(torch.arange(8)), generator_for(0, "draws"))
    assert all(torch.isfinite(term) for term in method.loss(batch).values())


# --- numbers in prose


@pytest.mark.parametrize("name", NAMES)
def test_a_sentence_about_a_method_holds_no_number_that_a_default_could_leave_behind(name: str) -> None:
    method = find_method(name).method
    for text in (method.idea, method.__doc__ or "", method.stores_samples):
        assert re.findall(FRACTION, text) == []
    defaults = {str(value) for value in config_fields(method.Config).values() if isinstance(value, float) and value > 1}
    assert not defaults & set(re.findall(NUMBER, method.deviations))


@pytest.mark.parametrize("name", NAMES)
def test_a_number_beside_a_fields_name_is_its_default_or_the_published_one(name: str) -> None:
    method, module = find_method(name).method, inspect.getmodule(find_method(name).method)
    fields = config_fields(method.Config)
    texts = [(module and module.__doc__) or "", *(kind.__doc__ or "" for kind in method.Config.__mro__[:-1])]
    names = "|".join(fields)
    behind = rf"\b({names})`?(?: (?:is|of|at|=|by))*[ =]{NUMBER}\b"
    before = rf"\b{NUMBER} ({names})\b"
    found = [pair for text in texts for pair in re.findall(behind, text)]
    found += [(field, number) for text in texts for number, field in re.findall(before, text)]
    for field, number in found:
        assert float(number) in (fields[field], published(name).get(field)), f"{name}: {field} {number}"


def test_the_scan_sees_a_stale_number() -> None:
    """The two that an audit found: "keep half" beside a merge of .25, and a docstring that says merge = 0.5."""
    assert re.findall(FRACTION, "Learn a task in a low-rank map, keep half of it") == ["half"]
    assert re.findall(rf"\b(merge)`?(?: (?:is|of|at|=|by))*[ =]{NUMBER}\b", "where merge = 0.5 stays") == [
        ("merge", "0.5")
    ]


# --- the reproduction table


def test_every_method_stands_in_the_reproduction_table() -> None:
    assert sorted(reproduction.COMPARED) == NAMES


def test_the_reproduction_page_is_as_the_declarations_say() -> None:
    assert reproduction.PAGE.read_text() == reproduction.page(), "run python -m tests.methods.reproduction"


def test_the_tests_that_the_table_names_exist() -> None:
    root = Path(__file__).parents[2]
    for compared, tests in reproduction.COMPARED.values():
        assert compared
        assert tests
        for test in tests:
            file, _, function = test.partition("::")
            assert re.search(rf"^def {function}\(", (root / file).read_text(), re.MULTILINE), test
