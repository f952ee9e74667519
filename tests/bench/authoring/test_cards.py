"""The card of every method says what one must know before running it."""

from __future__ import annotations

import pytest

from ctvr_bench.bench.authoring import tryout
from ctvr_bench.bench.authoring.cards import print_card, print_methods
from ctvr_bench.bench.run.budget import trainable_parameters
from ctvr_bench.methods.shared.base import TrainedConfig, config_fields
from ctvr_bench.methods.shared.registry import find_method, known_methods


@pytest.mark.parametrize("name", sorted(known_methods()))
def test_a_card_has_paper_idea_equations_constants_fidelity_and_cost(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = find_method(name)
    print_card(entry)
    card = capsys.readouterr().out
    method = entry.method
    for text in (method.paper, method.idea, method.fidelity, method.deviations, method.stores_samples):
        assert text in card
    config = entry.config()
    for field in config_fields(method.Config):
        assert f"  {field} = {getattr(config, field)!r}\n" in card
    assert ("  lr: 3e-05 to 0.01, logarithmic\n" in card) == issubclass(method.Config, TrainedConfig)
    assert "trainable parameters" in card
    assert len(card.split("constants (")[0].splitlines()) > 10  # the module's docstring, with its equations


def test_costs_are_those_of_the_method_at_the_stated_size(capsys: pytest.CaptureFixture[str]) -> None:
    print_card(find_method("attention_head"))
    assert f"{4 * 2 * 512 * 128:,} trainable parameters, 0 bytes" in capsys.readouterr().out
    assert trainable_parameters(tryout.make(find_method("attention_head"))) == 4 * 2 * 32 * 128


def test_every_field_of_a_config_is_explained_on_its_card(capsys: pytest.CaptureFixture[str]) -> None:
    silent = []
    for name, entry in known_methods().items():
        print_card(entry)
        meaning = capsys.readouterr().out.split("constants (")[1].split("\n\n", 1)[1]
        silent += [f"{name}.{field}" for field in config_fields(entry.method.Config) if field not in meaning]
    assert silent == []


def test_the_list_has_every_method(capsys: pytest.CaptureFixture[str]) -> None:
    print_methods(known_methods())
    listed = capsys.readouterr().out
    assert all(name in listed for name in known_methods())
