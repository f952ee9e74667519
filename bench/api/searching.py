"""What a run finds for words that a person types.

Axes: M videos of the tasks so far, K items that are shown.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ctvr_bench.bench.api.kept import head_of, store_of, task_of
from ctvr_bench.bench.api.results import Results, load
from ctvr_bench.bench.evaluation.protocol import Evaluator
from ctvr_bench.bench.evaluation.scores import scores_of, side_by_side
from ctvr_bench.bench.records.aggregate import Run
from ctvr_bench.bench.records.summary import HEADLINE
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.store import FeatureStore
from ctvr_bench.features.streams import PairTable, StreamOptions, TextBatch, make_stream


@dataclass(frozen=True)
class Item:
    """A video that was found. task: from 1, in the run's order. asked_for: whether the query is a caption of it."""

    place: int
    score: float
    video: str
    task: int
    category: str
    asked_for: bool


@dataclass(frozen=True)
class Found:
    """query: what was embedded. note: what a person must know of it, empty where nothing. of: run and stage."""

    query: str
    note: str
    of: str
    items: tuple[Item, ...]


@dataclass(frozen=True)
class _Query:
    text: TextBatch
    words: str
    note: str = ""
    video: int = -1  # that it describes, where that is known


def search(
    place: Path,
    words: str,
    *,
    label: str | None = None,
    task: int | None = None,
    order: int | None = None,
    seed: int | None = None,
    store: Path | None = None,
    count: int = 10,
) -> Found:
    """The videos that a run finds first, among those of all tasks up to one (from 1; default the last).

    Each task's videos are embedded by the head of when it ended, as the run stored them, the query by the newest head.
    words: encoded where the store's encoder is the embedded one; elsewhere the caption of the store with the most such
    words is asked, and `note` says so. place: a suite's folder or a run's; label: of a row, default the only one, the
    only one that kept weights, or the best that can be asked. Raises InputError where nothing can be asked.
    """
    if count < 1:
        raise InputError(f"a search shows 1 item or more; got {count}")
    run = _run_at(place, label, order, seed)
    opened, last = store_of(run, store), task_of(run, task)
    query = _query(opened, words)
    heads = [head_of(run, position + 1, opened) for position in range(last + 1)]
    stream = make_stream(opened, run.record.config.stream, StreamOptions(**run.record.config.options))
    tests = [task.test for task in stream.tasks[: last + 1]]
    galleries = Evaluator(PairTable(opened, np.concatenate(tests)), [len(rows) for rows in tests])
    with torch.no_grad():
        for head in heads:
            galleries.keep_gallery(head)
        parts = [
            scores_of(heads[-1].encode_text(query.text, shard), video, heads[-1].config)
            for shard, video in enumerate(galleries.stored)
        ]
        score_M = side_by_side(parts).combined(heads[-1].config.alpha)[0].numpy()
    video_M = opened.caption_video_M[np.concatenate(tests)]
    task_M = np.repeat(np.arange(len(tests)), [len(rows) for rows in tests])
    first_K = np.argsort(-score_M, kind="stable")[:count]
    return Found(
        query.words,
        query.note,
        f"{run.record.label} (order {run.record.config.options['order']}, seed {run.record.config.seed}), "
        f"after task {last + 1} of {len(stream)}, {len(score_M)} videos",
        tuple(
            Item(
                place=place,
                score=float(score_M[item]),
                video=opened.video_ids[video_M[item]],
                task=int(task_M[item]) + 1,
                category=opened.category_names[opened.category_N[video_M[item]]],
                asked_for=bool(video_M[item] == query.video),
            )
            for place, item in enumerate(first_K.tolist(), start=1)
        ),
    )


def _run_at(place: Path, label: str | None, order: int | None, seed: int | None) -> Run:
    if (place / "run.json").is_file():
        results = load(place.parent)
        for row in results.suite.rows:
            for run in row.runs:
                if run.directory.name == place.name:
                    return run
        raise InputError(f"{place}: is no finished run of the suite that {place.parent} holds; name that suite's file")
    results = load(place)
    return results.run_of(_best(results) if label is None else label, order, seed)


def _best(results: Results) -> str:
    """The row with the highest headline among those that can be asked."""
    able = [row for row in results.suite.rows if row.runs[0].record.keep.weights or not row.runs[0].record.trained]
    if not able:
        raise InputError(f"{results.path}: no run kept weights; repeat its 'run' command with --keep weights")
    return max(able, key=lambda row: float(np.mean(row.values(HEADLINE)))).label


def _query(store: FeatureStore, words: str) -> _Query:
    if not _words(words):
        raise InputError(f"a search needs words, as in 'a red circle moves left'; got {words!r}")
    from ctvr_bench.features.worlds.encoder import load_encoder, weights_digest
    from ctvr_bench.features.worlds.words import vocabulary

    if store.provenance["encoder"].get("weights") != weights_digest():
        return _nearest_caption(store, words)
    unknown = [word for word in _words(words) if word not in vocabulary()]
    if len(unknown) == len(_words(words)):
        raise InputError(
            f"the encoder of moving shapes knows no word of {words!r}; it knows shapes, colours and motions, as in "
            f"{store.captions[0]!r}"
        )
    encoded = load_encoder().encode_captions([words])
    kept = store.feature("captions/pooled").dtype
    pooled_ND, words_LD = (torch.from_numpy(x.numpy().astype(kept)).float() for x in (encoded.pooled, encoded.words))
    batch = TextBatch(pooled_ND, words_LD[None], torch.ones(1, len(words_LD), dtype=torch.bool))
    return _Query(batch, words, f"words that its encoder does not know: {', '.join(unknown)}" if unknown else "")


def _nearest_caption(store: FeatureStore, words: str) -> _Query:
    """The caption with the most of these words, the rarer the more; of equals the shortest, then the first."""
    asked, texts = set(_words(words)), [set(_words(text)) for text in store.captions]
    counts = Counter(word for text in texts for word in text & asked)
    weight = {word: math.log(1 + len(texts) / count) for word, count in counts.items()}
    score = [sum(weight[word] for word in sorted(text & asked)) for text in texts]
    best = max(range(len(texts)), key=lambda row: (score[row], -len(texts[row]), -row), default=-1)
    if best < 0 or not score[best]:
        raise InputError(
            f"{store.path}: its encoder is not part of this suite, and no caption that could be asked instead has a "
            f"word of {words!r}"
        )
    shared = [word for word in _words(words) if word in texts[best]]
    note = (
        "the encoder of this store is not part of this suite, so the nearest of its captions is asked instead "
        f"({len(dict.fromkeys(shared))} of {len(asked)} words: {', '.join(dict.fromkeys(shared))})"
    )
    batch = PairTable(store, np.array([best])).text(torch.zeros(1, dtype=torch.int64))
    return _Query(batch, store.captions[best], note, int(store.caption_video_M[best]))


def _words(text: str) -> Sequence[str]:
    return re.findall(r"\w+", text.lower())
