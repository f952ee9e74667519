"""Checks of a method: what each promises to find, and what it found in plain words; `contract` holds them all."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from ctvr_bench.bench.losses import DivergedError
from ctvr_bench.features.errors import InputError
from ctvr_bench.methods.shared.base import TextEmbedding, VideoEmbedding
from ctvr_bench.methods.shared.registry import Entry

Embedding = TextEmbedding | VideoEmbedding


class ContractError(Exception):
    """A promise is broken; the message says how, and what to do."""


@dataclass(frozen=True)
class Check:
    """promise: in one sentence. of: which methods make it."""

    name: str
    promise: str
    run: Callable[[Entry], None]
    of: Callable[[Entry], bool]


@dataclass(frozen=True)
class Finding:
    """What a check found: no fault where it is None."""

    check: Check
    fault: str | None


CHECKS: dict[str, Check] = {}


def fault_of(check: Check, entry: Entry) -> str | None:
    """What is wrong, with the line of the method's file where it raised; None where the promise is kept."""
    try:
        check.run(entry)
    except (ContractError, InputError, DivergedError) as error:
        return str(error)
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        here = [frame for frame in frames if frame.filename == inspect.getfile(entry.method)] or frames
        where = f"line {here[-1].lineno} of {here[-1].filename}, in {here[-1].name}"
        return f"{where}, raised {type(error).__name__}: {error}"
    return None


def every(entry: Entry) -> bool:
    """A promise of all methods."""
    return True


def promise(text: str, of: Callable[[Entry], bool] = every) -> Callable[[Callable[[Entry], None]], None]:
    """Make a function the check of this promise; its name, less the underscore, is the check's."""

    def add(run: Callable[[Entry], None]) -> None:
        name = run.__name__.removeprefix("_")
        CHECKS[name] = Check(name, text, run, of)

    return add


def require_equal(name: str, scoring: str, found: Embedding, expected: Embedding) -> None:
    """Raises ContractError where the parts that the scoring needs are not the same bits."""
    parts = {"pooled features": 0} | ({} if scoring == "cosine" else {"words or frames": 1})
    for what, part in parts.items():
        got, wanted = found[part], expected[part]
        if got is None or wanted is None or got.shape != wanted.shape:
            raise ContractError(f"with scoring {scoring} {name} returns no {what}, or of another shape than embed_text")
        away = float((got - wanted).abs().max())
        if not away == 0:
            raise ContractError(
                f"before training {name} differs from zero-shot CLIP by up to {away:.2g} ({what}, scoring {scoring}); "
                "begin every module at the identity, for instance with zeros in the last weight of a residual branch"
            )
