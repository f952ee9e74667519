"""Word-frame scores of whole galleries: every caption with every video, in blocks, real words alone.

Axes: N captions, M videos, L words, F frames, D feature dimensions; T real words and K frames of a block in a row.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from ctvr_bench.methods.shared.base import TextEmbedding, VideoEmbedding
from ctvr_bench.methods.shared.similarity import mean_weights

_TEXTS, _VIDEOS = 64, 256  # a block of word-frame products stays near the cores: 64 x 10 x 12 x 256 floats are 8 MB
_ORDERS = 256  # that are remembered, of a chunk of captions each


def word_frame_scores(text: TextEmbedding, video: VideoEmbedding) -> Tensor:
    """Word-frame similarity of unit embeddings, [N, M], in blocks: memory stays bounded whatever the gallery.

    Real words stand before padding. Only they are multiplied, and the bits are those of
    `methods.shared.similarity.unit_word_frame_similarity` of the same blocks.
    """
    words_NLD, mask_NL, frames_MFD = text.words_NLD, text.word_mask_NL, video.frames_MFD
    if words_NLD is None or mask_NL is None or frames_MFD is None:
        raise ValueError("word-frame scores need embeddings with words and frames; set scoring to word_frame or fused")
    out_NM = words_NLD.new_empty(len(words_NLD), len(frames_MFD))
    orders = [order.on(words_NLD) for order in _orders(tuple(mask_NL.sum(1).tolist()), mask_NL.shape[1])]
    words_PD = words_NLD.flatten(0, 1)
    blocks = [_CaptionBlock(order, words_PD.index_select(0, order.word_T)) for order in orders]
    frame_mask_MF = video.frame_mask_MF
    if frame_mask_MF is None:
        frame_mask_MF = torch.ones(frames_MFD.shape[:2], dtype=torch.bool, device=frames_MFD.device)
    for first in range(0, len(frames_MFD), _VIDEOS):
        columns = slice(first, first + _VIDEOS)
        videos = _VideoBlock.of(frames_MFD[columns], frame_mask_MF[columns])
        for block in blocks:
            out_NM[block.order.row_N, columns] = _block_scores(block, videos)
    return out_NM


class _Order(NamedTuple):
    """Captions from short to long: their rows, where their real words lie, and how many captions have which length.

    place_T: where these words lie in the block itself, captions padded to its longest.
    """

    row_N: Tensor
    word_T: Tensor
    place_T: Tensor
    weight_NL: Tensor
    groups: list[tuple[int, int]]

    def on(self, like: Tensor) -> _Order:
        """Where the words are, and in their dtype."""
        row_N, word_T, place_T = (part.to(like.device) for part in (self.row_N, self.word_T, self.place_T))
        return _Order(row_N, word_T, place_T, self.weight_NL.to(like), self.groups)


class _CaptionBlock(NamedTuple):
    """Captions in order, all their real words in one matrix."""

    order: _Order
    words_TD: Tensor


@lru_cache(_ORDERS)
def _orders(lengths: tuple[int, ...], width: int) -> list[_Order]:
    """Captions of like length share a block. A run asks the same captions after every task, in every shard."""
    length_N, found = torch.tensor(lengths), []
    for row_N in torch.split(length_N.argsort(), _TEXTS):
        sizes, counts = (part.tolist() for part in length_N[row_N].unique_consecutive(return_counts=True))
        place_L = torch.arange(max(sizes[-1], 1))
        real_NL = place_L < length_N[row_N, None]
        word_NL = row_N[:, None] * width + place_L
        groups = list(zip(sizes, counts, strict=True))
        place_T = real_NL.flatten().nonzero()[:, 0]
        found.append(_Order(row_N, word_NL[real_NL], place_T, mean_weights(real_NL, torch.float64), groups))
    return found


class _VideoBlock(NamedTuple):
    """Frames by position and the videos' frame weights; where a video has no frame, its first one stands again."""

    frames_KD: Tensor
    weight_FM: Tensor
    present_M: Tensor

    @staticmethod
    def of(frames_MFD: Tensor, mask_MF: Tensor) -> _VideoBlock:
        if not bool(mask_MF.all()):  # a frame that stands twice changes no maximum
            first_M = frames_MFD[torch.arange(len(mask_MF), device=mask_MF.device), mask_MF.int().argmax(1)]
            frames_MFD = torch.where(mask_MF[..., None], frames_MFD, first_M[:, None])
        weight_FM = mean_weights(mask_MF, frames_MFD.dtype).T.contiguous()
        return _VideoBlock(frames_MFD.transpose(0, 1).flatten(0, 1), weight_FM, mask_MF.any(1))


def _block_scores(captions: _CaptionBlock, videos: _VideoBlock) -> Tensor:
    """Scores of a block of captions with a block of videos, from one product."""
    (N, L), (F, M) = captions.order.weight_NL.shape, videos.weight_FM.shape
    product_TFM = (captions.words_TD @ videos.frames_KD.T).view(-1, F, M)
    best_frame_NLM = product_TFM.new_zeros(N * L, M)
    best_frame_NLM = best_frame_NLM.index_copy_(0, captions.order.place_T, _largest(product_TFM)).view(N, L, M)
    best_word_NFM = product_TFM.new_zeros(N, F, M)
    row = word = 0
    for length, count in captions.order.groups:
        if length:
            part_nLFM = product_TFM[word : word + length * count].view(count, length, F, M)
            best_word_NFM[row : row + count] = part_nLFM.amax(1)
        row, word = row + count, word + length * count
    words_to_video_NM = best_frame_NLM.mul_(captions.order.weight_NL[..., None]).sum(1)
    frames_to_text_NM = best_word_NFM.mul_(videos.weight_FM).sum(1)
    present_NM = (captions.order.weight_NL[:, :1] > 0) & videos.present_M
    return (words_to_video_NM + frames_to_text_NM) * present_NM / 2


def _largest(x_TFM: Tensor) -> Tensor:
    """The maximum over F, [T, M]: halves against each other, which share a frame if F is odd; faster than `amax`."""
    while (count := x_TFM.shape[1]) > 1:
        half = (count + 1) // 2
        x_TFM = torch.maximum(x_TFM[:, :half], x_TFM[:, count - half :])
    return x_TFM[:, 0]
