"""Runs as other evaluators read them: TREC run and qrels, one query a caption, one relevant item each.

A record keeps each query's rank and the item on top, and those in between where `run --keep top=100` asked for them. A
TREC run needs all, so others are filled in as `unknown-2`, `unknown-3` ...: R@K, MRR and all else that asks where the
relevant item stands come out as here. Scores fall by one a place, so that no evaluator sees ties and orders them its
own way.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ctvr_bench.bench.analysis.queries import SEEN
from ctvr_bench.bench.records.aggregate import Run
from ctvr_bench.bench.records.kept import read_kept
from ctvr_bench.bench.records.record import Ints, RankTable, write_text


def trec_run(table: RankTable, tag: str, depth: int | None = None, item_NK: Ints | None = None) -> str:
    """The headline's ranking after the last task: lines `qid Q0 docno rank score tag`.

    qid: `c` and the caption's row of the store; docno: `v` and the video's. depth: places a query, default as many as
    its own video needs; a video below is left out. item_NK: positions of first items that were kept.
    """
    return "".join(_lines(table, tag.replace(" ", ""), depth, item_NK))


def qrels(table: RankTable) -> str:
    """Lines `qid 0 docno 1`: each query's own video."""
    pairs = zip(table.caption_N.tolist(), table.video_N.tolist(), strict=True)
    return "".join(f"c{caption} 0 v{video} 1\n" for caption, video in pairs)


def write_trec(table: RankTable, folder: Path, name: str, item_NK: Ints | None = None) -> None:
    """Write NAME.run, and qrels.txt beside it. item_NK: as in `trec_run`."""
    write_text(folder / f"{name}.run", trec_run(table, name, item_NK=item_NK))
    write_text(folder / "qrels.txt", qrels(table))


def kept_items(run: Run) -> Ints | None:
    """Positions of each query's first items after the last task, [N, K]; None of a run that kept none.

    Raises InputError where they are gone, or not what was written.
    """
    if not run.record.keep.top:
        return None
    tensors, _ = read_kept(run.directory, run.record.files, "top", run.record.tasks - 1)
    return np.asarray(tensors["item_NK"])


def _lines(table: RankTable, tag: str, depth: int | None, item_NK: Ints | None) -> Iterator[str]:
    rank_N = table.ranks[SEEN][-1]
    video_NK = table.video_N[table.best[SEEN][-1][:, None] if item_NK is None else item_NK].tolist()
    for query, (caption, video) in enumerate(zip(table.caption_N.tolist(), table.video_N.tolist(), strict=True)):
        rank, known = int(rank_N[query]), video_NK[query]
        last = rank if depth is None else min(rank, depth)
        for place in range(1, last + 1):
            is_known = place <= len(known) and known[place - 1] != video
            between = f"v{known[place - 1]}" if is_known else f"unknown-{place}"
            item = f"v{video}" if place == rank else between
            yield f"c{caption} Q0 {item} {place} {last + 1 - place} {tag}\n"
