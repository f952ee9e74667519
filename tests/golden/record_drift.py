"""How `protocol_v3_drift.npz` was recorded: `python tests/golden/record_drift.py CHECKOUT`.

CHECKOUT is a copy of the StructAlign authors' release at the commit that the README here names. Its Validator is run
as it is; only the model, which needs a GPU's worth of CLIP, is replaced by one that returns features made here.
"""

from __future__ import annotations

import contextlib
import csv
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize

SIZES, CLASSES = (14, 9, 12), (2, 1, 3)
KEYS = ("R1", "R5", "R10", "R50", "R100", "MedR", "MeanR")
D, FRAMES, STAGES = 10, 3, 3


def features(seed: int) -> dict[str, np.ndarray]:
    """Frames [time, video, F, D], words [time, prototype, word, D], text_global [time, prototype, text, D].

    A caption lies near its video; both sides move from stage to stage, and captions from prototype to prototype.
    """
    rng, total = np.random.default_rng(seed), sum(SIZES)
    lengths = rng.integers(1, 6, total)
    topic = rng.normal(size=(total, D))

    def walk(start: np.ndarray, step: float) -> np.ndarray:
        return start + step * rng.normal(size=(STAGES, *start.shape)).cumsum(0)

    frames = walk(topic[:, None] + 0.9 * rng.normal(size=(total, FRAMES, D)), 0.9)
    words = np.repeat(topic, lengths, axis=0) + 1.2 * rng.normal(size=(lengths.sum(), D))
    text = topic + 0.9 * rng.normal(size=topic.shape)
    by_prototype = [[walk(side, 0.4) for _ in range(STAGES)] for side in (words, text)]
    words, text = (np.stack(walks, axis=1) for walks in by_prototype)
    arrays = {"frames": frames, "words": words, "text_global": text / np.linalg.norm(text, axis=-1, keepdims=True)}
    return {"lengths": lengths, **{name: array.astype(np.float32) for name, array in arrays.items()}}


class Model:
    """Answers the Validator with the features of the stage `time`; a "video" and a "text" are row numbers."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self.time = 0
        self.frames, self.text = torch.from_numpy(arrays["frames"]), torch.from_numpy(arrays["text_global"])
        words, lengths = torch.from_numpy(arrays["words"]), arrays["lengths"].tolist()
        self.words = [[one.split(lengths) for one in stage] for stage in words]
        self.clipmodel = SimpleNamespace(text_model=SimpleNamespace(task_prototype=torch.zeros(STAGES, D)))

    def eval(self) -> None:
        return None

    def forward_text_wf(self, rows: torch.Tensor, _: Any, task_id: int) -> list[list[torch.Tensor]]:
        return [[normalize(self.words[self.time][p][row], dim=-1) for row in rows] for p in range(task_id)]

    def forward_text(self, rows: torch.Tensor, _: Any, task_id: int) -> list[torch.Tensor]:
        return [self.text[self.time, p, rows] for p in range(task_id)]

    def forward_video_wf(self, rows: torch.Tensor) -> torch.Tensor:
        return normalize(self.frames[self.time, rows], dim=-1)


def record(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the authors' Validator says after each stage."""
    from evaluator.validator import Validator  # type: ignore[import-not-found]
    from modules.metrics import t2v_metrics  # type: ignore[import-not-found]

    found: list[dict[str, float]] = []
    ends = np.cumsum(SIZES)
    batches = []
    for first, end in zip([0, *ends[:-1]], ends, strict=True):
        rows = torch.arange(first, end)
        text = {"input_ids": rows, "attention_mask": rows}
        batches.append([{"text": text, "video": rows, "video_id": [f"v{row}" for row in rows.tolist()]}])
    model, own = Model(arrays), []
    matrix, overall, bwf = np.full((STAGES, STAGES), np.nan), np.zeros((STAGES, len(KEYS))), np.zeros(STAGES)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.csv"
        with log.open("w", newline="") as file:
            csv.writer(file).writerows([[0] * 8] * (STAGES + 1))
        config = SimpleNamespace(load_best=False, task_prototype=True, use_fusion_v3=True, fusion_v3_alpha=0.5)
        experiment = SimpleNamespace(validate=contextlib.nullcontext)
        for model.time in range(STAGES):
            loaders = list(zip(batches, CLASSES, strict=True))[: model.time + 1]

            def metrics(sims: torch.Tensor) -> dict[str, float]:
                found.append(t2v_metrics(sims))
                return found[-1]

            validator = Validator(
                model, metrics, config, model.time + 1, loaders, None, SimpleNamespace(device="cpu"),
                experiment, folder, own, log, log,
            )  # fmt: skip
            validator._duplicate_weights = lambda: None
            validator._save_checkpoint = lambda *_, **__: None
            overall[model.time] = [validator.validate_v3(model.time + 1, 0, 0)[key] for key in KEYS]
            found.clear()
            bwf[model.time] = validator.final_validate_v3(model.time + 1, own)
            matrix[model.time, : model.time + 1] = [result["R1"] for result in found]
    return {"keys": np.array(KEYS), "overall": overall, "acc_matrix_R1": matrix, "acc_ii": np.array(own), "bwf": bwf}


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    made = features(seed=0)
    with contextlib.redirect_stdout(sys.stderr):
        recorded = record(made)
    sizes = {"videos_per_task": np.array(SIZES), "num_classes": np.array(CLASSES)}
    np.savez_compressed(Path(__file__).with_name("protocol_v3_drift.npz"), **sizes, **made, **recorded)
