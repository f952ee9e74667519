"""The parts of `make gpu`: each returns plain numbers, and nothing here knows what they should be."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ctvr_bench.bench.evaluation.protocol import Evaluator
from ctvr_bench.bench.executors.galleries import ITEMS, counted_ranks
from ctvr_bench.bench.executors.workers import Workshop, run_jobs
from ctvr_bench.bench.gate.baseline import read_baseline
from ctvr_bench.bench.gate.gate import check
from ctvr_bench.bench.gate.measure import measure, suite_of
from ctvr_bench.bench.records.environment import wait_for
from ctvr_bench.bench.run.jobs import Job, Watch, feature_spec, ignore
from ctvr_bench.bench.run.stacks.ensemble import Lesson, teach
from ctvr_bench.bench.run.training import generator_for, view_of
from ctvr_bench.bench.suite.suite import plan
from ctvr_bench.features.clip_towers import load_clip
from ctvr_bench.features.clips import Clip
from ctvr_bench.features.encode import FRAME_BATCH, encode_video
from ctvr_bench.features.read_ahead import read_ahead
from ctvr_bench.features.store import FeatureStore
from ctvr_bench.features.streams import PairTable, Stream, make_stream
from ctvr_bench.features.video import write_video
from ctvr_bench.methods.shared.adamw import AdamW
from ctvr_bench.methods.shared.base import Method, TaskInfo, is_trained
from ctvr_bench.methods.shared.registry import find_method
from ctvr_bench.methods.shared.similarity import normalise
from tests.bench.run.test_runner import suite
from tests.device import taken_through
from tests.speed.test_extraction import SAMPLING
from tests.speed.test_speed import msrvtt_sized, world_sized
from tests.stores import small_store
from tests.tiny_clips import save_transformers_clip

VIT_B_32 = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
}
_COMPARED = 100_000  # items
BASELINE = Path(__file__).resolve().parents[2] / "results/baselines/gate.json"


def agreement(name: str, device: str) -> dict[str, Any]:
    """Share of a method's ranks after two small tasks that are those of the CPU; the error where there is one."""
    try:
        found = taken_through(name, device, "cosine")
    except Exception as error:
        return {"fault": f"{type(error).__name__}: {error}".splitlines()[0]}
    pairs = [
        (one, other)
        for expected, stage in zip(taken_through(name, "cpu", "cosine"), found, strict=True)
        for key, ranks in expected.items()
        for one, other in zip(ranks, stage[key], strict=True)
    ]
    return {"same_ranks": sum(one == other for one, other in pairs) / len(pairs)}


def gate(device: str) -> dict[str, str]:
    """Verdict on each row of the gate's suite made on the device, against the CPU's baseline within its tolerances."""
    recorded = read_baseline(BASELINE)
    config = suite_of(BASELINE, recorded, jobs=1).model_copy(update={"device": device})
    return {row.label: row.verdict for row in check(recorded, measure(config)).rows}


def cards(device: str) -> dict[str, Any]:
    """How many cards torch sees, and those on which no run was made of a suite that was told nothing of them."""
    number = max(1, torch.cuda.device_count())
    with tempfile.TemporaryDirectory() as folder:
        jobs = plan(suite(Path(folder), "finetune", seeds=4 * number), small_store())
        shop = Workshop(current_card, small_store().path, Path(folder), device, 0, 1, ignore, lambda job, reason: -1)
        return {"cards": number, "idle": sorted({*range(number)} - {*run_jobs(jobs, shop)})}


def current_card(job: Job, store: FeatureStore, stream: Stream, directory: Path, device: str, watch: Watch) -> int:
    """Where a tensor lies that is put on the device of a run; it takes a while, so that every worker gets a run."""
    time.sleep(0.5)
    return torch.zeros(1, device=device).device.index or 0


def step(name: str, device: str) -> dict[str, float]:
    """Milliseconds of a training step at 512-d in the second task, 32 pairs: median of 20, each waited for."""
    method, data = _second_task(name, device)
    groups = [parameter for group in method.parameter_groups() for parameter in group.parameters]
    optimiser = AdamW(groups, lr=1e-4, fused=True)
    draws, batches = generator_for(0, "draws"), itertools.cycle(list(data.shuffled(32, generator_for(0, "order"))))

    def one() -> None:
        terms = method.loss(method.prepare(data.pairs(next(batches)), draws))
        optimiser.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(groups, 1.0)
        optimiser.step()

    return {"ms": 1e3 * median(seconds(one, device, rounds=20, warm=5))}


def stack(runs: int, device: str) -> dict[str, float]:
    """Seconds of an epoch of finetune on a world's first task: so many seeds as one stack, and one by one."""
    store = world_sized()
    stream, entry = make_stream(store), find_method("finetune")
    data, spec = PairTable(store, stream.tasks[0].train, device), feature_spec(store, stream)
    lessons = []
    for seed in range(runs):
        method = entry.method(entry.config({"epochs": 1}), spec, generator_for(seed, "init")).to(device)
        method.begin_task(TaskInfo(0, len(data), stream.tasks[0].categories))
        lessons.append(Lesson(method, data, seed, 0))
    together = min(seconds(lambda: teach(lessons), device, rounds=2, warm=1))
    alone = min(seconds(lambda: [teach([lesson]) for lesson in lessons], device, rounds=1, warm=0))
    return {"together_s": together, "alone_s": alone, "times_faster": alone / together}


