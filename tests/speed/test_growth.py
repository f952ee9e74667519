"""`make scale`: what a task costs as tasks add up; without SCALE in the environment it is left out.

Every task brings the same pairs and queries. Training should cost the same for the last task as for the first;
evaluation after task t compares all queries with all galleries so far, and should grow with their product, no faster.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from ctvr_bench.bench.records.record import Cost
from ctvr_bench.bench.suite.config import make_suite
from ctvr_bench.bench.suite.suite import run_suite
from ctvr_bench.features.simulation.config import SyntheticConfig
from ctvr_bench.features.simulation.write import generated_structure, synthesise

TASKS, QUERIES = (10, 50, 100, 200), 15
METHODS = [
    {"name": "finetune", "set": {"epochs": 1}},
    {"name": "structalign", "set": {"epochs": 1, "scoring": "cosine"}},
    {"name": "zero_shot", "set": {"scoring": "fused"}},
]


@pytest.mark.skipif("'SCALE' not in __import__('os').environ", reason="takes minutes; `make scale` runs it")
def test_growth_with_tasks(tmp_path: Path) -> None:
    steps: dict[int, int] = {}
    print("\ntasks, training ms a task, evaluation ns a score, writing ms a task, memory MB")
    for tasks in TASKS:
        structure = generated_structure(
            tasks, tasks, train_per_category=8, test_per_category=QUERIES, captions_per_train_video=8
        )
        store = tmp_path / f"{tasks}.h5"
        synthesise(structure, SyntheticConfig(dim=256), store, name=f"{tasks} tasks")
        given = {"store": store, "methods": METHODS, "seeds": 1, "jobs": 1, "out": tmp_path, "name": f"tasks-{tasks}"}
        for record in run_suite(make_suite(given, "scale")):
            assert record.status == "done"
            assert record.cost is not None
            print(f"{tasks:5} {_line(tasks, record.cost)} {record.label}", flush=True)
            if record.config.method == "finetune":
                steps[tasks] = record.cost.steps
    assert steps == {tasks: 2 * tasks for tasks in TASKS}  # 64 pairs a task: two steps, however many tasks there are


def _line(tasks: int, cost: Cost) -> str:
    scores = sum((QUERIES * t) ** 2 for t in range(1, tasks + 1))
    return (
        f"{1e3 * cost.train_s / tasks:8.1f} {1e9 * cost.evaluate_s / scores:10.1f} "
        f"{1e3 * cost.write_s / tasks:8.1f} {cost.peak_memory_bytes / 1e6:8.0f}"
    )
