"""What runs keep beside their ranks: heads come back as they were, and nothing asked for is left out unsaid."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ctvr_bench
from ctvr_bench.bench.audit.exchange import kept_items, trec_run
from ctvr_bench.bench.audit.verify import verify
from ctvr_bench.bench.evaluation.scores import scores_of, side_by_side
from ctvr_bench.bench.metrics import ranks
from ctvr_bench.bench.records.aggregate import Run
from ctvr_bench.bench.records.finished import read_ranks
from ctvr_bench.bench.records.kept import Keep
from ctvr_bench.bench.records.record import RankTable, read_record
from ctvr_bench.bench.suite.folders import merge
from ctvr_bench.bench.suite.suite import plan, run_suite
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.streams import PairTable
from tests.bench.api.conftest import TOP
from tests.bench.run.test_runner import suite
from tests.commands import called
from tests.stores import small_store, small_stream


def ranked(found: ctvr_bench.Results, label: str) -> tuple[RankTable, Run, list[np.ndarray[Any, Any]]]:
    """A row's ranks as recorded, its run, and the scores that its loaded heads give after every task."""
    run, scores = found.run_of(label), []
    tests = [PairTable(small_store(), task.test) for task in small_stream().tasks]
    galleries = []
    for task, test in enumerate(tests):
        head = found.model(task + 1, label)
        with torch.no_grad():
            everything = torch.arange(len(test))
            galleries.append(head.encode_gallery(test.video(everything), task))
            rows = []
            for asked in tests[: task + 1]:
                texts = [head.encode_text(asked.text(torch.arange(len(asked))), shard) for shard in range(task + 1)]
                pairs = zip(texts, galleries, strict=True)
                rows.append(side_by_side([scores_of(text, video, head.config) for text, video in pairs]))
            scores.append(torch.cat([row.combined(head.config.alpha) for row in rows]).numpy())
    return read_ranks(run.directory), run, scores


def test_loaded_heads_rank_as_their_runs_did(kept_runs: Path) -> None:
    found = ctvr_bench.load(kept_runs)
    assert len(found.labels) == 5
    first = found.top()
    for label in found.labels:
        table, run, scores = ranked(found, label)
        for task, sim_NN in enumerate(scores):
            seen = len(sim_NN)
            rank_N = ranks(sim_NN, np.arange(seen))
            np.testing.assert_array_equal(rank_N, table.ranks["stored/seen/t2v"][task, :seen], label)
            kept = first[(first["label"] == label) & (first["stage"] == task + 1)]
            videos_NK = kept["video"].to_numpy().reshape(seen, TOP)
            score_NK = kept["score"].to_numpy().reshape(seen, TOP)
            np.testing.assert_array_equal(score_NK, -np.sort(-sim_NN, axis=1)[:, :TOP])
            for query, rank in enumerate(rank_N):
                place = np.flatnonzero(videos_NK[query] == table.video_N[query])
                assert place.tolist() == ([rank - 1] if rank <= TOP else []), (label, task, query)
        assert set(run.record.files) >= set(Keep(weights=True, top=TOP, embeddings=True).files(3))


def test_first_items_stand_in_a_trec_run(kept_runs: Path) -> None:
    found = ctvr_bench.load(kept_runs)
    run, top = found.run_of("finetune [epochs=1]"), found.top()
    top = top[(top["label"] == "finetune [epochs=1]") & (top["stage"] == 3)]
    named = {(f"c{row.caption}", row.place): f"v{row.video}" for row in top.itertuples()}
    table, first = read_ranks(run.directory), 0
    lines = [line.split() for line in trec_run(table, "tag", item_NK=kept_items(run)).splitlines()]
    for query, _, item, place, _, _ in lines:
        if int(place) <= TOP:
            assert item == named[query, int(place)]
            first += 1
    assert first > 60
    plain = [line.split() for line in trec_run(table, "tag").splitlines()]
    assert [line for line in plain if line[2].startswith("v")] == [
        line for line, same in zip(lines, plain, strict=True) if same[2].startswith("v")
    ], "what was known without them is the same"


def test_embeddings_are_those_of_the_heads(kept_runs: Path) -> None:
    found = ctvr_bench.load(kept_runs)
    tests = [PairTable(small_store(), task.test) for task in small_stream().tasks]
    head, kept = found.model(3, "finetune [epochs=1]"), found.embeddings(3, "finetune [epochs=1]")
    with torch.no_grad():
        text = torch.cat([head.encode_text(each.text(torch.arange(len(each))), 2).pooled_ND for each in tests])
        video = torch.cat([head.encode_video(each.video(torch.arange(len(each)))).pooled_MD for each in tests])
    np.testing.assert_array_equal(kept["text_ND"], text.numpy())
    np.testing.assert_array_equal(kept["video_ND"], video.numpy())
    first = found.embeddings(1, "finetune [epochs=1]")
    np.testing.assert_array_equal(kept["stored_video_ND"][: len(tests[0])], first["video_ND"])
    np.testing.assert_array_equal(kept["frozen_text_ND"][: len(tests[0])], first["text_ND"])
    assert np.abs(kept["video_ND"] - kept["stored_video_ND"]).max() > 1e-4, "the model moved"


