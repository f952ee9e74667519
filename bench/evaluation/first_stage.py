"""A FAISS index in front of exact scores: what it finds, and in which order.

Exact ranks stay what they are; beside them stands the rank that the same query gets where an index is asked for the
nearest videos by pooled cosine, and the method's own scores are asked for those alone, if at all.
Axes: N queries, M gallery items, K items that the index returns.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from ctvr_bench.bench.evaluation.scores import scores_of
from ctvr_bench.bench.evaluation.search import ItemIndex, Ranked
from ctvr_bench.bench.records.record import FirstStage
from ctvr_bench.methods.shared.base import Method, MethodConfig, TextEmbedding, VideoEmbedding

DEPTH = 100
"""Items that an index is asked for where nothing is re-ranked."""


def can_ask(method: Method, text: TextEmbedding, stage: FirstStage) -> bool:
    """Whether an index answers for this method: its queries are encoded once for all galleries, and either one vector
    a side is all that it compares, or the first items are scored again.
    """
    one_vector_each = method.config.scoring == "cosine" and text.attend_ND is None
    return not method.uses_shards and (one_vector_each or stage.rerank > 0)


def rank_through(
    index: ItemIndex,
    text: TextEmbedding,
    video: VideoEmbedding,
    target_N: npt.NDArray[np.int64],
    config: MethodConfig,
    stage: FirstStage,
) -> Ranked:
    """Ranks of the targets among the items that the index returns; M + 1 where it does not return the target.

    index: over video.pooled_MD. With `rerank` K the K nearest items are scored as the method scores, fused scores over
    these K; else the index's own order stands. Ties count against the query, as in exact ranks.
    """
    score_NK, item_NK = index.nearest(text.pooled_ND, stage.rerank or DEPTH)
    if stage.rerank:
        score_NK = rescored(text, video, item_NK, config)
    score_NK = np.where(item_NK < 0, -np.inf, score_NK)
    is_target_NK = item_NK == target_N[:, None]
    rows_N = np.arange(len(item_NK))
    own_N = score_NK[rows_N, is_target_NK.argmax(1)]
    rank_N = 1 + ((score_NK >= own_N[:, None]) & ~is_target_NK & (item_NK >= 0)).sum(1)
    rank_N[~is_target_NK.any(1)] = len(index) + 1
    return Ranked(rank_N.astype(np.int64), item_NK[rows_N, score_NK.argmax(1)])


def rescored(
    text: TextEmbedding, video: VideoEmbedding, item_NK: npt.NDArray[np.int64], config: MethodConfig
) -> npt.NDArray[np.float32]:
    """The method's scores of each query with its own K items [N, K]; -inf where an item is -1, for none."""
    score_NK = np.full(item_NK.shape, -np.inf, np.float32)
    for row, item_K in enumerate(item_NK):
        found_K = item_K >= 0
        items = torch.from_numpy(item_K[found_K]).to(video.pooled_MD.device)
        one = TextEmbedding(*(None if part is None else part[row : row + 1] for part in text))  # type: ignore[arg-type]
        few = VideoEmbedding(*(None if part is None else part[items] for part in video))  # type: ignore[arg-type]
        score_NK[row, found_K] = scores_of(one, few, config).combined(config.alpha)[0].cpu().numpy()
    return score_NK
