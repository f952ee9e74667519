"""What the harness does for methods that need more than a loss: banks, closed forms, shards, routes, steps."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ctvr_bench.bench.authoring.tryout import in_double
from ctvr_bench.bench.evaluation.protocol import Evaluator
from ctvr_bench.bench.records.record import RunConfig
from ctvr_bench.bench.run.jobs import Job, feature_spec, make_method, store_id
from ctvr_bench.bench.run.stacks.ensemble import learn_in_step
from ctvr_bench.bench.run.training import generator_for, lessons_of_task, train_task
from ctvr_bench.bench.suite.config import make_suite
from ctvr_bench.bench.suite.suite import plan, run_suite
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.simulation.config import SyntheticConfig
from ctvr_bench.features.simulation.write import generated_structure, synthesise
from ctvr_bench.features.store import open_store
from ctvr_bench.features.streams import PairBatch, PairTable, make_stream
from ctvr_bench.features.verification import verify_store
from ctvr_bench.methods.finetune import Finetune, FinetuneConfig
from ctvr_bench.methods.shared.base import ParameterGroup, TaskInfo, is_trained
from ctvr_bench.methods.shared.registry import find_method, known_methods
from tests.learning import begin, learn, make, small_spec, stepped, train_pairs
from tests.stores import small_store, small_stream


def banked_store(path: Path, reference: int = 20, block: int = 128) -> Path:
    structure = generated_structure(4, 2, train_per_category=4, test_per_category=3, captions_per_train_video=2)
    config = SyntheticConfig(dim=16, frames=3, latent_dim=8)
    synthesise(structure, config, path, name="banked", reference=reference, block=block)
    return path


def evaluator() -> Evaluator:
    tasks = small_stream().tasks
    return Evaluator(PairTable(small_store(), np.concatenate([t.test for t in tasks])), [len(t.test) for t in tasks])


# --- reference banks


def test_a_simulated_bank_leaves_the_rest_of_the_store_as_it_was(tmp_path: Path) -> None:
    without, banked = (open_store(banked_store(tmp_path / f"{n}.h5", n)) for n in (0, 20))
    assert not without.has_reference
    assert banked.has_reference
    for dataset in ("videos/frames", "captions/pooled", "captions/words"):
        assert np.array_equal(without.feature(dataset), banked.feature(dataset))
    assert banked.feature("reference/captions").shape == banked.feature("reference/frames").shape == (20, 16)
    assert verify_store(banked.path) == []


def test_a_simulated_bank_does_not_depend_on_the_block(tmp_path: Path) -> None:
    stores = [open_store(banked_store(tmp_path / f"{block}.h5", block=block)) for block in (3, 128)]
    assert stores[0].digest == stores[1].digest


def test_a_bank_cannot_be_smaller_than_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="reference is -1"):
        banked_store(tmp_path / "a.h5", reference=-1)


def test_only_methods_that_declare_it_are_handed_the_bank(tmp_path: Path) -> None:
    store = open_store(banked_store(tmp_path / "a.h5"))
    spec = feature_spec(store, make_stream(store))
    assert spec.reference is not None
    assert len(spec.reference.captions_RD) == 20
    for name, expected in (("finetune", False), ("zscl", True), ("vr_lwf", True)):
        entry = find_method(name)
        run = RunConfig(method=name, config={}, stream="s", options={}, seed=0, selection="last", store=store_id(store))
        assert (make_method(Job(entry, run, name, 0), spec, "cpu").spec.reference is not None) == expected


@pytest.mark.parametrize("name", ["zscl", "vr_lwf", "structalign_anchored"])
def test_a_store_without_a_bank_is_refused_before_the_first_run(name: str, tmp_path: Path) -> None:
    store = open_store(banked_store(tmp_path / "a.h5", reference=0))
    suite = make_suite({"store": store.path, "methods": [{"name": "finetune"}, {"name": name}]}, "test")
    with pytest.raises(InputError, match=f"{name} needs a reference bank"):
        plan(suite, store)
    entry = find_method(name)
    with pytest.raises(InputError, match="bank of reference features"):
        entry.method(entry.config(), small_spec()._replace(reference=None), generator_for(0, "init"))


# --- whole runs


def test_closed_form_routed_and_banked_methods_run_through_a_suite(tmp_path: Path) -> None:
    names = ("ridge", "s_prompts", "zscl", "x_pool")
    methods = [{"name": name, "set": {"features": 30} if name == "ridge" else {"epochs": 1}} for name in names]
    store = banked_store(tmp_path / "a.h5")
    suite = make_suite({"store": store, "methods": methods, "seeds": 2, "out": tmp_path, "jobs": 1}, "test")
    records = run_suite(suite)
    assert [record.status for record in records] == ["done"] * 8  # two seeds of each, the closed form too
    ridge, s_prompts = records[0], records[2]
    assert ridge.cost is not None
    assert ridge.cost.trainable == 30 * 16
    assert ridge.cost.steps == 0
    assert all("routing_accuracy" in stage for stage in s_prompts.geometry)
    assert not any("routing_accuracy" in stage for stage in ridge.geometry)


# --- galleries and routes


@pytest.mark.parametrize("name", ["adapter_per_task", "packnet"])
def test_galleries_of_isolated_tasks_are_encoded_again_as_they_were(name: str) -> None:
    method, judge = make(name, lr=1e-2), evaluator()
    for task in range(3):
        learn(method, task)
        ranked = judge.finish_task(method).ranked
    for scope in ("seen", "own"):
        stored, again = (ranked[gallery, scope, "t2v"].rank_N for gallery in ("stored", "re-encoded"))
        assert stored.tolist() == again.tolist()


def test_routing_accuracy_is_the_share_of_queries_sent_to_their_task() -> None:
    method, judge = make("s_prompts"), evaluator()
    for task in range(2):
        learn(method, task)
        judge.finish_task(method)
    right = [
        int(method.route(judge.test.text(torch.tensor([row])))) == task  # type: ignore[arg-type]
        for task in range(2)
        for row in range(judge.rows(task).start, judge.rows(task).stop)
    ]
    assert judge.routing_accuracy(method) == pytest.approx(100 * sum(right) / len(right))
    assert judge.routing_accuracy(make("finetune")) is None


# --- before a task's first step


class Surveyor(Finetune):
    """Fine-tuning that writes down when it was shown its task's pairs."""

    def survey(self, data: PairTable) -> None:
        position, up = self.task.position, self.head.caption.up
        self.seen = [*getattr(self, "seen", []), (position, len(data), torch.is_grad_enabled(), bool(up.any()))]


