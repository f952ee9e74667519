"""One process that trains one method one way, and what that took: `python -m peers.learner KIND METHOD FOLDER`.

naive: the contrastive loss alone. lwf, ewc, replay: with what Avalanche and we call so, at the same temperature,
strength and buffer. Everywhere 5 epochs of a task's 640 pairs in batches of 32, AdamW (fused), the norm of gradients
clipped, a rate that warms up and falls as a cosine, no dropout; head and losses are ours. What differs: ewc asks each
pair's gradient here and each batch's there; replay keeps a reservoir here and as many of each task there; lwf's teacher
is asked in every step there, here once a task.
"""

from __future__ import annotations

import json
import sys
import time
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

AVALANCHE = "avalanche-lib"
METHODS = ("naive", "lwf", "ewc", "replay")
EPOCHS, BATCH, LR, SCALE, TEMPERATURE, STRENGTH, BUFFER = 5, 32, 2e-3, 17.6, 2.0, 100.0, 320


class Figures(NamedTuple):
    """import_s: CPU seconds until the library is there. step_ms: CPU of a step, ends of tasks shared out on them.

    run_s: CPU of the whole process, reading its features included. peak_mb: most memory of the process. loss: mean over
    the last task's batches after training, so that it is seen that all learned alike. versions: of what was used.
    """

    import_s: float
    step_ms: float
    run_s: float
    peak_mb: float
    loss: float
    versions: str


def main() -> None:
    kind, method, folder = sys.argv[1:]
    found = {"ours": ours, "bare": bare, "avalanche": avalanche}[kind](method, Path(folder))
    print(json.dumps(found._asdict()))


def ours(method: str, folder: Path) -> Figures:
    """This package, through the function that every run is made by."""
    from ctvr_bench.bench.run.jobs import feature_spec
    from ctvr_bench.bench.run.training import generator_for, learn_task
    from ctvr_bench.features.store import open_store
    from ctvr_bench.features.streams import PairTable, make_stream
    from ctvr_bench.methods.shared.base import TaskInfo
    from ctvr_bench.methods.shared.registry import find_method

    imported = time.process_time()
    name, more = {
        "naive": ("finetune", {}),
        "lwf": ("lwf", {"temperature": TEMPERATURE}),
        "ewc": ("ewc", {"strength": STRENGTH}),
        "replay": ("er", {"buffer": BUFFER, "filled": "task_end"}),
    }[method]
    store, entry = open_store(folder / "store.h5"), find_method(name)
    stream = make_stream(store)
    config = entry.config({"epochs": EPOCHS, "batch_size": BATCH, "lr": LR, "scale": SCALE, "dropout": 0.0, **more})
    model = entry.method(config, feature_spec(store, stream), generator_for(0, "init"))
    tables = [PairTable(store, task.train) for task in stream.tasks]
    began, steps = time.process_time(), 0
    for task, data in zip(stream.tasks, tables, strict=True):
        steps += learn_task(model, data, TaskInfo(task.index, len(data), task.categories), 0)
    took = time.process_time() - began
    return _figures(imported, took, steps, model.head, folder, ())


def bare(method: str, folder: Path) -> Figures:
    """What one would write: features on the device, a permutation, the loss, the optimiser."""
    import torch

    imported = time.process_time()
    from ctvr_bench.bench.run.training import generator_for

    features = _features(folder)
    model = _model(features[0][0].shape[-1])
    began, steps = time.process_time(), 0
    for task, (x, video) in enumerate(features):
        optimiser, schedule = _optimiser(model, len(x))
        order = generator_for(0, "batches", task)
        for _ in range(EPOCHS):
            for index in torch.randperm(len(x), generator=order).split(BATCH):
                loss = _loss(model(x[index]), video[index])
                optimiser.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimiser.step()
                schedule.step()
                steps += 1
    took = time.process_time() - began
    return _figures(imported, took, steps, model.head, folder, ())


