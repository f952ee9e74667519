"""Frames of encoded video, chosen while they stream past; the only file that imports av.

Decoding is sequential and single-threaded per file (files are decoded side by side), so that a damaged file gives the
same frames every time. At most the chosen frames of one sampling interval are held, however long the video is.
Axes: F frames, H height, W width, C = 3 (red, green, blue).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ctvr_bench.features.errors import InputError

try:
    import av
    from av.sidedata.sidedata import Type as SideData
    from av.stream import Disposition
    from av.video.reformatter import VideoReformatter
except ImportError as error:
    raise InputError(
        f"reading video needs PyAV ({error}); install the extra: pip install 'ctvr-bench[extract]'"
    ) from error

Frame = npt.NDArray[np.uint8]
Segment = tuple[float, float]

# A playlist in a videos folder (m3u8, ffconcat, a pattern of pictures), whatever its name, must not make the decoder
# open other files or addresses: only these kinds of file, each of which is whole by itself, are read.
_KINDS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,flv,asf,ogg,gif,rm,h264,hevc,mpegvideo,m4v,ivf,mxf,dv,nut"
)
_OPEN = {"protocol_whitelist": "file", "format_whitelist": _KINDS}
# x264's macroblock tree gives other bytes now and then for the same frames (core 165: 11 of 60 runs at 34 x 34 pixels).
_ENCODE = {"x264-params": "mbtree=0"}
_WHOLE = 0.9  # a file that ends (a second and) a tenth before the length it announces was cut off
_ANY_RATE = 25  # frames a second where neither timestamps nor the container tell


class UnreadableVideo(Exception):  # noqa: N818 - reads as what it is
    """A video that gives no frame; `reason` says why in a few words."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Sampling:
    """Which frames of a video are kept.

    uniform: the midpoints of `frames` equal intervals (CTVR: 12 for MSR-VTT, 24 for ActivityNet); all frames of a
    shorter video, none twice. rate: the first frame of every interval of 1/`rate` seconds. all: every frame.
    """

    mode: Literal["uniform", "rate", "all"]
    frames: int = 0
    rate: Fraction = Fraction(0)

    @classmethod
    def parse(cls, text: str) -> Sampling:
        """'12' (uniform), 'fps=2' or 'fps=0.5' (rate), 'all'; raises InputError for anything else."""
        try:
            if text == "all":
                return cls("all")
            if text.startswith("fps=") and (rate := Fraction(text.removeprefix("fps="))) > 0:
                return cls("rate", rate=rate)
            if (frames := int(text)) > 0:
                return cls("uniform", frames=frames)
        except (ValueError, ZeroDivisionError):
            pass
        raise InputError(f"frames {text!r}: must be a whole number such as 12, a rate such as fps=2, or all")

    def describe(self) -> dict[str, str | int]:
        """What the store records."""
        if self.mode == "uniform":
            return {"mode": "uniform", "frames": self.frames, "rule": "midpoints of equal intervals"}
        if self.mode == "rate":
            return {"mode": "rate", "frames_per_second": str(self.rate), "rule": "first frame of each interval"}
        return {"mode": "all"}


