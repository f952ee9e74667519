"""Values typed on the command line."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import pydantic

from ctvr_bench.features.errors import InputError, unknown_name
from ctvr_bench.features.schema import LIMITS
from ctvr_bench.features.streams import StreamOptions
from ctvr_bench.methods.shared.ranges import Among, Search

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_Config = TypeVar("_Config", bound="DataclassInstance")
_METHOD = re.compile(r"\s*([^\[\],]*[^\[\],\s])\s*(?:\[([^\]]*)\])?\s*(?:,|$)")


def parse_methods(text: str) -> list[dict[str, Any]]:
    """Method choices from 'lwf,zero_shot[scoring=fused, alpha=0.3]'.

    >>> parse_methods("lwf, zero_shot[scoring=fused]")
    [{'name': 'lwf', 'set': {}}, {'name': 'zero_shot', 'set': {'scoring': 'fused'}}]
    """
    choices, position = [], 0
    while position < len(text):
        match = _METHOD.match(text, position)
        if match is None:
            raise InputError(f"--methods must read name,name[field=value, ...]; could not read {text[position:]!r}")
        name, inside = match.groups()
        pairs = [_pair(part, "--methods") for part in inside.split(",")] if inside else []
        choices.append({"name": name, "set": dict(pairs)})
        position = match.end()
    return choices


def parse_settings(settings: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Values by method from 'method.field=value'.

    >>> parse_settings(["lwf.lr=1e-4", "lwf.weight=2"])
    {'lwf': {'lr': 0.0001, 'weight': 2}}
    """
    values: dict[str, dict[str, Any]] = {}
    for setting in settings:
        name, value = _pair(setting, "--set")
        method, dot, field = name.partition(".")
        if not dot or not field:
            raise InputError(f"--set must read method.field=value; got {setting!r}")
        values.setdefault(method, {})[field] = value
    return values


def parse_pairs(texts: Sequence[str], option: str) -> dict[str, Any]:
    """Values by field from 'field=value'.

    >>> parse_pairs(["lr=1e-4", "scoring=fused"], "--set")
    {'lr': 0.0001, 'scoring': 'fused'}
    """
    return dict(_pair(text, option) for text in texts)


def parse_variant(texts: Sequence[str]) -> dict[str, Any]:
    """Options of the stream from 'field=value'.

    >>> parse_variant(["long_tail=50", "split=true"])
    {'long_tail': 50, 'split': True}
    """
    known = {field.name for field in dataclasses.fields(StreamOptions)} - {"order", "seed", *LIMITS}
    values = parse_pairs(texts, "--variant")
    for field in values:
        if field not in known:
            raise unknown_name("stream variant", field, known)
    return values


def parse_limit(text: str) -> dict[str, Any]:
    """Tasks and queries of a smoke test.

    >>> parse_limit("tasks=2,queries=100")
    {'tasks': 2, 'queries': 100}
    """
    values = parse_pairs(text.split(","), "--limit")
    for field, value in values.items():
        if field not in LIMITS:
            raise unknown_name("limit", field, LIMITS)
        if not isinstance(value, int) or value < 1:
            raise InputError(f"--limit {field} is a number from 1; got {value!r}")
    return values


def parse_searches(texts: Sequence[str]) -> dict[str, Search | Among]:
    """Where fields are searched, from 'field=low:high', 'field=low:high:linear' and 'field=value,value'.

    >>> parse_searches(["lr=1e-5:1e-2", "mix=0:1:linear", "scoring=cosine,fused"])["mix"]
    Search(low=0.0, high=1.0, scale='linear')
    """
    found: dict[str, Search | Among] = {}
    for text in texts:
        field, value = (part.strip() for part in (text.partition("=")[0], text.partition("=")[2]))
        low, colon, rest = value.partition(":")
        high, _, scale = rest.partition(":")
        try:
            if not field or not value:
                raise ValueError("nothing stands before or after the sign of equality")
            if not colon:
                found[field] = Among(tuple(_pair(f"{field}={each}", "--search")[1] for each in value.split(",")))
            elif scale in ("", "log", "linear"):
                found[field] = Search(float(low), float(high), "linear" if scale == "linear" else "log")
            else:
                raise ValueError(f"a scale is log or linear, not {scale!r}")
        except ValueError as error:
            raise InputError(
                f"--search must read field=low:high, field=low:high:linear or field=value,value; got {text!r} ({error})"
            ) from error
    return found


def parse_knobs(config: type[_Config], knobs: Sequence[str]) -> _Config:
    """A dataclass from 'field=value' texts, validated; its defaults elsewhere."""
    fields = {field.name for field in dataclasses.fields(config)}
    values = dict(_pair(knob, "--knob") for knob in knobs)
    for name in values:
        if name not in fields:
            raise unknown_name("knob", name, fields)
    try:
        return pydantic.TypeAdapter(config).validate_python(values)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:  # what knobs must agree on
            raise InputError(first["msg"].removeprefix("Value error, ")) from error
        raise InputError(f"--knob {first['loc'][0]}: {first['msg'].lower()}; got {first['input']!r}") from error


def _pair(text: str, option: str) -> tuple[str, Any]:
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not name or not value:
        raise InputError(f"{option} needs field=value; got {text!r}")
    try:
        return name, tomllib.loads(f"value = {value}")["value"]
    except (ValueError, RecursionError):  # no TOML, or a number or nesting past all bounds
        return name, value
