"""What a run keeps of its method after a task (bench.records.kept); no number is made of it."""

from __future__ import annotations

from pathlib import Path

import torch

from ctvr_bench.bench.evaluation.protocol import Evaluator, StageResult
from ctvr_bench.bench.records.kept import Keep, write_kept
from ctvr_bench.bench.records.record import read_record
from ctvr_bench.bench.records.state import StateFolder
from ctvr_bench.methods.shared.base import Method


def what_to_keep(directory: Path, asked: Keep, state: StateFolder) -> Keep:
    """`asked`, and what the run in this folder kept before. One that is begun and kept less begins anew."""
    if not (directory / "run.json").is_file():
        return asked
    before = read_record(directory).keep
    if not before.covers(asked):
        state.remove()
    return before.joined(asked)


def keep_task(
    directory: Path, keep: Keep, task: int, method: Method, evaluator: Evaluator, result: StageResult
) -> None:
    """Write what is kept after a task (from 0), which has just been evaluated."""
    if keep.weights:
        sizes = method.spec._replace(reference=None)._asdict()
        write_kept(directory, "weights", task, method.state_dict(), {"spec": sizes, "task": method.task._asdict()})
    if keep.embeddings:
        parts = ("text_ND", "video_ND", "frozen_text_ND", "stored_video_ND")
        write_kept(directory, "embeddings", task, {part: torch.from_numpy(getattr(result, part)) for part in parts})
    if keep.top:
        item_NK, score_NK = map(torch.from_numpy, evaluator.top(method, keep.top))
        write_kept(directory, "top", task, {"item_NK": item_NK, "score_NK": score_NK})
