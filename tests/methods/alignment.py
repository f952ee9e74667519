"""StructAlign's L_real over both modalities, as the authors' function gives it."""

from __future__ import annotations

from torch import Tensor

from ctvr_bench.methods.shared.losses import attended_misalignment


def etf_alignment(
    words_NLD: Tensor,
    word_mask_NL: Tensor,
    frames_NFD: Tensor,
    frame_mask_NF: Tensor | None,
    etf_ND: Tensor,
    text_projection_DD: Tensor,
    video_projection_DD: Tensor,
) -> Tensor:
    """How far projected captions and videos point away from their category's ETF direction, scalar in 0..4.

    L_real = mean_i [ (1 - cos(u_i, e_i)) + (1 - cos(g_i, e_i)) ]                              StructAlign's L_ETF
    u_i = sum_l a_l P1 w_l,  a = softmax_l(P1 w_l . e_i);      g_i = sum_f b_f P2 f_f,  b = softmax_f(P2 f_f . e_i)
    Words and frames are raw. `etf_ND` holds the unit-norm ETF row of each pair's category; projections act as in
    torch.nn.Linear, y = x P^T. A caption without words, or a video without frames, contributes 1 and no gradient.
    """
    text_N = attended_misalignment(words_NLD, word_mask_NL, etf_ND, text_projection_DD)
    video_N = attended_misalignment(frames_NFD, frame_mask_NF, etf_ND, video_projection_DD)
    return text_N.mean() + video_N.mean()