def midpoints(total: int, frames: int) -> list[int]:
    """Indices of the middle frames of F = min(frames, total) equal intervals of `total` frames, as CTVR picks them.

    Interval i covers floor(i * total / F) .. floor((i + 1) * total / F) - 1; its middle is rounded down. The floors are
    those of the published code, which in floating point now and then falls one frame short (F = 24, 392 frames).

    >>> midpoints(10, 3), midpoints(2, 12)
    ([1, 4, 7], [0, 1])
    """
    frames = min(frames, total)
    edges = np.linspace(0, total, frames + 1).astype(int).tolist() if frames else []
    return [(start + stop - 1) // 2 for start, stop in pairwise(edges)]


class Video:
    """One video file, or the part of it between two moments (`segment`, seconds from its first frame).

    interrupted: asked now and then; once true, frames end early.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        segment: Segment | None = None,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        self.path = Path(path)
        self.segment = segment
        self._interrupted = interrupted
        self.damage = ""  # what was wrong with a file that still gave frames, known once they were read

    def frames(self, sampling: Sampling) -> Iterator[Frame]:
        """The chosen frames in order, uint8 [H, W, 3], upright, all of one size; raises UnreadableVideo."""
        size, matrix = None, None
        scaler = VideoReformatter()
        for frame in self._chosen(sampling):
            if size is None:  # one look only: a frame asked for its side data lives on in a reference cycle (PyAV 18)
                size, matrix = (frame.width, frame.height), _display_matrix(frame)
            rgb: Any = scaler.reformat(frame, width=size[0], height=size[1], format="rgb24", threads=1)
            yield _upright(rgb.to_ndarray(), matrix)
        if size is None:
            where = f" between {self.segment[0]} s and {self.segment[1]} s" if self.segment else ""
            raise UnreadableVideo(f"no frame{where} could be decoded" + (f" ({self.damage})" if self.damage else ""))

    def _chosen(self, sampling: Sampling) -> Iterator[Any]:
        if sampling.mode == "all":
            for _, frame in self._decode():
                yield frame
        elif sampling.mode == "rate":
            latest = -1
            for time, frame in self._decode():
                if (interval := int(time * sampling.rate)) > latest:
                    latest = interval
                    yield frame
        else:
            yield from self._midpoint_frames(sampling.frames)

    def _midpoint_frames(self, frames: int) -> list[Any]:
        """Two passes: count packets, then decode. Where frames are lost or hidden the decoded count is tried again."""
        total, decoded = self._count_packets(), -1
        chosen: list[Any] = []
        while total != decoded:
            total = decoded if decoded >= 0 else total
            wanted, chosen, decoded = set(midpoints(total, frames)), [], 0
            for decoded, (_, frame) in enumerate(self._decode(), 1):
                if decoded - 1 in wanted:
                    chosen.append(frame)
        return chosen

    def _count_packets(self) -> int:
        with self._open() as (container, stream):
            clock = _Clock(stream)
            packets = (packet for packet in self._packets(container, stream) if packet and packet.size)
            if self.segment is None:
                return sum(1 for _ in packets)
            times = [clock(packet.pts) for packet in packets]
            start = min(times, default=Fraction(0))
            return sum(self._covers(time - start) for time in times)

    def _decode(self) -> Iterator[tuple[Fraction, Any]]:
        """Seconds since the first frame, and the frame, as the decoder puts them in order."""
        with self._open() as (container, stream):
            clock, start = _Clock(stream), None
            for packet in self._packets(container, stream):
                try:
                    frames = stream.decode(packet)
                except av.FFmpegError as error:
                    self._note(_first_words(error))
                    continue
                for frame in frames:
                    time = clock(frame.pts)
                    if frame.is_corrupt:
                        self._note("some frames are damaged")
                    start = time if start is None else start
                    since = time - start
                    if self.segment and since >= self.segment[1]:
                        return
                    if self._covers(since):
                        yield since, frame
            if start is not None and not self.segment and clock.latest - start + 1 < clock.announced * _WHOLE:
                self._note(f"ends after {float(clock.latest - start):.1f} s of {float(clock.announced):.1f} s")

    def _packets(self, container: Any, stream: Any) -> Iterator[Any]:
        """What the file holds of the stream; after an error what came before it, then None to empty the decoder."""
        try:
            for packet in container.demux(stream):
                if self._interrupted():
                    return
                yield packet
        except av.FFmpegError as error:
            self._note(_first_words(error))
            yield None

    def _covers(self, time: Fraction) -> bool:
        return self.segment is None or self.segment[0] <= time < self.segment[1]

    def _note(self, damage: str) -> None:
        self.damage = self.damage or damage

    @contextmanager
    def _open(self) -> Iterator[tuple[Any, Any]]:
        try:
            if self.path.stat().st_size == 0:
                raise UnreadableVideo("empty file")
            container = av.open(str(self.path), options=_OPEN, metadata_errors="replace")
        except (OSError, av.FFmpegError) as error:
            raise UnreadableVideo(f"cannot be opened: {_first_words(error)}") from error
        with container:
            cover = Disposition.attached_pic  # a still picture attached to a sound file
            streams = [s for s in container.streams.video if s.codec_context and not s.disposition & cover]
            if not streams:
                raise UnreadableVideo("no video stream that can be decoded (audio only?)")
            streams[0].codec_context.thread_count = 1
            yield container, streams[0]


class _Clock:
    """Seconds of a timestamp; where a file has none (raw streams), frames are counted at the nominal rate."""

    def __init__(self, stream: Any) -> None:
        self._unit = Fraction(stream.time_base) if stream.time_base is not None else None
        self._rate = Fraction(stream.average_rate or stream.guessed_rate or _ANY_RATE)
        self._seen = 0
        self.latest = Fraction(0)
        whole = stream.duration * self._unit if stream.duration and self._unit else None
        self.announced = Fraction(whole or Fraction(stream.container.duration or 0, av.time_base))

    def __call__(self, timestamp: int | None) -> Fraction:
        self._seen += 1
        if timestamp is not None and self._unit is not None:
            time = timestamp * self._unit
        else:
            time = (self._seen - 1) / self._rate
        self.latest = max(self.latest, time)
        return time


def write_video(
    path: str | os.PathLike[str], frames_FHWC: Frame, fps: int, *, crf: int = 23, preset: str = "medium"
) -> None:
    """Write uint8 frames [F, H, W, 3] as H.264 in MP4 (yuv420p); the same frames give the same bytes.

    crf: 0 (no loss) to 51 (worst). H and W must be even, as the colour planes have half the size. Written whole.
    """
    _, height, width, _ = frames_FHWC.shape
    if frames_FHWC.dtype != np.uint8 or height % 2 or width % 2:
        raise ValueError(f"frames must be uint8 with even sides, not {frames_FHWC.dtype} {height} x {width}")
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        with av.open(str(partial), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
            stream = container.add_stream("libx264", rate=fps, options={"crf": str(crf), "preset": preset, **_ENCODE})
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.codec_context.thread_count = 1
            for frame in frames_FHWC:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _display_matrix(frame: Any) -> list[int] | None:
    data = frame.side_data.get(SideData.DISPLAYMATRIX)
    return None if data is None else np.frombuffer(data, np.int32).tolist()


def _upright(frame_HWC: Frame, matrix: list[int] | None) -> Frame:
    """The frame as a player shows it: turned and mirrored by the file's display matrix, to the nearest right angle.

    The matrix sends a point (x, y) to (a x + c y, b x + d y), y downwards; its entries start a, b, u, c, d.
    """
    if matrix is None:
        return frame_HWC
    a, b, _, c, d = matrix[:5]
    turned = abs(b) > abs(a)
    if turned:
        frame_HWC = frame_HWC.swapaxes(0, 1)
    flip_x, flip_y = (c < 0, b < 0) if turned else (a < 0, d < 0)
    return np.ascontiguousarray(frame_HWC[:: -1 if flip_y else 1, :: -1 if flip_x else 1])


def _first_words(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).splitlines()[0]
