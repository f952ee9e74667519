"""Files from a stranger: nothing outside them is read, nothing hangs, and each is refused in one plain line."""

from __future__ import annotations

import errno
import json
import os
import struct
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from ctvr_bench.features import hdf5
from ctvr_bench.features.array_files import ArrayTable
from ctvr_bench.features.cache import cache_folder
from ctvr_bench.features.clips import find_clips
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.pickles import read_plain_pickle
from ctvr_bench.features.sources import read_sources
from ctvr_bench.features.tables import read_table, read_toml
from ctvr_bench.features.video import Sampling, UnreadableVideo, write_video
from tests.frames import read_frames

# HDF5


def of_file(path: Path, name: str, write: Callable[[h5py.File], object]) -> np.ndarray:
    with h5py.File(path, "w") as file:
        file["sound"] = np.arange(4.0)
        write(file)
    mapped = hdf5.map_file(path)
    np.testing.assert_array_equal(mapped.arrays["sound"], np.arange(4.0))
    return np.asarray(mapped.arrays[name])


def test_values_in_another_file_are_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["x"] = np.arange(4)

    def raw(file: h5py.File) -> None:
        file.create_dataset("x", (4,), "i4", external=[(str(secret), 0, 16)])

    def virtual(file: h5py.File) -> None:
        layout = h5py.VirtualLayout((4,), "i8")
        layout[:] = h5py.VirtualSource(str(secret), "x", (4,))
        file.create_virtual_dataset("x", layout)

    for write in (raw, virtual):
        with pytest.raises(InputError, match="in another file, which is not followed"):
            of_file(tmp_path / "a.h5", "x", write)
    with pytest.raises(InputError, match="leads into another file"):
        of_file(tmp_path / "a.h5", "x", lambda file: file.__setitem__("x", h5py.ExternalLink(str(secret), "/x")))


