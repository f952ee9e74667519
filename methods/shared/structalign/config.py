"""StructAlign's constants: the idea's as defaults, and what the authors' release has in their place."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from ctvr_bench.methods.shared.base import Scoring, TrainedConfig
from ctvr_bench.methods.shared.ranges import Among, Count, NotNegative, PartOf, Positive, Search, at_most

TAU = math.exp(4.6)
"""CLIP's temperature, 99.48, as the release fixes it."""


@dataclass(frozen=True)
class StructAlignConfig(TrainedConfig):
    """Weights of the terms, sizes of the modules, and the switches between idea (default) and release.

    crp, etf, proto: term weights; 0 leaves a term out. temperature: T of L_CRP. frame_fusion, routing: the two modules;
    without routing one expert serves all tasks. experts, top_k, scaling (a/r): their sizes. dropout: before A.
    heads: at most so many over frames, as many as divide the features' dimension.
    later_lr, later_gate_lr: factors on lr from the second task on; the second for frame fusion's gates, task vectors.
    proto_scale: similarity scale of L_proto; the release uses tau there and tau / sqrt(batch) elsewhere, the idea one.
    D2 teacher. D3 etf_basis. D4 swap_pseudo: pseudo-features through the other modality's projection. D5 projection.
    D6 stale_gradients: fixed projections and the similarity scale collect gradients for ever and count in the clipped
    norm. D8 bank_route: pass the bank's captions through the router with the task's prototype or with none.
    D9 local_labels: old categories are numbered within their task (ACTNET). D12 schedule. D13 scale_by_batch: scale is
    tau / sqrt(batch). D15 same_video_negatives, same_category_negatives (pseudo-pairs). D16 proto_caption: mean of
    words or the pooled caption; bank_full_batches: the bank leaves out the last incomplete batch. D17 route_first_task.
    """

    scoring: Annotated[Scoring, Among(("cosine", "fused"))] = "fused"
    scale: Annotated[Positive, Search(5.0, 100.0)] = 17.6
    lr: NotNegative = 1e-4
    dropout: PartOf = 0.1
    crp: Annotated[NotNegative, Search(0.5, 50.0)] = 10.0
    etf: Annotated[NotNegative, Search(0.01, 10.0)] = 0.1
    proto: Annotated[NotNegative, Search(0.02, 5.0)] = 0.5
    temperature: Positive = 2.0
    frame_fusion: bool = True
    routing: bool = True
    experts: Count = 10
    top_k: Count = 2
    scaling: Positive = 4.0
    heads: Count = 8
    tau: Positive = TAU
    proto_scale: Positive = 17.6
    later_lr: Annotated[NotNegative, Search(0.05, 2.0)] = 1.0
    later_gate_lr: NotNegative = 1.0
    teacher: Literal["previous", "zero_shot"] = "previous"
    etf_basis: Literal["simplex", "random_projection"] = "simplex"
    projection: Literal["trained", "fixed_random", "identity"] = "trained"
    swap_pseudo: bool = False
    stale_gradients: bool = False
    bank_route: Literal["task", "none"] = "task"
    local_labels: bool = False
    scale_by_batch: bool = False
    same_video_negatives: bool = False
    same_category_negatives: bool = False
    proto_caption: Literal["words", "pooled"] = "words"
    bank_full_batches: bool = False
    route_first_task: bool = False

    @property
    def needs_words(self) -> bool:
        return self.scoring != "cosine" or self.proto_caption == "words"

    def __post_init__(self) -> None:
        at_most(self.top_k, self.experts, "top_k", "experts")


RELEASED = {
    "teacher": "zero_shot",
    "etf_basis": "random_projection",
    "projection": "fixed_random",
    "swap_pseudo": True,
    "stale_gradients": True,
    "bank_route": "none",
    "scale_by_batch": True,
    "same_video_negatives": True,
    "same_category_negatives": True,
    "bank_full_batches": True,
    "proto_scale": TAU,
    "schedule": "cosine_back",
    "later_lr": 0.15,
    "later_gate_lr": 0.5,
    "later_warmup": 0.0,
    "epsilon": 1e-6,
    "weight_decay": 0.5,
    "epochs": 20,
    "rank": 64,
    "heads": 12,
}
"""As released for MSRVTT; ACTNET's are later_lr .3, five experts, and local labels beside these."""
