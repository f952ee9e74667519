"""What a number of a Config may be; `Entry.config` checks it before anything is built, and its error names the rule."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

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
