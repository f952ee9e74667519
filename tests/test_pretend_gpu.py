"""Methods of each kind and every scoring on a pretend GPU: no operation mixes devices, and ranks are the CPU's."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from ctvr_bench.bench.executors import planning
from ctvr_bench.bench.executors.planning import units
from ctvr_bench.bench.records.finished import read_ranks
from ctvr_bench.bench.records.record import RunRecord
from ctvr_bench.bench.run.jobs import Watch, feature_spec, ignore, spec_for
from ctvr_bench.bench.run.runner import run_together
from ctvr_bench.bench.run.training import generator_for, learn_task
from ctvr_bench.bench.suite.config import make_suite
from ctvr_bench.bench.suite.suite import plan
from ctvr_bench.features.sent import sent
from ctvr_bench.features.streams import PairBatch, PairTable, StreamOptions, make_stream
from ctvr_bench.methods.finetune import Finetune
from ctvr_bench.methods.shared.base import Scoring, TaskInfo, is_trained
from ctvr_bench.methods.shared.memory import PrototypeBank, Reservoir
from ctvr_bench.methods.shared.registry import find_method, known_methods
from tests.device import taken_through
from tests.gpu.__main__ import main as gpu_script
from tests.pretend_gpu import MixingError, Pretend
from tests.stores import small_store, small_stream

METHODS = ("adapter_per_task", "agem", "der_pp", "er", "ewc", "finetune", "frame_fusion_moe", "l2p", "lwf")
"""One of each way to keep something: experts, pairs, weights, teachers, prompts."""


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


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the runner asks of CUDA beside tensors, and how often it was asked."""
    asked: list[str] = []
    for name, answer in (
        ("synchronize", None),
        ("reset_peak_memory_stats", None),
        ("max_memory_allocated", 7),
        ("get_device_name", "a pretend card"),
    ):
        monkeypatch.setattr(torch.cuda, name, lambda device, name=name, answer=answer: (asked.append(name), answer)[1])
    monkeypatch.setitem(planning.BLOCK, "cpu", 2)
    monkeypatch.setitem(planning.FEWEST, "cpu", 2)
    return asked


def made(folder: Path, device: str, watch: Watch = ignore, **values: Any) -> list[RunRecord]:
    """The first run of a suite of one row, with those beside it."""
    given = {"store": small_store().path, "out": folder, "seeds": 1, "jobs": 1, **values}
    config = make_suite(given, "test")
    job = units(plan(config, small_store()))[0]
    stream = make_stream(small_store(), job.config.stream, StreamOptions(**job.config.options))
    return run_together(job, small_store(), stream, folder / job.config.run_id, device, watch)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("er", {}),
        ("finetune", {"seeds": 2}),
        ("lwf", {"selection": "validation"}),
        ("finetune", {"index": "flat"}),
    ],
    ids=["alone", "stack", "selection", "index"],
)
def test_a_run_is_cut_off_and_goes_on_on_a_gpu_as_on_the_cpu(
    tmp_path: Path, driver: list[str], name: str, values: dict[str, Any]
) -> None:
    def stop(*told: Any) -> None:
        if len(list(tmp_path.glob("gpu/*/state/progress-*.json"))) and not cut:
            cut.append(told)
            raise KeyboardInterrupt

    cut: list[Any] = []
    values = {**values, "methods": [{"name": name, "set": {"steps": 2}}]}
    expected = made(tmp_path / "cpu", "cpu", **values)
    with Pretend():
        with pytest.raises(KeyboardInterrupt):
            made(tmp_path / "gpu", "gpu:0", stop, **values)
        found = made(tmp_path / "gpu", "gpu:0", **values)
    assert [record.status for record in found] == ["done"] * values.get("seeds", 1)
    assert {record.environment["device"] for record in found} == {"a pretend card"}
    assert {record.cost.peak_memory_bytes for record in found if record.cost} == {7}
    assert "synchronize" in driver
    for one, other in zip(expected, found, strict=True):
        assert one.run_id == other.run_id
        assert read_ranks(tmp_path / "cpu" / one.run_id).same_ranks(read_ranks(tmp_path / "gpu" / one.run_id))