def test_links_within_a_file_are_names_like_others(tmp_path: Path) -> None:
    def links(file: h5py.File) -> None:
        file["group/a"] = np.arange(3)
        file["hard"] = file["group/a"]
        file["soft"] = h5py.SoftLink("/group/a")
        file["folder"] = h5py.SoftLink("/group")
        file["chain"] = h5py.SoftLink("soft")
        file["round"] = h5py.SoftLink("/round")
        file["nowhere"] = h5py.SoftLink("/no")
        file["group/up"] = file["/"]

    for name in ("group/a", "hard", "soft", "folder/a", "chain"):
        assert of_file(tmp_path / "a.h5", name, links).tolist() == [0, 1, 2]
    assert {"round", "nowhere"}.isdisjoint(hdf5.map_file(tmp_path / "a.h5").arrays)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda file: file.create_dataset("x", (3,), h5py.vlen_dtype("i4")), "variable length"),
        (lambda file: file.create_dataset("x", (2,), h5py.ref_dtype), "variable length, or references"),
        (lambda file: file.create_dataset("x", data=h5py.Empty("f4")), "holds no values"),
        (lambda file: file.create_dataset("x", data="a text"), "is a text"),
        (lambda file: file.create_dataset("x", (10**12, 4), "f4", chunks=(1024, 4)), "would fill 16,000,000,000,000"),
        (lambda file: file.create_dataset("x", (10**12,), "i4"), "would fill 4,000,000,000,000"),
    ],
)
def test_what_is_no_array_stands_in_nobodys_way_and_is_refused_by_itself(
    tmp_path: Path, write: Callable[[h5py.File], object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        of_file(tmp_path / "a.h5", "x", write)


def test_a_small_chunked_dataset_is_read(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(50, 8))
    found = of_file(tmp_path / "a.h5", "x", lambda f: f.create_dataset("x", data=values, chunks=(7, 8), compression=4))
    np.testing.assert_array_equal(found, values)


def test_texts_that_share_their_bytes_are_not_believed(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        texts = file.create_dataset("t", (40,), h5py.string_dtype())
        texts[0] = "x" * 5000
    content = bytearray((tmp_path / "a.h5").read_bytes())
    with h5py.File(tmp_path / "a.h5") as file:
        start = file["t"].id.get_offset()
    content[start : start + 40 * 16] = bytes(content[start : start + 16]) * 40  # every row points to the one text
    (tmp_path / "a.h5").write_bytes(content)
    with pytest.raises(InputError, match="more text than the file has bytes"):
        hdf5.map_file(tmp_path / "a.h5").text("t")


@pytest.mark.parametrize(("free", "size"), [(True, 0), (True, 8), (False, 2**64 - 16), (False, 1 << 20)])
def test_a_damaged_heap_of_texts_is_refused_before_the_library_goes_round_in_it(
    tmp_path: Path, free: bool, size: int
) -> None:
    """Whether a dataset or an attribute alone has texts of any length. index, references, size: of each item."""
    path = tmp_path / "texts.h5"
    with h5py.File(path, "w") as file:
        file.attrs["name"] = "a text of any length"
        file["t"] = np.zeros(3)
    assert hdf5.map_file(path).attributes["name"] == "a text of any length"
    whole = bytearray(path.read_bytes())
    heap = whole.index(b"GCOL")
    path.write_bytes(whole + b"GCOL\1\0\0\0")  # the beginning of another at the end of the file
    assert hdf5.map_file(path).attributes["name"] == "a text of any length"
    items, at = {}, heap + 16
    while at + 16 <= heap + int.from_bytes(whole[heap + 8 : heap + 16], "little"):
        index, length = struct.unpack_from("<H6xQ", whole, at)
        items[index == 0] = at
        at += length if index == 0 else 16 + (length + 7) // 8 * 8
    whole[items[free] + 8 : items[free] + 16] = size.to_bytes(8, "little")
    path.write_bytes(whole)
    with pytest.raises(InputError, match=r"texts\.h5: a heap of texts is damaged at byte"):
        hdf5.map_file(path)


def test_texts_are_of_fixed_length_unless_one_is_far_longer(tmp_path: Path) -> None:
    texts = ["", "Käse 🧀", "a cat"]
    with hdf5.create_file(tmp_path / "a.h5") as writer:
        writer["t"] = texts
        writer["none"] = []
    with h5py.File(tmp_path / "a.h5") as file:
        assert not file["t"].dtype.hasobject
    mapped = hdf5.map_file(tmp_path / "a.h5")
    assert (mapped.text("t"), mapped.text("none")) == (texts, [])
    long = ["y" * 300_000, *["x"] * 2000]
    with hdf5.create_file(tmp_path / "b.h5") as writer:
        writer["t"] = long
    with h5py.File(tmp_path / "b.h5") as file:
        assert file["t"].dtype.hasobject
    assert hdf5.map_file(tmp_path / "b.h5").text("t") == long


def written(path: Path, fill: Callable[[hdf5.FileWriter], object]) -> None:
    with hdf5.create_file(path) as writer:
        writer["small"] = np.arange(1000)
        fill(writer)


def test_a_full_disk_ends_with_one_line_before_the_library_notices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.posix_fallocate

    def full(handle: int, start: int, size: int) -> None:
        if start + size > 300_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle, start, size)

    monkeypatch.setattr(os, "posix_fallocate", full)
    for fill in (
        lambda writer: writer.allocate("x", (100_000,), "f4"),
        lambda writer: writer.__setitem__("x", np.zeros(100_000, "f4")),
        lambda writer: writer.__setitem__("x", ["word" * 20] * 10_000),
    ):
        with pytest.raises(InputError, match="cannot be written"):
            written(tmp_path / "a.h5", fill)
        assert list(tmp_path.iterdir()) == []
    written(tmp_path / "a.h5", lambda writer: None)
    assert (tmp_path / "a.h5").stat().st_size < 60_000  # what was reserved and not used is given back


def test_a_file_that_another_locks_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "a.h5", lambda writer: None)

    def locked(*_: object) -> None:
        raise BlockingIOError(11, "Unable to synchronously open file (unable to lock file, errno = 11)")

    monkeypatch.setattr(h5py, "File", locked)
    with pytest.raises(InputError, match=r"another process holds a lock on it.* HDF5_USE_FILE_LOCKING to FALSE"):
        hdf5.map_file(tmp_path / "a.h5")


# Pickles

DOUBLED = b"".join(b"q" + bytes([i]) + b"0h" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(30))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x02)" + DOUBLED + b"q\x60}h\x60K\x01s.", "work"),  # 252 bytes, 2^30 tuples to hash
        (b"\x80\x02})" + b"\x85" * 200_000 + b"K\x01s.", "tuples in tuples"),  # a hash of 200,000 calls
        (b"\x80\x02N" + b"2" * 1_100_000 + b"\x85.", "opcodes"),
        (
            b"\x80\x02]q\x00(" + b"K\x01" * 1000 + b"e" + b"cbuiltins\nset\nh\x00\x85R" * 20_000 + b".",
            "more work than its size warrants",
        ),
        (b"\x80\x02\x8a\xff" + b"\x01" * 255 + b".", "a number of"),
    ],
)
def test_a_pickle_that_asks_for_work_without_end_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.pkl").write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_plain_pickle(tmp_path / "x.pkl")
    assert "\n" not in str(caught.value)


