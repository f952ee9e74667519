"""CLIP4Clip with its sequential head: a temporal transformer over frames, whose output is added to them.

video = n( mean_f ( frame_f + |frame_f| W_out T(frames)_f ) ) after the residual adapters of `finetune`, L = its loss.
T: `layers` layers of `heads` heads, learned positions (seqTransf).               Luo et al. 2022, Neurocomputing
W_out = 0 at first, so that training starts from mean pooling; without it the random transformer would.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ctvr_bench.features.streams import VideoBatch
from ctvr_bench.methods.finetune import Finetune, FinetuneConfig
from ctvr_bench.methods.shared.base import FeatureSpec
from ctvr_bench.methods.shared.heads import AdaptedVideo, ResidualHead, TemporalTransformer
from ctvr_bench.methods.shared.ranges import Count, NotNegative
from ctvr_bench.methods.shared.registry import register


@dataclass(frozen=True)
class Clip4ClipSeqConfig(FinetuneConfig):
    """layers, heads: of the temporal transformer; heads must divide the features' dimension."""

    lr: NotNegative = 6e-4
    layers: Count = 4
    heads: Count = 8


@register()
class Clip4ClipSeq(Finetune):
    """Fine-tuning with a temporal transformer over the adapted frames."""

    name = "clip4clip_seq"
    paper = "Luo et al. 2022, CLIP4Clip (sequential transformer), trained task after task"
    source = "ArrowLuo/CLIP4Clip@508ffa3 modules/modeling.py"
    fidelity = "adapted"
    deviations = (
        "the transformer starts at random, without biases or affine norms, and is added through a map that is "
        "zero at first; there it starts from the first layers and positions of CLIP's text tower and is added as "
        "it is"
    )
    idea = "Let frames see each other in order before they are averaged."
    ensembles = False  # measured: no faster, its products fill the cores alone
    Config = Clip4ClipSeqConfig
    config: Clip4ClipSeqConfig

    def __init__(self, config: Clip4ClipSeqConfig, spec: FeatureSpec, generator: torch.Generator) -> None:
        super().__init__(config, spec, generator)
        self.head = SequentialHead(config, spec, generator)


class SequentialHead(ResidualHead):
    """The residual head with the temporal transformer after its frame adapter."""

    def __init__(self, config: Clip4ClipSeqConfig, spec: FeatureSpec, generator: torch.Generator) -> None:
        super().__init__(spec.dim, config.rank, generator)
        self.sequence = TemporalTransformer(spec.dim, spec.num_frames, config.layers, config.heads, generator)

    def video_frames(self, video: VideoBatch, keep_MR: Tensor | None = None) -> AdaptedVideo:
        adapted = super().video_frames(video, keep_MR)
        return adapted._replace(frames_MFD=self.sequence(adapted.frames_MFD, adapted.frame_mask_MF))
