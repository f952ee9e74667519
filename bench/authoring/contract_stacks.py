"""The promise of a method whose runs may train as one stack, checked in float64, where rounding hides nothing."""

from __future__ import annotations

from dataclasses import asdict

from ctvr_bench.bench.authoring import tryout
from ctvr_bench.bench.authoring.checks import ContractError, promise
from ctvr_bench.bench.run.stacks.ensemble import learn_in_step, may_stack
from ctvr_bench.bench.run.stacks.optimiser import ALIKE
from ctvr_bench.bench.run.training import lessons_of_task
from ctvr_bench.methods.shared.base import Method, TaskInfo
from ctvr_bench.methods.shared.registry import Entry

_TOLERANCE = 1e-8
"""Of the largest weight; rounding in float64 stayed below 1e-12 with every method of `methods/`."""


@promise(
    "runs that differ in seed and numbers learn in one stack what each learns alone",
    lambda entry: may_stack(entry.method),
)
def _together(entry: Entry) -> None:
    alone, together = (_learned(entry, stacked) for stacked in (False, True))
    for first, second in zip(alone, together, strict=True):
        for (name, value), other in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
            away, largest = (float(x.abs().max()) if x.numel() else 0.0 for x in (other - value, value))
            if value.is_floating_point() and not away <= _TOLERANCE * max(largest, 1e-2):
                raise ContractError(
                    f"`{name}` ends up to {away:.2g} away from what the run learns alone: `loss` reads something of "
                    "its own run that is no parameter, buffer, Config field or batch; keep it in a buffer, or set "
                    "ensembles = False"
                )


def _learned(entry: Entry, stacked: bool) -> list[Method]:
    """Two runs after two tasks; the second has other values of every fractional number that may differ."""
    numbers = {name: value for name, value in asdict(entry.config()).items() if isinstance(value, float)}
    other = {name: value if name == ALIKE else 0.9 * value for name, value in numbers.items()}
    methods = [tryout.make(entry, seed, **values).double() for seed, values in enumerate((numbers, other))]
    for task in (0, 1):
        data = tryout.in_double(tryout.train_pairs(task))
        info = TaskInfo(task, len(data), tryout.small_stream().tasks[task].categories)
        learners = [lessons_of_task(method, data, info, seed) for seed, method in enumerate(methods)]
        for group in [learners] if stacked else [[learner] for learner in learners]:
            learn_in_step(group)
    return methods
