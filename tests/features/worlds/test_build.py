from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from ctvr_bench.features.errors import InputError
from ctvr_bench.features.schema import TEST
from ctvr_bench.features.store import FeatureStore, open_store
from ctvr_bench.features.verification import verify_store
from ctvr_bench.features.worlds import build, model, render
from ctvr_bench.features.worlds.encoder import MovingShapesEncoder, load_encoder
from ctvr_bench.features.worlds.scene import CATEGORIES
from ctvr_bench.features.worlds.truth import fitting_videos
from ctvr_bench.features.worlds.world import Knobs, make_world

pytestmark = pytest.mark.set_up_once
TINY = Knobs(train=1, validation=1, test=2, captions=2)


@pytest.fixture(scope="module", autouse=True)
def few_references() -> Iterator[None]:
    """Fifty pictures in the reference bank, which otherwise are half of what is encoded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "_REFERENCES", 50)
        yield


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build.build_world(tmp_path_factory.mktemp("world") / "tiny.h5", 5, knobs=TINY)


@pytest.fixture(scope="module")
def store(path: Path) -> FeatureStore:
    return open_store(path)


def recall_at_5(store: FeatureStore) -> float:
    """Of test captions among test videos, mean frame against pooled caption."""
    stream = store.stream()
    tested = np.flatnonzero(stream.role_of_video_N == TEST)
    video = store.feature("videos/frames")[tested].astype(np.float32).mean(axis=1)
    text = store.feature("captions/pooled")[stream.query_of_video_N[tested]].astype(np.float32)
    video, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (video, text))
    sim = text @ video.T
    return float(((sim >= sim.diagonal()[:, None]).sum(axis=1) <= 5).mean())


def test_a_built_store_is_sound(path: Path, store: FeatureStore) -> None:
    assert [finding for finding in verify_store(path) if finding.severity == "error"] == []
    assert not store.simulated
    assert len(store.video_ids) == len(CATEGORIES) * 4
    assert store.feature("videos/frames").shape == (80, build.FRAMES_KEPT, model.DIM)
    assert (store.feature("videos/frame_count") == build.FRAMES_KEPT).all()
    assert store.provenance["encoder"]["family"] == "moving-shapes"


def test_the_same_seed_gives_the_same_bytes(path: Path, store: FeatureStore, tmp_path: Path) -> None:
    again = build.build_world(tmp_path / "again.h5", 5, knobs=TINY)
    assert open_store(again).digest == store.digest
    assert again.read_bytes() == path.read_bytes()


def test_its_features_find_videos_above_chance_and_above_an_untrained_encoder(
    store: FeatureStore, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    untrained = MovingShapesEncoder(model.DualEncoder(), load_encoder().provenance)
    blind = open_store(build.build_world(tmp_path / "blind.h5", 5, knobs=TINY, encoder=untrained))
    chance = 5 / 40
    assert recall_at_5(store) > 3 * chance
    assert recall_at_5(store) > 2 * recall_at_5(blind)


def test_words_are_as_many_as_the_caption_has(store: FeatureStore) -> None:
    lengths = np.diff(store.feature("captions/word_offsets"))
    assert lengths.tolist() == [len(caption.split()) for caption in store.captions]


def test_the_ceiling_lists_the_videos_that_each_query_fits(store: FeatureStore) -> None:
    world = make_world(5, TINY)
    offsets, rows = store.feature("captions/fit_offsets"), store.feature("captions/fit_videos")
    fits = fitting_videos(world.captions, world.scenes)
    queries = {*world.query_N.tolist(), *world.further_NK.ravel().tolist()}
    for caption in range(len(store.captions)):
        listed = rows[offsets[caption] : offsets[caption + 1]].tolist()
        assert listed == (np.flatnonzero(fits[caption]).tolist() if caption in queries else [])


def test_strips_show_the_video(store: FeatureStore) -> None:
    strips = store.feature("videos/strip")
    assert strips.shape == (80, render.SIZE, 4 * render.SIZE, 3)
    first, last = strips[:, :, : render.SIZE], strips[:, :, -render.SIZE :]
    moving = np.abs(first.astype(int) - last).mean(axis=(1, 2, 3))
    assert (moving > 1).all()


def test_the_default_store_is_built_once_and_kept(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []

    def fake_build(out: Path, seed: int, **_: object) -> None:
        built.append(seed)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(path.read_bytes())

    monkeypatch.setenv("CTVR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(build, "build_world", fake_build)
    first, again, other = (build.default_store_path(seed) for seed in (0, 0, 1))
    assert first == again != other
    assert built == [0, 1]
    monkeypatch.setattr(build, "VERSION", build.VERSION + 1)
    assert build.default_store_path(0) != first


def test_a_negative_seed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="seed"):
        build.build_world(tmp_path / "none.h5", -1)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_beside_the_store(path: Path) -> None:
    assert [item.name for item in path.parent.iterdir()] == [path.name]
