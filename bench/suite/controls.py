"""Controls: the method without its idea, which stands beside it in every suite that is run."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ctvr_bench.bench.suite.plugins import find_method
from ctvr_bench.bench.suite.suite import MethodChoice, SuiteConfig


def with_controls(config: SuiteConfig, tell: Callable[[str], None]) -> SuiteConfig:
    """The suite with the control of every method that names one, before the first of them that lacks it.

    A control is compared as its method is: it has the method's scoring and its own defaults otherwise. One that the
    suite names under the same scoring is not added again. tell: gets a line for each that is added.
    """
    present = {(choice.name, _scoring(choice, config)) for choice in config.methods}
    return config.model_copy(update={"methods": tuple(_with_missing(config, present, tell))})


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
