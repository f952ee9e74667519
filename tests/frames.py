"""Frames of a video file at once, as tests look at them."""

from __future__ import annotations

import os

import numpy as np

from ctvr_bench.features.video import Frame, Sampling, Segment, Video


def read_frames(path: str | os.PathLike[str], sampling: Sampling, segment: Segment | None = None) -> tuple[Frame, int]:
    """The chosen frames uint8 [F, H, W, 3] of one video and how many are real; raises UnreadableVideo.

    A video shorter than a uniform sampling asks for is filled up with black frames past that count: a mask, no copies.
    Holds all chosen frames: for long videos in the modes rate and all, go through `Video.frames`.
    """
    frames = list(Video(path, segment).frames(sampling))
    padding = [np.zeros_like(frames[0])] * (sampling.frames - len(frames))
    return np.stack(frames + padding), len(frames)
