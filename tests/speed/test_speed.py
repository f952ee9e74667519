"""`make bench`: what the common operations cost, each beside its plain twin in the same run, since machines are noisy.

Groups hold what is to be compared; the ratio between the rows of a group is the figure that means something.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from ctvr_bench.bench.evaluation import grid
from ctvr_bench.bench.evaluation.protocol import Evaluator
from ctvr_bench.bench.evaluation.scores import scores_of
from ctvr_bench.bench.evaluation.search import DenseGallery
from ctvr_bench.bench.metrics import ranks
from ctvr_bench.bench.run.budget import step_flops
from ctvr_bench.bench.run.jobs import feature_spec
from ctvr_bench.bench.run.stacks.ensemble import Lesson, teach
from ctvr_bench.bench.run.training import generator_for, view_of
from ctvr_bench.features.simulation.config import SyntheticConfig
from ctvr_bench.features.simulation.write import generated_structure, synthesise
from ctvr_bench.features.store import FeatureStore, open_store
from ctvr_bench.features.streams import PairTable, make_stream
from ctvr_bench.methods.shared.adamw import AdamW
from ctvr_bench.methods.shared.base import Method, MethodConfig, TaskInfo, TextEmbedding, VideoEmbedding
from ctvr_bench.methods.shared.registry import find_method
from ctvr_bench.methods.shared.similarity import normalise, unit_word_frame_similarity, word_frame_similarity
from ctvr_bench.methods.shared.word_frame import word_frame_scores

WORDS, FRAMES, DIM = 12, 12, 512


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@cache
def sized(dim: int, queries: int) -> FeatureStore:
    """Twenty categories in ten tasks, 320 training videos with 20 captions each, so many queries a category."""
    path = Path(mkdtemp(prefix="ctvr-bench-")) / "store.h5"
    structure = generated_structure(
        20, 10, train_per_category=16, test_per_category=queries, captions_per_train_video=20
    )
    synthesise(structure, SyntheticConfig(dim=dim, frames=FRAMES), path, name="sized")
    return open_store(path)


def msrvtt_sized() -> FeatureStore:
    """As many videos, captions, frames and dimensions as MSRVTT-10."""
    return sized(DIM, 150)


def world_sized() -> FeatureStore:
    """As many videos, captions, frames and dimensions as a moving-shapes world."""
    return sized(128, 40)


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return normalise(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)))


def pair_loop(words_NLD: torch.Tensor, frames_MFD: torch.Tensor) -> torch.Tensor:
    """Word-frame similarity as the authors compute it: pair after pair."""
    rows = []
    for words in words_NLD:
        for frames in frames_MFD:
            cosines = normalise(words) @ normalise(frames).T
            rows.append((cosines.max(1).values.mean() + cosines.max(0).values.mean()) / 2)
    return torch.stack(rows).view(len(words_NLD), len(frames_MFD))


@pytest.mark.benchmark(group="open a store of MSRVTT's size")
def test_open_store(benchmark: BenchmarkFixture) -> None:
    path = msrvtt_sized().path
    benchmark(open_store, path)


@pytest.mark.benchmark(group="open a store of MSRVTT's size")
def test_read_its_frames(benchmark: BenchmarkFixture) -> None:
    store = msrvtt_sized()
    benchmark(lambda: np.array(store.feature("videos/frames")))


METHODS = ("finetune", "lwf", "er", "attention_head", "l2p", "frame_fusion_moe", "structalign", "structalign_released")


SIZED = {512: msrvtt_sized, 128: world_sized}
STEP = "one training step, 32 pairs, {dim}-d, 12 frames, second task"


def second_task(name: str, dim: int = DIM) -> tuple[Method, PairTable]:
    """A method about to learn its second task, and the task's pairs."""
    store = SIZED[dim]()
    stream = make_stream(store)
    entry = find_method(name)
    method = entry.method(entry.config(), feature_spec(store, stream), generator_for(0, "init"))
    first, second = (PairTable(store, task.train) for task in stream.tasks[:2])
    method.begin_task(TaskInfo(0, len(first), stream.tasks[0].categories))
    method.end_task(first, generator_for(0, "end", 0))
    method.begin_task(TaskInfo(1, len(second), stream.tasks[1].categories))
    return method, view_of(method, second)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dim", SIZED)
