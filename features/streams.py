"""Task streams over a feature store: which videos and captions each task has, and batches of their features.

Axes: N captions of a batch, M videos, L words, F frames, D feature dimensions.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ctvr_bench.features.errors import InputError
from ctvr_bench.features.schema import LIMITS, TEST, TRAIN, VALIDATION
from ctvr_bench.features.sent import sent
from ctvr_bench.features.store import FeatureStore, StoredStream

Ints = npt.NDArray[np.int64]
_CHUNK = 256
_CHECKED = 1024  # rows that are looked through at once


class TextBatch(NamedTuple):
    """Raw caption features: pooled_ND, words_NLD (zero where masked) float32; word_mask_NL bool, True for a word."""

    pooled_ND: Tensor
    words_NLD: Tensor
    word_mask_NL: Tensor


class VideoBatch(NamedTuple):
    """Raw frame features: frames_MFD float32 (zero where masked); frame_mask_MF bool, True where a frame is."""

    frames_MFD: Tensor
    frame_mask_MF: Tensor


@dataclass(frozen=True)
class PairBatch:
    """N captions with their N videos (a video may stand there twice): what a method's loss sees of one step.

    category_N int64: category row. video_N int64: video row, equal where two captions describe the same video.
    rows: what the method's `view` made once for these captions [N, ...], videos [N, ...] or both [N, N], by name.
    draws: what `prepare` drew for this step, such as noise and dropout masks, so that the loss stays pure.
    replayed: other batches that `prepare` put beside this one, such as stored pairs, each with its own rows and draws.
    """

    text: TextBatch
    video: VideoBatch
    category_N: Tensor
    video_N: Tensor
    rows: Mapping[str, Tensor] = field(default_factory=dict)
    draws: Mapping[str, Tensor] = field(default_factory=dict)
    replayed: Mapping[str, PairBatch] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.category_N)

    def with_rows(self, **rows: Tensor) -> PairBatch:
        """With these rows added."""
        return replace(self, rows={**self.rows, **rows})

    def with_draws(self, **draws: Tensor) -> PairBatch:
        """With these draws added, on the batch's device; one number alone stays on the host, which reads it."""
        there = {name: sent(x, self.category_N.device) if x.ndim else x for name, x in draws.items()}
        return replace(self, draws={**self.draws, **there})

    def with_replayed(self, **batches: PairBatch) -> PairBatch:
        """With these batches beside it."""
        return replace(self, replayed={**self.replayed, **batches})


class Rows(NamedTuple):
    """What a table's pairs have by name: of each caption [P, ...], of each video [V, ...], of each of both [P, V]."""

    caption: Mapping[str, Tensor] = {}
    video: Mapping[str, Tensor] = {}
    pair: Mapping[str, Tensor] = {}