def avalanche(method: str, folder: Path) -> Figures:
    """Avalanche's strategies, without evaluation and loggers; each task has a rate of its own as elsewhere."""
    import torch
    from avalanche.benchmarks.scenarios.dataset_scenario import benchmark_from_datasets
    from avalanche.benchmarks.scenarios.task_aware import with_task_labels
    from avalanche.benchmarks.utils import _make_taskaware_tensor_classification_dataset as pairs_as_dataset
    from avalanche.training.plugins import EvaluationPlugin, EWCPlugin, LwFPlugin, ReplayPlugin
    from avalanche.training.plugins.strategy_plugin import SupervisedPlugin
    from avalanche.training.regularization import LearningWithoutForgetting
    from avalanche.training.supervised import Naive

    imported = time.process_time()

    class Distillation(LearningWithoutForgetting):
        """Over all videos of the batch and over all its captions, in place of over old classes."""

        def _distillation_loss(self, out: Any, prev_out: Any, active_units: Any) -> Any:
            whole = partial(super()._distillation_loss, active_units=range(len(out)))
            return TEMPERATURE**2 * (whole(out, prev_out) + whole(out.T, prev_out.T))

    class Pace(SupervisedPlugin):
        """Clipping, and the schedule of each task."""

        def before_training_exp(self, strategy: Any, **_: Any) -> None:
            strategy.optimizer, self.schedule = _optimiser(strategy.model, len(strategy.experience.dataset))

        def before_update(self, strategy: Any, **_: Any) -> None:
            torch.nn.utils.clip_grad_norm_(strategy.model.parameters(), 1.0)

        def after_update(self, strategy: Any, **_: Any) -> None:
            self.schedule.step()
            next(steps)

    features, steps = _features(folder), count()
    plugins: list[Any] = [Pace()]
    if method == "lwf":
        plugins.append(LwFPlugin(alpha=1.0, temperature=TEMPERATURE))
        plugins[-1].lwf = Distillation(alpha=1.0, temperature=TEMPERATURE)
    elif method == "ewc":
        plugins.append(EWCPlugin(ewc_lambda=STRENGTH / 2, mode="online", decay_factor=1.0))
    elif method == "replay":
        plugins.append(ReplayPlugin(mem_size=BUFFER))
    datasets = [pairs_as_dataset(*each, targets=1, task_labels=0) for each in features]
    model = _model(features[0][0].shape[-1])
    strategy = Naive(
        model=model,
        optimizer=_optimiser(model, 1)[0],
        criterion=_loss,
        train_mb_size=BATCH,
        train_epochs=EPOCHS,
        plugins=plugins,
        evaluator=EvaluationPlugin(),
    )
    began = time.process_time()
    for experience in with_task_labels(benchmark_from_datasets(train=datasets)).train_stream:
        strategy.train(experience)
    took = time.process_time() - began
    return _figures(imported, took, next(steps), model.head, folder, (AVALANCHE, "torchvision"))


def _features(folder: Path) -> list[tuple[Any, Any]]:
    """Of each task: x [N, 2 + F, D], caption, mean word and frames; the video of each pair [N]."""
    import numpy as np
    import torch

    names = [(folder / f"pairs-{k}.npy", folder / f"videos-{k}.npy") for k in range(len(list(folder.glob("pairs-*"))))]
    return [(torch.from_numpy(np.load(pairs)), torch.from_numpy(np.load(videos))) for pairs, videos in names]


def _model(dim: int) -> Any:
    """The head of ours with its first weights; called with x it gives the scaled similarities of the batch."""
    import torch

    from ctvr_bench.bench.run.training import generator_for
    from ctvr_bench.features.streams import TextBatch, VideoBatch
    from ctvr_bench.methods.shared.base import MethodConfig
    from ctvr_bench.methods.shared.heads import ResidualHead
    from ctvr_bench.methods.shared.scoring import embed_text, embed_video

    config = MethodConfig()

    class Similarities(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = ResidualHead(dim, 32, generator_for(0, "init"), pooled_only=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            there = torch.ones(x.shape[:2], dtype=torch.bool)
            text = embed_text(self.head.text(TextBatch(x[:, 0], x[:, 1:2], there[:, :1])), config)
            video = embed_video(self.head.scored_video(VideoBatch(x[:, 2:], there[:, 2:])), config)
            return SCALE * text.pooled_ND @ video.pooled_MD.T

    return Similarities()


def _loss(similarity: Any, video: Any) -> Any:
    from ctvr_bench.methods.shared.losses import symmetric_contrastive

    return symmetric_contrastive(similarity, 1.0, video[:, None] == video)


def _optimiser(model: Any, pairs: int) -> tuple[Any, Any]:
    import torch

    from ctvr_bench.bench.run.training import learning_rate_factor
    from ctvr_bench.methods.shared.base import TrainedConfig

    optimiser = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.05, fused=True)
    total = EPOCHS * -(-pairs // BATCH)
    factor = partial(learning_rate_factor, total=total, config=TrainedConfig())
    return optimiser, torch.optim.lr_scheduler.LambdaLR(optimiser, factor)


def _figures(imported: float, took: float, steps: int, head: Any, folder: Path, libraries: tuple[str, ...]) -> Figures:
    """The clock is read first; the loss is that of the weights that were trained, whoever trained them."""
    run_s = time.process_time()
    from importlib import metadata

    import torch

    from ctvr_bench.bench.records.environment import peak_memory

    peak = peak_memory("cpu") / 1e6
    x, video = _features(folder)[-1]
    model = _model(x.shape[-1])
    model.head.load_state_dict(head.state_dict())
    with torch.no_grad():
        parts = zip(x.split(BATCH), video.split(BATCH), strict=True)
        loss = float(torch.stack([_loss(model(pairs), videos) for pairs, videos in parts]).mean())
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", *libraries))
    return Figures(imported, 1e3 * took / steps, run_s, peak, loss, versions)


if __name__ == "__main__":
    main()
