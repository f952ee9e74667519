"""Runs and suites end to end on a small store: records, resuming, determinism, selection."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctvr_bench.bench.authoring.tryout import state_digest
from ctvr_bench.bench.executors import workers
from ctvr_bench.bench.records.aggregate import read_results
from ctvr_bench.bench.records.finished import read_metrics
from ctvr_bench.bench.records.record import RankTable, read_record
from ctvr_bench.bench.records.summary import metrics_of
from ctvr_bench.bench.run.budget import pair_flops, step_flops
from ctvr_bench.bench.suite.config import SuiteConfig, make_suite
from ctvr_bench.bench.suite.suite import plan, run_suite
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.simulation.config import SyntheticConfig
from ctvr_bench.features.simulation.write import generated_structure, synthesise
from ctvr_bench.methods.joint import Joint
from ctvr_bench.methods.shared.base import TaskInfo, is_trained
from ctvr_bench.methods.shared.registry import known_methods
from tests.learning import make, train_pairs
from tests.stores import redigest, small_store, small_stream


def suite(out: Path, *methods: str, **values: Any) -> SuiteConfig:
    choices = [{"name": name, "set": {} if name == "zero_shot" else {"epochs": 1}} for name in methods]
    return make_suite(
        {"store": small_store().path, "methods": choices, "seeds": 1, "jobs": 1, "out": out, **values}, "test"
    )


def test_a_run_leaves_its_records_and_nothing_half_written(tmp_path: Path) -> None:
    (record,) = run_suite(suite(tmp_path, "finetune"))
    folder = tmp_path / "default" / record.run_id
    assert record.status == "done"
    assert read_record(folder).model_dump() == record.model_dump()
    assert sorted(path.name for path in folder.iterdir()) == ["metrics.json", "ranks.h5", "run.json", "training.jsonl"]
    log = [json.loads(line) for line in (folder / "training.jsonl").read_text().splitlines()]
    assert [line["task"] for line in log] == [1, 2, 3]
    assert record.cost.steps == sum(line["steps"] for line in log)
    assert record.cost.trainable > 0
    assert record.cost.train_flops == record.cost.steps * record.cost.step_flops > 0
    assert 0 < record.cost.encode_s < record.cost.evaluate_s
    assert len(record.geometry) == 3
    assert record.geometry[2]["drift_text"] > 0


def test_the_record_says_what_made_the_ranks(tmp_path: Path) -> None:
    (counted,) = run_suite(suite(tmp_path, "finetune"))
    (asked,) = run_suite(suite(tmp_path, "finetune", engine="faiss"))
    assert (counted.engine, asked.engine, asked.config.engine) == ("count", "faiss", "faiss")
    assert counted.run_id != asked.run_id
    tables = [RankTable.load(tmp_path / "default" / record.run_id / "ranks.h5") for record in (counted, asked)]
    for name, ranks_TN in tables[0].ranks.items():
        np.testing.assert_array_equal(tables[1].ranks[name], ranks_TN)


def test_operations_are_those_of_the_products_by_hand(tmp_path: Path) -> None:
    (record,) = run_suite(suite(tmp_path, "zero_shot"))
    assert record.cost.step_flops == record.cost.pair_flops == 0
    (record,) = run_suite(suite(tmp_path, "finetune"))
    rank, dim, frames = 32, 32, 5
    text, video = 2 * dim * rank + rank * dim, 3 * frames * dim * rank + 2 * rank * dim + dim * rank
    convolution = 3 * frames * rank * rank
    assert record.cost.pair_flops == 2 * (text + video + convolution)


def test_metrics_can_be_derived_again_from_ranks(tmp_path: Path) -> None:
    (record,) = run_suite(suite(tmp_path, "structalign"))
    folder = tmp_path / "default" / record.run_id
    metrics = read_metrics(folder)
    assert metrics_of(RankTable.load(folder / "ranks.h5")) == metrics
    (every,) = run_suite(suite(tmp_path, "structalign", measure="every"))
    assert (record.config.reencoded, every.config.reencoded) == ("last", "every")
    more = read_metrics(tmp_path / "default" / every.run_id)
    whole = {"staleness"} | {key for key in more["stages"][1] if "re-encoded/seen" in key}
    assert len(whole) == 17
    assert more["stages"][1].keys() - metrics["stages"][1].keys() == whole
    assert more["final"] == metrics["final"]
    assert more["matrices"] == metrics["matrices"]


def test_metrics_are_those_of_the_ranks_by_hand(tmp_path: Path) -> None:
    (record,) = run_suite(suite(tmp_path, "er"))
    table = RankTable.load(tmp_path / "default" / record.run_id / "ranks.h5")
    final = read_metrics(tmp_path / "default" / record.run_id)["final"]
    ranks = table.ranks["stored/seen/t2v"]
    assert final["t2v/stored/seen/R@1"] == pytest.approx(100 * np.mean(ranks[2] == 1))
    own, weights = table.ranks["stored/own/t2v"], table.weights_T
    lost = [100 * (np.mean(own[j, table.task_N == j] == 1) - np.mean(own[2, table.task_N == j] == 1)) for j in (0, 1)]
    assert final["bwf/ctvr"] == pytest.approx(np.average(lost, weights=weights[:2]))
    old = table.task_N < 2
    at_end = np.array([ranks[t, q] == 1 for q, t in enumerate(table.task_N)])[old]
    frozen, now = table.ranks["frozen-query/seen/t2v"][2, old] == 1, ranks[2, old] == 1
    assert final["loss/gallery-growth"] == pytest.approx(100 * (at_end.mean() - frozen.mean()))
    assert final["loss/query-drift"] == pytest.approx(100 * (frozen.mean() - now.mean()))
    assert final["loss/total"] == pytest.approx(final["loss/gallery-growth"] + final["loss/query-drift"])
    before = [100 * np.mean(table.before_N[table.task_N == j] == 1) for j in range(3)]
    ahead = [100 * np.mean(table.ahead_N[table.task_N == j] == 1) for j in range(3)]
    assert final["transfer/forward"] == pytest.approx(np.mean([ahead[j] - before[j] for j in (1, 2)]))


def test_zero_shot_has_no_forgetting_and_no_transfer(tmp_path: Path) -> None:
    choices = [{"name": "zero_shot", "set": {"scoring": s}} for s in ("cosine", "word_frame", "fused")]
    for record in run_suite(suite(tmp_path, methods=choices)):
        final = read_metrics(tmp_path / "default" / record.run_id)["final"]
        assert final["bwf/ctvr"] == 0
        assert final["transfer/forward"] == 0
        assert final["loss/query-drift"] == 0
        assert final["staleness"] == 0


def final_numbers(folder: Path) -> dict[str, Any]:
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(folder.glob("*/metrics.json"))}


def test_runs_side_by_side_in_two_processes_give_the_numbers_of_runs_one_by_one_in_this(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two seeds of one method among them; the other processes hash otherwise, as each does that Python starts."""
    methods = [{"name": name, "set": {"epochs": 1}} for name in ("finetune", "structalign", "l2p", "er")]
    run_suite(suite(tmp_path / "1", methods=methods, seeds=2))
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    monkeypatch.setattr(workers, "_here", None)  # nothing is made in this process
    run_suite(suite(tmp_path / "2", methods=methods, seeds=2, jobs=2))
    one_by_one, side_by_side = (final_numbers(tmp_path / name / "default") for name in "12")
    assert len(one_by_one) == 8
    assert one_by_one == side_by_side


