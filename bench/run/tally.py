"""What a run has come to beside its ranks and weights: seconds, steps, operations, geometry. Kept with its state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ctvr_bench.bench.records.environment import peak_memory
from ctvr_bench.bench.records.record import Cost
from ctvr_bench.bench.run.budget import stored_bytes, trainable_parameters
from ctvr_bench.methods.shared.base import Method, TrainedConfig

_PARTS = ("load", "train", "evaluate", "encode", "write")


@dataclass
class Tally:
    """Up to the last finished task.

    seconds: by part. flops: operations of a training step. geometry: a task's measures. trained_on: a task's training
    videos. together: most runs of a stack. remarks: what a reader of the record should know.
    """

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_PARTS, 0.0))
    steps: int = 0
    flops: int = 0
    geometry: list[dict[str, float | None]] = field(default_factory=list)
    trained_on: list[str] = field(default_factory=list)
    together: int = 1
    remarks: list[str] = field(default_factory=list)

    @staticmethod
    def of(facts: Mapping[str, Any]) -> Tally:
        """What was kept by `asdict`, among whatever else."""
        return Tally(**{part.name: facts[part.name] for part in fields(Tally)})

    def cost(self, method: Method, device: str, pair_flops: int) -> Cost:
        """For the record. pair_flops: operations of encoding one query and one video."""
        return Cost(
            trainable=trainable_parameters(method),
            stored_bytes=stored_bytes(method),
            steps=self.steps,
            peak_memory_bytes=peak_memory(device),
            step_flops=self.flops,
            train_flops=self.flops * self.steps,
            pair_flops=pair_flops,
            lr=method.config.lr if isinstance(method.config, TrainedConfig) else 0.0,
            task_steps=self.steps / max(1, len(self.trained_on)),
            **{f"{name}_s": round(value, 3) for name, value in self.seconds.items()},
        )
