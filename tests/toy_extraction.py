"""A toy encoder, small videos, and an extraction that kills its own process at a given moment."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ctvr_bench.features import extract
from ctvr_bench.features.dual_encoder import EncodedCaptions
from ctvr_bench.features.extract import ExtractSummary
from ctvr_bench.features.hdf5 import FileWriter
from ctvr_bench.features.sources import Sources, read_sources
from ctvr_bench.features.video import Sampling, write_video

SIDE = 8
FRAMES = 6
VIDEOS = 9


class ToyEncoder:
    """Fixed random maps of 8 x 8 pixels and of letters; `tick` is called whenever it is used."""

    dim = 5
    image_size = SIDE

    def __init__(self, seed: int = 0, tick: Callable[[], None] = lambda: None, scale: float = 1.0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._frame_map = scale * torch.randn(3 * SIDE * SIDE, self.dim, generator=generator)
        self._word_map = torch.randn(256, self.dim, generator=generator)
        self._tick = tick
        self.provenance: dict[str, Any] = {"family": "toy", "model": f"toy-{seed}", "scale": scale}
        self.encoded = 0

    def prepare(self, frames_FHWC: np.ndarray) -> Tensor:
        self._tick()
        rows, columns = (np.linspace(0, size - 1, SIDE).astype(int) for size in frames_FHWC.shape[1:3])
        small = frames_FHWC[:, rows][:, :, columns]
        return torch.from_numpy(np.ascontiguousarray(small)).permute(0, 3, 1, 2).float() / 255

    def encode_frames(self, pixels: Tensor) -> Tensor:
        self._tick()
        self.encoded += len(pixels)
        return pixels.flatten(1) @ self._frame_map

    def encode_captions(self, texts: list[str]) -> EncodedCaptions:
        self._tick()
        ids = [[ord(letter) % 256 for letter in text.replace(" ", "")][:12] for text in texts]
        words = torch.cat([self._word_map[row] for row in ids])
        lengths = torch.tensor([len(row) for row in ids])
        pooled = torch.stack([part.mean(0) for part in words.split(lengths.tolist())])
        return EncodedCaptions(
            pooled, words, lengths, torch.tensor([len(text.replace(" ", "")) > 12 for text in texts])
        )


def write_inputs(folder: Path) -> None:
    """`videos/v0.mp4` ... of 2 to 10 frames, `stream.csv` with captions: three categories in three tasks."""
    (folder / "videos").mkdir()
    rng = np.random.default_rng(0)
    lines = ["video,category,task,role,caption"]
    for row in range(VIDEOS):
        coarse = rng.integers(0, 256, (2 + row, 4, 6, 3), dtype=np.uint8)
        frames = coarse.repeat(8, axis=1).repeat(8, axis=2)
        write_video(folder / "videos" / f"v{row}.mp4", frames, fps=4, preset="ultrafast")
        start = f"v{row},category {row % 3},{row % 3},{'train' if row < 6 else 'test'}"
        lines += [f"{start},video {row} seen {view} times" for view in range(1, 4)]
    (folder / "stream.csv").write_text("\n".join(lines))


def toy_sources(folder: Path) -> Sources:
    return read_sources([folder / "stream.csv"], folder / "stream.csv")


def run(folder: Path, out: Path, encoder: ToyEncoder | None = None, **options: Any) -> ExtractSummary:
    """Extract with small blocks, so that there are many of them."""
    options.setdefault("workers", 2)
    sizes = {"_CAPTION_BLOCK": 4, "FRAME_BATCH": 4}
    kept = {name: getattr(extract, name) for name in sizes}
    try:
        for name, size in sizes.items():
            setattr(extract, name, size)
        sampling = options.pop("sampling", Sampling("uniform", FRAMES))
        return extract.extract_sources(
            toy_sources(folder), folder / "videos", encoder or ToyEncoder(), sampling, out, **options
        )
    finally:
        for name, size in kept.items():
            setattr(extract, name, size)


def run_and_die(folder: Path, out: Path, moment: int, counted: Path) -> None:
    """Extract, but be killed (SIGKILL) at the given moment: an encoder call, a write or a rename, of any thread.

    moment 0: live, and write the number of moments to `counted`.
    """
    moments = 0

    def tick() -> None:
        nonlocal moments
        moments += 1
        if moments == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def ticking(function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **options: Any) -> Any:
            tick()
            result = function(*args, **options)
            tick()
            return result

        return called

    np.savez = ticking(np.savez)  # type: ignore[assignment]
    Path.replace = ticking(Path.replace)  # type: ignore[method-assign]
    FileWriter.allocate = ticking(FileWriter.allocate)  # type: ignore[method-assign]
    run(folder, out, ToyEncoder(tick=tick))
    counted.write_text(str(moments))