def test_the_same_command_does_only_what_is_missing(tmp_path: Path) -> None:
    (first,) = run_suite(suite(tmp_path, "finetune"))
    stamp = (tmp_path / "default" / first.run_id / "ranks.h5").stat().st_mtime_ns
    records = run_suite(suite(tmp_path, "finetune", "lwf"))
    assert [record.config.method for record in records] == ["finetune", "lwf"]
    assert (tmp_path / "default" / first.run_id / "ranks.h5").stat().st_mtime_ns == stamp


def test_run_ids_change_with_everything_that_decides_the_numbers(tmp_path: Path) -> None:
    def ids(**values: Any) -> list[str]:
        return [job.config.run_id for job in plan(suite(tmp_path, "finetune", **values), small_store())]

    changes = ({}, {"set": {"finetune": {"lr": 1e-4}}}, {"shots": 2}, {"selection": "validation"}, {"long_tail": 2.0})
    variants = [ids(**change) for change in changes]
    assert len({run_id for (run_id,) in variants}) == len(variants)
    assert len(set(ids(seeds=3, orders=2))) == 6
    assert ids(device="cpu", jobs=2, name="x") == ids()
    assert ids(threads=2) != ids()


def test_training_free_methods_run_once_for_each_order(tmp_path: Path) -> None:
    assert len(plan(suite(tmp_path, "zero_shot", seeds=5, orders=2), small_store())) == 2


