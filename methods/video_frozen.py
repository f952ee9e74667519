"""Fine-tuning whose video side stops learning, so that no stored gallery ever goes stale.

L = finetune's. The video side is trained in the first `video_tasks` tasks and held from then on; the text side goes on.
With one task the galleries of all later tasks come from one video encoder, with none (`video_frozen_always`) from the
frozen CLIP. What a method gains that keeps galleries valid by a loss, it has to gain over this.
"""

from __future__ import annotations

from dataclasses import dataclass

from ctvr_bench.methods.finetune import Finetune, FinetuneConfig
from ctvr_bench.methods.shared.base import ParameterGroup
from ctvr_bench.methods.shared.ranges import Some
from ctvr_bench.methods.shared.registry import register
from ctvr_bench.methods.shared.sides import sides_trained
from ctvr_bench.methods.shared.views import MeanWords


@dataclass(frozen=True)
class VideoFrozenConfig(FinetuneConfig):
    """video_tasks: tasks in which the video side learns; after them it is held."""

    video_tasks: Some = 1


@register(name="video_frozen_always", video_tasks=0)
@register()
class VideoFrozen(MeanWords, Finetune):
    """Fine-tuning of the text side alone, once the video side has stopped."""

    name = "video_frozen"
    paper = "a control: fine-tuning as in CLIP4Clip (Luo et al. 2022) without its effect on stored galleries"
    source = "the definition"
    idea = "A gallery that was stored stays what the model would store now, if the video side does not move."
    Config = VideoFrozenConfig
    config: VideoFrozenConfig

    def parameter_groups(self) -> list[ParameterGroup]:
        return sides_trained(self.head, self.task.position, self.config.video_tasks)
