from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from ctvr_bench.features.encoders import load_encoder as load_any_encoder
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.worlds import model, pretrain
from ctvr_bench.features.worlds.encoder import WEIGHTS, MovingShapesEncoder, load_encoder, save_weights, weights_digest


@pytest.fixture(scope="module")
def encoder() -> MovingShapesEncoder:
    return load_encoder()


@pytest.fixture(scope="module")
def held_out() -> pretrain.Pairs:
    return pretrain.make_pairs(seed=12345, pictures=500, captions_each=1, rarity=pretrain.Config.rarity)


def untrained() -> model.DualEncoder:
    torch.manual_seed(0)
    return model.DualEncoder().eval()


def test_it_is_known_by_name() -> None:
    found = load_any_encoder("moving-shapes", "cpu")
    assert (found.dim, found.image_size) == (128, 48)
    assert found.provenance["weights"] == weights_digest()


def test_the_committed_weights_are_small_and_in_half_precision() -> None:
    assert WEIGHTS.stat().st_size < 3_000_000


def test_it_finds_held_out_pictures_far_above_chance(encoder: MovingShapesEncoder, held_out: pretrain.Pairs) -> None:
    trained, chance = pretrain.retrieval(encoder._towers, held_out), pretrain.retrieval(untrained(), held_out)
    assert trained["R@1"] > 30
    assert trained["R@10"] > 70
    assert chance["R@10"] < 8


def test_its_words_find_pictures_too(encoder: MovingShapesEncoder, held_out: pretrain.Pairs) -> None:
    with torch.inference_mode():
        pictures_ND = encoder._towers.pictures(model.normalise_pictures(held_out.pictures))
        _, words_ND = pretrain.encode_text(encoder._towers, held_out.words[:, 0].long())
    sim_NN = words_ND @ functional.normalize(pictures_ND, dim=1).T
    assert ((sim_NN >= sim_NN.diag()[:, None]).sum(1) <= 10).float().mean() > 0.3


def test_captions_give_one_feature_for_each_real_word(encoder: MovingShapesEncoder) -> None:
    texts = ["a red star", "", "the small blue ring moves up", "star " * 60]
    encoded = encoder.encode_captions(texts)
    assert encoded.lengths.tolist() == [3, 0, 6, model.CONTEXT - 1]
    assert encoded.truncated.tolist() == [False, False, False, True]
    assert encoded.pooled.shape == (4, 128)
    assert encoded.words.shape == (9 + model.CONTEXT - 1, 128)
    alone = encoder.encode_captions(texts[2:3])
    assert torch.allclose(alone.words, encoded.words[3:9], atol=1e-5)


def test_features_are_raw(encoder: MovingShapesEncoder) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (4, 48, 48, 3), dtype=np.uint8)
    norms = encoder.encode_frames(encoder.prepare(frames)).norm(dim=1)
    assert not torch.allclose(norms, torch.ones(4), atol=0.05)


def test_pictures_of_other_sizes_are_resized(encoder: MovingShapesEncoder) -> None:
    assert encoder.prepare(np.zeros((2, 96, 64, 3), np.uint8)).shape == (2, 3, 48, 48)


def test_weights_that_cannot_be_read_are_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "cut.safetensors").write_bytes(WEIGHTS.read_bytes()[:1000])
    for name in ("cut.safetensors", "none.safetensors"):
        with pytest.raises(InputError, match=name) as caught:
            load_encoder(path=tmp_path / name)
        assert "\n" not in str(caught.value)


def test_weights_of_another_vocabulary_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctvr_bench.features.worlds.encoder.vocabulary", lambda: ("a", "star"))
    save_weights(untrained(), tmp_path / "other.safetensors", {"seed": 0})
    monkeypatch.undo()
    with pytest.raises(InputError, match="other words"):
        load_encoder(path=tmp_path / "other.safetensors")


def test_saved_weights_are_read_back_to_half_precision(tmp_path: Path) -> None:
    towers = untrained()
    save_weights(towers, tmp_path / "new.safetensors", {"seed": 3})
    read = load_encoder(path=tmp_path / "new.safetensors")
    assert read.provenance["revision"] == "seed 3"
    for name, value in towers.state_dict().items():
        assert torch.allclose(read._towers.state_dict()[name].float(), value.float(), rtol=1e-3, atol=1e-4)


def test_a_few_steps_of_training_lower_the_loss_and_are_repeatable() -> None:
    """R@10 of 64 pictures is 14 untrained, 81 and 97 after 20 steps with the seeds 0 and 1."""
    pairs = pretrain.make_pairs(seed=0, pictures=64, captions_each=2, rarity=0.5)
    config = pretrain.Config(steps=20, batch=32, warm_up=4)
    first, again = (pretrain.train(pairs, replace(config, steps=3), 0) for _ in range(2))
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    trained = pretrain.train(pairs, config, 0)
    assert pretrain.retrieval(trained, pairs)["R@10"] > 3 * pretrain.retrieval(untrained(), pairs)["R@10"]
