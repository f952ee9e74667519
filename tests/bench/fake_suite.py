"""A suite's folder with made-up ranks, for tests of what reads records: nothing is trained, nothing takes long."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from ctvr_bench.bench.metrics import ranks
from ctvr_bench.bench.records.record import Cost, RankTable, RunConfig, RunRecord, StoreId, write_json
from ctvr_bench.bench.records.summary import metrics_of

LABELS = ("zero_shot", "finetune", "joint", "lwf", "er")
STORE = StoreId(name="fake_store", digest="0f" * 32, simulated=True)


def write_suite(
    directory: Path,
    labels: Sequence[str] = LABELS,
    *,
    seeds: int = 3,
    orders: int = 1,
    tasks: int = 3,
    queries: int = 8,
    simulated: bool = True,
    failed: Sequence[str] = (),
) -> Path:
    """Write finished runs of every label, better the later it stands; `failed` labels get a diverged run instead.

    queries: of each task. zero_shot has one run an order and does not change; joint sees all tasks.
    """
    for position, label in enumerate([*labels, *failed]):
        for order in range(orders):
            for seed in range(1 if label.startswith("zero_shot") else seeds):
                _write_run(directory, label, position, order, seed, tasks, queries, simulated, label in failed)
    return directory


def rank_table(skill: float, order: int, seed: int, tasks: int, queries: int) -> RankTable:
    """Ranks from random scores whose diagonal is raised by `skill`, less so the longer ago a task was learned."""
    rng = np.random.default_rng([order, seed, int(10 * skill)])
    size = tasks * queries
    task_N = np.repeat(np.arange(tasks, dtype=np.int32), queries)
    base_NN = np.random.default_rng(7).standard_normal((size, size))
    table: dict[str, dict[str, np.ndarray]] = {"ranks": {}, "best": {}}
    names = [f"{g}/{s}/{d}" for g in ("stored", "re-encoded") for s in ("seen", "own") for d in _WAYS]
    for name in [*names, "frozen-query/seen/t2v"]:
        table["ranks"][name] = np.zeros((tasks, size), np.int32)
        table["best"][name] = np.full((tasks, size), -1, np.int32)
    drift_NN = 0.4 * rng.standard_normal((size, size)) * (skill > 0)
    for stage in range(tasks):
        for name in table["ranks"]:
            gallery, scope, direction = name.split("/")
            age_N = 0 if gallery == "frozen-query" else stage - task_N
            moved = drift_NN * (0.5 * stage if gallery == "stored" else 0.4 * stage)
            sim_NN = base_NN + moved + np.eye(size) * (2.0 + skill - 0.3 * (skill > 0) * age_N)
            seen = np.flatnonzero(task_N <= stage)
            blocks = [seen] if scope == "seen" else [seen[task_N[seen] == j] for j in range(stage + 1)]
            for rows in blocks:
                block = sim_NN[np.ix_(rows, rows)]
                block = block if direction == "t2v" else block.T
                table["ranks"][name][stage, rows] = ranks(block, np.arange(len(rows)))
                table["best"][name][stage, rows] = rows[block.argmax(1)]
    for part in table.values():  # the same where scores are not fused
        part |= {name.replace("/own/", "/own-of-seen/"): part[name] for name in names if "/own/" in name}
    own = table["ranks"]["stored/own/t2v"]
    shuffled_T = np.random.default_rng(order).permutation(tasks) if order else np.arange(tasks)
    videos = np.repeat(shuffled_T * queries, queries) + np.tile(np.arange(queries), tasks)
    return RankTable(
        ranks=table["ranks"],
        best=table["best"],
        ahead_N=own[task_N, np.arange(size)],
        before_N=own[task_N, np.arange(size)],
        task_N=task_N,
        weights_T=np.full(tasks, 2, np.int32),
        caption_N=videos.astype(np.int64) + 100,
        video_N=videos.astype(np.int64),
        category_N=(videos // 4).astype(np.int32),
    )


_WAYS = ("t2v", "v2t")


def _write_run(
    directory: Path,
    label: str,
    position: int,
    order: int,
    seed: int,
    tasks: int,
    queries: int,
    simulated: bool,
    diverged: bool,
) -> None:
    method = label.split(" ")[0]
    trained = method != "zero_shot"
    config = RunConfig(
        method=method,
        config={"scoring": "cosine", "label": label},
        stream=f"fake-{tasks}",
        options={"order": order, "shots": None, "long_tail": 1.0, "validation": 0, "seed": 0},
        seed=seed,
        selection="last",
        store=STORE.model_copy(update={"simulated": simulated}),
    )
    record = RunRecord(
        label=label,
        position=position,
        config=config,
        run_id=config.run_id,
        status="diverged" if diverged else "done",
        reason="the loss was not finite in task 2" if diverged else "",
        sees="all" if method == "joint" else "current",
        stores_samples="8 pairs & their 50% of words" if method == "er" else "nothing",
        fidelity="adapted" if method == "lwf" else "exact",
        deviations="a head and not the <whole> encoder learns" if method == "lwf" else "",
        cost=Cost(
            trainable=1000 * (position + 1) * trained,
            stored_bytes=512 * position,
            load_s=0.1,
            train_s=1.5 * (position + seed) * trained,
            evaluate_s=0.25,
            write_s=0.01,
            steps=10 * trained,
            peak_memory_bytes=1,
        ),
        geometry=[_geometry(position, task) for task in range(tasks)],
        trained_on=["8 pairs"] * tasks * trained,
        environment={"python": "3.11", "commit": "", "device": "made up"},
    )
    folder = directory / config.run_id
    write_json(folder / "run.json", record.model_dump())
    if not diverged:
        for name, content in _files(0.15 * position * trained, order, seed, tasks, queries).items():
            (folder / name).write_bytes(content)


@lru_cache(500)
def _files(skill: float, order: int, seed: int, tasks: int, queries: int) -> dict[str, bytes]:
    """What a run leaves beside its record, made once for all suites that have such a run."""
    table = rank_table(skill, order, seed, tasks, queries)
    with TemporaryDirectory() as folder:
        table.save(Path(folder) / "ranks.h5")
        write_json(Path(folder) / "metrics.json", metrics_of(table))
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def _geometry(position: int, task: int) -> dict[str, float | None]:
    measured: dict[str, float | None] = {"modality_gap": 0.9 - 0.05 * task, "etf_error_text": 1.0 / (task + 1)}
    if task:
        measured |= {"drift_text": 0.01 * position * task, "drift_video": 0.02 * task, "drift_disagreement": None}
    return measured