def test_the_script_for_a_gpu_has_a_dry_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_script(["--pretend", "--methods", "zero_shot,finetune", "--out", str(tmp_path / "card.json")]) == 0
    found = json.loads((tmp_path / "card.json").read_text())
    assert found["methods"] == {"zero_shot": {"same_ranks": 1.0}, "finetune": {"same_ranks": 1.0}}
    assert found["search"]["small"]["same_ranks"] == 1.0
    assert found["waits"] > 0
    assert "2 of 2 methods rank as on the CPU" in capsys.readouterr().out
    if not torch.cuda.is_available():
        assert gpu_script([]) == 2


def test_the_script_for_a_gpu_names_a_method_that_leaves_the_device(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Finetune, "loss", lambda self, batch: {"all": batch.text.pooled_ND @ torch.ones(32, 1)})
    assert gpu_script(["--pretend", "--methods", "finetune"]) == 1
    assert "finetune: MixingError" in capsys.readouterr().out


def test_it_refuses_to_mix_devices_and_counts_waits() -> None:
    with Pretend() as gpu:
        x = torch.ones(2, 3).to("gpu:0")
        with pytest.raises(MixingError, match="GPU with CPU tensors"):
            x @ torch.ones(3, 1)
        assert float(x.sum()) == 6
        assert Counter(kind for kind, _, _ in gpu.waits.elements()) == {"to gpu": 1, "item": 1}


@pytest.mark.parametrize("name", [name for name, entry in known_methods().items() if is_trained(entry.method)])
def test_a_step_waits_for_nothing(name: str) -> None:
    """From the end of a second task's first step to the end of its next, as training makes it: what is drawn is sent
    from pinned memory, and nothing is asked of the GPU.

    But for three methods, once each: PackNet and ZSCL ask whether it is the step to prune or to average at, PROOF
    picks the categories met.
    """
    store, tasks, entry = small_store(), small_stream().tasks[:2], find_method(name)
    ends: list[Counter[str]] = []
    with Pretend() as gpu:
        spec = spec_for(entry, feature_spec(store, small_stream()))
        config = entry.config({"steps": 2, "batch_size": 3})
        method = entry.method(config, spec, generator_for(0, "init")).to("gpu:0").eval()
        after_step = method.after_step

        def counted(batch: PairBatch) -> None:
            after_step(batch)
            ends.append(Counter(kind for kind, _, _ in gpu.waits.elements()))

        method.after_step = counted  # type: ignore[method-assign]
        for position, task in enumerate(tasks):
            data = PairTable(store, task.train[:6], "gpu:0")
            learn_task(method, data, TaskInfo(position, len(data), task.categories), 0)
    assert len(ends) in (4, 12)  # joint learns longer
    assert ends[-1] - ends[-2] == {"packnet": {"item": 1}, "zscl": {"item": 1}, "proof": {"bool-mask index": 1}}.get(
        name, {}
    )


def test_what_is_sent_from_memory_that_is_not_pinned_is_waited_for() -> None:
    with Pretend() as gpu:
        sent(torch.ones(3), torch.device("gpu:0"))
        assert sum(gpu.waits.values()) == 0
        torch.ones(3).to("gpu:0", non_blocking=True)
        torch.ones(3).pin_memory().to("gpu:0")
        assert Counter(kind for kind, _, _ in gpu.waits.elements()) == {"to gpu": 2}


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


def test_a_prototype_bank_waits_once_for_its_categories_until_they_change() -> None:
    draw = generator_for(0, "draws")
    with Pretend() as gpu:
        bank, one, category = (
            PrototypeBank(3, 2).to("gpu:0"),
            torch.ones(1, 2).to("gpu:0"),
            torch.tensor([2]).to("gpu:0"),
        )
        bank.update(one, one, category)
        asked = []
        for _ in range(3):
            category_P = bank.draw(4, draw)[2]
            asked.append(sum(count for (kind, _, _), count in gpu.waits.items() if kind == "nonzero"))
        bank.update(one, one, category - 1)
        assert set(bank.draw(40, draw)[2].tolist()) == {1, 2}
    assert category_P.tolist() == [2, 2, 2, 2]
    assert asked == [1, 1, 1]


def test_a_prototype_bank_that_was_loaded_knows_its_categories() -> None:
    bank, other = PrototypeBank(3, 2), PrototypeBank(3, 2)
    bank.update(torch.ones(1, 2), torch.ones(1, 2), torch.tensor([0]))
    other.update(torch.ones(1, 2), torch.ones(1, 2), torch.tensor([1]))
    bank.draw(1, generator_for(0, "draws"))
    bank.load_state_dict(other.state_dict())
    assert bank.draw(4, generator_for(0, "draws"))[2].tolist() == [1, 1, 1, 1]
