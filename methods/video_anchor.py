"""Fine-tuning that holds the video side by a spring: videos of the new task stay where the old model put them.

L = L_contrastive + weight mean_i (1 - v_i . v_old_i),   v_old from the model before the task; from the second task on
With frames compared, the same of every real frame is added. Captions are free. As weight grows this becomes
`video_frozen`.                        in the spirit of feature distillation in compatible learning (CL2R, 2211.09032)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from ctvr_bench.features.streams import PairBatch
from ctvr_bench.methods.finetune import Finetune, FinetuneConfig
from ctvr_bench.methods.shared.base import VideoEmbedding
from ctvr_bench.methods.shared.losses import symmetric_contrastive
from ctvr_bench.methods.shared.ranges import NotNegative, Search
from ctvr_bench.methods.shared.registry import register
from ctvr_bench.methods.shared.scoring import pair_similarity, same_video
from ctvr_bench.methods.shared.views import KeepsLaterTeacher, teacher_video


@dataclass(frozen=True)
class VideoAnchorConfig(FinetuneConfig):
    """weight: of the way that videos have gone from the old model's."""

    weight: Annotated[NotNegative, Search(0.3, 300.0)] = 10.0


@register()
class VideoAnchor(KeepsLaterTeacher, Finetune):
    """Fine-tuning plus the cosine distance of each video from where the old model puts it."""

    name = "video_anchor"
    paper = "Biondi et al. 2022, CL2R: Compatible Lifelong Learning Representations, in its spirit"
    source = "no equation of a paper: the distance is this suite's, the idea CL2R's"
    fidelity = "adapted"
    deviations = "only videos are held, not both sides; no memory; cosine distance; no fixed classifier"
    idea = "What is stored is video, so it is the video side that must not move."
    control = "video_frozen"
    asks_text = False
    Config = VideoAnchorConfig
    config: VideoAnchorConfig

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        config = self.config
        text, video = self.embed_batch(batch)
        sim_NN = pair_similarity(text, video, config)
        terms = {"contrastive": symmetric_contrastive(sim_NN, config.scale, same_video(batch.video_N))}
        if self.task.position > 0:
            terms["anchor"] = config.weight * way(video, teacher_video(self.teacher, batch, config))
        return terms


def way(video: VideoEmbedding, old: VideoEmbedding) -> Tensor:
    """Mean of 1 - cosine over videos, and over their real frames where there are any; scalar >= 0."""
    gone = (1 - (video.pooled_MD * old.pooled_MD).sum(-1)).mean()
    if video.frames_MFD is None or old.frames_MFD is None or video.frame_mask_MF is None:
        return gone
    real_MF = video.frame_mask_MF.to(gone.dtype)
    apart_MF = (1 - (video.frames_MFD * old.frames_MFD).sum(-1)) * real_MF
    return gone + apart_MF.sum() / real_MF.sum().clamp(min=1)
