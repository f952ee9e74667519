"""What a method may keep of earlier tasks: Gaussian prototypes per category, centroids, or a bounded sample of pairs;
and the bank of features that belong to no task.

Axes: C categories, N samples, P pseudo-features, K centroids, R reference features, D features. All state lives in
registered buffers.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from ctvr_bench.features.errors import InputError
from ctvr_bench.features.sent import sent
from ctvr_bench.features.streams import PairBatch, TextBatch, VideoBatch
from ctvr_bench.methods.shared.base import ReferenceBank

_PAIR_FIELDS = ("pooled_ND", "words_NLD", "word_mask_NL", "frames_MFD", "frame_mask_MF", "category_N", "video_N")


class PrototypeBank(nn.Module):
    """An isotropic Gaussian per category and modality: mean, radius, and pseudo-features drawn from them.

    mu_c = mean of the category's features, not re-normalised;  r_c = sqrt(trace(Cov_c) / D), unbiased covariance
    z = mu_c + r_c eps,  eps ~ N(0, I)                                    StructAlign 2026, CTVR_AND_STRUCTALIGN 2.7
    Buffers have their final shapes from the start: two means [C, D], two radii [C], `filled_C` bool.
    """

    text_mean_CD: Tensor
    video_mean_CD: Tensor
    text_radius_C: Tensor
    video_radius_C: Tensor
    filled_C: Tensor

    def __init__(self, num_categories: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("text_mean_CD", torch.zeros(num_categories, dim))
        self.register_buffer("video_mean_CD", torch.zeros(num_categories, dim))
        self.register_buffer("text_radius_C", torch.zeros(num_categories))
        self.register_buffer("video_radius_C", torch.zeros(num_categories))
        self.register_buffer("filled_C", torch.zeros(num_categories, dtype=torch.bool))
        self._known: tuple[Tensor, int, Tensor] | None = None  # `filled_C`, its version and what it said then

    @torch.no_grad()
    def update(self, text_ND: Tensor, video_ND: Tensor, category_N: Tensor) -> None:
        """Set the entries of the categories in `category_N` from these features; the other entries stay.

        Row i of text and video belongs to category_N[i] (int64, 0..C-1). A category with a single sample has radius 0.
        """
        dtype = self.text_mean_CD.dtype
        member_CN = functional.one_hot(category_N, len(self.filled_C)).T.to(dtype)  # sums as GEMMs: the same on a GPU
        count_C1 = member_CN.sum(1, keepdim=True)
        present_C = count_C1.squeeze(1) > 0
        for feature_ND, mean_CD, radius_C in (
            (text_ND.to(dtype), self.text_mean_CD, self.text_radius_C),
            (video_ND.to(dtype), self.video_mean_CD, self.video_radius_C),
        ):
            new_mean_CD = member_CN @ feature_ND / count_C1.clamp(min=1)
            squares_ND = (feature_ND - new_mean_CD[category_N]).square()
            variance_CD = member_CN @ squares_ND / (count_C1 - 1).clamp(min=1)
            mean_CD.copy_(torch.where(present_C.unsqueeze(1), new_mean_CD, mean_CD))
            radius_C.copy_(torch.where(present_C, variance_CD.mean(1).sqrt(), radius_C))
        self.filled_C.logical_or_(present_C)

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Pseudo-features text [P, D] and video [P, D] and their categories [P] int64, P = count.

        Categories are uniform over the filled ones, with replacement; noise is independent between the modalities.
        Raises ValueError while no category is filled.
        """
        filled = self._filled()
        if len(filled) == 0:
            raise ValueError(
                "a prototype bank must hold a category before it is drawn from, got none; call update first."
            )
        index_P = torch.randint(len(filled), (count,), generator=generator, device=generator.device)
        category_P = filled[sent(index_P, filled.device)]
        shape_PD = (count, self.text_mean_CD.shape[1])
        text_noise_PD = torch.randn(shape_PD, generator=generator, device=generator.device)
        video_noise_PD = torch.randn(shape_PD, generator=generator, device=generator.device)
        text_noise_PD = sent(text_noise_PD, filled.device).to(self.text_mean_CD)
        video_noise_PD = sent(video_noise_PD, filled.device).to(self.video_mean_CD)
        text_PD, video_PD = self.from_noise(category_P, text_noise_PD, video_noise_PD)
        return text_PD, video_PD, category_P

    def _filled(self) -> Tensor:
        """The categories that are filled; a GPU is waited for only where they changed since it was last asked."""
        flags_C = self.filled_C
        if self._known is None or self._known[0] is not flags_C or self._known[1] != flags_C._version:
            self._known = flags_C, flags_C._version, flags_C.nonzero().squeeze(1)
        return self._known[2]

    def from_noise(self, category_P: Tensor, text_noise_PD: Tensor, video_noise_PD: Tensor) -> tuple[Tensor, Tensor]:
        """The pseudo-features text [P, D] and video [P, D] that this standard normal noise makes; pure."""
        text_PD = self.text_mean_CD[category_P] + self.text_radius_C[category_P].unsqueeze(1) * text_noise_PD
        video_PD = self.video_mean_CD[category_P] + self.video_radius_C[category_P].unsqueeze(1) * video_noise_PD
        return text_PD, video_PD


