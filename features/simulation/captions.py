"""Captions of the videos of a simulated world, pooled and by word. Axes and equations: `world`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ctvr_bench.features.schema import Array
from ctvr_bench.features.simulation.config import SyntheticConfig
from ctvr_bench.features.simulation.draws import normals, ragged, uniforms
from ctvr_bench.features.simulation.world import FUNCTION_WORDS, World

_MOST_WORDS = 32
_SIMULATED_CAPTION = "simulated caption "


def captions(world: World, rows: Array, video_B: Array, category_B: Array, length_B: Array) -> tuple[Array, Array]:
    """pooled_BD and words_TD (T: all words of these captions) in the store's dtype, of the captions `rows`."""
    config = world.config
    seed, P, K, r_K = config.seed, config.parts, config.directions, world.r_K
    uniform_BP = uniforms(seed, "mention", rows, P)
    mentioned_BP = uniform_BP < config.caption_cover
    mentioned_BP |= uniform_BP == uniform_BP.min(axis=1, keepdims=True)
    mentions_B = mentioned_BP.sum(axis=1)

    part_BPK = world.parts(video_B, category_B)
    view_BK = (part_BPK * mentioned_BP[..., None]).sum(axis=1) / (mentions_B * world.deviation(mentions_B))[:, None]
    told_BK = np.sqrt(1 - config.caption_own_share) * normals(seed, "told of a video", video_B, K)
    told_BK += np.sqrt(config.caption_own_share) * normals(seed, "told", rows, K)
    meant_BK = np.sqrt(r_K) * view_BK + np.sqrt(1 - r_K) * told_BK
    pooled_BD = world.features(
        world.text(meant_BK, category_B), world.text_cone_D, normals(seed, "caption cone", rows, 3), config.norm
    )

    caption_T = np.repeat(np.arange(len(rows)), length_B)
    pick_TU = ragged(seed, "word", rows, length_B, lambda rng, L: rng.random((L, 2)))
    mention_T = np.floor(pick_TU[:, 1] * mentions_B[caption_T]).astype(np.int64)
    part_T = np.argsort(~mentioned_BP, axis=1, kind="stable")[caption_T, mention_T]
    own_TK = ragged(seed, "word meaning", rows, length_B, lambda rng, L: rng.standard_normal((L, K), np.float32))
    q_K = config.word_agreement * r_K
    word_TK = np.sqrt(q_K) * part_BPK[caption_T, part_T] + np.sqrt(1 - q_K) * own_TK
    word_TD = world.text(word_TK, category_B[caption_T])
    function_T = pick_TU[:, 0] < config.function_word_share
    word_TD[function_T] = world.function_WD[(pick_TU[function_T, 1] * FUNCTION_WORDS).astype(np.int64)]
    length_T1 = ragged(seed, "word length", rows, length_B, lambda rng, L: rng.standard_normal((L, 1)))
    gauss_T3 = np.concatenate([np.zeros((len(length_T1), 2)), length_T1], axis=1)
    return pooled_BD, world.features(word_TD, world.text_cone_D, gauss_T3, config.word_norm)


def simulated_captions(video: str, count: int) -> list[str]:
    """Texts of captions that have none."""
    return [f"{_SIMULATED_CAPTION}{number} of {video}" for number in range(1, count + 1)]


def word_counts(config: SyntheticConfig, texts: Sequence[str]) -> Array:
    """How many words each caption has: those of a real text, at most 32; of a simulated one 5 to 15."""
    length_M = np.array([min(max(len(text.split()), 1), _MOST_WORDS) for text in texts], np.int64)
    rows = np.array([row for row, text in enumerate(texts) if text.startswith(_SIMULATED_CAPTION)], np.int64)
    length_M[rows] = 5 + np.floor(11 * uniforms(config.seed, "word count", rows, 1)[:, 0])
    return length_M
