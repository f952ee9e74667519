"""What a Config refuses: every number has a range, and one line says field, rule and what arrived."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

import annotated_types
import pytest
from pydantic.fields import FieldInfo

from ctvr_bench.features.errors import InputError
from ctvr_bench.methods.shared.registry import find_method, known_methods

NAN, INFINITE = float("nan"), float("inf")


def test_every_number_of_every_config_has_a_range() -> None:
    without = []
    for name, entry in known_methods().items():
        hints = typing.get_type_hints(entry.method.Config, include_extras=True)
        for field in dataclasses.fields(entry.method.Config):
            parts = typing.get_args(hints[field.name]) or (hints[field.name],)
            numbers = parts[0] in (int, float) or {int, float} & set(parts)
            plain = typing.get_origin(hints[field.name]) is not typing.Annotated
            if numbers and plain:
                without.append(f"{name}.{field.name}")
    assert without == []


def lowest(hint: Any) -> list[float]:
    """The lower bounds that an annotation carries."""
    found: list[float] = []
    for part in typing.get_args(hint):
        if isinstance(part, FieldInfo):
            bounds = [bound for bound in part.metadata if isinstance(bound, annotated_types.Ge | annotated_types.Gt)]
            found += [float(getattr(bound, "ge", getattr(bound, "gt", 0))) for bound in bounds]  # type: ignore[arg-type]
        else:
            found += lowest(part)
    return found


@pytest.mark.parametrize("name", sorted(known_methods()))
def test_no_number_goes_below_its_range_or_is_not_finite(name: str) -> None:
    entry = find_method(name)
    hints = typing.get_type_hints(entry.method.Config, include_extras=True)
    for field in dataclasses.fields(entry.method.Config):
        if not isinstance(field.default, float | int) or isinstance(field.default, bool):
            continue
        (bound,) = lowest(hints[field.name])
        for value in (bound - 1, NAN, INFINITE):
            with pytest.raises(InputError, match=rf"^{name}\.{field.name} must "):
                entry.config({field.name: value})


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("finetune", {"lr": NAN}, "finetune.lr must be a finite number; got nan"),
        ("finetune", {"lr": "nan"}, "finetune.lr must be a finite number; got 'nan'"),
        ("finetune", {"rank": 0}, "finetune.rank must be greater than or equal to 1; got 0"),
        ("finetune", {"epochs": -1}, "finetune.epochs must be greater than or equal to 1; got -1"),
        ("finetune", {"warmup": 2}, "finetune.warmup must be less than or equal to 1; got 2"),
        ("finetune", {"dropout": 1.0}, "finetune.dropout must be less than 1; got 1.0"),
        ("finetune", {"batch_size": 2.5}, "finetune.batch_size must be a valid integer, got a number with a fract"),
        ("er", {"buffer": 0}, "er.buffer must be greater than or equal to 1; got 0"),
        ("er", {"replay": 0}, "er.replay must be greater than or equal to 1; got 0"),
        ("zero_shot", {"alpha": 1.5}, "zero_shot.alpha must be less than or equal to 1; got 1.5"),
        ("l2p", {"chosen": 11}, "l2p: chosen must be at most pool, 10; got 11"),
        ("moe_adapters", {"experts": 1}, "moe_adapters: top_k must be at most experts, 1; got 2"),
        ("structalign", {"top_k": 11}, "structalign: top_k must be at most experts, 10; got 11"),
        ("frame_fusion_moe", {"top_k": 11}, "frame_fusion_moe: top_k must be at most experts, 10; got 11"),
        ("attention_head", {"heads": 3}, "attention_head: heads must divide width, 128; got 3"),
        ("ridge", {"lowest": 7}, "ridge: lowest must be at most highest, 6; got 7"),
        ("finetune", {"schedule": "sine"}, "finetune.schedule must be 'cosine', 'constant' or 'cosine_back'; got 'sin"),
    ],
)
def test_what_is_out_of_range_is_said_in_one_line(name: str, values: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        find_method(name).config(values)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_bounds_themselves_are_taken() -> None:
    config = find_method("finetune").config({"lr": 0, "warmup": 1, "dropout": 0, "weight_decay": 0, "epochs": 1})
    assert dataclasses.asdict(config)["warmup"] == 1.0
    assert dataclasses.asdict(find_method("l2p").config({"chosen": 10}))["chosen"] == 10
