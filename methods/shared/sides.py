"""The two sides of a residual head: what changes a caption, and what changes a video and so every stored gallery."""

from __future__ import annotations

from torch import nn

from ctvr_bench.methods.shared.base import ParameterGroup
from ctvr_bench.methods.shared.heads import ResidualHead


def text_side(head: ResidualHead) -> list[nn.Parameter]:
    """Weights that captions and words go through."""
    return [*head.caption.parameters(), *head.word.parameters()]


def video_side(head: ResidualHead) -> list[nn.Parameter]:
    """Weights that frames and their mean go through."""
    return [*head.frame.parameters(), *head.video.parameters(), head.temporal_down, head.temporal]


def sides_trained(head: ResidualHead, task: int, video_tasks: int | None) -> list[ParameterGroup]:
    """Both sides in the first `video_tasks` tasks (None: in all), later the text side alone. task: from 0."""
    both = video_tasks is None or task < video_tasks
    return [ParameterGroup([*text_side(head), *(video_side(head) if both else ())])]
