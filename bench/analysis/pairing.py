"""Two rows' runs brought together: by order and seed, and by query, wherever both have them.

Axes: R runs, N queries in the order of their captions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ctvr_bench.bench.analysis.contributions import row_values
from ctvr_bench.bench.analysis.queries import SEEN, rank_table
from ctvr_bench.bench.records.aggregate import Row, Run
from ctvr_bench.bench.records.record import RankTable

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
    def orders(self) -> tuple[list[int], list[int]]:
        first, second = ([run.record.config.options["order"] for run in runs] for runs in (self.first, self.second))
        return first, second

    def values(self, key: str) -> tuple[Floats, Floats] | None:
        """Contributions of every query to a metric, both [R, N]; None where it is no mean over queries."""
        first, second = (row_values(tables, key) for tables in self.tables)
        return None if first is None or second is None else (first, second)

    @property
    def task_N(self) -> npt.NDArray[np.int32]:
        """Place of each query's task in the first run, from 1."""
        table = self.tables[0][0]
        return table.task_N[np.argsort(table.caption_N)] + 1

    def flips(self) -> tuple[float, float, list[Flip]]:
        """Queries that left rank 1 and that reached it, mean over runs, and every such query, the deepest fall first.

        The last of the list rose most.
        """
        rank_RN = [np.stack([t.ranks[SEEN][-1][np.argsort(t.caption_N)] for t in tables]) for tables in self.tables]
        lost_RN, won_RN = ((a == 1) & (b > 1) for a, b in (rank_RN, rank_RN[::-1]))
        table, task_N = self.tables[0][0], self.task_N
        by_caption = np.argsort(table.caption_N)
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
    """Runs of the same order and seed, where there are any and they answered the same queries; else all, apart."""
    runs = [{(r.record.config.options["order"], r.record.config.seed): r for r in row.runs} for row in (first, second)]
    common = [key for key in runs[0] if key in runs[1]]
    same_store = first.runs[0].record.config.store.digest == second.runs[0].record.config.store.digest
    if common and same_store:
        pairing = Pairing([runs[0][key] for key in common], [runs[1][key] for key in common], True)
        one, other = (np.sort(tables[0].caption_N) for tables in pairing.tables)
        if np.array_equal(one, other):
            return pairing
    return Pairing(first.runs, second.runs, False)