def test_a_survey_is_made_once_a_task_between_its_begin_and_its_first_step() -> None:
    method = Surveyor(FinetuneConfig(epochs=1), small_spec(), generator_for(0, "init"))
    learn(method, 0, 1)
    assert method.seen == [(0, 48, False, False), (1, 48, False, True)]


# --- hooks of a step


class Watched(Finetune):
    """Fine-tuning that writes down what its hooks see."""

    name = "watched"

    def begin(self) -> None:
        self.norms: list[float] = []
        self.batches: list[PairBatch] = []

    def after_backward(self, batch: PairBatch) -> None:
        self.norms.append(float(sum(p.grad.square().sum() for p in self.parameters() if p.grad is not None)) ** 0.5)

    def after_step(self, batch: PairBatch) -> None:
        self.batches.append(batch)


def test_hooks_see_the_gradient_before_it_is_clipped_and_the_prepared_batch_after_the_step() -> None:
    config = FinetuneConfig(epochs=1, clip_norm=1e-3)
    method = Watched(config, small_spec(), generator_for(0, "init"))
    method.begin()
    begin(method, 0)
    steps = train_task(method, train_pairs(0), 0, 0)
    assert len(method.norms) == len(method.batches) == steps
    assert min(method.norms) > 10 * config.clip_norm
    assert all("keep_text_NR" in batch.draws for batch in method.batches)


# --- what is stepped


TRAINED = [name for name, entry in known_methods().items() if is_trained(entry.method)]


@pytest.mark.parametrize("name", TRAINED)
def test_what_is_clipped_is_what_is_stepped_and_nothing_else_gathers_a_gradient(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, clipped, clip = make(name), list[set[int]](), torch.nn.utils.clip_grad_norm_

    def watched(parameters: Iterable[nn.Parameter], *limits: float) -> torch.Tensor:
        given = list(parameters)
        clipped.append({id(parameter) for parameter in given})
        return clip(given, *limits)

    learn(method, 0, 1)
    for parameter in method.parameters():
        parameter.grad = None
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", watched)
    learn(method, 2)
    own = {id(parameter) for parameter in stepped(method)}
    assert clipped
    assert all(given == own for given in clipped)
    assert all(parameter.grad is None for parameter in method.parameters() if id(parameter) not in own)


class TwoRates(Finetune):
    """The video adapters at a third of the rate and without decay, the caption's not at all."""

    name = "two_rates"

    def parameter_groups(self) -> list[ParameterGroup]:
        head = self.head
        return [
            ParameterGroup([*head.frame.parameters(), *head.video.parameters()], rate=1 / 3, decay=0.0),
            ParameterGroup([*head.word.parameters(), head.temporal, head.temporal_down]),
        ]


def test_groups_are_stepped_at_their_own_rate_and_decay() -> None:
    """The first step of AdamW moves a weight by its rate, whatever the size of its gradient, and by its decay."""
    values = {"epochs": 1, "batch_size": 64, "schedule": "constant", "warmup": 0.0, "lr": 1e-3, "weight_decay": 0.5}
    method = TwoRates(FinetuneConfig(**values), small_spec(), generator_for(0, "init"))
    before = {name: value.clone() for name, value in method.named_parameters()}
    learn(method, 0)
    moved = {name: value.detach() - before[name] for name, value in method.named_parameters()}
    assert not moved["head.caption.up"].any()
    assert not moved["head.word.up"].any()  # no word is scored: without a gradient there is no step
    assert moved["head.frame.up"].abs().max().item() == pytest.approx(1e-3 / 3, rel=1e-3)
    assert not moved["head.frame.down.0"].any()  # behind a branch that is still zero: decay alone, which is 0
    torch.testing.assert_close(method.head.temporal_down, before["head.temporal_down"] * (1 - 1e-3 * 0.5))


@pytest.mark.parametrize("rates", [(1e-3, 1e-3), (1e-3, 3e-3)])
def test_groups_are_stepped_in_a_stack_as_alone(rates: tuple[float, float]) -> None:
    config = [FinetuneConfig(epochs=2, lr=lr) for lr in rates]
    alone, together = (
        [TwoRates(each, small_spec(), generator_for(s, "init")).double() for s, each in enumerate(config)]
        for _ in range(2)
    )
    data = in_double(train_pairs(0))
    info = TaskInfo(0, len(data), (0, 1))
    for methods, size in ((alone, 1), (together, 2)):
        learners = [lessons_of_task(method, data, info, s) for s, method in enumerate(methods)]
        for first in range(0, 2, size):
            learn_in_step(learners[first : first + size])
    for first, second in zip(alone, together, strict=True):
        for (key, value), other in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
            torch.testing.assert_close(other, value, rtol=1e-9, atol=1e-11, msg=lambda m, key=key: f"{key}: {m}")
