from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from ctvr_bench.features.errors import InputError
from ctvr_bench.features.schema import TEST, TRAIN, VALIDATION
from ctvr_bench.features.simulation.config import SyntheticConfig
from ctvr_bench.features.simulation.write import generated_structure, synthesise
from ctvr_bench.features.store import FeatureStore, create_store, open_store
from ctvr_bench.features.streams import PairTable, StreamOptions, long_tail_counts, make_stream, task_order
from tests.stores import small_store


def test_order_0_is_published_and_others_are_seeded_permutations() -> None:
    assert task_order(10, 0).tolist() == list(range(10))
    assert sorted(task_order(10, 1).tolist()) == list(range(10))
    assert task_order(10, 1).tolist() == task_order(10, 1).tolist() != task_order(10, 2).tolist()
    with pytest.raises(InputError, match="got -1"):
        task_order(10, -1)


def test_a_permuted_stream_has_the_same_tasks_in_another_order() -> None:
    published, permuted = (make_stream(small_store(), options=StreamOptions(order=order)) for order in (0, 2))
    assert [task.index for task in permuted.tasks] == [0, 1, 2]
    assert [task.published for task in permuted.tasks] != [0, 1, 2]
    for task in permuted.tasks:
        twin = published.tasks[task.published]
        assert task.categories == twin.categories
        assert np.array_equal(task.test, twin.test)


def test_tasks_hold_the_captions_of_their_roles() -> None:
    store = small_store()
    stored, stream = store.stream(), make_stream(store)
    for task in stream.tasks:
        for rows, role in ((task.train, TRAIN), (task.test, TEST), (task.validation, VALIDATION)):
            videos = store.caption_video_M[rows]
            assert set(stored.role_of_video_N[videos]) == {role}
            assert set(store.category_N[videos]) == set(task.categories)
        assert len(set(store.caption_video_M[task.test])) == len(task.test)
        assert len(task.train) == 4 * len(set(store.caption_video_M[task.train]))


def train_videos(store: FeatureStore, options: StreamOptions) -> dict[int, int]:
    """Train videos of each category."""
    counts: dict[int, int] = {}
    for task in make_stream(store, options=options).tasks:
        for video in set(store.caption_video_M[task.train].tolist()):
            counts[int(store.category_N[video])] = counts.get(int(store.category_N[video]), 0) + 1
    return counts


def test_few_shot_keeps_so_many_train_videos_of_each_category() -> None:
    assert set(train_videos(small_store(), StreamOptions(shots=2)).values()) == {2}


def test_long_tail_falls_geometrically_and_keeps_one() -> None:
    assert long_tail_counts(50, 3, 50.0) == [50, 7, 1]
    assert sorted(train_videos(small_store(), StreamOptions(long_tail=6.0)).values()) == sorted(
        long_tail_counts(6, 6, 6.0)
    )


def test_the_seed_of_the_options_decides_which_videos_stay() -> None:
    options = [StreamOptions(shots=2, seed=seed) for seed in (0, 0, 1)]
    rows = [make_stream(small_store(), options=each).tasks[0].train.tolist() for each in options]
    assert rows[0] == rows[1] != rows[2]


def test_split_makes_each_category_a_task_in_stored_order() -> None:
    stored, store = small_store().stream(), small_store()
    stream = make_stream(store, options=StreamOptions(split=True))
    assert all(len(task.categories) == 1 for task in stream.tasks)
    home = [int(stored.task_of_category_C[task.categories[0]]) for task in stream.tasks]
    assert home == sorted(home)
    whole, parts = make_stream(store), [task.test for task in stream.tasks]
    assert np.array_equal(np.sort(np.concatenate(parts)), np.sort(np.concatenate([t.test for t in whole.tasks])))


def test_split_tasks_are_permuted_by_the_order() -> None:
    first, other = (make_stream(small_store(), options=StreamOptions(order=k, split=True)) for k in (0, 3))
    assert [t.published for t in other.tasks] == task_order(len(first), 3).tolist()
    assert {t.categories for t in first.tasks} == {t.categories for t in other.tasks}


def test_blurring_moves_a_share_of_each_category_and_loses_nothing() -> None:
    store = small_store()
    sharp, blurred = (make_stream(store, options=StreamOptions(blurred=share)) for share in (0.0, 0.34))
    moved: dict[int, int] = {}
    for task, twin in zip(blurred.tasks, sharp.tasks, strict=True):
        assert np.array_equal(task.test, twin.test)
        assert np.array_equal(task.validation, twin.validation)
        for video in set(store.caption_video_M[task.train].tolist()):
            category = int(store.category_N[video])
            moved[category] = moved.get(category, 0) + (category not in task.categories)
    assert set(moved.values()) == {2}  # of six
    together, apart = (np.concatenate([t.train for t in stream.tasks]) for stream in (blurred, sharp))
    assert np.array_equal(np.sort(together), np.sort(apart))
    assert len(np.unique(together)) == len(together)


def test_a_share_of_one_or_more_cannot_be_blurred() -> None:
    with pytest.raises(InputError, match="blurred"):
        make_stream(small_store(), options=StreamOptions(blurred=1.0))


@pytest.fixture
def store_without_validation(tmp_path: Path) -> FeatureStore:
    structure = generated_structure(4, 2, 5, 3, captions_per_train_video=2)
    synthesise(structure, SyntheticConfig(dim=16, frames=3, latent_dim=8), tmp_path / "s.h5", name="s")
    return open_store(tmp_path / "s.h5")


