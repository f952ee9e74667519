"""`make bench`: extraction beside decoding alone and encoding alone, in frames of the moving-shapes world.

On a CPU both share the cores, so their sum is what can be expected; beside an encoder on a GPU, the slower of the two.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from ctvr_bench.features.clips import Clip
from ctvr_bench.features.dual_encoder import Encoder
from ctvr_bench.features.encode import FRAME_BATCH, encode_video
from ctvr_bench.features.read_ahead import Reading, read_ahead
from ctvr_bench.features.side_by_side import side_by_side
from ctvr_bench.features.video import Sampling, write_video
from ctvr_bench.features.worlds import render
from ctvr_bench.features.worlds.encoder import load_encoder
from ctvr_bench.features.worlds.world import Knobs, make_world

VIDEOS, FRAMES, WORKERS = 240, 12, 2
SAMPLING = Sampling("uniform", FRAMES)


@cache
def folder() -> Path:
    """240 videos of 24 frames."""
    path = Path(mkdtemp(prefix="ctvr-bench-"))
    world = make_world(0, Knobs(train=4, validation=4, test=4, captions=1))
    time_NF = np.tile((np.arange(24) + 0.5) / 24, (VIDEOS, 1))
    for name, frames in zip(world.video_ids, render.render(world.scenes, time_NF, world.film, 0), strict=True):
        write_video(path / f"{name}.mp4", frames, 12, crf=26)
    return path


def clips() -> list[Clip]:
    return [Clip(path) for path in sorted(folder().iterdir())]


def decode(encoder: Encoder) -> list[torch.Tensor]:
    with read_ahead(clips(), encoder.prepare, SAMPLING, workers=WORKERS, ahead=2 * FRAME_BATCH) as readings:
        return [pixels for reading in readings for pixels in reading]


def encode(pixels: torch.Tensor, encoder: Encoder) -> int:
    return sum(len(encoder.encode_frames(part)) for part in pixels.split(FRAME_BATCH))


def count(reading: Reading, encoder: Encoder) -> int:
    return len(encode_video(reading, encoder, "float16")["features"])


def extract(encoder: Encoder) -> int:
    with read_ahead(clips(), encoder.prepare, SAMPLING, workers=WORKERS, ahead=2 * FRAME_BATCH) as readings:
        return sum(count(reading, encoder) for reading in readings)


def extract_apart(encoder: Encoder) -> int:
    with side_by_side(WORKERS, "videos") as each:
        return sum(each(lambda clip: count(Reading(clip, encoder.prepare, SAMPLING), encoder), clips()))


@pytest.mark.benchmark(group="extract 2,880 frames of moving shapes")
@pytest.mark.parametrize("what", ["decode alone", "encode alone", "decode and encode", "both in each of two threads"])
def test_extraction(benchmark: BenchmarkFixture, what: str) -> None:
    encoder = load_encoder()
    pixels = torch.cat(decode(encoder))
    assert len(pixels) == VIDEOS * FRAMES
    work = {
        "decode alone": lambda: sum(map(len, decode(encoder))),
        "encode alone": lambda: encode(pixels, encoder),
        "decode and encode": lambda: extract(encoder),
        "both in each of two threads": lambda: extract_apart(encoder),
    }[what]
    frames = benchmark.pedantic(work, rounds=3, warmup_rounds=1)
    assert frames == VIDEOS * FRAMES
    benchmark.extra_info["frames per second"] = round(frames / benchmark.stats.stats.min)