class PairTable:
    """Caption-video pairs whose features are resident on one device, gathered by index as float32.

    caption_rows: rows of the store's captions; pair i is caption_rows[i] with the video it describes.
    rows: what `with_rows` added. Frames and words are held as the store has them, float16 or float32: what is gathered
    is made wide, which changes no number. mapped: on the CPU words are read from the store's file whenever they are
    gathered, for pairs that nobody writes into. Raises InputError where a feature is not finite.
    """

    rows = Rows()

    def __init__(
        self, store: FeatureStore, caption_rows: Ints, device: torch.device | str = "cpu", *, mapped: bool = False
    ) -> None:
        video_of_pair = store.caption_video_M[caption_rows]
        videos, position = np.unique(video_of_pair, return_inverse=True)
        frames = store.feature("videos/frames")
        frame_mask = np.arange(frames.shape[1]) < store.feature("videos/frame_count")[videos, None]

        self.device = torch.device(device)
        self._mapped = mapped and self.device.type == "cpu"
        self.frames_VFD = self._load(store, "videos/frames", videos)
        self.frame_mask_VF = torch.from_numpy(frame_mask).to(self.device)
        self.frames_VFD *= self.frame_mask_VF[..., None]
        self._load_captions(store, caption_rows)
        self.video_position_P = torch.from_numpy(position.reshape(-1)).to(self.device)
        self.video_P = torch.from_numpy(video_of_pair.astype(np.int64)).to(self.device)
        self.category_P = torch.from_numpy(store.category_N[video_of_pair].astype(np.int64)).to(self.device)

    def __len__(self) -> int:
        return len(self.lengths_P)

    def _load_captions(self, store: FeatureStore, caption_rows: Ints) -> None:
        offsets = store.feature("captions/word_offsets")
        lengths = (offsets[1:] - offsets[:-1])[caption_rows]
        spans = [np.arange(offsets[row], offsets[row + 1]) for row in caption_rows]
        word_rows = np.concatenate(spans) if spans else np.zeros(0, np.int64)
        self.pooled_PD = _wide(self._load(store, "captions/pooled", caption_rows))
        self.lengths_P = torch.from_numpy(lengths)  # stays on the host: the width of a batch is known without a wait
        if self._mapped:
            words = store.feature("captions/words")
            for first in range(0, len(word_rows), _CHECKED):
                self._check_finite(
                    torch.from_numpy(words[word_rows[first : first + _CHECKED]]), store, "captions/words"
                )
            self.words_TD, first_word_P = _shared(words), offsets[:-1][caption_rows]
        else:
            self.words_TD, first_word_P = self._load(store, "captions/words", word_rows), np.cumsum(lengths) - lengths
        self.first_word_P = torch.from_numpy(first_word_P).to(self.device)

    def _load(self, store: FeatureStore, dataset: str, rows: Ints) -> Tensor:
        values = torch.from_numpy(store.feature(dataset)[rows]).to(self.device)
        self._check_finite(values, store, dataset)
        return values

    @staticmethod
    def _check_finite(values: Tensor, store: FeatureStore, dataset: str) -> None:
        ends = [torch.aminmax(_wide(part)) for part in values.split(_CHECKED) if part.numel()]  # NaN if there is one
        if not all(bool(torch.isfinite(end)) for pair in ends for end in pair):
            raise InputError(f"{store.path}: {dataset} holds NaN or infinity; see 'features verify' and extract again")

    def text(self, index_N: Tensor) -> TextBatch:
        """Captions of the pairs `index_N` (int64, on the host)."""
        return self._text(index_N, sent(index_N, self.device))

    def _text(self, index_N: Tensor, index: Tensor) -> TextBatch:
        length_N = self.lengths_P[index_N]
        width = max(int(length_N.max()), 1) if len(index_N) else 1
        mask_NL = torch.arange(width, device=self.device) < sent(length_N, self.device)[:, None]
        if len(self.words_TD):
            rows_NL = self.first_word_P[index][:, None] + torch.arange(width, device=self.device)
            words_NLD = _wide(_taken(self.words_TD, rows_NL.clamp(max=len(self.words_TD) - 1)))
            words_NLD = words_NLD.masked_fill_(~mask_NL[..., None], 0)  # of a mapped store these may be anything
        else:
            words_NLD = self.pooled_PD.new_zeros(len(index), width, self.pooled_PD.shape[1])
        return TextBatch(_taken(self.pooled_PD, index), words_NLD, mask_NL)

    def video(self, index_N: Tensor) -> VideoBatch:
        """Videos of the pairs `index_N` (int64, on the host)."""
        return self._video(self.positions(index_N)[1])

    def _video(self, position: Tensor) -> VideoBatch:
        return VideoBatch(_wide(_taken(self.frames_VFD, position)), self.frame_mask_VF[position])

    def all_videos(self) -> VideoBatch:
        """Every distinct video once, in the order of `positions`."""
        return VideoBatch(_wide(self.frames_VFD), self.frame_mask_VF)

    def video_chunks(self, size: int) -> Iterator[VideoBatch]:
        """`all_videos`, at most `size` at a time."""
        parts = zip(self.frames_VFD.split(size), self.frame_mask_VF.split(size), strict=True)
        return (VideoBatch(_wide(frames_MFD), mask_MF) for frames_MFD, mask_MF in parts)

    def positions(self, index_N: Tensor) -> tuple[Tensor, Tensor]:
        """The pairs `index_N` and where their videos are among `all_videos`, on the table's device."""
        index = sent(index_N, self.device)
        return index, self.video_position_P[index]

    def pairs(self, index_N: Tensor) -> PairBatch:
        """The pairs `index_N` (int64, on the host), with their rows."""
        return replace(self.features(index_N), rows=self.rows_of(index_N)) if any(self.rows) else self.features(index_N)

    def features(self, index_N: Tensor) -> PairBatch:
        """The pairs `index_N` (int64, on the host), without rows."""
        index, position = self.positions(index_N)
        return PairBatch(self._text(index_N, index), self._video(position), self.category_P[index], self.video_P[index])

    def rows_of(self, index_N: Tensor) -> dict[str, Tensor]:
        """The rows of the pairs `index_N`, by name; those of captions with videos [N, N]."""
        index, position = self.positions(index_N)
        captions = {name: _taken(rows_P, index) for name, rows_P in self.rows.caption.items()}
        videos = {name: _taken(rows_V, position) for name, rows_V in self.rows.video.items()}
        return captions | videos | {name: rows_PV[index][:, position] for name, rows_PV in self.rows.pair.items()}

    def with_rows(
        self,
        *,
        caption: Mapping[str, Tensor] | None = None,
        video: Mapping[str, Tensor] | None = None,
        pair: Mapping[str, Tensor] | None = None,
    ) -> PairTable:
        """The same pairs with rows: of each caption [P, ...], of each of `all_videos` [V, ...], or of both [P, V]."""
        table, given = copy.copy(self), (caption, video, pair)
        table.rows = Rows(*({**old, **(new or {})} for old, new in zip(self.rows, given, strict=True)))
        return table

    def with_mean_words(self) -> PairTable:
        """The same pairs, each caption with the mean of its words as its only word (none, if it has none)."""
        table = copy.copy(self._mean_words)
        table.rows = self.rows
        return table

    @cached_property
    def _mean_words(self) -> PairTable:
        table = copy.copy(self)
        means = []
        for words_NLD, mask_NL in (text[1:] for text in self.text_chunks(_CHUNK)):
            means.append(words_NLD.sum(1) / mask_NL.sum(1, keepdim=True).clamp(min=1))
        table.words_TD = torch.cat(means)
        table.lengths_P = self.lengths_P.clamp(max=1)
        table.first_word_P = torch.arange(len(self), device=self.device)
        return table

    def shares_features(self, other: PairTable) -> bool:
        """Whether both hold the very same features of the same pairs, whatever their rows."""
        names = ("frames_VFD", "pooled_PD", "words_TD", "video_P")
        return all(getattr(self, name) is getattr(other, name) for name in names)

    def text_chunks(self, size: int) -> Iterator[TextBatch]:
        """All captions in order, at most `size` at a time."""
        return map(self.text, self.chunks(size))

    def chunks(self, size: int) -> Iterator[Tensor]:
        """Index tensors 0..P-1 in order, at most `size` long."""
        return (index for index in torch.split(torch.arange(len(self)), size) if len(index))

    def shuffled(self, size: int, generator: torch.Generator) -> Iterator[Tensor]:
        """Index tensors of one epoch in random order, at most `size` long; the last may be shorter."""
        return iter(torch.split(torch.randperm(len(self), generator=generator), size))