def test_a_finished_run_that_did_not_keep_it_is_made_again_under_its_name(tmp_path: Path) -> None:
    config, told = suite(tmp_path, "finetune"), list[str]()
    (plain,) = run_suite(config)
    folder = config.directory / plain.run_id
    before, ranks_before = (folder / "run.json").read_bytes(), read_ranks(folder)
    shutil.copytree(config.directory, tmp_path / "plain")
    asking = config.model_copy(update={"keep": ("top=3",)})
    assert "1 to make" in called("run", "--dry-run", "--store", small_store().path, "--methods", "finetune", "--set",
        "finetune.epochs=1", "--seeds", 1, "--out", tmp_path, "--keep", "top=3").stdout  # fmt: skip
    assert (folder / "run.json").read_bytes() == before, "looked at, not run"
    (kept,) = run_suite(asking, tell=told.append)
    assert told == ["1 finished runs did not keep top=3 and are made again; no rank changes"]
    assert kept.run_id == plain.run_id
    assert read_ranks(folder).same_ranks(ranks_before)
    stamp = (folder / "run.json").stat().st_mtime_ns

    def same(*keep: str) -> bool:
        run_suite(config.model_copy(update={"keep": keep}))
        return (folder / "run.json").stat().st_mtime_ns == stamp

    assert same()
    assert same("top=2")
    (folder / "kept/top-2.safetensors").unlink()
    assert verify(config.directory).faults == (), "what is kept may be deleted"
    assert same()
    assert not same("top=3")
    run_suite(config.model_copy(update={"keep": ("weights",)}))
    assert read_record(folder).keep == Keep(weights=True, top=3), "what it kept before is kept again"
    merge([tmp_path / "plain", config.directory], tmp_path / "both")
    assert read_record(tmp_path / "both" / plain.run_id).keep.weights, "of two results the one that kept more"


def test_a_run_that_was_begun_without_it_begins_anew(tmp_path: Path) -> None:
    config = suite(tmp_path, "finetune")

    def stop_in_task_3(progress: Any) -> None:
        if progress.task == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_suite(config, stop_in_task_3)
    heard: list[int] = []
    asking = config.model_copy(update={"keep": ("weights",)})
    with pytest.raises(KeyboardInterrupt):
        run_suite(asking, lambda progress: (heard.append(progress.task), stop_in_task_3(progress)))
    assert min(heard) == 1
    heard.clear()
    (record,) = run_suite(asking, lambda progress: heard.append(progress.task))
    assert min(heard) == 3, "goes on where nothing is missing"
    assert [name for name in record.files if name.startswith("kept/")] == [*Keep(weights=True).files(3)]


def test_keeping_does_not_name_a_run_nor_is_it_remembered(tmp_path: Path) -> None:
    config = suite(tmp_path, "finetune")
    asking = config.model_copy(update={"keep": ("weights",)})
    assert [job.config for job in plan(config, small_store())] == [job.config for job in plan(asking, small_store())]
    assert "keep" not in (run_suite(asking) and (config.directory / "suite.json").read_text())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["weight"], r"unknown thing to keep 'weight'; did you mean 'weights'"),
        (["top"], r"keep is 'weights', 'embeddings' or 'top=100', items of each query; got 'top'"),
        (["top=0"], "got 'top=0'"),
        (["weights=3"], "got 'weights=3'"),
    ],
)
def test_anything_else_is_refused(words: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        Keep.read(words)
    with pytest.raises(InputError, match=said.split(";")[0].lower()):
        suite(tmp_path, "finetune", keep=words)
    assert suite(tmp_path, "finetune", keep="weights,top=10").kept == Keep(weights=True, top=10)


def test_what_is_altered_or_was_not_kept_is_said(kept_runs: Path, tmp_path: Path) -> None:
    found = ctvr_bench.load(shutil.copytree(kept_runs, tmp_path / "copy"))
    run = found.run_of("finetune [epochs=1]")
    path = run.directory / "kept/weights-3.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert [fault.file for fault in verify(found.path).faults] == ["kept/weights-3.safetensors"]
    with pytest.raises(InputError, match="is not what its run wrote"):
        found.model(label="finetune [epochs=1]")
    with pytest.raises(InputError, match="has tasks 1 to 3; got 4"):
        found.model(4, "finetune [epochs=1]")
    with pytest.raises(InputError, match="has 5 rows; name one as label"):
        found.model()
    with pytest.raises(InputError, match="no finished run of order 0 and seed 8"):
        found.model(label="simple_cil", order=0, seed=8)
    (copy,) = found.path.glob("suites/sources/*.py")
    copy.write_text(copy.read_text().replace("2 * value", "3 * value"))
    with pytest.raises(InputError, match="its method's file is not the one that was run"):
        found.model(label="mine [epochs=1]")
    plain = ctvr_bench.run("finetune", small_store(), seeds=1, out=tmp_path / "plain", set={"finetune": {"epochs": 1}})
    for ask in (plain.model, plain.embeddings):
        with pytest.raises(InputError, match="after task 3; repeat its 'run' command with --keep"):
            ask()
    with pytest.raises(InputError, match="no run kept its first items"):
        plain.top()
    short = {"finetune": {"epochs": 1}}
    with pytest.warns(UserWarning, match="1 finished runs did not keep weights and are made again"):
        again = ctvr_bench.run("finetune", small_store(), seeds=1, out=tmp_path / "plain", set=short, keep="weights")
    assert again.model().name == "finetune"
