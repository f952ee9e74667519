"""Rows' runs brought together: by order and seed, and by query, wherever they have them; and what differs between them.

Everything that compares rows, in reports, between stores and between suites, takes its pairs and its tests from here.

Axes: R runs, N queries in the order of their captions, V videos that they ask for, by row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ctvr_bench.bench.all_pairs import Answers, PairDifference, all_pairs, meet
from ctvr_bench.bench.analysis.contributions import row_values
from ctvr_bench.bench.analysis.queries import SEEN, rank_table
from ctvr_bench.bench.records.aggregate import Row, Run, SuiteResults
from ctvr_bench.bench.records.record import RankTable
from ctvr_bench.features.errors import InputError

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Flip:
    """A query whose rank 1 changed in `runs` runs. caption, video: rows of the store. before, after: mean ranks."""

    caption: int
    video: int
    task: int
    runs: int
    before: float
    after: float


@dataclass(frozen=True)
class Pairing:
    """The runs of two rows. paired: run r of both has the same order and seed and answered the same queries."""

    first: Sequence[Run]
    second: Sequence[Run]
    paired: bool

    @cached_property
    def tables(self) -> tuple[list[RankTable], list[RankTable]]:
        return [rank_table(run) for run in self.first], [rank_table(run) for run in self.second]

    @property
    def orders_and_seeds(self) -> tuple[tuple[list[int], list[int]], tuple[list[int], list[int]]]:
        """Those of the first's runs, and of the second's."""
        first, second = ([place_of(run) for run in runs] for runs in (self.first, self.second))
        return ([o for o, _ in first], [s for _, s in first]), ([o for o, _ in second], [s for _, s in second])

    def values(self, key: str) -> tuple[Floats, Floats] | None:
        """What every video adds to a metric, both [R, V]; None where it is no mean over queries."""
        first, second = (row_values(tables, key) for tables in self.tables)
        return None if first is None or second is None else (first, second)

    @property
    def task_V(self) -> npt.NDArray[np.int32]:
        """Place of each video's task in the first run, from 1, in the order of `values`."""
        table = self.tables[0][0]
        return table.task_N[np.unique(table.video_N, return_index=True)[1]] + 1

    def flips(self) -> tuple[float, float, list[Flip]]:
        """Queries that left rank 1 and that reached it, mean over runs, and every such query, the deepest fall first.

        The last of the list rose most.
        """
        rank_RN = [np.stack([t.ranks[SEEN][-1][np.argsort(t.caption_N)] for t in tables]) for tables in self.tables]
        lost_RN, won_RN = ((a == 1) & (b > 1) for a, b in (rank_RN, rank_RN[::-1]))
        table = self.tables[0][0]
        by_caption = np.argsort(table.caption_N)
        task_N = table.task_N[by_caption] + 1
        before_N, after_N = (ranks.mean(0) for ranks in rank_RN)
        net_N = lost_RN.sum(0) - won_RN.sum(0)
        chosen = sorted(np.flatnonzero(net_N).tolist(), key=lambda n: (-net_N[n], before_N[n] - after_N[n], n))
        found = [
            Flip(
                caption=int(table.caption_N[by_caption[n]]),
                video=int(table.video_N[by_caption[n]]),
                task=int(task_N[n]),
                runs=int(abs(net_N[n])),
                before=float(before_N[n]),
                after=float(after_N[n]),
            )
            for n in chosen
        ]
        return float(lost_RN.sum(1).mean()), float(won_RN.sum(1).mean()), found


def pair_runs(first: Row, second: Row) -> Pairing:
    """Runs of the same order and seed, where there are any and they answered the same queries; else all, apart.

    What is not trained has one run for each order, which meets every seed of the other.
    """
    rows = (first, second)
    runs = [{place_of(run): run for run in row.runs} for row in rows]
    common = meet(runs[0], runs[1], (is_drawn(first), is_drawn(second)))
    same_store = first.runs[0].record.config.store.digest == second.runs[0].record.config.store.digest
    if common and same_store:
        pairing = Pairing([run for _, run, _ in common], [run for _, _, run in common], True)
        one, other = (np.sort(tables[0].caption_N) for tables in pairing.tables)
        if np.array_equal(one, other):
            return pairing
    return Pairing(first.runs, second.runs, False)


def suite_answers(results: SuiteResults, key: str) -> dict[str, Answers]:
    """Every row's values of a metric, by label and run: of every query where it is a mean over them, else one.

    Rows that do not have it in every run are left out. Raises InputError where runs answered other queries.
    """
    known: dict[str, Answers] = {}
    asked: npt.NDArray[np.int64] | None = None
    for row in results.rows:
        tables, single_R = [rank_table(run) for run in row.runs], row.values(key)
        for run, table in zip(row.runs, tables, strict=True):
            captions = np.sort(table.caption_N)
            asked = captions if asked is None else asked
            if not np.array_equal(asked, captions):
                raise InputError(
                    f"{run.directory}: answers other queries than the suite's first run; report them apart"
                )
        if len(single_R) == len(row.runs):
            value_RN = row_values(tables, key)
            values = np.array(single_R)[:, None] if value_RN is None else value_RN
            known[row.label] = Answers(dict(zip(map(place_of, row.runs), values, strict=True)), is_drawn(row))
    return known


def differences(
    known: Mapping[str, Answers], *, these_orders: bool = False, these_runs: bool = False
) -> dict[tuple[str, str], PairDifference]:
    """Each row minus each other row, both ways round, all tested together: bench.all_pairs."""
    pairs, labels = all_pairs(list(known.values()), these_orders=these_orders, these_runs=these_runs), list(known)
    named = {(labels[i], labels[j]): pair for (i, j), pair in pairs.items()}
    return named | {(second, first): pair.turned() for (first, second), pair in named.items()}


def difference(pairing: Pairing, first_RN: Floats, second_RN: Floats) -> PairDifference:
    """Second minus first of paired rows; where seeds are unknown, p is None and the interval of these runs alone."""
    places = [place_of(run) for run in pairing.second]
    drawn = any(run.record.trained for run in (*pairing.first, *pairing.second))
    rows = [Answers(dict(zip(places, values, strict=True)), drawn) for values in (second_RN, first_RN)]
    found = all_pairs(rows)[0, 1]
    return found if found.p is not None else replace(all_pairs(rows, these_runs=True)[0, 1], p=None)


def place_of(run: Run) -> tuple[int, int]:
    """Order and seed."""
    return run.record.config.options["order"], run.record.config.seed


def is_drawn(row: Row) -> bool:
    """Whether another seed would give other numbers."""
    return row.runs[0].record.trained
