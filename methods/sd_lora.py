"""SD-LoRA: each task adds a direction to a weight; directions stay, how far to go along each is learned on.

dW = sum_{k<t} a_k B_k A_k / |B_k A_k|  +  a_t B_t A_t          |.| the Frobenius norm; B_t from zero
In task t, A_t, B_t and all a_1 .. a_t are trained. When it ends, a_t takes in the length |B_t A_t|, so that nothing
changes by it.                                                                             Wu et al. 2025, ICLR
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from ctvr_bench.features.streams import PairTable
from ctvr_bench.methods.shared.base import FeatureSpec, ParameterGroup, TrainedConfig
from ctvr_bench.methods.shared.heads import fan_in_uniform
from ctvr_bench.methods.shared.linear import ChangedWeights, WeightChange
from ctvr_bench.methods.shared.ranges import Count, NotNegative, Positive, Search
from ctvr_bench.methods.shared.registry import register


@dataclass(frozen=True)
class SDLoRAConfig(TrainedConfig):
    """rank: of each task's A and B. start: a_t when a task begins. magnitude_rate: factor on lr for all a_k.

    dropout: not used.
    """

    lr: NotNegative = 7e-4
    rank: Count = 10
    start: Annotated[Positive, Search(0.1, 3.0)] = 0.8
    magnitude_rate: Annotated[NotNegative, Search(0.1, 30.0)] = 1.0


@register()
class SDLoRA(ChangedWeights):
    """Low-rank changes of a weight whose directions are fixed after their task and whose magnitudes are not."""

    name = "sd_lora"
    paper = "Wu et al. 2025, SD-LoRA: Scalable Decoupled Low-Rank Adaptation for Class Incremental Learning"
    source = "WuYichen-97/SD-Lora-CL@8bacded backbone/lora.py, models/sdlora.py"
    fidelity = "adapted"
    deviations = (
        "one weight per modality after the frozen encoders, not queries and values of every layer; directions are "
        "divided by the length of the product, as the paper writes, in the code by the product of lengths; a finished "
        "task's magnitude goes on from where it was, in the code from `start`"
    )
    idea = "Directions of earlier tasks serve later ones too: keep them, and learn how much of each is wanted."
    Config = SDLoRAConfig
    config: SDLoRAConfig
    text_map: Directions
    video_map: Directions

    def __init__(self, config: SDLoRAConfig, spec: FeatureSpec, generator: torch.Generator) -> None:
        super().__init__(config, spec, generator)
        self.text_map = Directions(config, spec, generator)
        self.video_map = Directions(config, spec, generator)

    def parameter_groups(self) -> list[ParameterGroup]:
        newest, maps = max(self.task.position, 0), (self.text_map, self.video_map)
        direction = [part for each in maps for part in (each.downs[newest], each.ups[newest])]
        magnitudes = [size for each in maps for size in list(each.sizes)[: newest + 1]]
        return [ParameterGroup(direction), ParameterGroup(magnitudes, self.config.magnitude_rate, decay=0.0)]

    @torch.no_grad()
    def end_task(self, data: PairTable, generator: torch.Generator) -> None:
        for each in (self.text_map, self.video_map):
            each.fix(self.task.position)


class Directions(WeightChange):
    """dW h = sum_k a_k B_k A_k h over all tasks; those to come have B = 0."""

    def __init__(self, config: SDLoRAConfig, spec: FeatureSpec, generator: torch.Generator) -> None:
        super().__init__()
        tasks, shape = range(spec.num_tasks), (config.rank, spec.dim)
        self.downs = nn.ParameterList(fan_in_uniform(shape, generator) for _ in tasks)
        self.ups = nn.ParameterList(nn.Parameter(torch.zeros(spec.dim, config.rank)) for _ in tasks)
        self.sizes = nn.ParameterList(nn.Parameter(torch.tensor(config.start)) for _ in tasks)

    def change(self, inputs: Tensor) -> Tensor:
        ups = torch.cat([size * up for size, up in zip(self.sizes, self.ups, strict=True)], 1)
        return inputs @ torch.cat(list(self.downs)).T @ ups.T

    def fix(self, task: int) -> None:
        """Bring the task's direction to length 1 and put its length into its magnitude."""
        length = (self.ups[task] @ self.downs[task]).norm()
        if length > 0:
            self.ups[task] /= length
            self.sizes[task] *= length
