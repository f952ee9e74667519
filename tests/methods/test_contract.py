"""What every registered method promises, checked on each of them; a new method is covered without an edit."""

from __future__ import annotations

import copy
import hashlib

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from bench.runner import feature_spec
from bench.training import generator_for, train_task
from features.streams import PairBatch, PairTable, TextBatch, VideoBatch
from methods.base import FeatureSpec, Method, TaskInfo, TrainedConfig
from methods.heads import AdaptedVideo
from methods.registry import known_methods
from methods.scoring import embed_text, embed_video
from tests.stores import small_store, small_stream

METHODS = sorted(known_methods())
TRAINED = [name for name in METHODS if issubclass(known_methods()[name].method.Config, TrainedConfig)]
SCORINGS = ("cosine", "word_frame", "fused")


def make(name: str, spec: FeatureSpec | None = None, seed: int = 0, **values: object) -> Method:
    entry = known_methods()[name]
    spec = spec or feature_spec(small_store(), small_stream())
    defaults = {"epochs": 1} if name in TRAINED else {}
    return entry.method(entry.config({**defaults, **values}), spec, generator_for(seed, "init")).eval()


def train_pairs(*tasks: int) -> PairTable:
    return PairTable(small_store(), np.concatenate([small_stream().tasks[task].train for task in tasks]))


def learn(method: Method, task: int, data: PairTable, seed: int = 0) -> None:
    method.begin_task(TaskInfo(task, len(data), small_stream().tasks[task].categories))
    if method.is_trained:
        train_task(method, data, seed, task)
    if method.closed_form:
        method.fit_task(data, generator_for(seed, "fit", task))
    if method.is_trained or method.closed_form:
        method.end_task(data, generator_for(seed, "end", task))


def state_digest(method: Method) -> str:
    sha = hashlib.sha256()
    for name, value in sorted(method.state_dict().items()):
        sha.update(name.encode() + value.numpy().tobytes())
    return sha.hexdigest()


def random_batch(pairs: int, words: int, dim: int = 32, frames: int = 5, category: int | None = None) -> PairBatch:
    generator = torch.Generator().manual_seed(pairs)
    mask_NL = torch.ones(pairs, words, dtype=torch.bool)
    return PairBatch(
        TextBatch(
            torch.randn(pairs, dim, generator=generator), torch.randn(pairs, words, dim, generator=generator), mask_NL
        ),
        VideoBatch(torch.randn(pairs, frames, dim, generator=generator), torch.ones(pairs, frames, dtype=torch.bool)),
        torch.full((pairs,), category) if category is not None else torch.arange(pairs) % 2,
        torch.arange(pairs),
    )


@pytest.mark.parametrize("scoring", SCORINGS)
@pytest.mark.parametrize("name", METHODS)
def test_step_0_scores_exactly_as_zero_shot(name: str, scoring: str) -> None:
    method = make(name, scoring=scoring)
    pairs = train_pairs(0).pairs(torch.arange(20))
    with torch.no_grad():
        for shard in (0, 2):
            text = method.encode_text(pairs.text, shard)
            expected = embed_text(pairs.text, method.config)
            assert_close(text.pooled_ND, expected.pooled_ND, rtol=0, atol=0)
            if scoring != "cosine":
                assert_close(text.words_NLD, expected.words_NLD, rtol=0, atol=0)
        video, expected_video = method.encode_video(pairs.video), embed_video(AdaptedVideo(*pairs.video), method.config)
        assert_close(video.pooled_MD, expected_video.pooled_MD, rtol=0, atol=0)
        if scoring != "cosine":
            assert_close(video.frames_MFD, expected_video.frames_MFD, rtol=0, atol=0)


