"""The contract of a continual method: what it declares, what it may see, and the order in which it is called."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ctvr_bench.features.streams import PairBatch, PairTable, TextBatch, VideoBatch
from ctvr_bench.methods.shared.ranges import Count, NotNegative, PartOf, Positive, Search, Share, Some

Scoring = Literal["cosine", "word_frame", "fused"]
Sees = Literal["current", "seen", "all"]


class TextEmbedding(NamedTuple):
    """Captions as they are scored: pooled_ND unit rows; words_NLD unit rows and word_mask_NL where words are scored.

    attend_ND: where given, a caption pools the gallery's frames for itself, by attention with this vector (see
    `methods.shared.similarity.attended_similarity`); such a gallery keeps its frames and no vector index can hold it.
    """

    pooled_ND: Tensor
    words_NLD: Tensor | None = None
    word_mask_NL: Tensor | None = None
    attend_ND: Tensor | None = None


class VideoEmbedding(NamedTuple):
    """Videos as a gallery keeps them: pooled_MD unit rows; frames_MFD unit rows, frame_mask_MF where frames count."""

    pooled_MD: Tensor
    frames_MFD: Tensor | None = None
    frame_mask_MF: Tensor | None = None


class ReferenceBank(NamedTuple):
    """Features of the same encoder that belong to no task: pooled captions_RD and single frames_SD, raw, unpaired."""

    captions_RD: Tensor
    frames_SD: Tensor


class FeatureSpec(NamedTuple):
    """Sizes that a method may know before the first task: feature dimension, frames, categories and tasks in all.

    reference: the store's bank of unrelated features, for a method that declares `needs_reference`.
    """

    dim: int
    num_frames: int
    num_categories: int
    num_tasks: int
    reference: ReferenceBank | None = None


class TaskInfo(NamedTuple):
    """What a method learns about a task when it begins: its position from 0, training pairs, category rows."""

    position: int
    num_pairs: int
    categories: tuple[int, ...]


@dataclass(frozen=True)
class MethodConfig:
    """Fields that every method has.

    scoring: how captions and videos are compared, in training and in evaluation. cosine: pooled caption with mean
        frame; word_frame: best matching word and frame both ways; fused: row z-scores of both, mixed.
    alpha: weight of the word-frame part in fused scoring.
    """

    scoring: Scoring = "cosine"
    alpha: Share = 0.5

    @property
    def needs_words(self) -> bool:
        """Whether captions must have word features; the harness refuses a store without them."""
        return self.scoring != "cosine"


@dataclass(frozen=True)
class TrainedConfig(MethodConfig):
    """Fields of every method that is trained by gradient descent.

    scale: what similarities are multiplied with before the softmax. 17.6 = 99.5 / sqrt(32): CLIP's temperature under
        the divisor that StructAlign's release uses at its batch size; kept whatever the batch.
    epochs: passes over a task's pairs. batch_size: pairs. lr: peak learning rate. weight_decay: decoupled (AdamW).
    steps: of every task, whatever its size; 0 makes `epochs` passes. A method that sees all tasks at once makes as many
        for each of them.
    recipe: fixed takes lr, steps and epochs as they are given here. auto finds lr and steps for each run on the
        training videos of its first task (bench.run.recipe); `run` asks for it on every store that the defaults were
        not made for.
    Defaults: epochs by joint training, each method's lr by what the method itself makes of the stream at the same few
        rates for all, on moving-shapes worlds that no table reports (results/README.md, results/tuning/rates).
    clip_norm: limit of the gradient's norm. epsilon: AdamW's. warmup: share of a task's steps over which lr rises
        linearly. later_warmup: that share from the second task on; none: the same.
    schedule: lr after warm-up. cosine falls to 0; constant; cosine_back falls to 0 at half time and rises again.
    rank: width of the residual adapters. dropout: share of their hidden units left out in training.
    """

    scale: Positive = 17.6
    epochs: Count = 5
    steps: Some = 0
    recipe: Literal["fixed", "auto"] = "fixed"
    batch_size: Count = 32
    lr: Annotated[NotNegative, Search(3e-5, 1e-2)] = 2.6e-4
    weight_decay: NotNegative = 0.05
    clip_norm: Positive = 1.0
    epsilon: Positive = 1e-8
    warmup: Share = 0.1
    later_warmup: Share | None = None
    schedule: Literal["cosine", "constant", "cosine_back"] = "cosine"
    rank: Count = 32
    dropout: PartOf = 0.3


class ParameterGroup(NamedTuple):
    """Parameters that a task's optimiser steps alike.

    rate: factor on the Config's lr. decay: decoupled weight decay; None: the Config's.
    """

    parameters: Sequence[nn.Parameter]
    rate: float = 1.0
    decay: float | None = None


class Method(nn.Module):
    """Base of every method. All of its state is parameters and buffers, so that saving and loading them resumes it.

    Most methods are a Config, `loss`, `encode_text`, `encode_video`, `begin_task` and `end_task`. The hooks stand in
    the order of their calls. Modules exist from `__init__` on; buffers may change their shape later.
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    idea: ClassVar[str]
    fidelity: ClassVar[Literal["exact", "adapted"]] = "exact"
    deviations: ClassVar[str] = ""
    source: ClassVar[str] = ""
    """What it was compared with: owner/repository@commit and files, or the paper's equations where no code was read."""
    published: ClassVar[str] = ""
    """The authors' Config values where they differ and have a place here, as written in brackets after the name."""
    stores_samples: ClassVar[str] = "nothing"
    """What it keeps of past tasks, in words; 'nothing' for a method that keeps weights only."""
    sees: ClassVar[Sees] = "current"
    """Which tasks' training pairs it gets: the current one's, all seen ones', or all at once."""
    needs_reference: ClassVar[bool] = False
    """Whether it learns with the store's reference bank; the harness refuses a store without one."""
    control: ClassVar[str] = ""
    """The method without its idea, where another is just that; `run` puts its row beside this one's."""
    ensembles: ClassVar[bool] = False
    """Whether runs of several seeds are trained as one stacked model (bench.run.stacks): where that was measured to be
    faster, and `loss` is made of operations that `torch.func.vmap` knows. Without effect beside hooks around a step."""
    Config: ClassVar[type[MethodConfig]] = MethodConfig
    """A TrainedConfig makes a method whose `loss` is minimised; another may still learn in `end_task`."""

    def __init_subclass__(cls) -> None:
        """A class with a name of its own says itself how true it is: nothing of that is inherited."""
        super().__init_subclass__()
        if "name" in vars(cls):
            for said in ("fidelity", "deviations", "source", "published"):
                if said not in vars(cls):
                    setattr(cls, said, getattr(Method, said))

    def __init__(self, config: MethodConfig, spec: FeatureSpec, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.spec = spec
        self.task = TaskInfo(-1, 0, ())

    @property
    def uses_shards(self) -> bool:
        """Whether `encode_text` depends on the gallery's shard."""
        return False

    def begin_task(self, task: TaskInfo) -> None:
        """Called before the first step of a task: take a snapshot as teacher, grow. Overrides call super()."""
        self.task = task

    def survey(self, data: PairTable) -> None:
        """Called after `begin_task` with the task's pairs, without gradients, where the method learns from them.

        For what follows from a task's frozen features before any step: category means, the span of its inputs. Kept in
        buffers; `loss` must also stand without it.
        """

    def parameter_groups(self) -> list[ParameterGroup]:
        """What the task's optimiser steps, asked for after `begin_task`; its gradient is what is clipped.

        Parameters in no group gather no gradient while the task is trained.
        """
        return [ParameterGroup([parameter for parameter in self.parameters() if parameter.requires_grad])]

    def view(self, data: PairTable) -> PairTable:
        """The task's pairs as the steps are given them: with rows that stay as they are in the task, made once.

        `data.with_rows(caption=..., video=..., pair=...)` adds, say, a frozen teacher's embeddings; a step finds those
        of its pairs in `batch.rows`. A view saves time and changes nothing: `loss` makes what it does not find there.
        Called after `begin_task`, without gradients.
        """
        return data

    def prepare(self, batch: PairBatch, generator: torch.Generator) -> PairBatch:
        """The batch with everything random that `loss` needs: replayed pairs, noise, dropout masks; no gradient."""
        return batch

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Named scalar terms whose sum is minimised: a pure function of parameters, buffers and the prepared batch."""
        raise NotImplementedError(f"{self.name} is not trained by gradient descent")

    def after_backward(self, batch: PairBatch) -> None:
        """The hook between gradients and step, before they are clipped: projections, masks."""

    def after_step(self, batch: PairBatch) -> None:
        """The hook after a step, with its prepared batch: path integrals, running averages, queues, frozen weights."""

    def end_task(self, data: PairTable, generator: torch.Generator) -> None:
        """Called after the last step of a task with the pairs it was trained on: prototypes, reservoirs, merging.

        A method without gradient descent learns the task here.
        """

    def encode_text(self, text: TextBatch, shard: int) -> TextEmbedding:
        """Captions as they are compared with the gallery of task `shard` (the gallery's task, never the query's)."""
        raise NotImplementedError

    def encode_video(self, video: VideoBatch) -> VideoEmbedding:
        """Videos as the gallery keeps them."""
        raise NotImplementedError

    def encode_gallery(self, video: VideoBatch, shard: int) -> VideoEmbedding:
        """Videos of task `shard` as its gallery keeps them; differs from `encode_video` where tasks are isolated."""
        return self.encode_video(video)

    def route(self, text: TextBatch) -> Tensor | None:
        """task_N int64 that each caption is sent to, for a method that guesses tasks; the harness reports how well."""
        return None


def total_steps(method: Method, pairs: int) -> int:
    """Steps of a task of so many pairs. A method that sees all tasks at once makes those of all of them."""
    config = method.config
    assert isinstance(config, TrainedConfig)
    if config.steps:
        return config.steps * (method.spec.num_tasks if method.sees == "all" else 1)
    return config.epochs * math.ceil(pairs / config.batch_size)


def is_trained(method: type[Method]) -> bool:
    """Whether it is trained by gradient descent."""
    return issubclass(method.Config, TrainedConfig)


def learns(method: type[Method]) -> bool:
    """Whether it learns anything: by gradient descent, or in an `end_task` of its own."""
    return is_trained(method) or method.end_task is not Method.end_task


def config_fields(config: type[MethodConfig]) -> dict[str, Any]:
    """Names and defaults of a Config."""
    return {field.name: field.default for field in dataclasses.fields(config)}
