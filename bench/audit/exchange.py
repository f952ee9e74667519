"""Runs as other evaluators read them: TREC run and qrels, one query a caption, one relevant item each.

A record keeps each query's rank and the item on top, not the items in between. A TREC run needs them, so they are
filled in as `unknown-2`, `unknown-3` ...: R@K, MRR and all else that asks where the relevant item stands come out as
here. Scores fall by one a place, so that no evaluator sees ties and orders them its own way.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ctvr_bench.bench.analysis.queries import SEEN
from ctvr_bench.bench.records.record import RankTable, write_text


def trec_run(table: RankTable, tag: str, depth: int | None = None) -> str:
    """The headline's ranking after the last task: lines `qid Q0 docno rank score tag`.

    qid: `c` and the caption's row of the store; docno: `v` and the video's. depth: places a query, default as many as
    its own video needs; a video below is left out.
    """
    return "".join(_lines(table, tag.replace(" ", ""), depth))


def qrels(table: RankTable) -> str:
    """Lines `qid 0 docno 1`: each query's own video."""
    pairs = zip(table.caption_N.tolist(), table.video_N.tolist(), strict=True)
    return "".join(f"c{caption} 0 v{video} 1\n" for caption, video in pairs)


def write_trec(table: RankTable, folder: Path, name: str, depth: int | None = None) -> None:
    """Write NAME.run, and qrels.txt beside it."""
    write_text(folder / f"{name}.run", trec_run(table, name, depth))
    write_text(folder / "qrels.txt", qrels(table))


def _lines(table: RankTable, tag: str, depth: int | None) -> Iterator[str]:
    rank_N, best_N = table.ranks[SEEN][-1], table.best[SEEN][-1]
    for query, (caption, video) in enumerate(zip(table.caption_N.tolist(), table.video_N.tolist(), strict=True)):
        rank, top = int(rank_N[query]), int(table.video_N[best_N[query]])
        last = rank if depth is None else min(rank, depth)
        for place in range(1, last + 1):
            between = f"v{top}" if place == 1 and top != video else f"unknown-{place}"
            item = f"v{video}" if place == rank else between
            yield f"c{caption} Q0 {item} {place} {last + 1 - place} {tag}\n"