def test_tuples_as_keys_are_still_read(tmp_path: Path) -> None:
    import pickle

    value = {(1, ("a", frozenset({2}))): [("x", 1.5)], "y": {3, 4}}
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / "x.pkl").write_bytes(pickle.dumps(value, protocol))
        assert read_plain_pickle(tmp_path / "x.pkl") == value


# Arrays


def load(folder: Path, file: str, video: str = "", key: str = "") -> Any:
    (folder / "t.csv").write_text(f"what,file,key\nframes,{file},{key}\n", encoding="utf-8")
    table = ArrayTable(folder / "t.csv")
    return table.of_video("frames", video) if video else table.all("frames")


def refused(folder: Path, file: str) -> str:
    with pytest.raises(InputError) as caught:
        load(folder, file)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def npy(shape: str, size: int = 0) -> bytes:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(size)


@pytest.mark.parametrize(
    "content",
    [
        npy("(1000000000000, 2, 8)"),
        npy("(-6, 2, 8)"),
        npy("(4611686018427387904, 4, 1)"),
        b"\x93NUMPY\x02\x00" + struct.pack("<I", 9000) + b"(" * 8999 + b"\n",
        b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + b"{",
        b"",
    ],
)
def test_an_npy_header_that_promises_more_than_the_file_holds_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npy").write_bytes(content)
    assert "must hold plain arrays" in refused(tmp_path, "x.npy")


