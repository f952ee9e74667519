"""Which rows a suite has: the control of every method beside it, and of the default ones those that fit the store."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

from ctvr_bench.bench.suite.choices import label_of
from ctvr_bench.bench.suite.config import MethodChoice, SuiteConfig
from ctvr_bench.bench.suite.plugins import find_method
from ctvr_bench.features.store import open_store


def with_controls(config: SuiteConfig, tell: Callable[[str], None]) -> SuiteConfig:
    """The suite with the control of every method that names one, before the first of them that lacks it.

    A control is compared as its method is: it has the method's scoring and its own defaults otherwise. One that the
    suite names under the same scoring is not added again. tell: gets a line for each that is added.
    """
    present = {(choice.name, _scoring(choice, config)) for choice in config.methods}
    return config.model_copy(update={"methods": tuple(_with_missing(config, present, tell))})


def that_fit(config: SuiteConfig, tell: Callable[[str], None]) -> SuiteConfig:
    """The suite without those of the default methods that compare words, on a store that has none.

    tell: gets one line that names them. A suite that chooses its methods itself stays as it is.
    """
    if "methods" in config.model_fields_set or open_store(config.store).has_words:
        return config
    entries = [find_method(choice.name) for choice in config.methods]
    asked = [e.config({**c.set, **config.set.get(e.name, {})}) for e, c in zip(entries, config.methods, strict=True)]
    fits = [not values.needs_words for values in asked]
    out = [label_of(c.name, c.set) for c, fit in zip(config.methods, fits, strict=True) if not fit]
    if out:
        tell(f"left out, since they compare words and {config.store} has none: {', '.join(out)}")
    return config.model_copy(update={"methods": tuple(itertools.compress(config.methods, fits))})


def _with_missing(
    config: SuiteConfig, present: set[tuple[str, str]], tell: Callable[[str], None]
) -> Iterator[MethodChoice]:
    for choice in config.methods:
        control, scoring = find_method(choice.name).method.control, _scoring(choice, config)
        if control and (control, scoring) not in present:
            present.add((control, scoring))
            tell(f"{control} joins the suite: the control of {choice.name}, the same without its idea")
            yield MethodChoice(name=control, set={"scoring": scoring})
        yield choice


def _scoring(choice: MethodChoice, config: SuiteConfig) -> str:
    entry = find_method(choice.name)
    return entry.config({**choice.set, **config.set.get(entry.name, {})}).scoring
