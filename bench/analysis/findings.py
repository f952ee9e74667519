"""What the runs of a suite allow to say: intervals, comparisons between methods, and sentences about them.

All rows of a suite are tested against each other at once (bench.all_pairs), so that a difference has one p-value,
whatever table shows it, and a claim is made only where it is below 5 %; otherwise it is said how many runs would do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ctvr_bench.bench.all_pairs import PairDifference, critical_values, meet
from ctvr_bench.bench.analysis.ambiguity import Ambiguity, ambiguity
from ctvr_bench.bench.analysis.columns import CONTINUAL, RETRIEVAL, ranked, references
from ctvr_bench.bench.analysis.contributions import row_intervals
from ctvr_bench.bench.analysis.names import NAMED, grouped, listed
from ctvr_bench.bench.analysis.pairing import differences, is_drawn, place_of, suite_answers
from ctvr_bench.bench.analysis.queries import final_ranks, hits
from ctvr_bench.bench.quantiles import normal_sf
from ctvr_bench.bench.records.aggregate import Row, SuiteResults
from ctvr_bench.bench.records.summary import HEADLINE
from ctvr_bench.bench.statistics import (
    TOO_FEW,
    Friedman,
    Interval,
    cohen_dz,
    friedman,
    in_percent,
    runs_needed,
    says_nothing,
    sign_flip_test,
    win_rate,
)
from ctvr_bench.features.errors import InputError, unknown_name
from ctvr_bench.features.store import FeatureStore

ALPHA = 0.05
TEST = "paired test of all pairs at once, 5 %"


@dataclass(frozen=True)
class Comparison:
    """first minus second in headline points, over the runs that both have.

    difference: with p after correction for all pairs of the suite's rows; p is None where runs are too few for any.
    here: the narrower claim, for these orders where `difference` speaks of orders in general (three orders leave that
    two degrees of freedom), for these trained models where one run of each says nothing about seeds; else None.
    exact_p: of the runs alone by sign flips, not corrected; None beyond 20 runs. effect: Cohen's d_z over runs.
    wins: percent of queries that the first ranks better, ties half. needed: runs of each method that would carry a
    difference of this size, None where none would.
    """

    first: str
    second: str
    difference: PairDifference
    here: PairDifference | None
    exact_p: float | None
    effect: float | None
    wins: float
    runs: int
    needed: int | None

    @property
    def p(self) -> float | None:
        return self.difference.p

    @property
    def p_here(self) -> float | None:
        return None if self.here is None else self.here.p

    @property
    def interval(self) -> PairDifference:
        """What tables show: of the narrower claim where there is no other."""
        return self.here if self.difference.low is None and self.here is not None else self.difference

    @property
    def differs(self) -> bool:
        return self.p is not None and self.p < ALPHA

    @property
    def differs_here(self) -> bool:
        """Whether it differs on the orders, or in the models, that were run, though not in general."""
        return not self.differs and self.p_here is not None and self.p_here < ALPHA


@dataclass(frozen=True)
class Evidence:
    """Everything statistical that a report shows.

    intervals: by label and key of the column; the headline always has one. against_best: the best continual method
    minus each other. against_zero_shot: each trained method minus the untrained one with the same scoring.
    ranks: Friedman's test over runs, where it can be made, with the labels of its methods. ambiguity: where the store
    was at hand. compare: any two rows, by the same tests.
    """

    intervals: Mapping[str, Mapping[str, Interval]]
    against_best: Sequence[Comparison]
    against_zero_shot: Sequence[Comparison]
    ranks: Friedman | None
    ranked_labels: tuple[str, ...]
    compare: Callable[[str, str], Comparison]
    ambiguity: Ambiguity | None = None

    @property
    def tied(self) -> list[str]:
        """Methods that no test tells from the best."""
        return [comparison.second for comparison in self.against_best if not comparison.differs]


def evidence(results: SuiteResults, store: FeatureStore | None = None) -> Evidence:
    """Intervals and tests from the ranks of all finished runs. store: theirs, for what it knows of ambiguity."""
    pairs = _Pairs(results)
    rows, below = ranked(results), references(results)
    keys = [column.key for column in (*RETRIEVAL, *CONTINUAL)]
    return Evidence(
        intervals={row.label: row_intervals(row, keys) for row in results.rows},
        against_best=[pairs.compare(rows[0].label, row.label) for row in rows[1:]],
        against_zero_shot=[pairs.compare(row.label, other) for row, other in untrained_beside(results)],
        ranks=rank_test(rows),
        ranked_labels=tuple(row.label for row in rows),
        compare=pairs.compare,
        ambiguity=ambiguity(results, [*rows, *below], store),
    )


def untrained_beside(results: SuiteResults) -> list[tuple[Row, str]]:
    """Every trained row with the label of the one that is not and scores alike, `zero_shot` where there are several."""
    rows, below = ranked(results), references(results)
    baseline = {_scoring(row): row.label for row in reversed(below) if not is_drawn(row)}
    baseline |= {_scoring(row): row.label for row in below if row.runs[0].record.config.method == "zero_shot"}
    return [(row, baseline[_scoring(row)]) for row in (*rows, *below) if is_drawn(row) and _scoring(row) in baseline]


def against(results: SuiteResults, label: str, found: Evidence | None = None) -> list[Comparison]:
    """Every other row minus the row of that label. found: where at hand. Raises InputError for an unknown label."""
    if label not in {row.label for row in results.rows}:
        raise unknown_name("row to compare against:", label, (row.label for row in results.rows))
    compare = _Pairs(results).compare if found is None else found.compare
    return [compare(row.label, label) for row in results.rows if row.label != label]


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
    below = [c for c in found.against_zero_shot if c.interval.estimate < 0]
    if below:
        each = [f"{c.first} ({c.interval.estimate:.2f} points{_how_sure(c)})" for c in below]
        said.append(f"Trained and below the same features without training: {listed(each)}.")
    if rows:
        best, interval = rows[0].label, found.intervals[rows[0].label][HEADLINE]
        said.append(
            f"{best} has the highest R@1 of the continual methods: {interval.estimate:.2f} %, {within(interval)}."
        )
        others = [c.second for c in found.against_best]
        behind = [c.second for c in found.against_best if c.differs]
        if behind:
            said.append(f"It is ahead of {grouped(behind, others, 'others')} beyond noise ({TEST}).")
        here = [c for c in found.against_best if c.differs_here]
        if here:
            too = " also" if behind else ""
            too_behind = grouped([c.second for c in here], others, "others")
            said.append(f"{_where(results, here[0])} it is{too} ahead of {too_behind}.")
        said += _open_questions(best, [c for c in found.against_best if not (c.differs or c.differs_here)])
        said += smallest_told([c.difference for c in found.against_best], "These runs and queries")
    gains = [c for c in found.against_zero_shot if c.interval.estimate > 0]
    for verdict, chosen in (
        ("Training helps beyond noise in", [c for c in gains if c.differs]),
        ("training helps in", [c for c in gains if c.differs_here]),
        (
            "Not told from the same features without training:",
            [c for c in found.against_zero_shot if not (c.differs or c.differs_here)],
        ),
    ):
        if chosen:
            where = f"{_where(results, chosen[0])} " if verdict[0].islower() else ""
            trained = [c.first for c in found.against_zero_shot]
            said.append(f"{where}{verdict} {grouped([c.first for c in chosen], trained, 'trained rows')}.")
    said += _guessed_recipes(results)
    if rows and min(len(row.runs) for row in rows) < 3:
        said.append("With fewer than three runs of a method an interval says little about seeds; use three or more.")
    return said + (found.ambiguity.sentences() if found.ambiguity else [])


def _guessed_recipes(results: SuiteResults) -> list[str]:
    """Rows of whose recipes one or more rest on a change of the loss within its standard error."""
    found = {row.label: [run.record.recipe for run in row.runs if run.record.recipe] for row in results.rows}
    asked = {label: {each.videos for each in recipes if not each.told} for label, recipes in found.items() if recipes}
    guessed, videos = [label for label in asked if asked[label]], set().union(*asked.values())
    if not guessed:
        return []
    held_out = " to ".join(str(count) for count in sorted({min(videos), max(videos)}))
    return [
        f"Rate and steps of {grouped(guessed, asked, 'rows with an auto recipe')} are little more than chance: on the "
        f"{held_out} held-out videos of the first task even the best trial lowered the loss by less than its standard "
        "error."
    ]


def _how_sure(c: Comparison) -> str:
    return ", beyond noise" if c.differs else ", in these runs" if c.differs_here else ", within noise"


def _where(results: SuiteResults, c: Comparison) -> str:
    """What a narrower claim speaks of."""
    if c.p is not None:
        return f"On these {_orders(results)} task orders alone"
    return "Of the models that were trained here, one run each, and for other queries but no other seed,"


def smallest_told(known: Sequence[PairDifference], what: str) -> list[str]:
    """The differences that what was run could have told, at 80 % power, each pair one of the best row."""
    one, every = (
        (
            [value for value in values if value is not None]
            for values in zip(*((pair.smallest(), pair.smallest_of_all()) for pair in known), strict=True)
        )
        if known
        else ([], [])
    )
    if not one:
        return []
    return [
        f"{what} tell a true difference to the best of about {np.median(every):.1f} points in four "
        f"suites of five ({np.median(one):.1f} points, had only one pair been planned)."
    ]


def rank_test(rows: Sequence[Row]) -> Friedman | None:
    """Friedman's test of the headline over the runs (order and seed) that all the rows have.

    None for fewer than 2 such runs or fewer than 3 rows.
    """
    scores = [{place_of(run): run.final[HEADLINE] for run in row.runs} for row in rows]
    blocks = [key for key in scores[0] if all(key in other for other in scores)] if scores else []
    if len(blocks) < 2 or len(rows) < 3:
        return None
    return friedman([[score[key] for score in scores] for key in blocks], ALPHA)


def _open_questions(best: str, undecided: Sequence[Comparison]) -> list[str]:
    """What more runs would settle, what they would not, and where nothing is known about seeds."""
    said = []
    unknown = [c.second for c in undecided if c.p is None]
    if unknown:
        others = listed(unknown) if len(unknown) <= NAMED else f"{len(unknown)} others"
        said.append(f"One run of {best} and of {others} says nothing about seeds; run at least three.")
    feasible = [c for c in undecided if c.p is not None and c.needed is not None]
    if feasible:
        each = [f"{c.second} ({abs(c.interval.estimate):.2f} points, about {c.needed} runs)" for c in feasible]
        runs = [c.needed for c in feasible if c.needed is not None]
        many = f"{len(each)} others ({_sizes(feasible)} points, about {min(runs)} to {max(runs)} runs)"
        others = listed(each) if len(each) <= NAMED else many
        said.append(f"More runs of each are needed to tell {best} from {others}, if the difference is what it seems.")
    hopeless = [c for c in undecided if c.p is not None and c.needed is None]
    if hopeless:
        each = [f"{c.second} ({abs(c.interval.estimate):.2f} points)" for c in hopeless]
        others = listed(each) if len(each) <= NAMED else f"{len(each)} others ({_sizes(hopeless)} points)"
        said.append(f"No number of runs would tell {best} from {others} on these test queries alone.")
    return said


def _sizes(comparisons: Sequence[Comparison]) -> str:
    """The smallest and the largest difference."""
    sizes = [abs(c.interval.estimate) for c in comparisons]
    return f"{min(sizes):.2f} to {max(sizes):.2f}"


class _Pairs:
    """All pairs of a suite's rows in the headline, tested together."""

    def __init__(self, results: SuiteResults) -> None:
        self.rows = {row.label: row for row in results.rows}
        self.ranks = {
            label: dict(zip(map(place_of, row.runs), final_ranks(row), strict=True)) for label, row in self.rows.items()
        }
        known = suite_answers(results, HEADLINE)
        self.general = differences(known)
        self.orders = differences(known, these_orders=True)
        self.models = differences(known, these_runs=True)

    def compare(self, first: str, second: str) -> Comparison:
        """Raises InputError where the two have no run in common."""
        pair = (first, second)
        if pair not in self.general:
            raise InputError(
                f"{first} and {second} have no run of the same order and seed; finish the suite with 'run'"
            )
        found = self.general[pair]
        here = self.models[pair] if found.p is None else self.orders[pair] if found.orders else None
        drawn = is_drawn(self.rows[first]), is_drawn(self.rows[second])
        _, one_RN, other_RN = zip(*meet(self.ranks[first], self.ranks[second], drawn), strict=True)
        difference_R = (hits(np.stack(one_RN)) - hits(np.stack(other_RN))).mean(1)
        return Comparison(
            first,
            second,
            found,
            here,
            exact_p=sign_flip_test(difference_R) if len(difference_R) <= 20 else None,
            effect=cohen_dz(difference_R),
            wins=win_rate(one_RN, other_RN),
            runs=len(difference_R),
            needed=_needed(found, len(self.rows)),
        )