def test_validation_is_held_out_of_the_train_videos(store_without_validation: FeatureStore) -> None:
    store = store_without_validation
    for task in make_stream(store, options=StreamOptions(validation=2)).tasks:
        train, validation = (set(store.caption_video_M[rows]) for rows in (task.train, task.validation))
        assert not train & validation
        assert len(validation) == len(task.validation) == 2 * len(task.categories)
        assert len(train) == 3 * len(task.categories)
        assert not validation & set(store.caption_video_M[task.test])


def test_holding_out_every_train_video_is_refused(store_without_validation: FeatureStore) -> None:
    with pytest.raises(InputError, match="hold out fewer"):
        make_stream(store_without_validation, options=StreamOptions(validation=5))


def test_a_task_without_training_captions_is_refused(tmp_path: Path) -> None:
    with create_store(tmp_path / "s.h5", name="s") as store:
        store["videos/id"] = ["a", "b"]
        store["videos/category"] = np.zeros(2, np.int32)
        store["captions/video"] = np.array([1])
        store["captions/text"] = ["a query"]
        store["categories/name"] = ["only"]
        store["streams/s/task_of_category"] = np.zeros(1, np.int32)
        store["streams/s/role_of_video"] = np.array([TRAIN, TEST], np.int8)
        store["streams/s/query_of_video"] = np.array([-1, 0])
    with pytest.raises(InputError, match="task 1 of stream 's' has no training caption"):
        make_stream(open_store(tmp_path / "s.h5"))


@pytest.mark.parametrize("mapped", [False, True])
def test_batches_gather_the_stored_features_and_nothing_else(mapped: bool) -> None:
    store = small_store()
    rows = make_stream(store).tasks[1].train
    table = PairTable(store, rows, mapped=mapped)
    index = torch.tensor([7, 0, 7])
    batch = table.pairs(index)
    offsets, words = store.feature("captions/word_offsets"), store.feature("captions/words")
    for position, row in enumerate(rows[index.numpy()]):
        video = store.caption_video_M[row]
        count = store.feature("videos/frame_count")[video]
        expected = words[offsets[row] : offsets[row + 1]].astype(np.float32)
        assert np.array_equal(batch.text.words_NLD[position][batch.text.word_mask_NL[position]].numpy(), expected)
        assert np.array_equal(
            batch.text.pooled_ND[position].numpy(), store.feature("captions/pooled")[row].astype(np.float32)
        )
        frames = store.feature("videos/frames")[video, :count].astype(np.float32)
        assert np.array_equal(batch.video.frames_MFD[position][batch.video.frame_mask_MF[position]].numpy(), frames)
        assert not batch.text.words_NLD[position][~batch.text.word_mask_NL[position]].any()
        assert batch.video_N[position] == video
        assert batch.category_N[position] == store.category_N[video]
    assert batch.text.words_NLD.shape[1] == batch.text.word_mask_NL.sum(1).max()


def test_features_are_held_as_the_store_has_them_and_words_of_queries_not_at_all() -> None:
    store = small_store()
    rows, words = make_stream(store).tasks[0].train, store.feature("captions/words")
    held, mapped = PairTable(store, rows), PairTable(store, rows, mapped=True)
    assert words.dtype == np.float16
    assert held.frames_VFD.dtype == held.words_TD.dtype == torch.float16
    assert mapped.words_TD.data_ptr() == words.ctypes.data
    assert held.words_TD.data_ptr() != words.ctypes.data  # a method may write into what it learns from
    for batch in (held.pairs(torch.arange(5)), mapped.pairs(torch.arange(5))):
        assert batch.text.words_NLD.dtype == batch.video.frames_MFD.dtype == batch.text.pooled_ND.dtype == torch.float32
    for part, other in zip(held.all_videos(), mapped.all_videos(), strict=True):
        assert torch.equal(part, other)


def test_what_is_not_finite_is_refused_also_where_words_are_mapped(tmp_path: Path) -> None:
    path = tmp_path / "store.h5"
    shutil.copy(small_store().path, path)
    with h5py.File(path, "r+") as file:
        file["captions/words"][-1] = np.inf
    store = open_store(path)
    rows = np.arange(len(store.caption_video_M))
    with pytest.raises(InputError, match="captions/words holds NaN or infinity"):
        PairTable(store, rows, mapped=True)
    fine = PairTable(store, rows[:-1], mapped=True)  # beside it in the file: no query's padding shows it
    assert all(bool(torch.isfinite(text.words_NLD).all()) for text in fine.text_chunks(7))


def test_an_epoch_holds_every_pair_once_in_an_order_of_its_generator() -> None:
    table = PairTable(small_store(), make_stream(small_store()).tasks[0].train)
    epochs = [torch.cat(list(table.shuffled(7, torch.Generator().manual_seed(seed)))).tolist() for seed in (0, 0, 1)]
    assert sorted(epochs[0]) == list(range(len(table)))
    assert epochs[0] == epochs[1] != epochs[2]


def test_features_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    content = small_store().path.read_bytes()
    frames = np.array(small_store().feature("videos/frames")[:])
    at = content.find(frames.tobytes())
    broken = bytearray(content)
    broken[at : at + 2] = np.float16(np.nan).tobytes()
    (tmp_path / "nan.h5").write_bytes(bytes(broken))
    store = open_store(tmp_path / "nan.h5")
    with pytest.raises(InputError, match="videos/frames holds NaN or infinity"):
        PairTable(store, np.arange(len(store.caption_video_M)))
