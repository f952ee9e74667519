"""Searching a run for words: the run's own ranking, encoded words where that is possible, a caption where it is not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import ctvr_bench
from ctvr_bench.bench.api.searching import search
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.schema import TEST, TRAIN
from ctvr_bench.features.store import FeatureStore, StoredStream, create_store, open_store
from ctvr_bench.features.structure import Structure
from ctvr_bench.features.worlds.encoder import load_encoder
from tests.bench.api.conftest import TOP
from tests.commands import called
from tests.stores import small_store

TEXTS = (
    "a red circle moves to the left",
    "the blue star spins clockwise",
    "a green square shakes",
    "a pink ring fades out",
)


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """Two tasks of one category whose captions the embedded encoder made, and whose videos look like their captions."""
    encoder, path = load_encoder(), tmp_path_factory.mktemp("encoded") / "store.h5"
    captions = [text for text in TEXTS for _ in range(2)]
    made = encoder.encode_captions(captions)
    stream = StoredStream(
        "two",
        np.array([0, 1], np.int32),
        np.tile(np.array([TRAIN, TEST], np.int8), 4),
        np.where(np.arange(8) % 2, np.arange(8), -1),
    )
    structure = Structure(
        video_ids=[f"v{row}" for row in range(8)],
        category_N=np.repeat(np.arange(2, dtype=np.int32), 4),
        category_names=["one", "other"],
        captions=captions,
        caption_video_M=np.arange(8),
        streams=[stream],
    )
    with create_store(path, name="encoded", encoder=encoder.provenance, sampling={}) as writer:
        structure.write(writer)
        writer["videos/frames"] = made.pooled.numpy()[:, None].astype(np.float16)
        writer["videos/frame_count"] = np.ones(8, np.int32)
        writer["captions/pooled"] = made.pooled.numpy().astype(np.float16)
        writer["captions/words"] = made.words.numpy().astype(np.float16)
        writer["captions/word_offsets"] = np.concatenate([[0], np.cumsum(made.lengths.numpy())])
    return open_store(path)


def test_a_caption_of_the_store_finds_what_its_run_found(kept_runs: Path) -> None:
    found, store = ctvr_bench.load(kept_runs), small_store()
    top = found.top()
    for label in ("finetune [epochs=1]", "structalign [epochs=1]", "zero_shot [scoring=fused]"):
        for task in (2, 3):
            kept = top[(top["label"] == label) & (top["stage"] == task)]
            caption = int(kept["caption"].iloc[5 * TOP])
            mine = kept[kept["caption"] == caption]
            shown = search(kept_runs, store.captions[caption], label=label, task=task, count=TOP)
            assert shown.query == store.captions[caption]
            assert "its captions is asked instead (" in shown.note
            assert [item.video for item in shown.items] == [store.video_ids[row] for row in mine["video"]]
            np.testing.assert_allclose([item.score for item in shown.items], mine["score"], rtol=1e-5)
            for item in shown.items:
                row = store.video_ids.index(item.video)
                assert item.category == store.category_names[store.category_N[row]]
                assert item.asked_for == (row == store.caption_video_M[caption])


def test_words_are_encoded_where_the_encoder_is_embedded(encoded: FeatureStore, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="4 test videos have the frames of a training video"):  # as this store's have
        place = ctvr_bench.run("zero_shot", encoded, seeds=1, out=tmp_path).path
    for row, text in enumerate(TEXTS):
        found = search(place, text.upper() + "!")
        assert (found.query, found.note) == (text.upper() + "!", "")
        assert found.items[0].video == f"v{2 * row + 1}", "not trained, so nothing had to be kept"
        assert found.items[0].score == pytest.approx(1, abs=1e-3)
        assert found.items[0].task == 1 + row // 2
    naive_ND = torch.nn.functional.normalize(load_encoder().encode_captions(["a zebra shakes", *TEXTS]).pooled)
    found = search(place, "a zebra shakes")
    assert found.note == "words that its encoder does not know: zebra"
    scores = {item.video: item.score for item in found.items}
    assert [scores[f"v{2 * row + 1}"] for row in range(4)] == pytest.approx(
        (naive_ND[1:] @ naive_ND[0]).tolist(), abs=2e-3
    )
    with pytest.raises(InputError, match=r"knows no word of 'zebra crossings'; it knows shapes.* as in 'a red circle"):
        search(place, "zebra crossings")


def test_what_cannot_be_asked_is_said_in_one_line(kept_runs: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no caption that could be asked instead has a word of 'qwertz'"):
        search(kept_runs, "qwertz")
    with pytest.raises(InputError, match="a search needs words"):
        search(kept_runs, " ! ")
    with pytest.raises(InputError, match="unknown row 'lwf'"):
        search(kept_runs, "x", label="lwf")
    with pytest.raises(InputError, match="a search shows 1 item or more"):
        search(kept_runs, "x", count=0)
    plain = ctvr_bench.run("finetune", small_store(), seeds=1, out=tmp_path, set={"finetune": {"epochs": 1}}).path
    with pytest.raises(InputError, match="no run kept weights; repeat its 'run' command with --keep weights"):
        search(plain, "x")
    with pytest.raises(InputError, match=r"elsewhere\.h5: is not there; say where the store simulated small"):
        search(kept_runs, "x", store=tmp_path / "elsewhere.h5")


def test_the_command_shows_place_score_task_and_category(kept_runs: Path) -> None:
    (folder,) = kept_runs.glob("finetune-*")
    words = small_store().captions[0]
    line = ["search", folder, words, "--count", 3]
    shown, told = called(*line), json.loads(called(*line, "--json").stdout)
    assert shown.returncode == 0, shown.stderr
    assert shown.stderr.startswith("note: the encoder of this store is not part of this suite")
    assert told["of"].startswith("finetune [epochs=1] (order 0, seed 0), after task 3 of 3, 30 videos")
    assert len(told["items"]) == 3
    rows = [line for line in shown.stdout.splitlines() if "│" in line]
    for row, item in zip(rows, told["items"], strict=True):
        for cell in (str(item["place"]), f"{item['score']:.3f}", str(item["task"]), item["category"], item["video"]):
            assert cell in row
