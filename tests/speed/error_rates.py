"""The simulated error rates, power and coverage of docs/statistics.md, as a table: `make rates` (about an hour).

    python -m tests.speed.error_rates [TIMES] [FILE]

Every cell is kept in FILE (JSON) as soon as it is done, and what is there is not done again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from tests.bench.simulation import (
    World,
    coverage,
    earlier_false_alarms,
    false_alarms,
    power,
    store_false_alarms,
    unpaired_coverage,
)

NOISE = {"none": 0.0, "small": 0.1, "large": 0.3}
"""Standard deviation over runs on the scale of the answers' noise: R@1 moves by 0, about 1.2 and about 3.5 points."""
Cell = tuple[str, Callable[[int], float | tuple[float, float]]]


def cells() -> Iterator[Cell]:
    """Every cell's name and its simulation."""
    for name, run in NOISE.items():
        for runs in (2, 3, 5, 10):
            for methods in (2, 3, 5, 10, 20, 40):
                world = World(methods, seeds=runs, run=run)
                yield f"alike, noise {name}, {runs} runs, {methods} methods", lambda n, w=world: false_alarms(w, n)
        for methods in (2, 10, 40):
            world = World(methods, run=run)
            yield (
                f"these models, noise {name}, 1 run, {methods} methods",
                lambda n, w=world: false_alarms(w, n, these_runs=True),
            )
        for methods in (2, 8, 20):
            world = World(methods, seeds=5, run=run)
            yield (
                f"earlier test, noise {name}, 5 runs, {methods} methods",
                lambda n, w=world: earlier_false_alarms(w, n),
            )
    for methods in (3, 10, 40):
        scatter = tuple(np.exp(0.4 * np.random.default_rng(methods).standard_normal(methods)).tolist())
        for runs in (2, 3, 5, 10):
            world = World(methods, seeds=runs, run=0.15, scatter=scatter)
            yield f"alike, scatters differ, {runs} runs, {methods} methods", lambda n, w=world: false_alarms(w, n)
        for orders, seeds in ((2, 3), (3, 1), (3, 3), (5, 2)):
            order, seed = 0.15 * (orders >= 3), 0.1 * (seeds > 1)  # else the claim is for those that were run
            world = World(methods, seeds, orders, run=0.1, order=order, seed=seed)
            yield f"alike, {orders} orders x {seeds} seeds, {methods} methods", lambda n, w=world: false_alarms(w, n)
        world = World(methods, 3, run=0.15, untrained=True)
        yield f"alike, one untrained, 3 runs, {methods} methods", lambda n, w=world: false_alarms(w, n)
    for methods, runs, better in ((2, 3, 0.3), (2, 5, 0.3), (8, 3, 0.4), (8, 5, 0.4), (20, 5, 0.4)):
        world = World(methods, seeds=runs, run=0.1, better=better)
        yield f"power, {runs} runs, {methods} methods", lambda n, w=world: power(w, n)
    for orders, seeds in ((1, 1), (1, 2), (1, 3), (1, 5), (2, 3), (3, 1), (3, 3), (5, 2), (5, 5)):
        for name, spread in {"none": 0.0, "small": 0.05, "large": 0.3}.items():
            world = World(1, seeds, orders, queries=200, run=spread, order=spread, ease=0.7, seed=spread * (seeds > 1))
            yield f"interval, {orders} x {seeds}, noise {name}", lambda n, w=world: coverage(w, 4 * n)
            if orders * seeds > 1 and spread == 0.3 and (seeds > 1 or orders > 2):
                yield f"interval of runs, {orders} x {seeds}", lambda n, w=world: coverage(w, 4 * n, runs_only=True)
    for methods in (3, 10, 40):
        scatter = tuple(np.exp(0.8 * np.random.default_rng(methods).standard_normal(methods)).tolist())
        for runs in (2, 3, 5):
            world = World(methods, seeds=runs, run=0.15, scatter=scatter)
            yield f"alike, scatters differ much, {runs} runs, {methods} methods", lambda n, w=world: false_alarms(w, n)
        for stores in (2, 3, 5, 10):
            for uneven in (0.0, 0.4):
                yield (
                    f"alike over {stores} stores, uneven {uneven}, {methods} methods",
                    lambda n, m=methods, s=stores, u=uneven: store_false_alarms(m, s, n, u),
                )
    for (orders, seeds), (other_orders, other_seeds) in (
        ((1, 1), (1, 1)),
        ((1, 1), (1, 5)),
        ((1, 2), (1, 2)),
        ((1, 3), (1, 5)),
        ((1, 5), (1, 5)),
        ((3, 1), (3, 1)),
    ):
        for name, spread in {"none": 0.0, "small": 0.05, "large": 0.3}.items():
            worlds = [
                World(1, seeds=s, orders=o, queries=queries, run=spread, order=spread * (o > 2), ease=0.7)
                for o, s, queries in ((orders, seeds, 200), (other_orders, other_seeds, 300))
            ]
            yield (
                f"difference of two stores, {orders} x {seeds} and {other_orders} x {other_seeds}, noise {name}",
                lambda n, w=worlds: unpaired_coverage(*w, 4 * n),
            )


def main(times: int, path: Path) -> None:
    """Simulate what is missing in `path` and print all."""
    done: dict[str, object] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for name, simulate in cells():
        if name not in done:
            done[name] = simulate(times)
            path.write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")
        print(f"{name}: {done[name]}", flush=True)


if __name__ == "__main__":
    main(
        int(sys.argv[1]) if len(sys.argv) > 1 else 1000, Path(sys.argv[2] if len(sys.argv) > 2 else "error_rates.json")
    )
