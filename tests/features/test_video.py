"""Frame choice against a naive twin that decodes everything, and files as they are found in the wild."""

from __future__ import annotations

import os
import socket
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

av = pytest.importorskip("av", reason="needs the extra 'extract'")

from ctvr_bench.features import video  # noqa: E402
from ctvr_bench.features.errors import InputError  # noqa: E402
from ctvr_bench.features.video import Sampling, UnreadableVideo, Video, midpoints, write_video  # noqa: E402
from tests import made_clips  # noqa: E402
from tests.frames import read_frames  # noqa: E402
from tests.golden import shared  # noqa: E402

REAL_CLIPS = (
    "arm_wrestling.mp4",
    "basketball_gym.mp4",
    "flipping_a_pancake.mkv",
    "pool_cleaning.mp4",
    "two_people_hug.mp4",
)
GREYS = [20 + 9 * i for i in range(24)]


def grey_frames(values: list[int], height: int = 32, width: int = 48) -> np.ndarray:
    return np.stack([np.full((height, width, 3), value, np.uint8) for value in values])


def seen_greys(frames_FHWC: np.ndarray) -> list[int]:
    """Which of GREYS each frame shows, by its mean."""
    return [int(np.abs(np.array(GREYS) - frame.mean()).argmin()) for frame in frames_FHWC]


def decode_everything(path: Path) -> tuple[list[av.VideoFrame], list[Fraction]]:
    with av.open(str(path)) as container:
        decoded = list(container.decode(video=0))
    times = [frame.pts * frame.time_base for frame in decoded]
    return decoded, [time - times[0] for time in times]


def pictures(decoded: list[av.VideoFrame], rows: list[int]) -> np.ndarray:
    return np.stack([decoded[row].to_ndarray(format="rgb24") for row in rows])


