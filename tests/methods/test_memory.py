"""Prototype banks against the authors' recorded values; reservoirs against the sampling law they promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from ctvr_bench.methods.shared.memory import PrototypeBank, Reservoir
from tests.golden import golden


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- prototype bank


def recorded_bank() -> tuple[PrototypeBank, dict[str, np.ndarray]]:
    record = golden("prototype_bank")
    bank = PrototypeBank(10, 12)
    bank.update(*(torch.from_numpy(record[name]) for name in ("text_feats", "video_feats", "labels")))
    return bank, record


def test_means_and_radii_are_the_authors() -> None:
    bank, record = recorded_bank()
    category = record["class_label"]
    for modality in ("text", "video"):
        mean, radius = getattr(bank, f"{modality}_mean_CD"), getattr(bank, f"{modality}_radius_C")
        np.testing.assert_allclose(mean[category], record[f"{modality}_proto"], rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(radius[category], record[f"{modality}_radius"], rtol=1e-5)
    assert bank.filled_C.nonzero().flatten().tolist() == category.tolist()


@pytest.mark.parametrize("name", ["seed0_apa", "seed0_apa2"])
def test_pseudo_features_are_the_authors_for_their_draws(name: str) -> None:
    bank, record = recorded_bank()
    random = np.random.RandomState(0)  # the release: shuffle, take the first, noise for video, then for text
    order, categories, noise = list(range(4)), [], []
    for _ in record[f"{name}_label"]:
        random.shuffle(order)
        categories.append(int(record["class_label"][order[0]]))
        noise.append(random.normal(0, 1, (2, 12)))
    assert categories == record[f"{name}_label"].tolist()
    video_noise_PD, text_noise_PD = torch.from_numpy(np.stack(noise, axis=1)).float()
    text_PD, video_PD = bank.from_noise(torch.tensor(categories), text_noise_PD, video_noise_PD)
    np.testing.assert_allclose(text_PD, record[f"{name}_text"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(video_PD, record[f"{name}_video"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_update_equals_loops(dtype: torch.dtype) -> None:
    text, video = torch.randn(2, 30, 5, generator=seeded(), dtype=dtype)
    category = torch.randint(4, (30,), generator=seeded())
    bank = PrototypeBank(6, 5).to(dtype)
    bank.update(text, video, category)
    for c in range(4):
        for feature, mean, radius in (
            (text, bank.text_mean_CD, bank.text_radius_C),
            (video, bank.video_mean_CD, bank.video_radius_C),
        ):
            own = feature[category == c]
            torch.testing.assert_close(mean[c], own.mean(0))
            torch.testing.assert_close(radius[c], (torch.cov(own.T).trace() / 5).sqrt())


def test_update_replaces_the_categories_present_and_no_other() -> None:
    bank = PrototypeBank(3, 2)
    bank.update(torch.ones(2, 2), torch.ones(2, 2), torch.tensor([0, 1]))
    bank.update(torch.full((1, 2), 5.0), torch.full((1, 2), 7.0), torch.tensor([1]))
    assert bank.text_mean_CD.tolist() == [[1, 1], [5, 5], [0, 0]]
    assert bank.video_mean_CD.tolist() == [[1, 1], [7, 7], [0, 0]]
    assert bank.filled_C.tolist() == [True, True, False]


def test_a_category_with_one_sample_has_radius_zero_and_draws_its_mean() -> None:
    bank = PrototypeBank(2, 3)
    bank.update(torch.ones(1, 3), -torch.ones(1, 3), torch.tensor([1]))
    assert bank.text_radius_C.tolist() == [0, 0]
    text_PD, video_PD, category_P = bank.draw(4, seeded())
    assert category_P.tolist() == [1, 1, 1, 1]
    assert torch.equal(text_PD, torch.ones(4, 3))
    assert torch.equal(video_PD, -torch.ones(4, 3))


def test_draws_follow_the_gaussians_of_the_filled_categories() -> None:
    bank = PrototypeBank(5, 3)
    text, video = torch.randn(2, 400, 3, generator=seeded(1)) * torch.tensor([2.0, 0.5]).view(2, 1, 1)
    category = torch.tensor([1, 3]).repeat(200)
    bank.update(text + category.unsqueeze(1), video, category)
    text_PD, video_PD, category_P = bank.draw(20_000, seeded(2))
    assert stats.chisquare(torch.bincount(category_P, minlength=5)[[1, 3]].numpy()).pvalue > 1e-3
    for c in (1, 3):
        own_text, own_video = text_PD[category_P == c], video_PD[category_P == c]
        torch.testing.assert_close(own_text.mean(0), bank.text_mean_CD[c], rtol=0, atol=0.1)
        torch.testing.assert_close(own_text.std(0), bank.text_radius_C[c].expand(3), rtol=0.05, atol=0)
        torch.testing.assert_close(own_video.std(0), bank.video_radius_C[c].expand(3), rtol=0.05, atol=0)
        assert torch.corrcoef(torch.cat([own_text.T, own_video.T])).triu(1).abs().max() < 0.05  # noise is independent


def test_equal_seeds_draw_equal_bits() -> None:
    bank, _ = recorded_bank()
    for first, second in zip(bank.draw(5, seeded(3)), bank.draw(5, seeded(3)), strict=True):
        assert torch.equal(first, second)


def test_drawing_from_an_empty_bank_is_refused() -> None:
    with pytest.raises(ValueError, match="call update first"):
        PrototypeBank(2, 2).draw(1, seeded())


# --- reservoir


def numbered(start: int, stop: int, words: int = 2) -> dict[str, Tensor]:
    """Items whose tensors all carry their number in the stream, from 1 so that padding is visible."""
    number = torch.arange(start + 1, stop + 1)
    mask = torch.ones(len(number), words, dtype=torch.bool)
    return {"number": number, "words": number.view(-1, 1, 1).repeat(1, words, 3).float(), "mask": mask}


def test_everything_is_kept_in_order_until_the_capacity_is_reached() -> None:
    reservoir = Reservoir(10)
    for start, stop in ((0, 3), (3, 3), (3, 8)):
        reservoir.add(numbered(start, stop), seeded())
    assert len(reservoir) == 8
    assert reservoir.item_number.tolist() == list(range(1, 9))


def test_every_item_of_the_stream_is_kept_equally_often() -> None:
    capacity, stream, trials, generator = 8, 40, 1500, seeded()
    kept = np.zeros(stream)
    for _ in range(trials):
        reservoir = Reservoir(capacity)
        for start, stop in ((0, 5), (5, 12), (12, 40)):  # below, across and beyond the capacity
            reservoir.add({"number": torch.arange(start, stop)}, generator)
        assert len(reservoir.item_number.unique()) == capacity
        kept[reservoir.item_number.numpy()] += 1
    p = capacity / stream
    # Counts of a fixed-size sample are negatively correlated, which takes the factor (n-1)/n off Pearson's statistic.
    statistic = ((kept - trials * p) ** 2).sum() / (trials * p * (1 - p)) * (stream - 1) / stream
    assert 1e-3 < stats.chi2.sf(statistic, stream - 1) < 1 - 1e-3


def test_the_tensors_of_an_item_stay_together() -> None:
    reservoir = Reservoir(4)
    for start in range(0, 60, 20):
        reservoir.add(numbered(start, start + 20), seeded(start))
    assert torch.equal(reservoir.item_words, reservoir.item_number.view(-1, 1, 1).expand(4, 2, 3).float())


def test_batch_sizes_do_not_matter() -> None:
    whole, pieces, one, other = Reservoir(5), Reservoir(5), seeded(1), seeded(1)
    whole.add(numbered(0, 50), one)
    for start in range(50):
        pieces.add(numbered(start, start + 1), other)
    assert torch.equal(whole.item_number, pieces.item_number)


@pytest.mark.parametrize(("first", "second"), [(2, 4), (4, 2)])
def test_shorter_captions_are_padded_with_zeros(first: int, second: int) -> None:
    reservoir = Reservoir(10)
    reservoir.add(numbered(0, 3, words=first), seeded())
    reservoir.add(numbered(3, 6, words=second), seeded())
    assert reservoir.item_words.shape == (6, 4, 3)
    assert reservoir.item_mask.dtype == torch.bool
    assert reservoir.item_mask.sum(1).tolist() == [first] * 3 + [second] * 3
    assert torch.equal(reservoir.item_words.ne(0).all(2), reservoir.item_mask)


def test_draws_are_distinct_until_more_are_asked_for_than_kept() -> None:
    reservoir = Reservoir(10)
    reservoir.add(numbered(0, 6), seeded())
    assert sorted(reservoir.draw(6, seeded())["number"].tolist()) == [1, 2, 3, 4, 5, 6]
    more = reservoir.draw(50, seeded())
    assert set(more["number"].tolist()) == {1, 2, 3, 4, 5, 6}
    assert torch.equal(more["words"][:, 0, 0].long(), more["number"])


def test_stored_bytes_count_every_kept_tensor() -> None:
    reservoir = Reservoir(4)
    assert reservoir.stored_bytes() == 0
    reservoir.add(numbered(0, 9), seeded())
    assert reservoir.stored_bytes() == 4 * (8 + 2 * 3 * 4 + 2)


def test_a_state_restored_by_buffer_name_continues_the_same_stream() -> None:
    original, restored = Reservoir(4), Reservoir(4)
    original.add(numbered(0, 9, words=3), seeded())
    state = {name: value.clone() for name, value in original.state_dict().items()}
    for name, value in state.items():
        restored.register_buffer(name, value)
    for reservoir in (original, restored):
        reservoir.add(numbered(9, 30), seeded(5))
    assert (
        original.state_dict().keys() == restored.state_dict().keys() == {"seen", *(f"item_{k}" for k in numbered(0, 1))}
    )
    for name, value in original.state_dict().items():
        assert torch.equal(value, restored.state_dict()[name])


def test_an_earlier_state_is_not_changed_by_later_items() -> None:
    reservoir = Reservoir(4)
    reservoir.add(numbered(0, 4), seeded())
    state = reservoir.state_dict()
    reservoir.add(numbered(4, 40), seeded())
    assert state["seen"].item() == 4
    assert state["item_number"].tolist() == [1, 2, 3, 4]


def test_kept_tensors_carry_no_gradient() -> None:
    reservoir = Reservoir(4)
    reservoir.add({"text": torch.ones(2, 3, requires_grad=True) * 2}, seeded())
    assert not reservoir.item_text.requires_grad


def test_wrong_use_of_a_reservoir_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 item, got capacity 0"):
        Reservoir(0)
    reservoir = Reservoir(4)
    with pytest.raises(ValueError, match="call add first"):
        reservoir.draw(1, seeded())
    with pytest.raises(ValueError, match="have one length, got"):
        reservoir.add({"a": torch.zeros(2), "b": torch.zeros(3)}, seeded())
    reservoir.add({"a": torch.zeros(2)}, seeded())
    with pytest.raises(ValueError, match=r"holds \['a'\], got \['b'\]"):
        reservoir.add({"b": torch.zeros(2)}, seeded())
