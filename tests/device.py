"""A method taken through two small tasks on a device: what the pretend GPU and a real one are both asked."""

from __future__ import annotations

import numpy as np

from ctvr_bench.bench.evaluation.protocol import Evaluator
from ctvr_bench.bench.run.jobs import feature_spec, spec_for
from ctvr_bench.bench.run.training import generator_for, learn_task
from ctvr_bench.features.streams import PairTable
from ctvr_bench.methods.shared.base import Scoring, TaskInfo, is_trained
from ctvr_bench.methods.shared.registry import find_method
from tests.stores import small_store, small_stream

PAIRS, QUERIES = 12, 4


def taken_through(name: str, device: str, scoring: Scoring) -> list[dict[str, list[int]]]:
    """Ranks after each of two tasks of one step on a few pairs."""
    store, tasks, entry = small_store(), small_stream().tasks[:2], find_method(name)
    config = {"scoring": scoring} | ({"steps": 1} if is_trained(entry.method) else {})
    spec = spec_for(entry, feature_spec(store, small_stream()))
    method = entry.method(entry.config(config), spec, generator_for(0, "init")).to(device).eval()
    test = PairTable(store, np.concatenate([task.test[:QUERIES] for task in tasks]), device)
    evaluator, found = Evaluator(test, [QUERIES] * 2), []
    for task in tasks:
        data = PairTable(store, task.train[:PAIRS], device)
        learn_task(method, data, TaskInfo(task.index, len(data), task.categories), 0)
        ranked = evaluator.finish_task(method).ranked
        found.append({"/".join(key): each.rank_N.tolist() for key, each in ranked.items()})
    return found