def test_a_diverging_run_is_recorded_and_the_others_go_on(tmp_path: Path) -> None:
    choices = [{"name": "finetune", "set": {"epochs": 1, "lr": 1e30, "clip_norm": 1e30}}, {"name": "zero_shot"}]
    records = run_suite(suite(tmp_path, methods=choices))
    assert [record.status for record in records] == ["diverged", "done"]
    assert "not finite" in records[0].reason
    results = read_results(tmp_path / "default")
    assert [row.label for row in results.rows] == ["zero_shot"]
    assert [record.label for record in results.unfinished] == [records[0].label]


def test_a_failing_run_is_recorded_with_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Any, batch: Any) -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr(Joint, "loss", broken, raising=True)
    records = run_suite(suite(tmp_path, "joint", "zero_shot"))
    assert [record.status for record in records] == ["failed", "done"]
    said = tmp_path / "default" / records[0].run_id / "error.txt"
    assert "planted" in said.read_text()
    monkeypatch.undo()
    assert [record.status for record in run_suite(suite(tmp_path, "joint", "zero_shot"))] == ["done", "done"]
    assert not said.exists()


@pytest.mark.parametrize("selection", ["validation", "test-oracle"])
def test_selection_keeps_the_best_epoch_by_its_own_queries(tmp_path: Path, selection: str) -> None:
    choices = [{"name": "finetune", "set": {"epochs": 4, "lr": 3e-2}}]
    (record,) = run_suite(suite(tmp_path, methods=choices, selection=selection))
    folder = tmp_path / "default" / record.run_id
    log = [json.loads(line) for line in (folder / "training.jsonl").read_text().splitlines()]
    assert all(0 <= line["selection_score"] <= 100 for line in log)
    if selection == "test-oracle":  # what was kept scores, on the test queries, what the best epoch scored
        stages = read_metrics(folder)["stages"]
        for task, stage in enumerate(stages, start=1):
            best = max(line["selection_score"] for line in log if line["task"] == task)
            assert stage["t2v/stored/seen/R@1"] == pytest.approx(best)


def test_validation_selection_never_embeds_test_queries_to_choose(tmp_path: Path) -> None:
    """The choice stays the same when the test queries' features are others: they cannot have been looked at."""
    store = small_store()
    (first,) = run_suite(suite(tmp_path / "a", "finetune", selection="validation"))
    content = bytearray(store.path.read_bytes())
    pooled = np.array(store.feature("captions/pooled")[:])
    at = bytes(content).find(pooled.tobytes())
    roles = store.stream().role_of_video_N[store.caption_video_M]
    pooled[roles == 2] = pooled[roles == 2][::-1]
    content[at : at + pooled.nbytes] = pooled.tobytes()
    (tmp_path / "other.h5").write_bytes(bytes(content))
    redigest(tmp_path / "other.h5")
    (second,) = run_suite(suite(tmp_path / "b", "finetune", selection="validation", store=tmp_path / "other.h5"))
    logs = [
        (tmp_path / folder / "default" / record.run_id / "training.jsonl").read_text()
        for folder, record in (("a", first), ("b", second))
    ]
    assert logs[0] == logs[1]


