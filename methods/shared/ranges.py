"""What a number of a Config may be, and where `tune` searches it; both stand beside the field.

`Entry.config` checks what is allowed before anything is built, and its error names the rule.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_type_hints

from pydantic import Field
from pydantic.fields import FieldInfo

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""Above 0: scales, temperatures, limits."""
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""From 0 on: weights of terms, rates, decays."""
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
"""0 to 1, both included: mixtures, momenta, parts of a whole of which all or nothing is possible."""
PartOf = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
"""0 to below 1: what is left out or given back of a whole that must not vanish."""
Count = Annotated[int, Field(ge=1)]
"""At least 1: sizes, passes, pieces."""
Some = Annotated[int, Field(ge=0)]
"""At least 0: counts of which none is possible."""


def at_most(value: int, limit: int, name: str, of: str) -> None:
    """For a Config's `__post_init__`: one field may not exceed another. Raises ValueError."""
    if value > limit:
        raise ValueError(f"{name} must be at most {of}, {limit}; got {value}")


@dataclass(frozen=True)
class Search:
    """Beside a number: `tune` searches it from low to high, evenly on a logarithmic scale or on a linear one.

    Written as `weight: Annotated[NotNegative, Search(0.1, 30.0)] = 1.0`. The bounds are where to begin, not what is
    allowed: where the best value lies near one, the range grows, up to what the field may be.
    """

    low: float
    high: float
    scale: Literal["log", "linear"] = "log"

    def __post_init__(self) -> None:
        if not self.low < self.high or (self.scale == "log" and self.low <= 0):
            raise ValueError(f"a searched range runs upwards, from above 0 on a logarithmic scale; got {self}")


@dataclass(frozen=True)
class Among:
    """Beside a switch: `tune` searches these values of it."""

    values: tuple[Any, ...]


class Searched(NamedTuple):
    """A field that is searched, with the least and the most that it may be; whole: integers alone."""

    where: Search | Among
    least: float = -math.inf
    most: float = math.inf
    whole: bool = False


def searched_fields(config: type) -> dict[str, Searched]:
    """The fields of a Config that say where they are searched, base classes first.

    A class that gives a field another default keeps the range of its base; one that says another range has that.
    """
    found: dict[str, Searched] = {}
    for parent in reversed(config.__mro__):
        own = inspect.get_annotations(parent)
        hints = get_type_hints(parent, include_extras=True) if own else {}
        for name in own:
            said = [part for part in _parts(hints[name]) if isinstance(part, Search | Among)]
            if said or name in found:
                found[name] = _bounded(said[-1] if said else found[name].where, hints[name])
    return found


def field_bounds(config: type, name: str, where: Search | Among) -> Searched:
    """A field of a Config as it is searched where somebody says so elsewhere than beside it."""
    return _bounded(where, get_type_hints(config, include_extras=True)[name])


def _bounded(where: Search | Among, hint: Any) -> Searched:
    parts = list(_parts(hint))
    rules = [rule for part in parts if isinstance(part, FieldInfo) for rule in part.metadata]
    bounds = [(name, float(getattr(r, name))) for r in rules for name in ("ge", "gt", "le", "lt") if hasattr(r, name)]
    low = [math.nextafter(at, math.inf) if name == "gt" else at for name, at in bounds if name in ("ge", "gt")]
    high = [math.nextafter(at, -math.inf) if name == "lt" else at for name, at in bounds if name in ("le", "lt")]
    return Searched(
        where, max(low, default=-math.inf), min(high, default=math.inf), int in parts and float not in parts
    )


def _parts(hint: Any) -> Iterator[Any]:
    """Everything that an annotation is made of."""
    yield hint
    for part in get_args(hint):
        yield from _parts(part)