def _needed(found: PairDifference, rows: int) -> int | None:
    """Runs that would carry a difference of this size against the bound of all pairs."""
    if found.p is None:
        return None
    runs, alpha = len(found.places), float(2 * normal_sf(critical_values(rows, math.inf, np.array([ALPHA]))[0]))
    one_run, fixed = (found.run + found.noise) * runs, found.query - found.noise
    needed = runs_needed(found.estimate, one_run, fixed, alpha=alpha)
    return None if needed is None else max(needed, runs + 1)


def _orders(results: SuiteResults) -> int:
    return len({run.record.config.options["order"] for row in results.rows for run in row.runs})


def _scoring(row: Row) -> str:
    return str(row.runs[0].record.config.config.get("scoring", ""))


def within(interval: Interval) -> str:
    """An interval in percent as in '95 % interval 15.02 to 17.30 over seeds and queries'."""
    if says_nothing(interval.low, interval.high):
        return f"with {TOO_FEW} for an interval over {over(interval)}"
    low, high = in_percent(interval.low, interval.high)
    return f"95 % interval {low:.2f} to {high:.2f} over {over(interval)}"


def over(interval: Interval) -> str:
    """What an interval speaks of beyond the runs that were made."""
    levels = ["orders"] * interval.orders + ["seeds"] * interval.seeds + ["queries"]
    return listed(levels)
