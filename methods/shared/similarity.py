"""Similarities between captions and videos: cosine, word-frame, and their fusion; and the pooling they share.

Axes: N captions, M videos, L words, F frames, D features; a bool mask is True where a word or frame is real.
Everything here is a pure function of tensors, safe under `torch.func.vmap` and `torch.func.grad`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

# Added to the cosine of a masked word or frame: any real cosine (at least -1) beats a masked one (at most 1 - 4).
# Finite, because a masked value is multiplied by zero later and 0 * inf would be NaN in value and gradient.
_MASKED = -4.0


def normalise(x: Tensor, eps: float = 1e-8) -> Tensor:
    """`x` with unit Euclidean norm along its last axis; a zero vector stays zero.

    n(x) = x / max(||x||, eps), the convention of torch.nn.functional.normalize. The release writes eps = 1e-8 in its
    similarities and 1e-12 in its ETF loss; the golden values agree with both to rounding.
    Inside the ball of radius eps the gradient is that of x / eps: finite, but large, so mask rows that are not data.

    >>> normalise(torch.tensor([3.0, 4.0]))
    tensor([0.6000, 0.8000])
    """
    return functional.normalize(x, dim=-1, eps=eps)


def cosine_similarity(text_ND: Tensor, video_MD: Tensor) -> Tensor:
    """Cosine of every caption with every video, [N, M], in -1..1.

    s(i, j) = n(text_i) . n(video_j). Inputs need not have unit norm; a zero row scores 0 everywhere.
    """
    return normalise(text_ND) @ normalise(video_MD).T


def word_frame_similarity(
    words_NLD: Tensor, word_mask_NL: Tensor, frames_MFD: Tensor, frame_mask_MF: Tensor | None = None
) -> Tensor:
    """Word-frame similarity of every caption with every video, [N, M], in -1..1.

    With S_lf = n(w_l) . n(f_f), L_i real words in caption i and F_j real frames in video j:
    s(i, j) = 1/2 [ 1/L_i sum_l max_f S_lf + 1/F_j sum_f max_l S_lf ]         StructAlign 2026, CTVR_AND_STRUCTALIGN 2.2
    s = 0, with zero gradient, for a caption without words or a video without frames. The gradient flows through the
    arg-max entries only. Inputs need not have unit norm; masks are bool, True where real; `frame_mask_MF` None means
    that every frame is real. L and F must be at least 1.

    >>> word = torch.tensor([[[1.0, 0.0]]])
    >>> word_frame_similarity(word, torch.tensor([[True]]), torch.tensor([[[2.0, 0.0], [0.0, 1.0]]]))
    tensor([[0.7500]])
    """
    return unit_word_frame_similarity(normalise(words_NLD), word_mask_NL, normalise(frames_MFD), frame_mask_MF)


def unit_word_frame_similarity(
    words_NLD: Tensor, word_mask_NL: Tensor, frames_MFD: Tensor, frame_mask_MF: Tensor | None = None
) -> Tensor:
    """`word_frame_similarity` of words and frames that already have unit norm, [N, M].

    For scoring blocks of a gallery that was normalised once. Holds one [N, L, F, M] tensor of the input's dtype at a
    time; the caller chooses N and M so that this fits.
    """
    N, L, D = words_NLD.shape
    M, F, _ = frames_MFD.shape
    # One GEMM. Its product is kept as [N, L, F, M]: both maxima then reduce over outer axes and vectorise along M.
    frames_by_position_KD = frames_MFD.transpose(0, 1).reshape(F * M, D)
    bias = (~word_mask_NL).to(words_NLD.dtype).reshape(N * L, 1) * _MASKED
    if frame_mask_MF is None:
        frame_mask_MF = torch.ones(M, F, dtype=torch.bool, device=frames_MFD.device)
    else:  # costs a pass over the product's size, hence not added when there is nothing to mask
        bias = bias + (~frame_mask_MF).to(words_NLD.dtype).T.reshape(1, F * M) * _MASKED
    product_NLFM = torch.addmm(bias, words_NLD.reshape(N * L, D), frames_by_position_KD.T).view(N, L, F, M)
    # amax, not max: no index is written, which is faster forward and no slower backward. On an exact tie amax shares
    # the gradient equally among the tied entries, where max would give all of it to one of them.
    best_frame_NLM, best_word_NFM = product_NLFM.amax(2), product_NLFM.amax(1)
    words_to_video_NM = (best_frame_NLM * mean_weights(word_mask_NL, words_NLD.dtype).unsqueeze(-1)).sum(1)
    frames_to_text_NM = (best_word_NFM * mean_weights(frame_mask_MF, words_NLD.dtype).T).sum(1)
    present_NM = word_mask_NL.any(1, keepdim=True) & frame_mask_MF.any(1)
    return (words_to_video_NM + frames_to_text_NM) * present_NM / 2


def attended_similarity(
    text_ND: Tensor, attend_ND: Tensor, video_MD: Tensor, frames_MFD: Tensor, frame_mask_MF: Tensor | None = None
) -> Tensor:
    """Cosine of every caption with every video as that caption pools it, [N, M], in -1..1.

    r_ij = video_j + sum_f (a_f - 1/F_j) frame_jf,   a = softmax_f(attend_i . frame_jf),   s = text_i . r_ij / |r_ij|
    Caption, video and frames have unit norm, so attend_i = 0 (even attention) gives text_i . video_j exactly. The N M D
    vectors r are never made: with d = r - video, s = (t.v + t.d) / sqrt(1 + 2 v.d + d.d), each from frame products.
    Captions are taken 64 at a time, so that memory stays bounded.                           after X-Pool, Gorti 2022
    """
    if frame_mask_MF is None:
        frame_mask_MF = torch.ones(frames_MFD.shape[:2], dtype=torch.bool, device=frames_MFD.device)
    lowest = torch.finfo(frames_MFD.dtype).min / 2
    even_MF = torch.zeros_like(frames_MFD[..., 0]).masked_fill(~frame_mask_MF, lowest).softmax(-1)
    gram_MFF = frames_MFD @ frames_MFD.transpose(1, 2)
    along_MF = (frames_MFD @ video_MD[..., None]).squeeze(-1)  # v . frame
    blocks = []
    for text, attend in zip(text_ND.split(64), attend_ND.split(64), strict=True):
        logits_NMF = torch.einsum("nd,mfd->nmf", attend, frames_MFD)
        more_NMF = logits_NMF.masked_fill(~frame_mask_MF, lowest).softmax(-1) - even_MF
        text_d_NM = (more_NMF * torch.einsum("nd,mfd->nmf", text, frames_MFD)).sum(-1)
        video_d_NM = (more_NMF * along_MF).sum(-1)
        d_d_NM = (more_NMF * torch.einsum("nmf,mfg->nmg", more_NMF, gram_MFF)).sum(-1)
        length_NM = (1 + 2 * video_d_NM + d_d_NM).clamp(min=1e-6).sqrt()
        blocks.append((text @ video_MD.T + text_d_NM) / length_NM)
    return torch.cat(blocks)


def row_zscore(sim_NM: Tensor) -> Tensor:
    """Each row shifted to mean 0 and scaled to deviation 1, [N, M]; a constant row becomes 0.

    z(x) = (x - mean_row) / max(std_row, 1e-6), population deviation.                    CTVR_AND_STRUCTALIGN 2.12
    """
    deviation_N1 = sim_NM.std(1, correction=0, keepdim=True).clamp(min=1e-6)
    return (sim_NM - sim_NM.mean(1, keepdim=True)) / deviation_N1


def fuse(word_frame_NM: Tensor, pooled_NM: Tensor, alpha: float) -> Tensor:
    """Word-frame and pooled scores on one scale, [N, M], in row deviations.

    fused = alpha z(word_frame) + (1 - alpha) z(pooled), rows being queries.             CTVR_AND_STRUCTALIGN 2.12
    A row's deviation depends on the whole gallery, so fuse before cutting a block of columns out, not after.
    """
    return alpha * row_zscore(word_frame_NM) + (1 - alpha) * row_zscore(pooled_NM)


def pool_words(words_NLD: Tensor, word_mask_NL: Tensor) -> Tensor:
    """One unit vector per caption, [N, D]: n(mean of its raw words).

    A caption without words gives the zero vector and zero gradient (the release gives NaN there).
    """
    return normalise(_masked_mean(words_NLD, word_mask_NL))


def pool_frames(frames_MFD: Tensor, frame_mask_MF: Tensor | None = None, unit_frames: bool = False) -> Tensor:
    """One unit vector per video, [M, D].

    n(mean of raw frames), which the release trains and scores cosine with; with `unit_frames` n(mean of n(frame)),
    which it fuses with word-frame scores (CTVR_AND_STRUCTALIGN 2.1, 2.12). A video without frames gives the zero vector
    and zero gradient. `frame_mask_MF` None means that every frame is real.
    """
    if unit_frames:
        frames_MFD = normalise(frames_MFD)
    mean_MD = frames_MFD.mean(1) if frame_mask_MF is None else _masked_mean(frames_MFD, frame_mask_MF)
    return normalise(mean_MD)


def _masked_mean(items_NLD: Tensor, mask_NL: Tensor) -> Tensor:
    return (mean_weights(mask_NL, items_NLD.dtype).unsqueeze(1) @ items_NLD).squeeze(1)


def mean_weights(mask_NL: Tensor, dtype: torch.dtype) -> Tensor:
    """1/count on the real entries of each row and 0 elsewhere; an empty row is all 0."""
    weight_NL = mask_NL.to(dtype)
    return weight_NL / weight_NL.sum(1, keepdim=True).clamp(min=1)
