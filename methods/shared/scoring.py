"""From raw or adapted features to what is compared: one place for every method, so a head is never a scoring.

Axes: N captions, M videos, F frames, D feature dimensions.
"""

from __future__ import annotations

from torch import Tensor

from ctvr_bench.features.streams import TextBatch
from ctvr_bench.methods.shared.base import MethodConfig, TextEmbedding, VideoEmbedding
from ctvr_bench.methods.shared.heads import AdaptedVideo, masked_mean, norm
from ctvr_bench.methods.shared.similarity import attended_similarity, normalise, unit_word_frame_similarity


def embed_text(text: TextBatch, config: MethodConfig) -> TextEmbedding:
    """Unit caption embeddings; words are kept only where the scoring compares words."""
    pooled_ND = normalise(text.pooled_ND)
    if config.scoring == "cosine":
        return TextEmbedding(pooled_ND)
    return TextEmbedding(pooled_ND, normalise(text.words_NLD) * text.word_mask_NL[..., None], text.word_mask_NL)


def embed_video(video: AdaptedVideo, config: MethodConfig) -> VideoEmbedding:
    """Unit video embeddings; frames are kept only where the scoring compares frames.

    The pooled vector is the mean of raw frames for cosine scoring and the mean of unit frames beside word-frame scores,
    as CTVR and StructAlign evaluate (spec 2.1, 2.12), plus the head's shift in the mean's own length.
    """
    frames_MFD, mask_MF, shift_MD = video
    unit_MFD = normalise(frames_MFD) if config.scoring != "cosine" else frames_MFD
    mean_MD = masked_mean(unit_MFD, mask_MF)
    pooled_MD = normalise(mean_MD if shift_MD is None else mean_MD + norm(mean_MD) * shift_MD)
    if config.scoring == "cosine":
        return VideoEmbedding(pooled_MD)
    return VideoEmbedding(pooled_MD, unit_MFD * mask_MF[..., None], mask_MF)


def pair_similarity(text: TextEmbedding, video: VideoEmbedding, config: MethodConfig) -> Tensor:
    """sim_NM in -1..1 that training compares: what the scoring says; fused mixes both by alpha without z-scores."""
    if config.scoring == "cosine":
        return pooled_similarity(text, video)
    assert text.words_NLD is not None
    assert text.word_mask_NL is not None
    assert video.frames_MFD is not None
    word_frame_NM = unit_word_frame_similarity(text.words_NLD, text.word_mask_NL, video.frames_MFD, video.frame_mask_MF)
    if config.scoring == "word_frame":
        return word_frame_NM
    return config.alpha * word_frame_NM + (1 - config.alpha) * pooled_similarity(text, video)


def pooled_similarity(text: TextEmbedding, video: VideoEmbedding) -> Tensor:
    """sim_NM of pooled captions with pooled videos, or with the frames as each caption attends to them."""
    if text.attend_ND is None:
        return text.pooled_ND @ video.pooled_MD.T
    assert video.frames_MFD is not None
    return attended_similarity(text.pooled_ND, text.attend_ND, video.pooled_MD, video.frames_MFD, video.frame_mask_MF)


def same_video(video_N: Tensor) -> Tensor:
    """same_NN bool: the two pairs show one video, so that neither caption is a negative of the other."""
    return video_N[:, None] == video_N[None]
