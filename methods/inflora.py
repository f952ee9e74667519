"""InfLoRA: a task's low-rank change of the weight looks only where the inputs of earlier tasks do not point.

dW = sum_t B_t A_t,   A_t' = the leading r left singular vectors of (1 - M M') S_t, over sqrt(3);   B_t from zero
S_t = mean of h h' over the task's inputs h,   M a basis of the inputs of earlier tasks.   A_t is fixed, B_t is trained.
After task t = 0 .. T-1, M gains the leading left singular vectors of (1 - M M') S_t until the share of |S_t|^2 within
M reaches threshold + (threshold_end - threshold) t / T.                             Liang and Li 2024, CVPR
So B_t A_t M = 0: along earlier inputs nothing changes, as far as M holds them. The sum over finished tasks is kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from ctvr_bench.features.streams import PairTable
from ctvr_bench.methods.shared.base import FeatureSpec, TaskInfo, TrainedConfig
from ctvr_bench.methods.shared.heads import layer_norm
from ctvr_bench.methods.shared.linear import ChangedWeights, WeightChange
from ctvr_bench.methods.shared.ranges import Count, NotNegative, Search, Share
from ctvr_bench.methods.shared.registry import register


@dataclass(frozen=True)
class InfLoRAConfig(TrainedConfig):
    """rank: r. threshold, threshold_end: share of |S_t|^2 within M, at first and towards the last task.

    Where inputs share a strong mean, as CLIP's do, it alone is most of |S_t|^2: a share near 1 protects the rest.
    dropout: not used.
    """

    lr: NotNegative = 7e-4
    rank: Count = 10
    threshold: Annotated[Share, Search(0.8, 1.0, "linear")] = 0.95
    threshold_end: Share = 1.0


@register()
class InfLoRA(ChangedWeights):
    """Low-rank changes of a weight in the subspace that earlier inputs leave free."""

    name = "inflora"
    paper = "Liang and Li 2024, InfLoRA: Interference-Free Low-Rank Adaptation for Continual Learning"
    source = "liangyanshuo/InfLoRA@e08b00e methods/inflora.py, models/vit_inflora.py"
    fidelity = "adapted"
    deviations = (
        "one weight per modality after the frozen encoders, not keys and values of every layer; the subspace is kept "
        "as such, there as its complement once that is smaller, which is the same subspace"
    )
    idea = "Learn where the inputs of earlier tasks do not point, and nothing that they gave can change."
    stores_samples = "the subspace of all inputs so far, per modality"
    Config = InfLoRAConfig
    config: InfLoRAConfig
    text_map: FreeSubspace
    video_map: FreeSubspace

    def __init__(self, config: InfLoRAConfig, spec: FeatureSpec, generator: torch.Generator) -> None:
        super().__init__(config, spec, generator)
        self.text_map = FreeSubspace(spec.dim, config.rank, generator)
        self.video_map = FreeSubspace(spec.dim, config.rank, generator)

    def begin_task(self, task: TaskInfo) -> None:
        super().begin_task(task)
        self.text_map.settle()
        self.video_map.settle()

    def survey(self, data: PairTable) -> None:
        self.text_map.look(second_moment(self._captions(data)))
        self.video_map.look(second_moment(frames[mask] for frames, mask in data.video_chunks(256)))

    @torch.no_grad()
    def end_task(self, data: PairTable, generator: torch.Generator) -> None:
        first, last = self.config.threshold, self.config.threshold_end
        share = first + (last - first) * self.task.position / self.spec.num_tasks
        self.text_map.keep(second_moment(self._captions(data)), share)
        self.video_map.keep(second_moment(frames[mask] for frames, mask in data.video_chunks(256)), share)

    def _captions(self, data: PairTable) -> Iterable[Tensor]:
        """Inputs of the text's weight: captions, and their words where words are scored."""
        for text in data.text_chunks(256):
            yield text.pooled_ND
            if self.config.scoring != "cosine":
                yield text.words_NLD[text.word_mask_NL]


class FreeSubspace(WeightChange):
    """dW h = (done + B A) h; `taken_DD` is M M', the projection on the inputs of finished tasks."""

    done_DD: Tensor
    down_RD: Tensor
    taken_DD: Tensor

    def __init__(self, dim: int, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        self.up_DR = nn.Parameter(torch.zeros(dim, rank))
        self.register_buffer("down_RD", torch.randn(rank, dim, generator=generator) / math.sqrt(dim))
        self.register_buffer("done_DD", torch.zeros(dim, dim))
        self.register_buffer("taken_DD", torch.zeros(dim, dim, dtype=torch.float64))

    def change(self, inputs: Tensor) -> Tensor:
        return inputs @ self.done_DD.T + inputs @ self.down_RD.T @ self.up_DR.T

    @torch.no_grad()
    def settle(self) -> None:
        """Add B A to what is done; B starts from zero again."""
        self.done_DD += self.up_DR @ self.down_RD
        self.up_DR.zero_()

    def look(self, moment_DD: Tensor) -> None:
        """A: the leading directions of a task's inputs outside the subspace taken; zero where there is none left."""
        basis_DD, size_D, _ = torch.linalg.svd(moment_DD - self.taken_DD @ moment_DD)
        left_DR = (basis_DD * (size_D > 1e-6 * moment_DD.trace()))[:, : len(self.down_RD)]
        self.down_RD.zero_()
        self.down_RD[: left_DR.shape[1]] = left_DR.T / math.sqrt(3)

    def keep(self, moment_DD: Tensor, share: float) -> None:
        """Add to the subspace what it lacks of `share` of the task's inputs, in as few directions as do."""
        basis_DD, size_D, _ = torch.linalg.svd(moment_DD - self.taken_DD @ moment_DD)
        missing_D = size_D.square() / moment_DD.square().sum()
        within_D = 1 - missing_D.sum() + missing_D.cumsum(0) - missing_D  # before each direction is added
        added_DK = basis_DD[:, within_D < share]
        self.taken_DD += added_DK @ added_DK.T


def second_moment(parts: Iterable[Tensor]) -> Tensor:
    """mean of h h' [D, D] over all rows of the parts, layer-normed; float64."""
    products_DD, count = torch.zeros((), dtype=torch.float64), 0
    for inputs_ND in map(layer_norm, (part.double() for part in parts)):
        products_DD = products_DD.to(inputs_ND.device) + inputs_ND.T @ inputs_ND
        count += len(inputs_ND)
    return products_DD / max(count, 1)