def _taken(rows: Tensor, index: Tensor) -> Tensor:
    """rows[index], several times faster on a CPU: `index_select` copies whole rows."""
    return rows.index_select(0, index.flatten()).view(*index.shape, *rows.shape[1:])


def _wide(values: Tensor) -> Tensor:
    """float16 as float32, which holds every one of its numbers; anything else as it is."""
    return values.float() if values.dtype == torch.float16 else values


def _shared(values: npt.NDArray[Any]) -> Tensor:
    """A tensor over the same memory, which nobody may write to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(values)


@dataclass(frozen=True)
class StreamOptions:
    """How a stored stream is turned into tasks.

    order: 0 keeps the published task order; k > 0 permutes the tasks with seed k.
    shots: train videos kept per category (all if None).
    long_tail: ratio between the largest and the smallest category in train videos (1: all equal); the number falls
        geometrically over categories in an order drawn with `seed`, at least one video each.
    validation: train videos per category held out as validation, where the store marks none of its own.
    split: every category is a task of its own, in the order of the stored tasks.
    blurred: share of each category's train videos that are learned in another task, drawn evenly from all others
        (Blurry-M of Bang et al. 2021); tests stay where they are. 0: sharp boundaries.
    seed: draws of few-shot, long-tail, hold-out and blurring.
    tasks, queries: the first tasks alone, and so many test queries of each, evenly from its list: for a smoke test.
    Raises InputError for a value outside its range.
    """

    order: int = 0
    shots: int | None = None
    long_tail: float = 1.0
    validation: int = 0
    split: bool = False
    blurred: float = 0.0
    seed: int = 0
    tasks: int | None = None
    queries: int | None = None

    def __post_init__(self) -> None:
        for name, least in {"shots": 1, "long_tail": 1, "validation": 0, "tasks": 1, "queries": 1}.items():
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise InputError(f"{name} of a stream must be at least {least}; got {value}")
        if not 0 <= self.blurred < 1:
            raise InputError(f"blurred must be a share of the train videos, 0 to below 1; got {self.blurred}")

    @property
    def recorded(self) -> dict[str, Any]:
        """What a run's record says of them: all fields, limits only where there are any."""
        return {name: value for name, value in asdict(self).items() if name not in LIMITS or value is not None}


