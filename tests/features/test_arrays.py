"""Features from other people's files, and a structure-only store filled with extracted ones."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from ctvr_bench.bench.suite.config import make_suite
from ctvr_bench.bench.suite.controls import that_fit
from ctvr_bench.bench.suite.suite import plan
from ctvr_bench.features.arrays import import_arrays
from ctvr_bench.features.clips import VideosMissing
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.merge import merge
from ctvr_bench.features.sources import read_sources
from ctvr_bench.features.store import create_store, open_store
from ctvr_bench.features.streams import PairTable, make_stream
from ctvr_bench.features.verification import verify_store

D, F = 6, 4
STREAM = "video,category,task,role\na,x,1,train\nb,x,1,test\nc,y,2,train\nd,y,2,test\n"
CAPTIONS = "video,caption\nb,two\na,one\nd,five\nb,three\nc,four\n"
COUNT = np.array([4, 2, 3, 1])
LENGTH = np.array([2, 1, 3, 1, 2])  # words of each line of CAPTIONS
ORDER = [1, 0, 3, 4, 2]  # lines of CAPTIONS in the order of the store
Arrays = dict[str, np.ndarray]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "stream.csv").write_text(STREAM)
    (tmp_path / "captions.csv").write_text(CAPTIONS)
    return tmp_path


@pytest.fixture
def arrays() -> Arrays:
    rng = np.random.default_rng(0)
    frames = rng.standard_normal((4, F, D)).astype(np.float32)
    frames[np.arange(F) >= COUNT[:, None]] = 0
    words = rng.standard_normal((5, 3, D)).astype(np.float32)
    pooled = rng.standard_normal((5, D)).astype(np.float32)
    return {"frames": frames, "frame_count": COUNT, "pooled": pooled, "words": words, "word_count": LENGTH}


def bring(folder: Path, table: str, **options: object) -> Path:
    (folder / "arrays.csv").write_text(table)
    captions, stream = folder / "captions.csv", folder / "stream.csv"
    summary = import_arrays(folder / "arrays.csv", [captions], stream, folder / "a.h5", **options)  # type: ignore[arg-type]
    assert verify_store(folder / "a.h5") == []
    assert (summary.videos, summary.frames, summary.captions, summary.words, summary.dimension) == (4, F, 5, 9, D)
    return folder / "a.h5"


def check(path: Path, arrays: Arrays) -> None:
    store = open_store(path)
    assert store.captions == ["one", "two", "three", "four", "five"]
    np.testing.assert_array_equal(store.feature("videos/frames"), arrays["frames"])
    np.testing.assert_array_equal(store.feature("videos/frame_count"), COUNT)
    np.testing.assert_array_equal(store.feature("captions/pooled"), arrays["pooled"][ORDER])
    expected = [arrays["words"][row, : LENGTH[row]] for row in ORDER]
    np.testing.assert_array_equal(store.feature("captions/words"), np.concatenate(expected))
    np.testing.assert_array_equal(np.diff(store.feature("captions/word_offsets")), LENGTH[ORDER])


def write_npy(folder: Path, arrays: Arrays) -> str:
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return "what,file\n" + "".join(f"{name},{name}.npy\n" for name in arrays)


def write_npz(folder: Path, arrays: Arrays) -> str:
    np.savez(folder / "all.npz", **arrays)
    return "what,file,key\n" + "".join(f"{name},all.npz,{name}\n" for name in arrays)


def write_pt(folder: Path, arrays: Arrays) -> str:
    torch.save({"deep": {name: torch.from_numpy(array) for name, array in arrays.items()}}, folder / "all.pt")
    return "what,file,key\n" + "".join(f"{name},all.pt,deep/{name}\n" for name in arrays)


def write_hdf5(folder: Path, arrays: Arrays) -> str:
    with h5py.File(folder / "all.h5", "w") as file:
        for name, array in arrays.items():
            file.create_dataset(f"mine/{name}", data=array, chunks=True)
    return "what,file,key\n" + "".join(f"{name},all.h5,mine/{name}\n" for name in arrays)


def per_video(arrays: Arrays) -> dict[str, Arrays]:
    lines = {"a": [1], "b": [0, 3], "c": [4], "d": [2]}
    return {
        video: {
            "frames": arrays["frames"][row, : COUNT[row]],
            **{name: arrays[name][lines[video]] for name in ("pooled", "words", "word_count")},
        }
        for row, video in enumerate("abcd")
    }


def write_each_npz(folder: Path, arrays: Arrays) -> str:
    (folder / "each").mkdir()
    for video, mine in per_video(arrays).items():
        np.savez(folder / "each" / f"{video}.npz", **mine)
    return "what,file,key\n" + "".join(f"{n},each/{{video}}.npz,{n}\n" for n in arrays if n != "frame_count")


def write_each_listed(folder: Path, arrays: Arrays) -> str:
    table = "what,file,video\n"
    for number, (video, mine) in enumerate(per_video(arrays).items()):
        for name, array in mine.items():
            np.save(folder / f"{name}{number}.npy", array)
            table += f"{name},{name}{number}.npy,{video}\n"
    return table


def write_each_hdf5(folder: Path, arrays: Arrays) -> str:
    with h5py.File(folder / "all.h5", "w") as file:
        for video, mine in per_video(arrays).items():
            for name, array in mine.items():
                file[f"{name}/{video}"] = array
    return "what,file,key\n" + "".join(f"{n},all.h5,{n}/{{video}}\n" for n in arrays if n != "frame_count")


@pytest.mark.parametrize(
    "write",
    [write_npy, write_npz, write_pt, write_hdf5, write_each_npz, write_each_listed, write_each_hdf5],
    ids=lambda function: function.__name__,
)
def test_every_kind_of_file_gives_the_same_store(
    folder: Path, arrays: Arrays, write: Callable[[Path, Arrays], str]
) -> None:
    check(bring(folder, write(folder, arrays)), arrays)


def test_rows_may_be_named_and_words_may_be_ragged(folder: Path, arrays: Arrays) -> None:
    turned = dict(arrays, frames=arrays["frames"][::-1], frame_count=COUNT[::-1])
    turned["words"] = np.concatenate([words[:length] for words, length in zip(arrays["words"], LENGTH, strict=True)])
    (folder / "ids.txt").write_text("d\nc\nb\na\n")
    check(bring(folder, write_npy(folder, turned) + "videos,ids.txt\n"), arrays)


def test_pooled_features_alone_can_stand_for_frames_and_words(folder: Path, arrays: Arrays) -> None:
    np.save(folder / "frames.npy", arrays["frames"][:, 0])
    np.save(folder / "pooled.npy", arrays["pooled"])
    (folder / "arrays.csv").write_text("what,file\nframes,frames.npy\npooled,pooled.npy\nwords,pooled.npy\n")
    captions, stream = folder / "captions.csv", folder / "stream.csv"
    summary = import_arrays(folder / "arrays.csv", [captions], stream, folder / "a.h5", dtype="float16")
    assert (summary.frames, summary.words) == (1, 5)
    assert open_store(folder / "a.h5").feature("videos/frames").dtype == np.float16


def test_images_with_their_captions_need_no_words_and_are_items(folder: Path, arrays: Arrays) -> None:
    np.save(folder / "frames.npy", arrays["frames"][:, 0])
    np.save(folder / "pooled.npy", arrays["pooled"])
    (folder / "arrays.csv").write_text("what,file\nframes,frames.npy\npooled,pooled.npy\n")
    for name, text in (("captions", CAPTIONS), ("stream", STREAM)):
        (folder / f"{name}.csv").write_text(text.replace("video", "item"))
    import_arrays(
        folder / "arrays.csv", [folder / "captions.csv"], folder / "stream.csv", folder / "a.h5", licence="CC-BY"
    )
    assert verify_store(folder / "a.h5") == []
    store = open_store(folder / "a.h5")
    assert (store.has_words, store.provenance["licence"]) == (False, "CC-BY")
    np.testing.assert_array_equal(store.feature("captions/pooled"), arrays["pooled"][ORDER])
    batch = PairTable(store, make_stream(store, "stream").tasks[0].train).pairs(torch.tensor([0]))
    assert not batch.text.word_mask_NL.any()
    assert batch.video.frames_MFD.shape == (1, 1, D)


def test_methods_that_compare_words_say_so_on_a_store_without_them(folder: Path, arrays: Arrays) -> None:
    path, told = bring(folder, write_npz(folder, arrays)), list[str]()
    assert that_fit(make_suite({"store": path}, "test"), told.append).methods[-1].name == "structalign"
    (folder / "arrays.csv").write_text("what,file,key\nframes,all.npz,frames\npooled,all.npz,pooled\n")
    import_arrays(folder / "arrays.csv", [folder / "captions.csv"], folder / "stream.csv", folder / "wordless.h5")
    config = make_suite({"store": folder / "wordless.h5"}, "test")
    names = [choice.name for choice in that_fit(config, told.append).methods]
    assert names == ["zero_shot", "finetune", "joint", "lwf", "er", "attention_head", "l2p"]
    assert told == [
        f"left out, since they compare words and {folder / 'wordless.h5'} has none: zero_shot [scoring=word_frame], "
        "zero_shot [scoring=fused], structalign"
    ]
    with pytest.raises(
        InputError, match=r"structalign \(proto_caption=words\) compares words .* use --set structalign.p"
    ):
        plan(
            make_suite(
                {
                    "store": folder / "wordless.h5",
                    "methods": [{"name": "structalign", "set": {"scoring": "cosine"}}],
                },
                "test",
            ),
            open_store(folder / "wordless.h5"),
        )


def test_videos_without_arrays_are_listed_and_may_be_left_out(folder: Path, arrays: Arrays) -> None:
    (folder / "stream.csv").write_text(STREAM + "e,y,2,train\n")
    (folder / "captions.csv").write_text(CAPTIONS + "e,six\n")
    table = write_each_npz(folder, arrays)
    with pytest.raises(VideosMissing, match="1 of 5 videos lack frames, 'e' for one"):
        bring(folder, table)
    check(bring(folder, table, allow_missing=True), arrays)


def changed(arrays: Arrays, name: str, change: Callable[[np.ndarray], np.ndarray]) -> Arrays:
    return {**arrays, name: change(arrays[name].copy())}


def with_nan(array: np.ndarray) -> np.ndarray:
    array[1, 0] = np.nan
    return array


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("frames", with_nan, "frames of 'b' hold NaN"),
        ("words", with_nan, "words of 'a' hold NaN"),
        ("frames", lambda a: a[:3], "frames has shape (3, 4, 6); it must have 3 axes, the first of 4 (videos)"),
        ("pooled", lambda a: a[:, :3], "rows of one length, here 6"),
        ("pooled", lambda a: a[1:], "pooled has shape (4, 6); it must have 2 axes, the first of 5 (caption entries)"),
        ("frame_count", lambda a: a + 3, "counts must lie in 0..4"),
        ("word_count", lambda a: a - 4, "counts must lie in 0..3"),
        ("word_count", lambda a: a[:2], "word_count has shape (2,)"),
        ("pooled", lambda a: a.astype(str), "must be numbers"),
        ("pooled", lambda a: a.astype(complex), "must be numbers"),
    ],
)
def test_arrays_that_break_a_rule_are_refused(
    folder: Path, arrays: Arrays, name: str, change: Callable[[np.ndarray], np.ndarray], message: str
) -> None:
    assert message in refusal(folder, write_npy(folder, changed(arrays, name, change)))


def refusal(folder: Path, table: str) -> str:
    with pytest.raises(InputError) as caught:
        bring(folder, table)
    assert "\n" not in str(caught.value)
    assert not list(folder.glob("*a.h5*"))
    return str(caught.value)


def test_tables_that_break_a_rule_are_refused(folder: Path, arrays: Arrays) -> None:
    table = write_npy(folder, arrays)
    assert "needs the columns what, file" in refusal(folder, table.replace("what", "kind"))
    assert "unknown array 'framse'; did you mean 'frames'?" in refusal(folder, table.replace("frames,", "framse,"))
    assert "says nothing of pooled" in refusal(folder, table.replace("pooled,pooled.npy\n", ""))
    assert "counts words and names none" in refusal(folder, table.replace("words,words.npy\n", ""))
    assert "tells a second time where the pooled" in refusal(folder, table + "pooled,words.npy\n")
    assert "no such file; mend its line" in refusal(folder, table.replace("words.npy", "none.npy"))
    assert "is none of the kinds that are read" in refusal(folder, table.replace("words.npy", "captions.csv"))
    assert "all.npz holds frame_count, frames" in refusal(
        folder, write_npz(folder, arrays).replace("npz,words", "npz,w")
    )
    assert "names no file" in refusal(folder, table + "videos,\n")


def test_nothing_in_a_file_is_run(folder: Path, arrays: Arrays) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {folder / 'sprung'}",)

    table = write_npy(folder, arrays)
    np.save(folder / "words.npy", np.array([Trap()], object), allow_pickle=True)
    assert "must hold plain arrays or tensors" in refusal(folder, table)
    torch.save({"words": Trap()}, folder / "words.pt")
    assert "must hold plain arrays or tensors" in refusal(folder, table.replace("words.npy", "words.pt"))
    (folder / "words.npz").write_bytes(b"no archive")
    assert "must hold plain arrays or tensors" in refusal(folder, table.replace("words.npy", "words.npz"))
    (folder / "words.h5").write_bytes(b"no HDF5")
    assert "not an HDF5 file" in refusal(folder, table.replace("words.npy", "words.h5"))
    assert not (folder / "sprung").exists()


@pytest.fixture
def stores(folder: Path, arrays: Arrays) -> tuple[Path, Path]:
    """A store without features, of the videos a to d, and one with features of the same captions."""
    filled = bring(folder, write_npy(folder, arrays), encoder={"family": "theirs"}, licence="theirs")
    structure = read_sources([folder / "captions.csv"], folder / "stream.csv").structure
    with create_store(folder / "shell.h5", name="shell", licence="ours") as writer:
        structure.write(writer)
    return folder / "shell.h5", filled


def test_merging_puts_features_to_their_videos_and_captions(stores: tuple[Path, Path], arrays: Arrays) -> None:
    shell, filled = stores
    summary = merge(shell, filled, shell.with_name("out.h5"))
    check(shell.with_name("out.h5"), arrays)
    assert verify_store(shell.with_name("out.h5")) == []
    assert (summary.videos, summary.captions, summary.words, summary.missing) == (4, 5, 9, {})
    provenance = open_store(shell.with_name("out.h5")).provenance
    assert provenance["encoder"] == {"family": "theirs"}
    assert provenance["licence"] == "ours; theirs"


def test_merging_reports_what_is_missing(folder: Path, stores: tuple[Path, Path], arrays: Arrays) -> None:
    _, filled = stores
    (folder / "stream.csv").write_text(STREAM + "e,y,2,train\nf,y,2,test\n")
    (folder / "captions.csv").write_text(CAPTIONS.replace("three", "unheard of") + "e,six\nf,seven\n")
    structure = read_sources([folder / "captions.csv"], folder / "stream.csv").structure
    with create_store(folder / "wide.h5", name="wide") as writer:
        structure.write(writer)
    with pytest.raises(VideosMissing, match="2 of 6 videos lack features, 'e' for one") as caught:
        merge(folder / "wide.h5", filled, folder / "out.h5")
    assert caught.value.videos == {"e": "no features", "f": "no features"}
    assert not (folder / "out.h5").exists()
    summary = merge(folder / "wide.h5", filled, folder / "out.h5", allow_missing=True)
    assert (summary.videos, summary.captions, summary.captions_left_out, summary.unused_captions) == (4, 4, 1, 1)
    store = open_store(folder / "out.h5")
    assert store.captions == ["one", "two", "four", "five"]
    np.testing.assert_array_equal(store.feature("captions/pooled"), arrays["pooled"][[1, 0, 4, 2]])
    assert verify_store(folder / "out.h5") == []


def test_a_test_video_without_features_of_its_query_is_missing(folder: Path, stores: tuple[Path, Path]) -> None:
    (folder / "captions.csv").write_text(CAPTIONS.replace("two", "unheard of"))
    structure = read_sources([folder / "captions.csv"], folder / "stream.csv").structure
    with create_store(folder / "other.h5", name="other") as writer:
        structure.write(writer)
    with pytest.raises(VideosMissing) as caught:
        merge(folder / "other.h5", stores[1], folder / "out.h5")
    assert caught.value.videos == {"b": "no features of its query caption"}
    with pytest.raises(InputError, match=r"task 1 .* has no category with train and test videos"):
        merge(folder / "other.h5", stores[1], folder / "out.h5", allow_missing=True)


def test_stores_in_the_wrong_places_are_refused(stores: tuple[Path, Path]) -> None:
    shell, filled = stores
    with pytest.raises(InputError, match="has features already"):
        merge(filled, filled, shell.with_name("out.h5"))
    with pytest.raises(InputError, match="has no features to give"):
        merge(shell, shell, shell.with_name("out.h5"))
    with pytest.raises(InputError, match="is one of the stores to be read"):
        merge(shell, filled, filled)
