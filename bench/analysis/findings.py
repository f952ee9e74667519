"""What the runs of a suite allow to say: intervals, comparisons between methods, and sentences about them.

A claim is made only where a test at 5 % carries it after Holm's correction; otherwise it is said how many runs would.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ctvr_bench.bench.analysis.ambiguity import Ambiguity, ambiguity
from ctvr_bench.bench.analysis.columns import CONTINUAL, RETRIEVAL, ranked, references
from ctvr_bench.bench.analysis.contributions import row_intervals
from ctvr_bench.bench.analysis.queries import QueryRanks, hits, paired, query_ranks
from ctvr_bench.bench.records.aggregate import Row, SuiteResults
from ctvr_bench.bench.records.summary import HEADLINE
from ctvr_bench.bench.statistics import (
    Friedman,
    Interval,
    cohen_dz,
    friedman,
    hierarchical_interval,
    holm,
    runs_needed,
    sign_flip_test,
    win_rate,
)
from ctvr_bench.features.errors import unknown_name
from ctvr_bench.features.store import FeatureStore

ALPHA = 0.05


@dataclass(frozen=True)
class Comparison:
    """first minus second in headline points, over the runs that both have.

    p: after Holm's correction within its family; None where there are too few runs for any. p_these_orders: the same
    for other seeds and queries but the orders that were run, where p speaks of orders in general: three orders leave
    that two degrees of freedom, so that it tells little apart. exact_p: of the runs alone
    by sign flips, not corrected; None beyond 20 runs. effect: Cohen's d_z over runs. wins: percent of queries that the
    first ranks better, ties half. needed: runs of each method that would carry a difference of this size, None where
    none would.
    """

    first: str
    second: str
    interval: Interval
    p: float | None
    p_these_orders: float | None
    exact_p: float | None
    effect: float | None
    wins: float
    runs: int
    needed: int | None

    @property
    def differs(self) -> bool:
        return self.p is not None and self.p < ALPHA

    @property
    def differs_here(self) -> bool:
        """Whether it differs on the orders that were run, though not on orders in general."""
        return not self.differs and self.p_these_orders is not None and self.p_these_orders < ALPHA


@dataclass(frozen=True)
class Evidence:
    """Everything statistical that a report shows.

    intervals: by label and key of the column; the headline always has one. against_best: the best continual method
    minus each other. against_zero_shot: each trained method minus zero-shot with the same scoring. ranks: Friedman's
    test over runs, where it can be made, with the labels of its methods. ambiguity: where the store was at hand.
    """

    intervals: Mapping[str, Mapping[str, Interval]]
    against_best: Sequence[Comparison]
    against_zero_shot: Sequence[Comparison]
    ranks: Friedman | None
    ranked_labels: tuple[str, ...]
    ambiguity: Ambiguity | None = None

    @property
    def tied(self) -> list[str]:
        """Methods that no test tells from the best."""
        return [comparison.second for comparison in self.against_best if not comparison.differs]


def evidence(results: SuiteResults, store: FeatureStore | None = None) -> Evidence:
    """Intervals and tests from the ranks of all finished runs. store: theirs, for what it knows of ambiguity."""
    ranks = {row.label: query_ranks(row) for row in results.rows}
    rows, below = ranked(results), references(results)
    keys = [column.key for column in (*RETRIEVAL, *CONTINUAL)]
    baseline = {_scoring(row): row.label for row in below if not ranks[row.label].trained}
    trained = [row for row in [*rows, *below] if ranks[row.label].trained and _scoring(row) in baseline]
    return Evidence(
        intervals={row.label: row_intervals(row, keys) for row in results.rows},
        against_best=_family(ranks, [(rows[0].label, row.label) for row in rows[1:]]),
        against_zero_shot=_family(ranks, [(row.label, baseline[_scoring(row)]) for row in trained]),
        ranks=rank_test(rows),
        ranked_labels=tuple(row.label for row in rows),
        ambiguity=ambiguity(results, [*rows, *below], store),
    )


def against(results: SuiteResults, label: str) -> list[Comparison]:
    """Every other row minus the row of that label, corrected together. Raises InputError for an unknown label."""
    if label not in {row.label for row in results.rows}:
        raise unknown_name("row to compare against:", label, (row.label for row in results.rows))
    ranks = {row.label: query_ranks(row) for row in results.rows}
    return _family(ranks, [(other, label) for other in ranks if other != label])


def summary(results: SuiteResults) -> str:
    """One sentence: how many methods and runs on what."""
    measured = results.measured
    runs = sum(len(row.runs) for row in results.rows)
    return (
        f"{len(results.rows)} methods, {runs} finished runs (seeds {measured['seeds']}; orders {measured['orders']}) "
        f"on stream {measured['stream']} of store {measured['store']}. Headline: {measured['headline']}."
    )


def sentences(results: SuiteResults, found: Evidence) -> list[str]:
    """The findings in words."""
    said = []
    rows = ranked(results)
    if rows:
        best, interval = rows[0].label, found.intervals[rows[0].label][HEADLINE]
        said.append(
            f"{best} has the highest R@1 of the continual methods: {interval.estimate:.2f} %, "
            f"95 % interval {interval.low:.2f} to {interval.high:.2f} over {_over(interval)}."
        )
        behind = [c.second for c in found.against_best if c.differs]
        if behind:
            said.append(f"It is ahead of {_list(behind)} beyond noise (paired test, Holm, 5 %).")
        here = [c.second for c in found.against_best if c.differs_here]
        if here:
            too = " also" if behind else ""
            said.append(f"On these {_orders(results)} task orders alone it is{too} ahead of {_list(here)}.")
        said += _open_questions(best, [c for c in found.against_best if not (c.differs or c.differs_here)])
    gains = [c for c in found.against_zero_shot if c.interval.estimate > 0]
    losses = [c for c in found.against_zero_shot if c.interval.estimate < 0]
    alone = f"On these {_orders(results)} task orders alone training"
    for verdict, chosen in (
        ("Training helps beyond noise in", [c for c in gains if c.differs]),
        (f"{alone} helps in", [c for c in gains if c.differs_here]),
        ("Training hurts beyond noise in", [c for c in losses if c.differs]),
        (f"{alone} hurts in", [c for c in losses if c.differs_here]),
        (
            "Not told from zero-shot with the same scoring:",
            [c for c in found.against_zero_shot if not (c.differs or c.differs_here)],
        ),
    ):
        if chosen:
            said.append(f"{verdict} {_list([c.first for c in chosen])}.")
    if rows and min(len(row.runs) for row in rows) < 3:
        said.append("With fewer than three runs of a method an interval says little about seeds; use three or more.")
    return said + (found.ambiguity.sentences() if found.ambiguity else [])


def rank_test(rows: Sequence[Row]) -> Friedman | None:
    """Friedman's test of the headline over the runs (order and seed) that all the rows have.

    None for fewer than 2 such runs or fewer than 3 rows.
    """
    scores = [
        {(run.record.config.options["order"], run.record.config.seed): run.final[HEADLINE] for run in row.runs}
        for row in rows
    ]
    blocks = [key for key in scores[0] if all(key in other for other in scores)] if scores else []
    if len(blocks) < 2 or len(rows) < 3:
        return None
    return friedman([[score[key] for score in scores] for key in blocks], ALPHA)


def _open_questions(best: str, undecided: Sequence[Comparison]) -> list[str]:
    """What more runs would settle, what they would not, and where nothing is known about seeds."""
    said = []
    unknown = [c.second for c in undecided if c.p is None]
    if unknown:
        said.append(f"One run of {best} and of {_list(unknown)} says nothing about seeds; run at least three.")
    feasible = [c for c in undecided if c.p is not None and c.needed is not None]
    if feasible:
        each = [f"{c.second} ({abs(c.interval.estimate):.2f} points, about {c.needed} runs)" for c in feasible]
        said.append(
            f"More runs of each are needed to tell {best} from {_list(each)}, if the difference is what it seems."
        )
    hopeless = [c for c in undecided if c.p is not None and c.needed is None]
    if hopeless:
        each = [f"{c.second} ({abs(c.interval.estimate):.2f} points)" for c in hopeless]
        queries = hopeless[0].interval.variance.query_freedom + 1
        said.append(f"No number of runs would tell {best} from {_list(each)} on these {queries} test queries alone.")
    return said


def _family(ranks: Mapping[str, QueryRanks], pairs: Sequence[tuple[str, str]]) -> list[Comparison]:
    """Comparisons whose p-values are corrected together, each with the runs that its size would need."""
    drafts = [_comparison(first, second, ranks) for first, second in pairs]
    known = [draft for draft in drafts if draft.p is not None]
    here = [draft for draft in drafts if draft.p_these_orders is not None]
    general = dict(zip(known, holm([draft.p or 0.0 for draft in known]), strict=True))
    these = dict(zip(here, holm([draft.p_these_orders or 0.0 for draft in here]), strict=True))
    return [
        replace(draft, p=general.get(draft), p_these_orders=these.get(draft), needed=_needed(draft, len(known)))
        for draft in drafts
    ]


def _comparison(first: str, second: str, ranks: Mapping[str, QueryRanks]) -> Comparison:
    """One comparison, its p-value not yet corrected."""
    rank_RN, other_RN, order_R = paired(ranks[first], ranks[second])
    difference_RN = hits(rank_RN) - hits(other_RN)
    interval, difference_R = hierarchical_interval(difference_RN, order_R), difference_RN.mean(1)
    here = hierarchical_interval(difference_RN, order_R, these_orders=True) if interval.orders else None
    return Comparison(
        first,
        second,
        interval,
        p=interval.p,
        p_these_orders=None if here is None else here.p,
        exact_p=sign_flip_test(difference_R) if len(difference_R) <= 20 else None,
        effect=cohen_dz(difference_R),
        wins=win_rate(rank_RN, other_RN),
        runs=len(order_R),
        needed=None,
    )


def _needed(draft: Comparison, family: int) -> int | None:
    """Runs that would carry a difference of this size against the family's strictest bound."""
    variance = draft.interval.variance
    if draft.p is None:
        return None
    one_run, fixed = (variance.run + variance.noise) * draft.runs, variance.query - variance.noise
    needed = runs_needed(draft.interval.estimate, one_run, fixed, alpha=ALPHA / family)
    return None if needed is None else max(needed, draft.runs + 1)


def _orders(results: SuiteResults) -> int:
    return len({run.record.config.options["order"] for row in results.rows for run in row.runs})


def _scoring(row: Row) -> str:
    return str(row.runs[0].record.config.config.get("scoring", ""))


def _over(interval: Interval) -> str:
    levels = ["orders"] * interval.orders + ["seeds"] * interval.seeds + ["queries"]
    return _list(levels)


def _list(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