@dataclass(frozen=True)
class Task:
    """One task. index: position in the stream from 0; published: its position in the published order.

    categories: category rows, whose queries are the task's. train, validation, test: caption rows of its pairs; a test
    or validation video has one caption (its query), a train video all of its captions. With blurred boundaries `train`
    has videos of other categories too. further: other captions that are asked of the same test videos, each as `test`.
    """

    index: int
    published: int
    categories: tuple[int, ...]
    train: Ints
    validation: Ints
    test: Ints
    further: tuple[Ints, ...] = ()

    @property
    def asked(self) -> tuple[Ints, ...]:
        """Caption rows of all test queries: those of `test`, then each of `further`."""
        return (self.test, *self.further)


@dataclass(frozen=True)
class Stream:
    """Tasks in the order in which they are learned."""

    name: str
    tasks: tuple[Task, ...]
    options: StreamOptions

    def __len__(self) -> int:
        return len(self.tasks)


def make_stream(store: FeatureStore, name: str | None = None, options: StreamOptions | None = None) -> Stream:
    """The tasks of a stored stream under some options.

    Raises InputError for an unknown stream, options out of range, and a task that is left without training captions.
    """
    options = options or StreamOptions()
    stored = store.stream(name)
    train_videos, validation_videos = _training_videos(store, stored, options)
    captions_of = _captions_by_video(store)
    task_of_category_C = _split(stored.task_of_category_C) if options.split else stored.task_of_category_C
    task_N = task_of_category_C[store.category_N]
    num_tasks = int(task_of_category_C.max()) + 1
    learned_in_N = _blur(task_N, train_videos, store.category_N, num_tasks, options)
    tasks = []
    for index, published in enumerate(task_order(num_tasks, options.order)[: options.tasks]):
        mine = task_N == published
        train = np.flatnonzero((learned_in_N == published) & train_videos)
        caption_rows = [rows for video in train if (rows := captions_of.get(int(video))) is not None]
        if not caption_rows:
            raise InputError(
                f"{store.path}: task {published + 1} of stream {stored.name!r} has no training caption; "
                "import captions of the train videos, or let 'features synth' add simulated ones"
            )
        query_N = stored.query_of_video_N
        asked = _spread(np.flatnonzero(mine & (stored.role_of_video_N == TEST)), options.queries)
        tasks.append(
            Task(
                index=index,
                published=int(published),
                categories=tuple(np.flatnonzero(task_of_category_C == published).tolist()),
                train=np.concatenate(caption_rows),
                validation=_queries(query_N, captions_of, np.flatnonzero(mine & validation_videos)),
                test=query_N[asked].astype(np.int64),
                further=() if stored.further_queries_NK is None else tuple(stored.further_queries_NK[asked].T),
            )
        )
    return Stream(stored.name, tuple(tasks), options)