def test_an_unreadable_result_stops_the_command(tmp_path: Path) -> None:
    (record,) = run_suite(suite(tmp_path, "zero_shot"))
    (tmp_path / "default" / record.run_id / "run.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read as a run"):
        read_results(tmp_path / "default")


def test_the_gap_to_joint_and_intransigence_are_there_where_joint_and_cumulative_ran(tmp_path: Path) -> None:
    """Chaudhry's reference on task k was trained on tasks 0..k: cumulative's own scores, not joint's."""
    run_suite(suite(tmp_path, "finetune", "joint"))
    finetune, joint = read_results(tmp_path / "default").rows
    own_T = np.diag(finetune.runs[0].matrix())
    assert finetune.values("gap-to-joint") == [pytest.approx(np.mean(joint.runs[0].matrix()[-1] - own_T))]
    assert joint.values("gap-to-joint") == [pytest.approx(0)]
    assert finetune.values("intransigence") == []
    run_suite(suite(tmp_path / "both", "finetune", "joint", "cumulative"))
    rows = {row.runs[0].record.config.method: row for row in read_results(tmp_path / "both" / "default").rows}
    expected = np.mean(np.diag(rows["cumulative"].runs[0].matrix()) - own_T)
    assert rows["finetune"].values("intransigence") == [pytest.approx(expected)]
    assert rows["finetune"].values("gap-to-joint") == finetune.values("gap-to-joint")


@pytest.mark.parametrize("name", known_methods())
def test_operations_of_every_method_are_counted_without_touching_it(name: str) -> None:
    method, data = make(name, **({"features": 200} if name in ("ranpac", "ridge") else {})), train_pairs(0)
    method.begin_task(TaskInfo(0, len(data), small_stream().tasks[0].categories))
    before, gradients = state_digest(method), [parameter.grad for parameter in method.parameters()]
    step = step_flops(method, data)
    pair_flops(method, data)
    assert (step > 0) == is_trained(type(method))
    assert state_digest(method) == before
    assert all(parameter.grad is old for parameter, old in zip(method.parameters(), gradients, strict=True))


def test_operations_are_those_of_a_step_in_which_the_teacher_is_not_asked() -> None:
    counts = []
    for name in ("finetune", "lwf"):
        method, data = make(name), train_pairs(1)
        for task in (0, 1):
            method.begin_task(TaskInfo(task, len(data), small_stream().tasks[task].categories))
        counts.append(step_flops(method, data))
    plain, distilled = counts
    assert 0 < distilled - plain < 0.2 * plain  # products of similarities, and no embedding


def test_features_of_a_size_that_a_method_cannot_take_are_refused_before_the_first_run(tmp_path: Path) -> None:
    structure = generated_structure(20, 2, train_per_category=1, test_per_category=1, captions_per_train_video=1)
    synthesise(structure, SyntheticConfig(dim=16, frames=2, latent_dim=8), tmp_path / "narrow.h5", name="narrow")
    with pytest.raises(InputError, match="at least 19 dimensions, got 16; set etf_basis=random_projection"):
        run_suite(suite(tmp_path / "runs", "zero_shot", "structalign", store=tmp_path / "narrow.h5"))
    assert not (tmp_path / "runs").exists()


def test_a_run_says_that_test_videos_have_frames_of_training_videos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    run_suite(suite(tmp_path, "zero_shot"), tell=said.append)
    assert said == []
    monkeypatch.setattr("ctvr_bench.bench.suite.suite.leaked_videos", lambda store, stream: [7, 9])
    run_suite(suite(tmp_path, "zero_shot"), tell=said.append)
    (line,) = said
    assert line.startswith("WARNING: 2 test videos have the frames of a training video (first row 7 of the store)")