@pytest.mark.parametrize("name", METHODS)
def test_embeddings_have_unit_norm_after_training(name: str) -> None:
    method = make(name, scoring="fused", **({"lr": 1e-2} if name in TRAINED else {}))
    data = train_pairs(0)
    learn(method, 0, data)
    pairs = data.pairs(torch.arange(20))
    with torch.no_grad():
        text, video = method.encode_text(pairs.text, 0), method.encode_video(pairs.video)
    assert text.words_NLD is not None
    assert video.frames_MFD is not None
    ones = torch.ones(())
    for vectors in (text.pooled_ND, video.pooled_MD, text.words_NLD[text.word_mask_NL], video.frames_MFD):
        assert_close(vectors.norm(dim=-1), ones.expand(vectors.shape[:-1]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", ["one pair", "one category", "one word", "an empty caption"])
@pytest.mark.parametrize("name", TRAINED)
def test_loss_and_gradients_are_finite_on_degenerate_batches(name: str, case: str) -> None:
    method = make(name, scoring="fused")
    learn(method, 0, train_pairs(0))
    method.begin_task(TaskInfo(1, 8, (0,)))
    batch = random_batch(1 if case == "one pair" else 6, 1 if case == "one word" else 4, category=0)
    if case == "an empty caption":
        batch.text.word_mask_NL[2] = False
        batch.text.words_NLD[2] = 0
    terms = method.train().loss(method.prepare(batch, generator_for(0, "draws")))
    torch.stack(list(terms.values())).sum().backward()
    assert all(torch.isfinite(value) for value in terms.values()), terms
    for parameter_name, parameter in method.named_parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all(), parameter_name


@pytest.mark.parametrize("name", TRAINED)
def test_loss_is_a_pure_function_of_the_prepared_batch(name: str) -> None:
    method = make(name)
    learn(method, 0, train_pairs(0))
    method.begin_task(TaskInfo(1, 8, small_stream().tasks[1].categories))
    batch = method.prepare(train_pairs(1).pairs(torch.arange(10)), generator_for(0, "draws"))
    before = state_digest(method)
    first, second = method.loss(batch), method.loss(batch)
    assert state_digest(method) == before
    assert {k: v.item() for k, v in first.items()} == {k: v.item() for k, v in second.items()}


@pytest.mark.parametrize("name", TRAINED)
def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(name: str) -> None:
    digests = []
    for seed in (0, 0, 1):
        method = make(name, seed=seed)
        learn(method, 0, train_pairs(0), seed)
        digests.append(state_digest(method))
    assert digests[0] == digests[1]
    assert digests[0] != digests[2]


@pytest.mark.parametrize("name", TRAINED)
def test_training_moves_what_is_optimised_and_nothing_frozen(name: str) -> None:
    method = make(name)
    before = {key: value.clone() for key, value in method.named_parameters()}
    learn(method, 0, train_pairs(0))
    optimised = {id(parameter) for parameter in method.optimised_parameters()}
    moved = {key for key, value in method.named_parameters() if not torch.equal(value, before[key])}
    frozen = {key for key, value in method.named_parameters() if id(value) not in optimised}
    assert moved
    assert not moved & {key for key in frozen if not key.startswith("teacher")}


@pytest.mark.parametrize("name", METHODS)
def test_saved_and_loaded_mid_stream_it_continues_to_the_same_bits(name: str) -> None:
    method = make(name)
    learn(method, 0, train_pairs(0))
    saved = {key: value.clone() for key, value in method.state_dict().items()}
    again = make(name)
    again.load_tensors(saved)
    again.task = method.task
    for each in (method, again):
        learn(each, 1, train_pairs(1))
    assert state_digest(method) == state_digest(again)
    pairs = train_pairs(0).pairs(torch.arange(4))
    with torch.no_grad():
        first, second = (each.encode_text(pairs.text, 1).pooled_ND for each in (method, again))
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", METHODS)
def test_earlier_tasks_are_seen_only_as_declared(name: str) -> None:
    """Rows of a past task are turned into NaN once it is over; whoever reads them again is found out."""
    method = make(name)
    if method.sees != "current":
        pytest.skip(f"{name} declares that it sees {method.sees} tasks")
    first = train_pairs(0)
    learn(method, 0, first)
    kept = sum(buffer.numel() for buffer in method.buffers())
    for table in (first.frames_VFD, first.pooled_PD, first.words_TD):
        table.fill_(float("nan"))
    learn(method, 1, train_pairs(1))
    assert all(torch.isfinite(value).all() for value in method.state_dict().values() if value.is_floating_point())
    if method.stores_samples == "nothing":
        assert sum(buffer.numel() for buffer in method.buffers()) == kept


@pytest.mark.parametrize("name", METHODS)
def test_a_querys_encoding_does_not_depend_on_the_other_queries(name: str) -> None:
    method = make(name)
    learn(method, 0, train_pairs(0))
    pairs = train_pairs(0)
    with torch.no_grad():
        together = method.encode_text(pairs.text(torch.arange(6)), 0).pooled_ND
        alone = torch.cat([method.encode_text(pairs.text(torch.tensor([i])), 0).pooled_ND for i in range(6)])
    assert_close(together, alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_stored_bytes_are_those_of_frozen_parameters_and_buffers(name: str) -> None:
    method = make(name)
    learn(method, 0, train_pairs(0))
    state = method.state_dict()
    optimised = {id(parameter) for parameter in method.optimised_parameters()}
    trainable = {key for key, value in method.named_parameters() if id(value) in optimised}
    assert method.stored_bytes() == sum(value.nbytes for key, value in state.items() if key not in trainable)


@pytest.mark.parametrize("name", METHODS)
def test_the_card_is_filled_in(name: str) -> None:
    method = known_methods()[name].method
    assert method.paper
    assert method.idea.endswith((".", "?"))
    assert bool(method.deviations) == (method.fidelity == "adapted")


def test_the_store_is_never_written() -> None:
    store = small_store()
    with pytest.raises(ValueError, match="read-only"):
        store.feature("videos/frames")[0] = 0
    before = store.path.read_bytes()
    learn(make("structalign"), 0, train_pairs(0))
    assert store.path.read_bytes() == before


def test_deep_copies_share_nothing() -> None:
    method = make("lwf")
    twin = copy.deepcopy(method)
    learn(twin, 0, train_pairs(0))
    assert state_digest(method) != state_digest(twin)
