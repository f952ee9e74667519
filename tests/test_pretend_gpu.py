"""Methods of each kind and every scoring on a pretend GPU: no operation mixes devices, and ranks are the CPU's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ctvr_bench.bench.run.jobs import feature_spec, spec_for
from ctvr_bench.bench.run.protocol import Evaluator
from ctvr_bench.bench.run.training import generator_for, learn_task
from ctvr_bench.features.streams import PairTable
from ctvr_bench.methods.shared.base import Scoring, TaskInfo, is_trained
from ctvr_bench.methods.shared.memory import Reservoir
from ctvr_bench.methods.shared.registry import find_method
from tests.pretend_gpu import MixingError, Pretend
from tests.stores import small_store, small_stream

PAIRS, QUERIES = 12, 4
METHODS = ("adapter_per_task", "agem", "der_pp", "er", "ewc", "finetune", "frame_fusion_moe", "l2p", "lwf")
"""One of each way to keep something: experts, pairs, weights, teachers, prompts."""


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


@pytest.mark.parametrize("name", METHODS)
def test_a_method_learns_and_is_evaluated_on_a_gpu(name: str) -> None:
    with Pretend():
        found = taken_through(name, "gpu:0", "cosine")
    if name == "er":
        assert found == taken_through(name, "cpu", "cosine")


@pytest.mark.parametrize("scoring", ["word_frame", "fused"])
def test_every_scoring_is_evaluated_on_a_gpu_as_on_the_cpu(scoring: Scoring) -> None:
    with Pretend():
        found = taken_through("finetune", "gpu:0", scoring)
    assert found == taken_through("finetune", "cpu", scoring)


def test_it_refuses_to_mix_devices_and_counts_waits() -> None:
    with Pretend() as gpu:
        x = torch.ones(2, 3).to("gpu:0")
        with pytest.raises(MixingError, match="GPU with CPU tensors"):
            x @ torch.ones(3, 1)
        assert float(x.sum()) == 6
        assert sum(gpu.waits.values()) == 1


def test_a_reservoir_is_drawn_from_without_waiting() -> None:
    draw = generator_for(0, "draws")
    with Pretend() as gpu:
        memory = Reservoir(4).to("gpu:0")
        memory.add({"x": torch.arange(6.0)[:, None].to("gpu:0")}, draw)
        before = sum(gpu.waits.values())
        kept = memory.draw(3, draw)["x"]
        assert sum(count for (kind, _, _), count in gpu.waits.items() if kind != "CPU index of a GPU tensor") == before
    assert len(memory) == 4
    assert kept.shape == (3, 1)
