"""What a search tries next; the only file that imports Optuna.

The first round covers the space evenly (Sobol's points, scrambled). Later ones are proposed by Optuna's Tree-structured
Parzen Estimator (Bergstra et al. 2011) from all that was tried before. The same seed and the same results give the same
proposals, so that a search which was cut off goes on as if it had not been.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

from scipy.stats import qmc

from ctvr_bench.bench.authoring.space import Range, Space, Values
from ctvr_bench.features.errors import InputError

_AGAIN = 5  # proposals for each that is wanted, where many were tried before


class Tried(NamedTuple):
    """Values that were tried. score: larger is better; whole: made on every world, not on the first one alone."""

    values: Mapping[str, Any]
    score: float
    whole: bool


def even(space: Space, count: int, seed: int) -> list[dict[str, Any]]:
    """Points that cover the space evenly; fewer where two are the same."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The balance properties of Sobol")  # counts need no power of two
        places = qmc.Sobol(len(space), seed=seed).random(count).tolist()
    return _distinct([{n: r.value(at) for (n, r), at in zip(space.items(), row, strict=True)} for row in places], [])


def likely(space: Space, tried: Sequence[Tried], count: int, seed: int) -> list[dict[str, Any]]:
    """Points where good ones are likely, none of which was tried; fewer where the space has no more.

    Raises InputError where Optuna is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise InputError("tune needs Optuna, which is not installed; pip install 'ctvr-bench[tune]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions: dict[str, optuna.distributions.BaseDistribution] = {}
    for name, where in space.items():
        if not isinstance(where, Range):
            distributions[name] = optuna.distributions.CategoricalDistribution(where.values)
        elif where.whole:
            low, high = int(where.low), int(where.high)
            distributions[name] = optuna.distributions.IntDistribution(low, high, log=where.scale == "log")
        else:
            distributions[name] = optuna.distributions.FloatDistribution(
                where.low, where.high, log=where.scale == "log"
            )
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=1)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for one in tried:
        held = {name: one.values[name] for name, where in space.items() if where.holds(one.values[name])}
        study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState.COMPLETE if one.whole else optuna.trial.TrialState.PRUNED,
                value=one.score if one.whole else None,
                intermediate_values={1: one.score},
                params=held,
                distributions={name: distributions[name] for name in held},
            )
        )
    found: list[dict[str, Any]] = []
    for _ in range(_AGAIN * count):
        drawn = study.ask(distributions).params
        point = {name: where.tried(drawn[name]) for name, where in space.items()}
        found = _distinct([*found, point], [one.values for one in tried])
        if len(found) == count:
            return found
    switches = [where.values for where in space.values() if isinstance(where, Values)]
    if len(switches) < len(space):
        return found
    left = [dict(zip(space, point, strict=True)) for point in product(*switches)]  # what chance never drew
    return _distinct([*found, *left], [one.values for one in tried])[:count]


def _distinct(points: Sequence[dict[str, Any]], before: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    kept: list[dict[str, Any]] = []
    for point in points:
        if point not in kept and point not in before:
            kept.append(point)
    return kept