def test_training_step(benchmark: BenchmarkFixture, dim: int, name: str) -> None:
    benchmark.group = STEP.format(dim=dim)
    method, data = second_task(name, dim)
    draws, groups = generator_for(0, "draws"), method.parameter_groups()
    stepped = [parameter for group in groups for parameter in group.parameters]
    optimiser = AdamW(stepped, lr=1e-4, fused=True)
    batches = itertools.cycle(list(data.shuffled(32, generator_for(0, "order"))))

    def step() -> None:
        index = next(batches)
        terms = method.loss(method.prepare(data.pairs(index), draws))
        optimiser.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(stepped, 1.0)
        optimiser.step()

    benchmark.pedantic(step, rounds=20, warmup_rounds=3)


@pytest.mark.parametrize("dim", SIZED)
def test_as_many_operations_as_a_step_of_structalign(benchmark: BenchmarkFixture, dim: int) -> None:
    benchmark.group = STEP.format(dim=dim)
    method, data = second_task("structalign", dim)
    left, right = torch.randn(384, dim), torch.randn(dim, 4 * dim)
    times = step_flops(method, data) / (2 * left.numel() * right.shape[1])
    benchmark.pedantic(lambda: [left @ right for _ in range(round(times))], rounds=20, warmup_rounds=3)


@pytest.mark.benchmark(group="ten seeds learn the first task of the embedded store's shape, an epoch, finetune")
@pytest.mark.parametrize("kind", ["one stack", "one by one"])
def test_seeds(benchmark: BenchmarkFixture, kind: str) -> None:
    benchmark.pedantic(ten_runs(kind, [{}] * 10), rounds=3, warmup_rounds=1)


def ten_runs(kind: str, values: list[dict[str, Any]]) -> Callable[[], object]:
    """What trains finetune with these Config values, each with a seed of its own."""
    store = world_sized()
    stream, entry = make_stream(store), find_method("finetune")
    data, spec = PairTable(store, stream.tasks[0].train), feature_spec(store, stream)
    lessons = []
    for seed, given in enumerate(values):
        method = entry.method(entry.config({"epochs": 1, **given}), spec, generator_for(seed, "init"))
        method.begin_task(TaskInfo(0, len(data), stream.tasks[0].categories))
        lessons.append(Lesson(method, data, seed, 0))
    return (lambda: teach(lessons)) if kind == "one stack" else lambda: [teach([lesson]) for lesson in lessons]


@pytest.mark.benchmark(group="ten learning rates on the first task of the embedded store's shape, an epoch, finetune")
@pytest.mark.parametrize("kind", ["one stack", "one by one"])
def test_learning_rates(benchmark: BenchmarkFixture, kind: str) -> None:
    benchmark.pedantic(ten_runs(kind, [{"lr": 1e-4 * 2**s} for s in range(10)]), rounds=3, warmup_rounds=1)


@pytest.mark.benchmark(group="teacher of lwf, 512-d: a step with its outputs made once, and asked in the step")
@pytest.mark.parametrize("kind", ["made once", "asked in the step"])
def test_teacher(benchmark: BenchmarkFixture, kind: str) -> None:
    method, data = second_task("lwf")
    index = next(data.shuffled(32, generator_for(0, "order")))
    pairs = {"made once": data.pairs, "asked in the step": data.features}[kind]
    benchmark.pedantic(lambda: method.loss(pairs(index)), rounds=20, warmup_rounds=3)


def with_gradient(function: Any, words: torch.Tensor, *rest: torch.Tensor) -> None:
    leaf = words.clone().requires_grad_()
    function(leaf, *rest).sum().backward()


@pytest.mark.benchmark(group="word-frame similarity in training, 32 x 32, forward and backward")
@pytest.mark.parametrize("kind", ["one GEMM", "pair loop"])
def test_word_frame_training(benchmark: BenchmarkFixture, kind: str) -> None:
    words, frames, mask = unit(32, WORDS, DIM), unit(32, FRAMES, DIM, seed=1), torch.ones(32, WORDS, dtype=torch.bool)
    if kind == "one GEMM":
        benchmark.pedantic(with_gradient, (word_frame_similarity, words, mask, frames), rounds=20, warmup_rounds=2)
    else:
        benchmark.pedantic(with_gradient, (pair_loop, words, frames), rounds=3)


@pytest.mark.benchmark(group="word-frame similarity in evaluation, 300 x 300")
@pytest.mark.parametrize("kind", ["blocks", "at once", "bare GEMM", "pair loop"])
def test_word_frame_evaluation(benchmark: BenchmarkFixture, kind: str) -> None:
    words, frames, mask = (
        unit(300, WORDS, DIM),
        unit(300, FRAMES, DIM, seed=1),
        torch.ones(300, WORDS, dtype=torch.bool),
    )
    text, video = TextEmbedding(words[:, 0], words, mask), VideoEmbedding(frames[:, 0], frames)
    flat_words, flat_frames = words.flatten(0, 1), frames.flatten(0, 1).T.contiguous()
    runs = {
        "blocks": lambda: word_frame_scores(text, video),
        "at once": lambda: unit_word_frame_similarity(words, mask, frames),
        "bare GEMM": lambda: flat_words @ flat_frames,
        "pair loop": lambda: pair_loop(words, frames),
    }
    benchmark.pedantic(runs[kind], rounds=1 if kind == "pair loop" else 7, warmup_rounds=kind != "pair loop")


