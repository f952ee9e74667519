"""Methods by name, and their configurations from plain values."""

from __future__ import annotations

import importlib
import math
import pkgutil
import re
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any, cast

import pydantic

from ctvr_bench import methods
from ctvr_bench.features.errors import InputError, unknown_name
from ctvr_bench.methods.shared.base import Method, MethodConfig, config_fields

_ENTRIES: dict[str, Entry] = {}
MOST = 1_000_000
"""Of any whole number of a Config: past any use, and short of what no memory holds or nobody waits for."""


@dataclass(frozen=True)
class Entry:
    """A name a user may write: a method class, with the Config values that differ from the class's defaults.

    code: digest of the file or package of a method that is not one of the suite's; empty for those that are.
    """

    name: str
    method: type[Method]
    preset: Mapping[str, Any]
    code: str = ""

    @property
    def written_as(self) -> str:
        """What a user writes to name it."""
        return self.name

    def config(self, overrides: Mapping[str, Any] | None = None) -> MethodConfig:
        """The validated Config. Raises InputError for an unknown field (with the nearest) or a wrong value."""
        fields = config_fields(self.method.Config)
        for key in overrides or {}:
            if key not in fields:
                raise unknown_name(f"field of {self.name}", key, fields)
        values = {**self.preset, **(overrides or {})}
        try:
            config = _adapter(cast("Hashable", self.method.Config)).validate_python(values)
        except pydantic.ValidationError as error:
            raise InputError(_said(self.name, error.errors()[0])) from error
        for key in fields:
            value = getattr(config, key)
            if isinstance(value, int) and abs(value) > MOST:
                raise InputError(f"{self.name}.{key} must be at most {MOST:,}; got {value:,}")
            if isinstance(value, float) and not math.isfinite(value):
                raise InputError(f"{self.name}.{key} must be a finite number; got {value!r}")
        return replace(config)


@lru_cache(256)
def _adapter(config: Any) -> pydantic.TypeAdapter[MethodConfig]:
    """What reads a Config of this class; making it takes a hundredth of a second, and a suite asks often."""
    return pydantic.TypeAdapter(config)


def _said(name: str, first: Mapping[str, Any]) -> str:
    """What is wrong with a Config, in one line: the field, the rule, what arrived."""
    rule = re.sub("^(Value error, |Input should )", "", first["msg"])
    if not first["loc"]:
        return f"{name}: {rule}"
    return f"{name}.{first['loc'][0]} must {rule}; got {first['input']!r}"


def register(*, name: str | None = None, **preset: Any) -> Callable[[type[Method]], type[Method]]:
    """Class decorator that makes a method known, under its own name or as a named preset of Config values."""

    def add(method: type[Method]) -> type[Method]:
        entry = Entry(name or method.name, method, preset)
        if entry.name in _ENTRIES and _ENTRIES[entry.name].method.__qualname__ != method.__qualname__:
            raise InputError(f"two methods are called {entry.name!r}; rename one")
        _ENTRIES[entry.name] = entry
        return method

    return add


def known_methods() -> dict[str, Entry]:
    """Every registered name, sorted."""
    _import_all()
    return dict(sorted(_ENTRIES.items()))


def find_method(name: str) -> Entry:
    """The entry of that name. Raises InputError with the nearest known name."""
    entries = known_methods()
    if name not in entries:
        raise unknown_name("method", name, entries)
    return entries[name]


@contextmanager
def apart() -> Iterator[None]:
    """Within it, what is registered is forgotten again: a file from outside may carry `@register()` or not."""
    known = known_methods()
    _ENTRIES.clear()
    try:
        yield
    finally:
        _ENTRIES.clear()
        _ENTRIES.update(known)


@cache
def _import_all() -> None:
    for module in pkgutil.iter_modules(methods.__path__, "ctvr_bench.methods."):
        importlib.import_module(module.name)