def evaluation(name: str, device: str) -> dict[str, float]:
    """Seconds of the last evaluation of MSRVTT-10's size, fused scores, after all tasks were evaluated once."""
    store = msrvtt_sized()
    tasks, entry = make_stream(store).tasks, find_method(name)
    spec = feature_spec(store, make_stream(store))
    method = entry.method(entry.config({"scoring": "fused"}), spec, generator_for(0, "init")).to(device).eval()
    test = PairTable(store, np.concatenate([task.test for task in tasks]), device)
    evaluator = Evaluator(test, [len(task.test) for task in tasks])
    took = [
        seconds(lambda task=task: _finish(evaluator, method, task), device, rounds=1, warm=0)[0]  # type: ignore[misc]
        for task in tasks
    ]
    return {"all_s": sum(took), "last_s": took[-1]}


def search(items: int, queries: int, device: str) -> dict[str, float]:
    """Exact ranks counted on the device over a float16 gallery that lies there, 512-d, and how many are the CPU's.

    The suite's own search of such galleries counts on the CPU: this is what a card would make of the same blocks. The
    first 100 queries are compared, over the first 100,000 items.
    """
    gallery_MD = normalise(torch.randn(items, 512, generator=generator_for(0, "gallery"))).half()
    target_N = torch.randint(min(items, _COMPARED), (queries,), generator=generator_for(0, "targets"))
    noise_ND = torch.randn(queries, 512, generator=generator_for(0, "queries"))
    query_ND = normalise(gallery_MD[target_N].float() + noise_ND / 8)
    there, asked, own = gallery_MD.to(device), query_ND.to(device), target_N.to(device)
    took = seconds(lambda: _counted(asked, there, own), device, rounds=2, warm=1)
    first = slice(0, min(queries, 100))
    few = _counted(asked[first], there[:_COMPARED], own[first]).cpu().numpy()
    expected = counted_ranks(query_ND[first], gallery_MD[:_COMPARED].numpy(), target_N[first].numpy())
    rate = 2 * items * queries * 512 / min(took) / 1e12
    return {"search_s": min(took), "tflop_per_s": rate, "same_ranks": float((few == expected).mean())}


def _counted(query_ND: Tensor, gallery_MD: Tensor, target_N: Tensor) -> Tensor:
    """1 + how many other items score at least what the target does; the scores of a block stay on the device."""
    own_N = torch.full((len(query_ND),), -torch.inf, device=query_ND.device)
    place_N = torch.arange(len(query_ND), device=query_ND.device)
    rank_N = torch.zeros(len(query_ND), dtype=torch.int64, device=query_ND.device)
    starts = range(0, len(gallery_MD), ITEMS)
    for counting in (False, True):
        for first in starts:
            sim_NB = query_ND @ normalise(gallery_MD[first : first + ITEMS].float()).T
            if counting:
                rank_N += (sim_NB >= own_N[:, None]).sum(1)  # itself among them: the 1
            else:
                inside_N = (target_N >= first) & (target_N < first + sim_NB.shape[1])
                found_N = sim_NB[place_N, (target_N - first).clamp(0, sim_NB.shape[1] - 1)]
                own_N = torch.where(inside_N, found_N, own_N)
    return rank_N


def extraction(videos: int, device: str, **size: Any) -> dict[str, float]:
    """Frames a second through real decoding and a CLIP of random weights on the device; size: see `tiny_clips`."""
    folder = Path(tempfile.mkdtemp(prefix="ctvr-gpu-"))
    rng = np.random.default_rng(0)
    for number in range(videos):
        coarse = rng.integers(0, 256, (24, 15, 20, 3), np.uint8)
        write_video(folder / f"{number}.mp4", coarse.repeat(16, 1).repeat(16, 2), 12)
    clips = [Clip(path) for path in sorted(folder.glob("*.mp4"))]
    encoder = load_clip(str(save_transformers_clip(folder / "clip", **size)), torch.device(device))
    found: list[np.ndarray[Any, Any]] = []

    def extract() -> None:
        found.clear()
        with read_ahead(clips, encoder.prepare, SAMPLING, workers=8, ahead=4 * FRAME_BATCH) as readings:
            found.extend(encode_video(reading, encoder, "float32")["features"] for reading in readings)

    took = min(seconds(extract, device, rounds=1, warm=1))
    frames = sum(map(len, found))
    return {"frames": frames, "frames_per_s": frames / took, "length": float(np.linalg.norm(found[0], axis=1).mean())}


def seconds(what: Callable[[], object], device: str, rounds: int, warm: int) -> Sequence[float]:
    """How long each of the rounds took, the device waited for on both sides (a pretend one is never behind)."""
    took, waited = [], device if device.startswith("cuda") else "cpu"
    for _ in range(warm + rounds):
        wait_for(waited)
        start = time.perf_counter()
        what()
        wait_for(waited)
        took.append(time.perf_counter() - start)
    return took[warm:]


def trained_methods(names: Sequence[str]) -> list[str]:
    return [name for name in names if is_trained(find_method(name).method)]


def _second_task(name: str, device: str) -> tuple[Method, PairTable]:
    store = msrvtt_sized()
    stream, entry = make_stream(store), find_method(name)
    method = entry.method(entry.config(), feature_spec(store, stream), generator_for(0, "init")).to(device)
    first, second = (PairTable(store, task.train, device) for task in stream.tasks[:2])
    method.begin_task(TaskInfo(0, len(first), stream.tasks[0].categories))
    method.end_task(first, generator_for(0, "end", 0))
    method.begin_task(TaskInfo(1, len(second), stream.tasks[1].categories))
    return method, view_of(method, second)


def _finish(evaluator: Evaluator, method: Method, task: Any) -> None:
    method.task = TaskInfo(task.index, 0, task.categories)
    evaluator.finish_task(method)
