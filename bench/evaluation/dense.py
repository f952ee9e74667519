"""Ranks without a matrix of scores, for one vector a side: of galleries that are large, or where FAISS is asked for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ctvr_bench.bench.evaluation.queries import Queries
from ctvr_bench.bench.evaluation.ranking import Key
from ctvr_bench.bench.evaluation.search import DenseGallery, Ranked, Ranker


def rank_dense(
    queries: Queries,
    texts: Sequence[Tensor],
    frozen: Sequence[Tensor],
    stored: Sequence[Tensor],
    current: Sequence[Tensor] | None,
    engine: Ranker,
    *,
    everywhere: bool,
) -> dict[Key, Ranked]:
    """What `rank_exact` gives, by task from pooled captions, now and when their task ended, and pooled videos.

    current: None where no video moved. everywhere: rank in all current videos together too.
    """
    sheets = []
    for sheet in range(queries.sheets):
        now, before = (_of_sheet(queries, parts, sheet) for parts in (texts, frozen))
        text_index, stored_index = _index_of(now), _index_of(stored)
        ranked = _both_scopes("stored", "t2v", stored_index, now, engine)
        ranked |= _both_scopes("stored", "v2t", text_index, stored, engine)
        if current is not None:
            ranked |= _both_scopes("re-encoded", "t2v", _index_of(current), now, engine, seen=everywhere)
            ranked |= _both_scopes("re-encoded", "v2t", text_index, current, engine, seen=everywhere)
        all_ND = torch.cat(before)
        frozen_query = stored_index.rank(all_ND, np.arange(len(all_ND)), engine=engine)
        sheets.append(ranked | {("frozen-query", "seen", "t2v"): frozen_query})
    return {key: _of_all(queries, [sheet[key] for sheet in sheets]) for key in sheets[0]}


def _of_sheet(queries: Queries, texts: Sequence[Tensor], sheet: int) -> list[Tensor]:
    """Of each task's captions those of one sheet."""
    return [text_ND.chunk(queries.sheets)[sheet] for text_ND in texts]


def _of_all(queries: Queries, sheets: Sequence[Ranked]) -> Ranked:
    """What each sheet found, in the order of the queries."""
    rank_SV, best_SV = (np.stack(fields) for fields in zip(*sheets, strict=True))
    asked = slice(rank_SV.size)
    of_N = queries.sheet_N[asked], queries.target_N[asked]
    return Ranked(rank_SV[of_N], queries.item_V[best_SV[of_N]])


def _index_of(blocks: Sequence[Tensor]) -> DenseGallery:
    index = DenseGallery(blocks[0].shape[1])
    for block in blocks:
        index.add(block)
    return index


def _both_scopes(
    gallery: str,
    direction: str,
    index: DenseGallery,
    queries: Sequence[Tensor],
    engine: Ranker,
    *,
    seen: bool = True,
) -> dict[Key, Ranked]:
    """Ranks of the queries of each task in their own block of the index and, if asked, in all of it."""
    targets = np.split(np.arange(len(index)), np.cumsum([len(query) for query in queries])[:-1])
    pairs = enumerate(zip(queries, targets, strict=True))
    blocks = [index.rank(query, target_N, block=j, engine=engine) for j, (query, target_N) in pairs]
    own = Ranked(*(np.concatenate(parts) for parts in zip(*blocks, strict=True)))
    ranked = {(gallery, scope, direction): own for scope in ("own", "own-of-seen")}
    if seen:
        ranked[gallery, "seen", direction] = index.rank(torch.cat(list(queries)), np.arange(len(index)), engine=engine)
    return ranked