def test_an_npz_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("frames.npy", npy("(1000000000, 2, 8)", 1 << 20))
    assert "its header promises" in refused(tmp_path, "x.npz")
    zeros = zipfile.ZipFile(tmp_path / "y.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1)
    with zeros, zeros.open("fra\nmes.npy", "w") as stream:
        for _ in range(300):
            stream.write(bytes(1 << 20))
    assert "fra\\nmes would fill 314,572,800 bytes" in refused(tmp_path, "y.npz")


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor", "ignore:Sparse invariant", "ignore:TypedStorage")
def test_tensors_that_numpy_does_not_know_are_read(tmp_path: Path) -> None:
    values = torch.arange(12.0).reshape(3, 4)
    kinds: dict[str, Any] = {
        "float8": values.to(torch.float8_e4m3fn),
        "bfloat16": values.bfloat16(),
        "sparse": values.to_sparse(),
        "quantised": torch.quantize_per_tensor(values, 1.0, 0, torch.qint8),
        "grad": values.clone().requires_grad_(),
        "conjugate": values.neg()._neg_view() if hasattr(values, "_neg_view") else values,
        "list": list(values),
    }
    for name, kept in kinds.items():
        torch.save(kept, tmp_path / f"{name}.pt")
        np.testing.assert_array_equal(load(tmp_path, f"{name}.pt"), values.numpy(), err_msg=name)


@pytest.mark.filterwarnings("ignore:Sparse invariant")
def test_tensors_without_values_or_end_are_refused(tmp_path: Path) -> None:
    loop: dict[str, Any] = {"t": torch.ones(2)}
    loop["a"] = loop
    kinds = {
        "meta": (torch.empty(10**12, 2, device="meta"), "without values"),
        "expanded": (torch.ones(1).expand(10**9), "would fill 4,000,000,000 bytes"),
        "ragged": ([torch.ones(2), torch.ones(3)], "a list of 2 tensors of several shapes"),
        "loop": (loop, "nests without end"),
        "bomb": (torch.sparse_coo_tensor(torch.zeros(1, 1, dtype=torch.long), [1.0], (10**10,)), "would fill"),
    }
    for name, (kept, message) in kinds.items():
        torch.save(kept, tmp_path / f"{name}.pt")
        assert message in refused(tmp_path, f"{name}.pt"), name


def test_an_id_leads_nowhere_outside(tmp_path: Path) -> None:
    inside = tmp_path / "in"
    inside.mkdir()
    np.save(tmp_path / "secret.npy", np.ones(3))
    np.save(inside / "v.npy", np.ones(3))
    assert load(inside, "{video}.npy", "v") is not None
    for video in ("../secret", str(tmp_path / "secret"), "x/../../secret", "v\0", "n" * 300):
        assert load(inside, "{video}.npy", video) is None
    (inside / "v.mp4").touch()
    (tmp_path / "secret.mp4").touch()
    ids = ["v", "../secret", str(tmp_path / "secret"), "v/../../secret.mp4", "n" * 300, "v\0", ".", ""]
    clips, missing = find_clips(inside, ids, {})
    assert list(clips) == ["v"]
    assert len(missing) == 7


# Videos on disk


def test_videos_are_found_through_links_in_sub_folders_and_in_either_spelling(tmp_path: Path) -> None:
    for name in (".disk/a.mp4", ".disk/b.3g2", "TrainValVideo/c.divx", "TestVideo/d.mts", f"{decomposed('é')}.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "all").symlink_to(".disk")
    (tmp_path / ".disk" / "up").symlink_to(tmp_path)
    clips, missing = find_clips(tmp_path, ["all/a", "all/b", "a", "c", "d", "é", "e"], {})
    assert list(missing) == ["e"]
    assert [clip.path.name for clip in clips.values()][:5] == ["a.mp4", "b.3g2", "a.mp4", "c.divx", "d.mts"]
    (tmp_path / "TestVideo/c.mp4").touch()
    with pytest.raises(InputError, match="video 'c' may be "):
        find_clips(tmp_path, ["c"], {})


def decomposed(text: str) -> str:
    return unicodedata.normalize("NFD", text)


@pytest.mark.parametrize("kind", ["ffconcat", "m3u8"])
def test_a_playlist_named_mp4_opens_nothing_else(tmp_path: Path, kind: str) -> None:
    write_video(tmp_path / "secret.mp4", np.zeros((4, 16, 16, 3), np.uint8), fps=4, preset="ultrafast")
    text = {
        "ffconcat": "ffconcat version 1.0\nfile secret.mp4\n",
        "m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\nsecret.mp4\n#EXT-X-ENDLIST\n",
    }[kind]
    (tmp_path / "x.mp4").write_text(text)
    with pytest.raises(UnreadableVideo, match="cannot be opened"):
        read_frames(tmp_path / "x.mp4", Sampling.parse("2"))
    assert read_frames(tmp_path / "secret.mp4", Sampling.parse("2"))[1] == 2


# Captions and streams

STREAM = "video,category,task,role\n é,x,1,train\nb,x,1,test\nc,y,2,train\nd,y,2,test\n"


def sources(folder: Path, captions: str, name: str = "c.csv", stream: str = STREAM) -> Any:
    (folder / "s.csv").write_text(stream, encoding="utf-8")
    (folder / name).write_text(captions, encoding="utf-8")
    return read_sources([folder / name], folder / "s.csv")


def test_ids_are_one_whatever_blanks_and_spelling_of_accents(tmp_path: Path) -> None:
    told = f"video_id,sentence\n{decomposed('é')} ,one\nb ,two\n c,three\nd,four\ngone,five\n"
    found = sources(tmp_path, told)
    assert found.structure.captions == ["one", "two", "three", "four"]
    assert found.unknown_captions == 1
    told = json.dumps({decomposed("é"): "one", " b": "two", "c ": "three", "d": "four"})
    assert sources(tmp_path, told, "c.json").structure.video_ids == ["é", "b", "c", "d"]


def test_segments_that_are_no_part_of_time_are_said(tmp_path: Path) -> None:
    entry: dict[str, Any] = {"duration": 4.0, "sentences": ["a"]}
    times: dict[str, Any] = {"é": [[2.0, 1.0]], "b": [[0, 0]], "c": [[None, 3]], "d": [[1, 3]], "gone": [[1, 1]]}
    told = {video: {**entry, "timestamps": stamps} for video, stamps in times.items()}
    found = sources(tmp_path, json.dumps(told), "c.json")
    assert found.segments == {"d": (1.0, 3.0)}
    assert list(found.odd_segments) == ["é", "b", "c"]
    assert "[2.0, 1.0] is no part of time; the whole video was taken" in found.odd_segments["é"]


@pytest.mark.parametrize("task", ["9" * 5000, "٠", "²", "-1", "1000000000000"])
def test_a_task_is_a_plain_number(tmp_path: Path, task: str) -> None:
    with pytest.raises(InputError, match="a task is a whole number") as caught:
        sources(tmp_path, "video,caption\n", stream=STREAM.replace(",1,", f",{task},"))
    assert len(str(caught.value)) < 300


def test_a_kind_of_caption_file_that_is_not_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "c.pkl").write_bytes(b"\x80\x04.")
    (tmp_path / "s.csv").write_text(STREAM)
    with pytest.raises(InputError, match=r"is no kind of caption file that is read: \.csv"):
        read_sources([tmp_path / "c.pkl"], tmp_path / "s.csv")


def test_rows_are_read_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n" + "1,2\n" * 3 + "1,2,3\n")
    rows = read_table(tmp_path / "t.csv", "a")
    assert next(rows).cells == {"a": "1", "b": "2"}
    with pytest.raises(InputError, match=r"t.csv line 5: has more than 2 cells"):
        list(rows)


def test_a_table_of_more_columns_than_anybody_needs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(",".join(f"x{i}" for i in range(1001)) + "\n1\n")
    with pytest.raises(InputError, match=r"has 1,001 columns, of which at most 1000 are read"):
        list(read_table(tmp_path / "t.csv"))


# Suite files


@pytest.mark.parametrize(
    "text",
    ["x = " + "[" * 100_000, ".".join("a" * 100_000) + " = 1", "x = " + "9" * 100_000, "#" * 1_100_000, "x = 1\nx = 2"],
)
def test_a_toml_file_past_all_bounds_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(InputError, match="cannot be read") as caught:
        read_toml(tmp_path / "s.toml", "a suite")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_byte_order_mark_before_toml_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_bytes(b"\xef\xbb\xbfseeds = 2\n")
    assert read_toml(tmp_path / "s.toml", "a suite") == {"seeds": 2}


def test_without_a_home_folder_a_cache_must_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("CTVR_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(InputError, match="CTVR_CACHE"):
        cache_folder()
    monkeypatch.setenv("CTVR_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