@pytest.mark.benchmark(group="full gallery of 3,000 videos, word-frame, beside the bare GEMM of its words")
@pytest.mark.parametrize("kind", ["scores and ranks", "bare GEMM"])
def test_full_gallery_word_frame(benchmark: BenchmarkFixture, kind: str) -> None:
    text, video = embedded("word_frame")
    assert text.words_NLD is not None
    assert text.word_mask_NL is not None
    assert video.frames_MFD is not None
    words_TD, frames_DK = text.words_NLD[text.word_mask_NL], video.frames_MFD.flatten(0, 1).T
    rows = torch.split(words_TD, 4096)

    def gemm() -> None:
        for row in rows:
            row @ frames_DK

    def whole() -> None:
        matrix = scores_of(text, video, MethodConfig(scoring="word_frame")).combined(0.5)
        ranks(matrix.numpy(), np.arange(len(matrix)))

    benchmark.pedantic(whole if kind != "bare GEMM" else gemm, rounds=3, warmup_rounds=1)


@pytest.mark.benchmark(group="evaluation after each of four tasks of 300 queries, fused")
@pytest.mark.parametrize("kind", ["as it is", "every block anew", "re-encoded after every task", "bare GEMM once"])
@pytest.mark.parametrize("name", ["zero_shot", "finetune"])
def test_evaluation(benchmark: BenchmarkFixture, monkeypatch: pytest.MonkeyPatch, name: str, kind: str) -> None:
    store = msrvtt_sized()
    tasks = make_stream(store).tasks[:4]
    entry = find_method(name)
    method = entry.method(
        entry.config({"scoring": "fused"}), feature_spec(store, make_stream(store)), generator_for(0, "init")
    ).eval()
    test, sizes = PairTable(store, np.concatenate([task.test for task in tasks])), [len(task.test) for task in tasks]
    if kind == "every block anew":
        numbers = itertools.count()
        monkeypatch.setattr(grid, "fingerprint", lambda text: torch.tensor(next(numbers)))

    @torch.no_grad()
    def evaluate() -> None:
        evaluator = Evaluator(test, sizes, reencoded="every" if "re-encoded" in kind else "last")
        for _ in tasks:
            for parameter in method.parameters():
                parameter.add_(1e-3)
            evaluator.finish_task(method)

    frames_DK, all_TD = test.all_videos().frames_MFD.flatten(0, 1).T, test.words_TD.float()

    def gemm() -> None:
        for words_TD in all_TD.split(640):
            words_TD @ frames_DK

    benchmark.pedantic(gemm if kind == "bare GEMM once" else evaluate, rounds=2, warmup_rounds=0)


@pytest.mark.benchmark(group="full gallery of 3,000 videos, cosine: ranks, beside the bare GEMM")
@pytest.mark.parametrize("kind", ["FAISS ranks", "counted ranks", "bare GEMM"])
def test_full_gallery_cosine(benchmark: BenchmarkFixture, kind: str) -> None:
    text, video = embedded("cosine")
    target = np.arange(len(text.pooled_ND))
    gallery = DenseGallery(DIM)
    gallery.add(video.pooled_MD)
    runs = {
        "FAISS ranks": lambda: gallery.rank(text.pooled_ND, target, engine="faiss"),
        "counted ranks": lambda: ranks((text.pooled_ND @ video.pooled_MD.T).numpy(), target),
        "bare GEMM": lambda: text.pooled_ND @ video.pooled_MD.T,
    }
    benchmark.pedantic(runs[kind], rounds=5, warmup_rounds=1)


@cache
def embedded(scoring: str) -> tuple[TextEmbedding, VideoEmbedding]:
    store = msrvtt_sized()
    stream = make_stream(store)
    entry = find_method("zero_shot")
    method = entry.method(entry.config({"scoring": scoring}), feature_spec(store, stream), generator_for(0, "init"))
    sizes = [len(task.test) for task in stream.tasks]
    evaluator = Evaluator(PairTable(store, np.concatenate([task.test for task in stream.tasks])), [sum(sizes)])
    text = method.encode_text(evaluator.test.text(torch.arange(sum(sizes))), 0)
    return text, evaluator._encode_video(method, 0)
