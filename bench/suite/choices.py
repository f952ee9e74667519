"""The rows of a suite: values of a method that come from elsewhere, and what each row is called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ctvr_bench.features.errors import InputError
from ctvr_bench.features.tables import read_toml
from ctvr_bench.methods.shared.base import MethodConfig, TrainedConfig
from ctvr_bench.methods.shared.registry import Entry


def tuned_values(path: Path) -> dict[str, dict[str, Any]]:
    """Values by method, as `tune` leaves them. Raises InputError where the file holds anything else."""
    values = read_toml(path, "tuned values")
    if wrong := [name for name, of in values.items() if not isinstance(of, dict)]:
        raise InputError(f"{path}: a table of values for each method; got {wrong[0]} = {values[wrong[0]]!r}")
    return values


def recipe_given(entry: Entry, chosen: dict[str, Any], recipe: str) -> dict[str, Any]:
    """The suite's recipe, for a method that is trained and is given no rate or length of its own."""
    given = {"recipe", "lr", "steps", "epochs"} & {*chosen, *entry.preset}
    return {"recipe": recipe} if issubclass(entry.method.Config, TrainedConfig) and not given else {}


def _changed(entry: Entry, config: MethodConfig, recipe: str) -> dict[str, Any]:
    """Values that differ from the defaults; the recipe only where it is not what the suite gives such a method."""
    defaults = asdict(entry.config())
    changed = {field: value for field, value in asdict(config).items() if value != defaults[field]}
    named = {field: value for field, value in changed.items() if field != "recipe"}
    usual = {"recipe": "fixed"} | recipe_given(entry, named, recipe)
    chosen = getattr(config, "recipe", usual["recipe"])
    return named if chosen == usual["recipe"] else named | {"recipe": chosen}


def labels_of(configured: Sequence[tuple[Entry, MethodConfig]], recipe: str) -> list[str]:
    """How each row is called; by a digest of its code as well where two files of one name stand side by side."""
    changed = [_changed(entry, config, recipe) for entry, config in configured]
    plain = [label_of(entry.name, values) for (entry, _), values in zip(configured, changed, strict=True)]
    codes = {
        label: {e.code for (e, _), other in zip(configured, plain, strict=True) if other == label} for label in plain
    }
    return [
        label if len(codes[label]) == 1 else label_of(entry.name, values, entry.code)
        for (entry, _), values, label in zip(configured, changed, plain, strict=True)
    ]


def label_of(name: str, changed: dict[str, Any], code: str = "") -> str:
    """How tables call a method with some values changed; with `code`, a digest, also by its first letters.

    >>> label_of("zero_shot", {"scoring": "fused"})
    'zero_shot [scoring=fused]'
    """
    name += f"@{code[:6]}" if code else ""
    return f"{name} [{', '.join(f'{key}={value}' for key, value in sorted(changed.items()))}]" if changed else name
