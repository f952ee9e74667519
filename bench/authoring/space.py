"""Where a method's constants are searched: from the words beside its Config's fields to ranges that can grow.

A place is a number from 0 to 1 on the range's own scale, logarithmic or linear.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from ctvr_bench.features.errors import InputError
from ctvr_bench.methods.shared.ranges import Among, Search, Searched, field_bounds, searched_fields
from ctvr_bench.methods.shared.registry import Entry

EDGE = 0.1
"""Part of a range, at either end, in which a value is said to lie at its edge."""
GROWTH = 0.5
"""By how much of its width a range grows on the side of its edge, once."""
_DIGITS = 3  # of a value that is tried, so that it can be written down
Side = Literal["low", "high"]


@dataclass(frozen=True)
class Range:
    """A number's range. least, most: what the field may be. whole: integers. grown: the sides on which it has grown."""

    low: float
    high: float
    scale: Literal["log", "linear"]
    least: float
    most: float
    whole: bool
    grown: tuple[Side, ...] = ()

    def place(self, value: float) -> float:
        """Of a value: 0 at `low` and 1 at `high`."""
        low, high, at = (self._scaled(number) for number in (self.low, self.high, value))
        return (at - low) / (high - low)

    def value(self, place: float) -> float | int:
        """What lies at a place, as it is tried."""
        return self.tried(self._at(place))

    def tried(self, number: float) -> float | int:
        """A number of the range with three digits, or whole."""
        near = min(max(rounded(number), self.low), self.high)
        return round(near) if self.whole else near

    def holds(self, value: Any) -> bool:
        """Whether a value is a number within it."""
        return isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high

    def where(self, value: Any) -> str:
        """Where a value lies, in words."""
        if not self.holds(value):
            return "outside of its range"
        side = self._side(value)
        if side is None:
            return "inside"
        natural = self.low == self.least if side == "low" else self.high == self.most
        return "at a natural end" if natural else "at the edge"

    def grown_for(self, value: Any) -> Range:
        """Wider by half on the side at whose edge the value lies, unless it has grown there or the field ends there."""
        side = self._side(value) if self.where(value) == "at the edge" else None
        if side is None or side in self.grown:
            return self
        if side == "low":
            number = self._at(-GROWTH)
            low = min(math.floor(number), self.low - 1) if self.whole else rounded(number)
            return replace(self, low=max(low, self.least), grown=(*self.grown, side))
        number = self._at(1 + GROWTH)
        high = max(math.ceil(number), self.high + 1) if self.whole else rounded(number)
        return replace(self, high=min(high, self.most), grown=(*self.grown, side))

    def _at(self, place: float) -> float:
        low, high = self._scaled(self.low), self._scaled(self.high)
        at = low + place * (high - low)
        return math.exp(at) if self.scale == "log" else at

    def _side(self, value: float) -> Side | None:
        place = self.place(value)
        return "low" if place < EDGE else "high" if place > 1 - EDGE else None

    def _scaled(self, number: float) -> float:
        return math.log(number) if self.scale == "log" else number


@dataclass(frozen=True)
class Values:
    """A switch's values; they do not grow."""

    values: tuple[Any, ...]

    def value(self, place: float) -> Any:
        """What lies at a place."""
        return self.values[min(int(place * len(self.values)), len(self.values) - 1)]

    def tried(self, value: Any) -> Any:
        """The value itself."""
        return value

    def holds(self, value: Any) -> bool:
        """Whether a value is one of them."""
        return value in self.values

    def where(self, value: Any) -> str:
        """Where a value lies, in words."""
        return "one of its values" if self.holds(value) else "outside of its values"

    def grown_for(self, value: Any) -> Values:
        """Itself."""
        return self


Space = Mapping[str, Range | Values]


def space_of(entry: Entry, said: Mapping[str, Search | Among] | None = None) -> Space:
    """What is searched for a method: what its Config says beside the fields, but for those that its preset fixes.

    said: other fields, or other ranges, in place of all of that. Every end and value is tried on the Config. Raises
    InputError for a field or value that it does not take, and where there is nothing to search.
    """
    config = entry.method.Config
    if said is None:
        fields = {name: where for name, where in searched_fields(config).items() if name not in entry.preset}
    else:
        for name, where in said.items():
            ends = where.values if isinstance(where, Among) else (where.low, where.high)
            for value in ends:
                entry.config({name: value})
        fields = {name: field_bounds(config, name, where) for name, where in said.items()}
    if not fields:
        raise InputError(
            f"{entry.name}: nothing to search; say beside a field of its Config where, as in "
            "weight: Annotated[float, Search(0.1, 10)], or give --search weight=0.1:10"
        )
    return {name: _resolved(field) for name, field in fields.items()}


def default_of(entry: Entry, space: Space) -> dict[str, Any]:
    """The present values of the fields that are searched."""
    config = asdict(entry.config())
    return {field: config[field] for field in space}


def rounded(number: float) -> float:
    """A number with three digits.

    >>> rounded(0.000123456)
    0.000123
    """
    return float(f"{number:.{_DIGITS}g}")


def _resolved(field: Searched) -> Range | Values:
    if isinstance(field.where, Among):
        return Values(field.where.values)
    return Range(field.where.low, field.where.high, field.where.scale, field.least, field.most, field.whole)