class Reservoir(nn.Module):
    """A uniform random sample, of at most `capacity` items, of everything ever added.

    Algorithm R (Vitter 1985): item s of the stream (from 0) fills slot s while s < capacity; later it draws a slot j
    uniformly from 0..s and takes slot j if j < capacity. Every item seen is kept with probability capacity / seen.
    An item is a row of several named tensors, held in buffers `item_<name>` [kept, ...] beside the count `seen`.
    Buffers appear and grow, also along the second axis (words), so a state is restored by registering each of its
    tensors as the buffer of that name.
    Raises ValueError for a capacity below 1.
    """

    seen: Tensor

    def __init__(self, capacity: int) -> None:
        super().__init__()
        if capacity < 1:
            raise ValueError(f"a reservoir must hold at least 1 item, got capacity {capacity}; drop it instead.")
        self.capacity = capacity
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self._counted: tuple[Tensor, int, int] | None = None  # `seen`, its version and what it said then

    def __len__(self) -> int:
        return next((len(value) for value in self._items().values()), 0)  # known without waiting for a GPU

    @torch.no_grad()
    def add(self, items: dict[str, Tensor], generator: torch.Generator) -> None:
        """Offer the rows of `items` to the sample, in order.

        All tensors share their first axis. Where second axes differ from the stored ones (longer captions, say), the
        shorter side is padded with zeros. The generator advances by one number per row.
        Raises ValueError when lengths differ or the names are not those already stored.
        """
        lengths = {name: len(value) for name, value in items.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(
                f"the tensors of a reservoir's items must have one length, got {lengths}; align them first."
            )
        stored = self._items()
        if stored and stored.keys() != items.keys():
            raise ValueError(
                f"this reservoir holds {sorted(stored)}, got {sorted(items)}; add the same tensors each time."
            )
        kept, seen, added = len(self), self._seen(), next(iter(lengths.values()))
        position = torch.arange(seen, seen + added)
        uniform = torch.rand(added, generator=generator, device=generator.device, dtype=torch.float64).cpu()
        slot = torch.where(position < self.capacity, position, (uniform * (position + 1)).long())
        self.seen = self.seen + added  # not in place: a state_dict taken earlier keeps its count
        self._counted = self.seen, self.seen._version, seen + added
        source = list(range(kept)) + [-1] * (
            min(seen + added, self.capacity) - kept
        )  # row of [stored; added] that each slot will hold
        for row, target in enumerate(slot.tolist()):
            if target < self.capacity:
                source[target] = kept + row
        source_K = sent(torch.tensor(source, dtype=torch.int64), next(iter(items.values())).device)
        for name, value in items.items():
            rows = _joined(stored[name], value) if stored else value
            self.register_buffer(f"item_{name}", rows[source_K])

    def draw(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """`count` random items, [count, ...] per name: distinct ones if there are enough, else with replacement.

        Raises ValueError while the reservoir is empty.
        """
        if len(self) == 0:
            raise ValueError("a reservoir must hold an item before it is drawn from, got none; call add first.")
        if count > len(self):
            index = torch.randint(len(self), (count,), generator=generator, device=generator.device)
        else:
            index = torch.randperm(len(self), generator=generator, device=generator.device)[:count]
        stored = self._items()
        index = sent(index, next(iter(stored.values())).device)
        return {name: value[index] for name, value in stored.items()}

    def _seen(self) -> int:
        """How many items were offered; a GPU is waited for only where the count did not come from here."""
        if self._counted is None or self._counted[0] is not self.seen or self._counted[1] != self.seen._version:
            self._counted = self.seen, self.seen._version, int(self.seen)
        return self._counted[2]

    def stored_bytes(self) -> int:
        """Bytes of the kept items, padding included."""
        return sum(value.nbytes for value in self._items().values())

    def _items(self) -> dict[str, Tensor]:
        return {name.removeprefix("item_"): value for name, value in self.named_buffers() if name.startswith("item_")}


def pair_items(batch: PairBatch) -> dict[str, Tensor]:
    """A batch's pairs as the rows a `Reservoir` keeps."""
    return dict(zip(_PAIR_FIELDS, (*batch.text, *batch.video, batch.category_N, batch.video_N), strict=True))


def batch_of(items: Mapping[str, Tensor], device: torch.device) -> PairBatch:
    """The pairs of `pair_items`, as drawn from a reservoir; other items are left out."""
    values = [items[name].to(device) for name in _PAIR_FIELDS]
    return PairBatch(TextBatch(*values[:3]), VideoBatch(*values[3:5]), values[5], values[6])


class ReferenceSample(nn.Module):
    """The store's bank of features that belong to no task, drawn from in random samples.

    Raises InputError without a bank.
    """

    captions_RD: Tensor
    frames_RD: Tensor

    def __init__(self, bank: ReferenceBank | None, method: str) -> None:
        super().__init__()
        if bank is None:
            raise InputError(f"{method} learns with a bank of reference features and got none; use a store with one")
        self.register_buffer("captions_RD", bank.captions_RD.clone())
        self.register_buffer("frames_RD", bank.frames_SD.clone())

    def captions(self, count: int, generator: torch.Generator) -> Tensor:
        """`count` random captions [count, D], distinct if the bank has as many."""
        return _random_rows(self.captions_RD, count, generator)

    def frames(self, count: int, generator: torch.Generator) -> Tensor:
        """`count` random frames [count, D], distinct if the bank has as many."""
        return _random_rows(self.frames_RD, count, generator)


def captions_alone(pooled_ND: Tensor, word_ND: Tensor | None = None) -> TextBatch:
    """Captions of which only the pooled feature is known, or that and one word: one word each, masked if unknown."""
    known = word_ND is not None
    mask_NL = torch.full((len(pooled_ND), 1), known, dtype=torch.bool, device=pooled_ND.device)
    return TextBatch(pooled_ND, (torch.zeros_like(pooled_ND) if word_ND is None else word_ND)[:, None], mask_NL)


def frames_alone(frames_MD: Tensor) -> VideoBatch:
    """Videos of one frame each."""
    return VideoBatch(frames_MD[:, None], torch.ones(len(frames_MD), 1, dtype=torch.bool, device=frames_MD.device))


def category_means(x_ND: Tensor, category_N: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """mean_CD of the rows of each of `count` categories, zero for one without rows; present_C, whether it has any.

    x may have any shape [N, ...]. Sums are matrix products: the same on a GPU, and safe under `torch.func.vmap`.
    """
    member_CN = (torch.arange(count, device=category_N.device)[:, None] == category_N).to(x_ND)
    size_C = member_CN.sum(1)
    mean_CK = member_CN @ x_ND.flatten(1) / size_C.clamp(min=1)[:, None]
    return mean_CK.view(count, *x_ND.shape[1:]), size_C > 0


def k_means(x_ND: Tensor, count: int, generator: torch.Generator, rounds: int = 20) -> Tensor:
    """Centroids [count, D] by Lloyd's algorithm from random distinct rows; a row twice where there are fewer rows.

    An emptied cluster keeps its centroid.
    """
    index_K = torch.randperm(len(x_ND), generator=generator)[:count]
    index_K = index_K[torch.arange(count) % len(index_K)]
    centroid_KD = x_ND[index_K.to(x_ND.device)]
    for _ in range(rounds):
        member_KN = functional.one_hot(torch.cdist(x_ND, centroid_KD).argmin(1), count).T.to(x_ND)
        size_K1 = member_KN.sum(1, keepdim=True)
        centroid_KD = torch.where(size_K1 > 0, member_KN @ x_ND / size_K1.clamp(min=1), centroid_KD)
    return centroid_KD


def _random_rows(rows_RD: Tensor, count: int, generator: torch.Generator) -> Tensor:
    if count > len(rows_RD):
        index_N = torch.randint(len(rows_RD), (count,), generator=generator)
    else:
        index_N = torch.randperm(len(rows_RD), generator=generator)[:count]
    return rows_RD[sent(index_N, rows_RD.device)]


def _joined(first: Tensor, second: Tensor) -> Tensor:
    """Both row-wise, the one with the shorter second axis padded with zeros."""
    if first.dim() < 2:
        return torch.cat([first, second])
    width = max(first.shape[1], second.shape[1])
    return torch.cat([_widen(first, width), _widen(second, width)])


def _widen(value: Tensor, width: int) -> Tensor:
    missing = value.new_zeros(value.shape[0], width - value.shape[1], *value.shape[2:])
    return torch.cat([value, missing], dim=1)