def _spread(rows: Ints, most: int | None) -> Ints:
    """At most so many of the rows, evenly from the first to the last."""
    return rows if most is None or most >= len(rows) else rows[np.arange(most) * len(rows) // most]


def task_order(num_tasks: int, order: int) -> Ints:
    """Published task numbers in the order in which they are learned; order 0 is the published one.

    >>> task_order(4, 0).tolist()
    [0, 1, 2, 3]
    """
    if order < 0:
        raise InputError(f"order must be 0 (published) or the seed of a permutation; got {order}")
    return np.arange(num_tasks) if order == 0 else np.random.default_rng(order).permutation(num_tasks)


def long_tail_counts(largest: int, num_categories: int, ratio: float) -> list[int]:
    """Videos kept of the 1st, 2nd, ... category: largest * ratio^(-i / (C-1)), rounded, at least one (Cui et al. 2019).

    >>> long_tail_counts(16, 3, 16)
    [16, 4, 1]
    """
    exponents = np.arange(num_categories) / max(num_categories - 1, 1)
    return [max(round(largest * ratio**-exponent), 1) for exponent in exponents.tolist()]


def _split(task_of_category_C: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Tasks of one category each, those of the first task first; -1 stays for unused categories."""
    used = np.flatnonzero(task_of_category_C >= 0)
    split_C = np.full_like(task_of_category_C, -1)
    split_C[used[np.argsort(task_of_category_C[used], kind="stable")]] = np.arange(len(used))
    return split_C


def _blur(
    task_N: npt.NDArray[np.int32],
    train_videos: npt.NDArray[np.bool_],
    category_N: Ints,
    num_tasks: int,
    options: StreamOptions,
) -> npt.NDArray[np.int32]:
    """The task in which each video is learned: its own, but for a share of each category's train videos."""
    learned_in_N = task_N.copy()
    if options.blurred and num_tasks > 1:
        rng = np.random.default_rng((options.seed, 0xB1))
        for category in np.unique(category_N[train_videos]).tolist():
            videos = rng.permutation(np.flatnonzero(train_videos & (category_N == category)))
            moved = videos[: round(options.blurred * len(videos))]
            learned_in_N[moved] = (task_N[moved] + rng.integers(1, num_tasks, len(moved))) % num_tasks
    return learned_in_N


def _training_videos(
    store: FeatureStore, stored: StoredStream, options: StreamOptions
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Masks of train and of validation videos after few-shot, long-tail and hold-out."""
    rng = np.random.default_rng((options.seed, 0x5EED))
    train = np.zeros(len(store.category_N), bool)
    validation = stored.role_of_video_N == VALIDATION
    hold_out = 0 if validation.any() else options.validation
    used = np.flatnonzero(stored.task_of_category_C >= 0)
    videos_of = {c: rng.permutation(_videos(store, stored, c)) for c in used.tolist()}
    largest = max(len(videos) for videos in videos_of.values()) - hold_out
    kept = long_tail_counts(min(largest, options.shots or largest), len(used), options.long_tail)
    for category, count in zip(rng.permutation(used).tolist(), kept, strict=True):
        videos = videos_of[category]
        if hold_out >= len(videos):
            raise InputError(
                f"validation holds out {hold_out} train videos per category, but category "
                f"{store.category_names[category]!r} has only {len(videos)}; hold out fewer"
            )
        validation[videos[:hold_out]] = True
        train[videos[hold_out:][:count]] = True
    return train, validation


def _videos(store: FeatureStore, stored: StoredStream, category: int) -> Ints:
    return np.flatnonzero((store.category_N == category) & (stored.role_of_video_N == TRAIN))


def _captions_by_video(store: FeatureStore) -> dict[int, Ints]:
    order = np.argsort(store.caption_video_M, kind="stable")
    videos, starts = np.unique(store.caption_video_M[order], return_index=True)
    return dict(zip(videos.tolist(), np.split(order, starts[1:]), strict=True))


def _queries(query_N: Ints, captions_of: dict[int, Ints], videos: Ints) -> Ints:
    """One caption row per validation video: its stored query, or the first caption of a held-out train video."""
    rows = [query_N[v] if query_N[v] >= 0 else captions_of[int(v)][0] for v in videos if int(v) in captions_of]
    return np.asarray(rows, np.int64)