def naive_choice(total: int, times: list[Fraction], sampling: Sampling) -> list[int]:
    if sampling.mode == "all":
        return list(range(total))
    if sampling.mode == "uniform":
        frames = min(sampling.frames, total)
        edges = [int(i * (total / frames)) for i in range(frames)] + [total]
        return [(start + stop - 1) // 2 for start, stop in pairwise(edges)]
    chosen, interval = [], 0
    while True:
        inside = [row for row, time in enumerate(times) if interval <= time * sampling.rate < interval + 1]
        if inside:
            chosen.append(inside[0])
        if interval > times[-1] * sampling.rate:
            return chosen
        interval += 1


def frames_equal_those_of_the_naive_twin(path: Path) -> None:
    every, times = decode_everything(path)
    for text in ("12", "fps=2"):
        sampling = Sampling.parse(text)
        frames, count = read_frames(path, sampling)
        assert count == len(frames)
        np.testing.assert_array_equal(frames, pictures(every, naive_choice(len(every), times, sampling)))


@pytest.mark.parametrize("clip", made_clips.CLIPS)
def test_frames_of_encoded_clips_equal_those_of_a_naive_twin(tmp_path: Path, clip: str) -> None:
    path = made_clips.write_clip(tmp_path, clip)
    with av.open(str(path)) as container:
        order = [packet.pts for packet in container.demux(video=0) if packet.pts is not None]
    assert order != sorted(order)  # frames are stored in another order than shown
    frames_equal_those_of_the_naive_twin(path)


def test_frames_of_real_clips_equal_those_of_a_naive_twin() -> None:
    for clip in REAL_CLIPS:
        frames_equal_those_of_the_naive_twin(shared("videos", clip))


@given(total=st.integers(0, 5000), frames=st.integers(1, 64))
def test_midpoints_are_those_of_the_published_code(total: int, frames: int) -> None:
    expected = naive_choice(total, [], Sampling("uniform", frames)) if total else []
    assert midpoints(total, frames) == expected


def test_every_mode_picks_the_frames_that_were_written(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", grey_frames(GREYS), fps=8, crf=1)
    assert seen_greys(read_frames(tmp_path / "a.mp4", Sampling.parse("all"))[0]) == list(range(24))
    assert seen_greys(read_frames(tmp_path / "a.mp4", Sampling.parse("fps=2"))[0]) == [0, 4, 8, 12, 16, 20]
    assert seen_greys(read_frames(tmp_path / "a.mp4", Sampling.parse("fps=100"))[0]) == list(range(24))
    assert seen_greys(read_frames(tmp_path / "a.mp4", Sampling.parse("4"))[0]) == [2, 8, 14, 20]


def test_the_packets_of_a_segment_are_counted_by_looking_at_each_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = 0

    class Moment(Fraction):
        def __lt__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return super().__lt__(other)  # type: ignore[operator]

    told = video._Clock.__call__
    monkeypatch.setattr(video._Clock, "__call__", lambda clock, timestamp: Moment(told(clock, timestamp)))
    write_video(tmp_path / "a.mp4", grey_frames(GREYS * 20), fps=8, crf=1)
    frames, _ = read_frames(tmp_path / "a.mp4", Sampling.parse("4"), segment=(0.0, 3.0))
    assert seen_greys(frames) == [2, 8, 14, 20]
    assert 0 < compared < 480


def test_a_short_video_is_filled_up_with_black_and_counted(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", grey_frames(GREYS[3:8]), fps=8, crf=1)
    frames, count = read_frames(tmp_path / "a.mp4", Sampling.parse("12"))
    assert frames.shape == (12, 32, 48, 3)
    assert count == 5
    assert seen_greys(frames[:5]) == [3, 4, 5, 6, 7]
    assert not frames[5:].any()


def test_the_same_frames_are_written_as_the_same_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (7, 34, 66, 3), dtype=np.uint8)
    written = set()
    for _ in range(25):
        write_video(tmp_path / "a.mp4", frames, fps=6)
        written.add((tmp_path / "a.mp4").read_bytes())
    assert len(written) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_frames_with_odd_sides_are_refused_before_writing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="even sides"):
        write_video(tmp_path / "a.mp4", grey_frames([1], height=33), fps=6)
    assert not list(tmp_path.iterdir())


CORNERS = {  # rotation (counterclockwise), mirrored -> colours at top left, top right, bottom left, bottom right
    (0, False): "rgbw",
    (90, False): "gwrb",
    (-90, False): "brwg",
    (180, False): "wbgr",
    (0, True): "grwb",
}


@pytest.mark.parametrize(("rotation", "mirrored"), CORNERS)
def test_frames_come_upright(tmp_path: Path, rotation: int, mirrored: bool) -> None:
    colours = {"r": (255, 0, 0), "g": (0, 255, 0), "b": (0, 0, 255), "w": (255, 255, 255)}
    picture = np.zeros((32, 64, 3), np.uint8)
    picture[:16, :32], picture[:16, 32:], picture[16:, :32], picture[16:, 32:] = (colours[name] for name in "rgbw")
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=5)
        if not hasattr(stream, "set_display_rotation"):
            pytest.skip("this PyAV cannot write rotation metadata")
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        stream.set_display_rotation(rotation, mirrored, False)
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    frames, _ = read_frames(tmp_path / "a.mp4", Sampling.parse("all"))
    height, width = (64, 32) if abs(rotation) == 90 else (32, 64)
    assert frames.shape == (3, height, width, 3)
    places = [(height // 4, width // 4), (height // 4, 3 * width // 4), (3 * height // 4, width // 4)]
    places.append((3 * height // 4, 3 * width // 4))
    found = "".join(min(colours, key=lambda n: abs(frames[0][y, x] - np.array(colours[n])).sum()) for y, x in places)
    assert found == CORNERS[rotation, mirrored]


def write_timed(path: Path, times: list[int], fmt: str | None = None, codec: str = "libx264") -> None:
    """Grey frames shown at `times` (hundredths of a second)."""
    with av.open(str(path), "w", format=fmt) as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 100)
        for time, frame in zip(times, grey_frames(GREYS[: len(times)]), strict=True):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = time, Fraction(1, 100)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def test_a_variable_rate_is_sampled_by_time_at_a_fixed_rate_and_by_frame_uniformly(tmp_path: Path) -> None:
    times = [0, 5, 10, 100, 105, 200, 390, 395]
    write_timed(tmp_path / "a.mkv", times)
    assert seen_greys(read_frames(tmp_path / "a.mkv", Sampling.parse("fps=1"))[0]) == [0, 3, 5, 6]
    assert seen_greys(read_frames(tmp_path / "a.mkv", Sampling.parse("4"))[0]) == [0, 2, 4, 6]
    part, _ = read_frames(tmp_path / "a.mkv", Sampling.parse("all"), (1.0, 3.9))
    assert seen_greys(part) == [3, 4, 5]
    part, count = read_frames(tmp_path / "a.mkv", Sampling.parse("2"), (0.0, 1.04))
    assert (seen_greys(part), count) == ([0, 2], 2)


def test_a_file_without_duration_or_timestamps_is_read(tmp_path: Path) -> None:
    write_timed(tmp_path / "a.h264", [10 * i for i in range(20)], fmt="h264")
    with av.open(str(tmp_path / "a.h264")) as container:
        assert container.streams.video[0].duration is None
    assert seen_greys(read_frames(tmp_path / "a.h264", Sampling.parse("5"))[0]) == [1, 5, 9, 13, 17]


def test_a_file_whose_parts_are_out_of_order_gives_each_frame_once(tmp_path: Path) -> None:
    for name, start in (("late", 100), ("early", 0)):
        write_timed(tmp_path / f"{name}.ts", [start + 10 * i for i in range(10)], fmt="mpegts")
    unordered = tmp_path / "a.ts"
    unordered.write_bytes((tmp_path / "late.ts").read_bytes() + (tmp_path / "early.ts").read_bytes())
    assert len(read_frames(unordered, Sampling.parse("all"))[0]) == 20
    frames, count = read_frames(unordered, Sampling.parse("20"))
    assert (len(frames), count) == (20, 20)
    assert 0 < read_frames(unordered, Sampling.parse("fps=2"))[1] < 10


def reason_of(path: Path) -> str:
    with pytest.raises(UnreadableVideo) as caught:
        read_frames(path, Sampling.parse("12"))
    assert "\n" not in caught.value.reason
    return caught.value.reason


def test_files_without_frames_say_why(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "words.mp4").write_bytes(b"no video at all " * 100)
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        for _ in range(4):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate = 16000
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    write_video(tmp_path / "whole.mp4", grey_frames(GREYS), fps=8)
    content = (tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "half.mp4").write_bytes(content[: len(content) // 2])  # its index is at its end
    assert reason_of(tmp_path / "empty.mp4") == "empty file"
    assert reason_of(tmp_path / "none.mp4").startswith("cannot be opened: No such file")
    assert reason_of(tmp_path / "words.mp4").startswith("cannot be opened")
    assert reason_of(tmp_path / "half.mp4").startswith("cannot be opened")
    assert "audio only" in reason_of(tmp_path / "sound.mp4")
    with pytest.raises(UnreadableVideo, match=r"no frame between 50.0 s and 60.0 s"):
        read_frames(tmp_path / "whole.mp4", Sampling.parse("12"), (50.0, 60.0))


def test_a_truncated_file_gives_what_it_holds_and_says_so(tmp_path: Path) -> None:
    content = made_clips.write_clip(tmp_path, "street.mkv").read_bytes()
    (tmp_path / "half.mkv").write_bytes(content[: len(content) // 2])
    video = Video(tmp_path / "half.mkv")
    frames = len(list(video.frames(Sampling.parse("all"))))
    assert 30 < frames < 90
    every, times = decode_everything(tmp_path / "half.mkv")
    assert video.damage.startswith(f"ends after {float(max(times)):.1f} s of 4.0 s")
    chosen, _ = read_frames(tmp_path / "half.mkv", Sampling.parse("12"))
    np.testing.assert_array_equal(chosen, pictures(every, naive_choice(len(every), times, Sampling.parse("12"))))


def test_a_file_with_flipped_bytes_gives_the_same_frames_every_time(tmp_path: Path) -> None:
    content = bytearray(made_clips.write_clip(tmp_path, "long.mp4").read_bytes())
    for place in np.random.default_rng(0).integers(len(content) // 4, 3 * len(content) // 4, 200):
        content[place] ^= 0xFF
    (tmp_path / "a.mp4").write_bytes(bytes(content))
    first, _ = read_frames(tmp_path / "a.mp4", Sampling.parse("12"))
    again, _ = read_frames(tmp_path / "a.mp4", Sampling.parse("12"))
    np.testing.assert_array_equal(first, again)
    video = Video(tmp_path / "a.mp4")
    next(video.frames(Sampling.parse("12")))
    assert video.damage


@pytest.fixture(scope="module")
def long_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """960 frames: 148 MB as decoded, 295 MB as red, green and blue."""
    path = tmp_path_factory.mktemp("long") / "long.mp4"
    write_video(path, np.repeat(grey_frames(GREYS, 320, 320), 40, axis=0), fps=8, preset="ultrafast")
    return path


@pytest.mark.parametrize("mode", ["all", "fps=4", "8"])
def test_memory_does_not_hold_the_frames_of_a_long_video(long_video: Path, mode: str) -> None:
    status = Path("/proc/self/statm")
    if not status.exists():
        pytest.skip("memory is read from /proc")
    next(Video(long_video).frames(Sampling.parse("1")))  # what libraries set up once
    before = peak = int(status.read_text().split()[1])
    for _ in Video(long_video).frames(Sampling.parse(mode)):
        peak = max(peak, int(status.read_text().split()[1]))
    assert (peak - before) * os.sysconf("SC_PAGE_SIZE") < 60e6


@pytest.mark.parametrize("text", ["0", "-3", "fps=0", "fps=", "fps=1/0", "every", "", "1.5", "fps=-1"])
def test_a_sampling_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"whole number such as 12"):
        Sampling.parse(text)


def test_a_playlist_cannot_make_the_decoder_open_addresses(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        (tmp_path / "list.m3u8").write_text(
            f"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\nhttp://127.0.0.1:{server.getsockname()[1]}/a\n#EXT-X-ENDLIST\n"
        )
        assert reason_of(tmp_path / "list.m3u8")
        with pytest.raises(BlockingIOError):
            server.accept()
