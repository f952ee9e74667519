"""Encoded clips made on the spot, with what makes real ones hard: motion, B-frames, odd rates, sizes and containers."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

CLIPS = {  # name: height, width, frames a second, frames
    "walk.mp4": (96, 128, Fraction(25), 75),
    "street.mkv": (120, 68, Fraction(30000, 1001), 120),
    "long.mp4": (48, 64, Fraction(24000, 1001), 310),
}


def write_clip(folder: Path, name: str) -> Path:
    """One of CLIPS: a patterned ground that moves past the camera, in grain, with a cut to another ground half way."""
    height, width, rate, frames = CLIPS[name]
    rng = np.random.default_rng(len(name))
    grounds = (
        rng.integers(0, 256, (2, height // 4 + 1, 2 * width // 4 + 1, 3), dtype=np.uint8).repeat(4, 1).repeat(4, 2)
    )
    with av.open(str(folder / name), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"bf": "3", "g": "24", "crf": "26"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        for number in range(frames):
            left = number * width // frames
            seen = grounds[2 * number // frames, :height, left : left + width].astype(np.int16)
            grain = rng.integers(-12, 13, seen.shape, dtype=np.int16)
            picture = (seen + grain).clip(0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return folder / name
