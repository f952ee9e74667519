"""Extraction: what ends up in the store, and what happens when it is stopped, killed, or given bad videos."""

from __future__ import annotations

import multiprocessing
import random
import re
import shutil
import threading
from collections import Counter
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("av", reason="needs the extra 'extract'")

from ctvr_bench.features.clips import Clip, VideosMissing
from ctvr_bench.features.encoders import load_encoder
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.extract import extract, extract_sources
from ctvr_bench.features.read_ahead import read_ahead
from ctvr_bench.features.sources import read_sources
from ctvr_bench.features.store import open_store
from ctvr_bench.features.verification import verify_store
from ctvr_bench.features.video import Sampling
from tests import made_clips, tiny_clips, toy_extraction
from tests.frames import read_frames
from tests.toy_extraction import FRAMES, VIDEOS, ToyEncoder, run, toy_sources

UNIFORM = Sampling("uniform", FRAMES)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    toy_extraction.write_inputs(folder)
    return folder


@pytest.fixture(scope="module")
def whole(inputs: Path) -> bytes:
    """The store of an extraction that nothing disturbed."""
    run(inputs, inputs / "whole.h5")
    return (inputs / "whole.h5").read_bytes()


def left_over(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_store_holds_each_videos_frames_and_each_captions_words(inputs: Path, whole: bytes) -> None:
    store, encoder = open_store(inputs / "whole.h5"), ToyEncoder()
    assert verify_store(inputs / "whole.h5") == []
    frames, count = store.feature("videos/frames"), store.feature("videos/frame_count")
    assert frames.shape == (VIDEOS, FRAMES, encoder.dim)
    assert frames.dtype == np.float16
    for row, video in enumerate(store.video_ids):
        pixels, real = read_frames(inputs / "videos" / f"{video}.mp4", UNIFORM)
        expected = encoder.encode_frames(encoder.prepare(pixels[:real])).numpy()
        assert count[row] == real == min(row + 2, FRAMES)
        np.testing.assert_allclose(frames[row, :real], expected, rtol=2e-3, atol=2e-3)
        assert not frames[row, real:].any()
    words, offsets = store.feature("captions/words"), store.feature("captions/word_offsets")
    for row, text in enumerate(store.captions):
        one = encoder.encode_captions([text])
        np.testing.assert_allclose(store.feature("captions/pooled")[row], one.pooled[0], rtol=2e-3, atol=2e-3)
        np.testing.assert_allclose(words[offsets[row] : offsets[row + 1]], one.words, rtol=2e-3, atol=2e-3)


def test_the_summary_and_the_provenance_say_what_was_done(inputs: Path, tmp_path: Path) -> None:
    summary = run(inputs, tmp_path / "mine.h5", command_line="features extract ...", licence="mine")
    assert (summary.videos, summary.frames, summary.captions, summary.dimension) == (VIDEOS, FRAMES, 3 * VIDEOS, 5)
    assert summary.words == 12 * 3 * VIDEOS
    assert summary.truncated_captions == 3 * VIDEOS
    assert summary.missing == summary.damaged == {}
    store = open_store(tmp_path / "mine.h5")
    assert store.name == "mine"
    assert not store.simulated
    assert store.provenance["encoder"]["family"] == "toy"
    assert store.provenance["sampling"]["frames"] == FRAMES
    assert store.provenance["command_line"] == "features extract ..."
    assert left_over(tmp_path) == ["mine.h5"]


@pytest.mark.parametrize("text", ["12", "fps=1"])
def test_encoded_clips_through_a_clip_equal_encoding_each_video_alone(tmp_path: Path, text: str) -> None:
    folder, sampling = tmp_path, Sampling.parse(text)
    videos = ["walk.mp4", "street.mkv"]
    for video in videos:
        made_clips.write_clip(folder, video)
    lines = [f"{video},sport,1,{role},a caption" for video, role in zip(videos, ("train", "test"), strict=True)]
    (tmp_path / "stream.csv").write_text("\n".join(["video,category,task,role,caption", *lines]))
    tiny_clips.library("transformers")
    model = str(tiny_clips.save_transformers_clip(tmp_path / "clip"))
    sources = read_sources([tmp_path / "stream.csv"], tmp_path / "stream.csv")
    encoder = load_encoder(model, "cpu")
    summary = extract_sources(sources, folder, encoder, sampling, tmp_path / "a.h5", dtype="float32")
    store = open_store(tmp_path / "a.h5")
    counts = []
    for row, video in enumerate(store.video_ids):
        pixels, count = read_frames(folder / video, sampling)
        expected = encoder.encode_frames(encoder.prepare(pixels[:count]))
        np.testing.assert_allclose(store.feature("videos/frames")[row, :count], expected, atol=1e-5, rtol=1e-5)
        counts.append(count)
    assert store.feature("videos/frame_count").tolist() == counts
    assert summary.frames == max(counts)


@pytest.mark.parametrize("mode", ["fps=2", "all"])
def test_videos_of_many_lengths_are_padded_by_count_in_every_mode(inputs: Path, tmp_path: Path, mode: str) -> None:
    sampling, encoder = Sampling.parse(mode), ToyEncoder()
    summary = run(inputs, tmp_path / "a.h5", sampling=sampling, dtype="float32")
    store = open_store(tmp_path / "a.h5")
    frames, count = store.feature("videos/frames"), store.feature("videos/frame_count")
    assert frames.shape[1] == summary.frames == count.max()
    assert count.tolist() == [row + 2 if mode == "all" else -(-(row + 2) // 2) for row in range(VIDEOS)]
    for row, video in enumerate(store.video_ids):
        pixels, real = read_frames(inputs / "videos" / f"{video}.mp4", sampling)
        expected = encoder.encode_frames(encoder.prepare(pixels))
        np.testing.assert_allclose(frames[row, :real], expected, rtol=1e-5, atol=1e-5)
        assert not frames[row, real:].any()


def test_killed_at_twenty_random_moments_the_bytes_are_the_same(inputs: Path, whole: bytes, tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.toy_extraction"])

    def run_in_process(out: Path, moment: int) -> int | None:
        process = context.Process(
            target=toy_extraction.run_and_die, args=(inputs, out, moment, tmp_path / "counted"), daemon=True
        )
        process.start()
        process.join(60)
        return process.exitcode

    assert run_in_process(tmp_path / "whole.h5", 0) == 0
    assert (tmp_path / "whole.h5").read_bytes() == whole
    moments = int((tmp_path / "counted").read_text())
    assert moments > 60
    for number, moment in enumerate(random.Random(0).sample(range(1, moments + 1), 20)):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert run_in_process(folder / "whole.h5", moment) == -9
        done_before = (folder / "whole.h5").exists()
        assert done_before <= (moment == moments)
        encoder = ToyEncoder()
        run(inputs, folder / "whole.h5", encoder)
        assert (folder / "whole.h5").read_bytes() == whole
        shutil.rmtree(folder)


def test_a_second_start_encodes_only_what_is_missing(inputs: Path, whole: bytes, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []

    def stop(stage: str, done: int, total: int) -> None:
        told.append((stage, done, total))
        if stage == "videos" and done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(inputs, tmp_path / "whole.h5", on_stage=stop)
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("decode")] == []
    assert left_over(tmp_path) == [".whole.h5.work"]
    assert ("captions", 0, 27) in told
    encoder, again = ToyEncoder(), []
    run(inputs, tmp_path / "whole.h5", encoder, on_stage=lambda *step: again.append(step))
    assert again[:3] == [("captions", 27, 27), ("videos", 7, 9), ("videos", 8, 9)]
    assert again[-1] == ("store", 9, 9)
    assert encoder.encoded == 2 * FRAMES
    assert (tmp_path / "whole.h5").read_bytes() == whole


def test_another_job_does_not_go_on_from_foreign_blocks(inputs: Path, whole: bytes, tmp_path: Path) -> None:
    def stop(stage: str, done: int, total: int) -> None:
        if stage == "store":
            raise KeyboardInterrupt

    for options in ({"encoder": ToyEncoder(seed=1)}, {"dtype": "float32"}, {"sampling": Sampling("uniform", 5)}):
        with pytest.raises(KeyboardInterrupt):
            run(inputs, tmp_path / "whole.h5", on_stage=stop, **options)
    run(inputs, tmp_path / "whole.h5")
    assert (tmp_path / "whole.h5").read_bytes() == whole


def test_a_damaged_block_is_made_again(inputs: Path, whole: bytes, tmp_path: Path) -> None:
    def stop(stage: str, done: int, total: int) -> None:
        if stage == "store":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(inputs, tmp_path / "whole.h5", on_stage=stop)
    for block in (tmp_path / ".whole.h5.work").rglob("*.npz"):
        block.write_bytes(block.read_bytes()[:-30])
    run(inputs, tmp_path / "whole.h5")
    assert (tmp_path / "whole.h5").read_bytes() == whole


@pytest.mark.parametrize(("workers", "apart"), [(1, 1), (3, 1), (8, 1), (1, 3), (2, 2)])
def test_the_bytes_do_not_depend_on_the_number_of_threads(
    inputs: Path, whole: bytes, tmp_path: Path, workers: int, apart: int
) -> None:
    before = torch.get_num_threads()
    run(inputs, tmp_path / "whole.h5", workers=workers, apart=apart)
    assert (tmp_path / "whole.h5").read_bytes() == whole
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("apart", [1, 3])
def test_a_video_that_is_half_read_when_the_work_is_stopped_is_not_kept(
    inputs: Path, whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, apart: int
) -> None:
    monkeypatch.setattr("ctvr_bench.features.read_ahead.CHUNK", 1)
    half_read, stopped, both_read = threading.Event(), threading.Event(), threading.Barrier(2)
    frames = Counter[str]()

    class Waiting(ToyEncoder):
        def prepare(self, frames_FHWC: np.ndarray) -> Any:
            thread = threading.current_thread().name[-2:]
            frames[thread] += 1
            if thread in ("_0", "_1") and frames[thread] == 1:
                both_read.wait(60)  # neither has read all videos before the other begins
            if thread == "_1" and frames[thread] == 2:
                half_read.set()
                assert stopped.wait(60)
            return super().prepare(frames_FHWC)

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "videos" and done:
            assert half_read.wait(60)
            threading.Timer(0.2, stopped.set).start()  # while the threads are waited for
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(inputs, tmp_path / "whole.h5", Waiting(), on_stage=stop, workers=2, apart=apart)
    run(inputs, tmp_path / "whole.h5")
    assert (tmp_path / "whole.h5").read_bytes() == whole


@pytest.fixture
def spoilt(inputs: Path, tmp_path: Path) -> Path:
    """The inputs with one empty and one absent training video, and one that was cut off but can be read."""
    shutil.copytree(inputs / "videos", tmp_path / "videos")
    shutil.copy(inputs / "stream.csv", tmp_path)
    (tmp_path / "videos" / "v1.mp4").write_bytes(b"")
    (tmp_path / "videos" / "v2.mp4").unlink()
    return tmp_path


def test_absent_videos_are_listed_before_anything_is_encoded(spoilt: Path) -> None:
    encoder = ToyEncoder()
    with pytest.raises(VideosMissing, match=r"1 of 9 videos are not there, 'v2' for one") as caught:
        run(spoilt, spoilt / "a.h5", encoder)
    assert caught.value.videos == {"v2": "no such file"}
    assert encoder.encoded == 0
    assert left_over(spoilt) == ["stream.csv", "videos"]


def test_unreadable_videos_are_listed_at_the_end_and_mending_them_is_enough(spoilt: Path, inputs: Path) -> None:
    shutil.copy(inputs / "videos" / "v2.mp4", spoilt / "videos")
    with pytest.raises(VideosMissing, match=r"1 of 9 videos gave no frame, 'v1' for one \(empty file\)") as caught:
        run(spoilt, spoilt / "whole.h5")
    assert caught.value.videos == {"v1": "empty file"}
    assert not (spoilt / "whole.h5").exists()
    shutil.copy(inputs / "videos" / "v1.mp4", spoilt / "videos")
    encoder = ToyEncoder()
    run(spoilt, spoilt / "whole.h5", encoder)
    assert encoder.encoded == 3  # v1 only
    assert (spoilt / "whole.h5").read_bytes() == (inputs / "whole.h5").read_bytes()


def test_with_allow_missing_the_store_holds_the_others(spoilt: Path) -> None:
    summary = run(spoilt, spoilt / "a.h5", allow_missing=True)
    assert summary.missing == {"v2": "no such file", "v1": "empty file"}
    store, encoder = open_store(spoilt / "a.h5"), ToyEncoder()
    assert store.video_ids == ["v0", "v3", "v4", "v5", "v6", "v7", "v8"]
    assert len(store.captions) == 3 * 7
    pixels, real = read_frames(spoilt / "videos" / "v4.mp4", UNIFORM)
    np.testing.assert_allclose(
        store.feature("videos/frames")[2, :real], encoder.encode_frames(encoder.prepare(pixels)), rtol=2e-3, atol=2e-3
    )
    row = store.stream().query_of_video_N[4]
    assert store.captions[row] == "video 6 seen 1 times"
    one = encoder.encode_captions([store.captions[row]])
    np.testing.assert_allclose(store.feature("captions/pooled")[row], one.pooled[0], rtol=2e-3, atol=2e-3)
    assert verify_store(spoilt / "a.h5") == []


def test_a_task_that_loses_its_videos_is_an_error_even_with_allow_missing(spoilt: Path) -> None:
    (spoilt / "videos" / "v6.mp4").unlink()  # the only test video of its category
    with pytest.raises(InputError, match=r"task 1 of stream 'stream' has no category with train and test videos"):
        run(spoilt, spoilt / "a.h5", allow_missing=True)
    assert left_over(spoilt) == ["stream.csv", "videos"]


def test_a_limit_takes_the_first_videos_of_each_category_and_the_rest_goes_on_from_them(
    inputs: Path, whole: bytes, tmp_path: Path
) -> None:
    summary = run(inputs, tmp_path / "whole.h5", limit=1)
    store = open_store(tmp_path / "whole.h5")
    assert store.video_ids == ["v0", "v1", "v2", "v6", "v7", "v8"]
    assert store.name == "whole, at most 1 videos a category and role"
    assert (summary.videos, store.stream().num_tasks) == (6, 3)
    assert verify_store(tmp_path / "whole.h5") == []
    encoder = ToyEncoder()
    run(inputs, tmp_path / "whole.h5", encoder)
    assert encoder.encoded == 5 + 6 + 6  # v3, v4 and v5
    assert (tmp_path / "whole.h5").read_bytes() == whole
    assert left_over(tmp_path) == ["whole.h5"]
    with pytest.raises(InputError, match="the limit is -1"):
        run(inputs, tmp_path / "b.h5", limit=-1)


def test_numbers_that_the_stored_dtype_cannot_hold_are_an_error(inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="numbers that float16 cannot hold"):
        run(inputs, tmp_path / "a.h5", ToyEncoder(scale=1e6))
    assert not (tmp_path / "a.h5").exists()
    run(inputs, tmp_path / "a.h5", ToyEncoder(scale=1e6), dtype="float32")
    with pytest.raises(InputError, match="dtype 'int8'"):
        run(inputs, tmp_path / "a.h5", dtype="int8")


def test_a_damaged_video_is_used_and_named(inputs: Path, tmp_path: Path) -> None:
    shutil.copytree(inputs / "videos", tmp_path / "videos")
    shutil.copy(inputs / "stream.csv", tmp_path)
    content = made_clips.write_clip(tmp_path, "street.mkv").read_bytes()
    (tmp_path / "videos" / "v1.mp4").write_bytes(content[: len(content) // 2])
    summary = run(tmp_path, tmp_path / "a.h5")
    assert set(summary.damaged) == {"v1"}
    assert re.fullmatch(r"ends after [12]\.\d s of 4\.0 s", summary.damaged["v1"])
    assert summary.videos == VIDEOS


def test_threads_do_not_run_ahead_of_the_encoder_without_bound(inputs: Path) -> None:
    prepared = 0

    def prepare(frames: np.ndarray) -> Any:
        nonlocal prepared
        prepared += 1
        return ToyEncoder().prepare(frames)

    clips = [Clip(inputs / "videos" / "v8.mp4")] * 40
    with read_ahead(clips, prepare, UNIFORM, workers=2, ahead=3 * FRAMES) as readings:
        first = next(readings)
        threading.Event().wait(0.5)
        assert prepared <= 3 + 2  # what may wait, and what each thread has in hand
        assert sum(len(pixels) for pixels in first) == FRAMES
        assert sum(len(pixels) for reading in readings for pixels in reading) == 39 * FRAMES
    assert prepared == 40


def test_what_was_read_ahead_is_not_taken_for_a_whole_clip_after_the_threads_were_stopped(inputs: Path) -> None:
    clips = [Clip(inputs / "videos" / "v8.mp4")] * 2
    with read_ahead(clips, ToyEncoder().prepare, UNIFORM, workers=1, ahead=1) as readings:
        pass
    for reading in readings:
        with pytest.raises(CancelledError):
            list(reading)


def test_decoding_goes_on_while_the_encoder_works(inputs: Path, tmp_path: Path) -> None:
    meanwhile: list[bool] = []

    class Watching(ToyEncoder):
        prepared = threading.Event()

        def prepare(self, frames_FHWC: np.ndarray) -> Any:
            self.prepared.set()
            return super().prepare(frames_FHWC)

        def encode_frames(self, pixels: Any) -> Any:
            self.prepared.clear()
            meanwhile.append(self.prepared.wait(5 if not meanwhile else 0))
            return super().encode_frames(pixels)

    run(inputs, tmp_path / "a.h5", Watching(), workers=1)
    assert meanwhile[0]


def test_what_a_thread_raises_reaches_the_caller(inputs: Path, tmp_path: Path) -> None:
    class Broken(ToyEncoder):
        def prepare(self, frames_FHWC: np.ndarray) -> Any:
            raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        run(inputs, tmp_path / "a.h5", Broken())
    assert not (tmp_path / "a.h5").exists()


def test_from_files_to_a_store_in_one_call(inputs: Path, tmp_path: Path) -> None:
    tiny_clips.library("transformers")
    model = str(tiny_clips.save_transformers_clip(tmp_path / "clip"))
    stream = inputs / "stream.csv"
    summary = extract(inputs / "videos", [stream], [stream], model, UNIFORM, tmp_path / "a.h5", device="cpu")
    assert summary.encoder["family"] == "transformers clip"
    assert open_store(tmp_path / "a.h5").video_ids == toy_sources(inputs).structure.video_ids
    with pytest.raises(InputError, match="no such folder; name the folder that holds the videos"):
        extract(tmp_path / "none", [stream], [stream], model, UNIFORM, tmp_path / "b.h5")
    with pytest.raises(InputError, match=r"not a CLIP|cannot be loaded"):
        extract(inputs / "videos", [stream], [stream], str(inputs), UNIFORM, tmp_path / "b.h5")
    assert not (tmp_path / "b.h5").exists()
