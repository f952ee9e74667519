"""How much of a miss is ambiguity: where the store says which videos a caption really fits.

Axes: N queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ctvr_bench.bench.analysis.names import NAMED
from ctvr_bench.bench.analysis.queries import SEEN, rank_table
from ctvr_bench.bench.records.aggregate import Row, SuiteResults
from ctvr_bench.bench.records.record import RankTable
from ctvr_bench.features.store import FeatureStore


@dataclass(frozen=True)
class Ambiguity:
    """Percent of all test queries, after the last task.

    ceiling: R@1 of one who knows all that a caption says and picks at random among the videos that it fits.
    misses_by_label: of each row's misses at rank 1, those whose top video fits the caption as well as its own.
    """

    ceiling: float
    misses_by_label: dict[str, float]

    def sentences(self) -> list[str]:
        """What a report says of it."""
        said = [
            f"Captions fit more than one item: who knows all that they say reaches {self.ceiling:.1f} % R@1 over the "
            "gallery of all tasks."
        ]
        shares = self.misses_by_label
        if len(shares) > NAMED:
            low, high = min(shares, key=shares.__getitem__), max(shares, key=shares.__getitem__)
            each = f"{shares[low]:.0f} % ({low}) to {shares[high]:.0f} % ({high})"
        else:
            each = ", ".join(f"{label} {share:.0f} %" for label, share in shares.items())
        if each:
            said.append(f"Misses whose first item fits the caption as well as its own: {each}.")
        return said


def ambiguity(results: SuiteResults, rows: Sequence[Row], store: FeatureStore | None) -> Ambiguity | None:
    """None where the store, or its knowledge of which videos fit, is not at hand."""
    if store is None or not store.knows_fits or not results.rows:
        return None
    offsets, fitting = store.feature("captions/fit_offsets"), store.feature("captions/fit_videos")

    def fits(caption: int) -> set[int]:
        return set(fitting[offsets[caption] : offsets[caption + 1]].tolist())

    first = rank_table(results.rows[0].runs[0])
    gallery = set(first.video_N.tolist())
    chance_N = [1 / len(fits(caption) & gallery) for caption in first.caption_N.tolist()]
    fits_of = {caption: fits(caption) for caption in first.caption_N.tolist()}
    misses = {row.label: [_misses(rank_table(run), fits_of) for run in row.runs] for row in rows}
    return Ambiguity(
        ceiling=100 * float(np.mean(chance_N)),
        misses_by_label={
            label: float(np.mean(shares)) for label, shares in misses.items() if np.isfinite(shares).all()
        },
    )


def _misses(table: RankTable, fits_of: dict[int, set[int]]) -> float:
    """Percent of the misses whose top video fits; NaN without a miss."""
    missed_N = np.flatnonzero(table.ranks[SEEN][-1] > 1)
    top_N = table.video_N[table.best[SEEN][-1, missed_N]]
    pairs = zip(table.caption_N[missed_N].tolist(), top_N.tolist(), strict=True)
    fitting = [video in fits_of[caption] for caption, video in pairs]
    return 100 * float(np.mean(fitting)) if fitting else float("nan")
