"""The losses that methods share: contrastive, relation and distillation terms, and alignment with an ETF.

Axes: N pairs or square-matrix rows, R rows, K columns, B batch pairs, M stored negatives, P pseudo pairs, L words,
F frames, D features. All are pure, return scalars, and are safe under `torch.func.vmap` and `torch.func.grad`.
Equations: CTVR_AND_STRUCTALIGN 2.3-2.8 (StructAlign 2026) and 4 (baselines of CTVR 2025); CE(X) below is the
cross-entropy of the rows of X with the diagonal as target, averaged over rows.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ctvr_bench.methods.shared.similarity import normalise


def symmetric_contrastive(sim_NN: Tensor, scale: float | Tensor, same_video_NN: Tensor | None = None) -> Tensor:
    """Cross-entropy of picking the right video for a caption plus the right caption for a video, scalar >= 0.

    L = CE(scale S) + CE(scale S^T)     the SUM of both directions, as CTVR and StructAlign train; CLIP uses half of it.
    `sim_NN`: positives on the diagonal. `same_video_NN`: optional bool; its True entries off the diagonal are other
    captions of the same video and are left out of the denominators (on the diagonal it is ignored).

    >>> symmetric_contrastive(torch.zeros(2, 2), scale=1.0)  # 2 ln 2
    tensor(1.3863)
    """
    logits_NN = _without_same_video(scale * sim_NN, same_video_NN)
    return _diagonal_cross_entropy(logits_NN) + _diagonal_cross_entropy(logits_NN.T)


def row_cross_entropy(logits_NN: Tensor, same_video_NN: Tensor | None = None) -> Tensor:
    """loss_N of each row alone, >= 0: -log softmax(logits)_ii; `same_video_NN` as in `symmetric_contrastive`."""
    return -_without_same_video(logits_NN, same_video_NN).log_softmax(1).diagonal()


def cross_task_contrastive(
    text_BD: Tensor,
    video_BD: Tensor,
    negatives_MD: Tensor,
    scale: float | Tensor,
    gamma: float,
    same_video_BB: Tensor | None = None,
) -> Tensor:
    """Contrastive loss with stored videos of earlier tasks as extra negatives, scalar >= 0.

    L = (1 - gamma) [CE(X) + CE(X^T)] + gamma CE([X | scale t m^T]),   X = scale t v^T       FrameFusionMoE, CTVR 2025
    Features have unit norm. Without negatives (M = 0, the first task) L is the unscaled CE(X) + CE(X^T).
    `same_video_BB`: as in `symmetric_contrastive`.
    """
    sim_BB = text_BD @ video_BD.T
    contrastive = symmetric_contrastive(sim_BB, scale, same_video_BB)
    if len(negatives_MD) == 0:
        return contrastive
    logits_BB = _without_same_video(scale * sim_BB, same_video_BB)
    cross_task = _diagonal_cross_entropy(torch.cat([logits_BB, scale * text_BD @ negatives_MD.T], dim=1))
    return (1 - gamma) * contrastive + gamma * cross_task


def prototype_contrastive(
    text_BD: Tensor,
    video_BD: Tensor,
    pseudo_text_PD: Tensor,
    pseudo_video_PD: Tensor,
    scale: float | Tensor,
    same_class_mask: Tensor | None = None,
) -> Tensor:
    """Contrastive loss over the batch together with pseudo-features of earlier categories, scalar >= 0.

    L_proto = CE(scale V T^T) + CE(scale T V^T),   T = [text; pseudo_text],  V = [video; pseudo_video]      StructAlign
    `text_BD` and `video_BD` are already pooled (unit norm); pseudo rows are used as drawn. `same_class_mask`: optional
    bool [B+P, B+P], True off the diagonal where two rows are not negatives of each other; None, as the release does,
    lets pseudo pairs of one category repel each other.
    """
    text_ND = torch.cat([text_BD, pseudo_text_PD])
    video_ND = torch.cat([video_BD, pseudo_video_PD])
    return symmetric_contrastive(text_ND @ video_ND.T, scale, same_class_mask)


def kl_divergence(student_RK: Tensor, teacher_RK: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence of the student's softened rows from the teacher's, scalar >= 0, in nats times T^2.

    KL_T = T^2 mean_rows sum_k p_k (log p_k - log q_k),   p = softmax(teacher/T),  q = softmax(student/T)    Hinton 2015
    Takes logits (already scaled). The teacher is not detached here; pass it without gradient.
    """
    log_teacher_RK = (teacher_RK / temperature).log_softmax(-1)
    log_student_RK = (student_RK / temperature).log_softmax(-1)
    return temperature**2 * (log_teacher_RK.exp() * (log_teacher_RK - log_student_RK)).sum(-1).mean()


def distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Cross-entropy between the softened rows of teacher and student, scalar >= 0, in nats times T^2.

    H_T = -T^2 mean_rows sum_k softmax(teacher/T)_k log softmax(student/T)_k
    `kl_divergence` plus the teacher's entropy: the same gradient for the student, never zero. Takes logits [R, K].
    """
    target_RK = (teacher / temperature).softmax(-1)
    return -(temperature**2) * (target_RK * (student / temperature).log_softmax(-1)).sum(-1).mean()


def relation_preserving(sim_NN: Tensor, teacher_NN: Tensor, temperature: float) -> Tensor:
    """How far the batch's similarity relations moved from the teacher's, scalar >= 0.

    L_CRP = 1/2 [ KL_T(X, Y) + KL_T(X^T, Y^T) ]       StructAlign's cross-modal relation preserving
    X and Y are the student's and teacher's already scaled logits; the release weighs this loss by 10, T = 2.
    """
    rows = kl_divergence(sim_NN, teacher_NN, temperature)
    columns = kl_divergence(sim_NN.T, teacher_NN.T, temperature)
    return (rows + columns) / 2


def similarity_distillation(
    text_BD: Tensor,
    video_BD: Tensor,
    teacher_text_BD: Tensor,
    teacher_video_BD: Tensor,
    scale: float | Tensor,
    temperature: float,
    variant: Literal["student_student", "student_teacher_text"] = "student_student",
) -> Tensor:
    """The distillation term of LwF (and of ZSCL, on reference features), scalar >= 0.

    H_T(R, C) + H_T(R^T, C^T),   R = scale v' t'^T from the teacher, and from the student
    C = scale v t^T   student_student: both encoders are distilled (default)
    C = scale v t'^T  student_teacher_text: as the CTVR release; only the video side is distilled, `text_BD` is unused
    H_T is `distillation`. Features have unit norm; teachers come without gradient.
    """
    student_text_BD = text_BD if variant == "student_student" else teacher_text_BD
    student_BB = scale * video_BD @ student_text_BD.T
    teacher_BB = scale * teacher_video_BD @ teacher_text_BD.T
    return distillation(student_BB, teacher_BB, temperature) + distillation(student_BB.T, teacher_BB.T, temperature)


def queue_contrastive(
    query_ND: Tensor, key_ND: Tensor, queue_QD: Tensor, scale: float | Tensor, excluded_NK: Tensor
) -> Tensor:
    """Cross-entropy of picking a query's own key among the batch's keys and a queue of earlier ones, scalar >= 0.

    L = CE(scale q [k; queue]^T)                                                     MoCo (He et al. 2020), CTP 2023
    Features have unit norm. `excluded_NK` bool over the N + Q keys: True where a key is no negative of the query; the
    diagonal is ignored.
    """
    keys_KD = torch.cat([key_ND, queue_QD])
    positive_NK = torch.eye(len(query_ND), len(keys_KD), dtype=torch.bool, device=query_ND.device)
    logits_NK = scale * query_ND @ keys_KD.T
    lowest = torch.finfo(logits_NK.dtype).min / 2
    return _diagonal_cross_entropy(logits_NK.masked_fill(excluded_NK & ~positive_NK, lowest))


def topology_preserving(feature_ND: Tensor, teacher_ND: Tensor, scale: float | Tensor, excluded_NN: Tensor) -> Tensor:
    """How far the batch's similarities within one modality moved from the teacher's, scalar >= 0.

    KL_1 of the rows of scale f f^T from those of scale f' f'^T, entries of `excluded_NN` (the diagonal, at least) left
    out.                                                                                                      CTP 2023
    """
    lowest = torch.finfo(feature_ND.dtype).min / 2
    student_NN = (scale * feature_ND @ feature_ND.T).masked_fill(excluded_NN, lowest)
    old_NN = (scale * teacher_ND @ teacher_ND.T).masked_fill(excluded_NN, lowest)
    return kl_divergence(student_NN, old_NN, 1.0)


def orthogonality(rows_ND: Tensor) -> Tensor:
    """mean of ( R R^T - I )^2, scalar >= 0; zero where the rows R are orthonormal.        CODA-Prompt, Smith 2023"""
    return (rows_ND @ rows_ND.T - torch.eye(len(rows_ND), dtype=rows_ND.dtype, device=rows_ND.device)).square().mean()


def attended_misalignment(items_NLD: Tensor, mask_NL: Tensor | None, etf_ND: Tensor, projection_DD: Tensor) -> Tensor:
    """How far projected captions (or videos) point away from their category's ETF direction, row by row, [N] in 0..2.

    1 - cos(u_i, e_i),   u_i = sum_l a_l P w_l,   a = softmax_l(P w_l . e_i)                       StructAlign's L_real
    Items are raw words or frames. `etf_ND` holds the unit-norm ETF row of each pair's category; the projection acts as
    in torch.nn.Linear, y = x P^T. A row without items contributes 1 and no gradient.
    """
    # P w . e = w . P^T e and sum_l a_l P w_l = P sum_l a_l w_l: projecting [N, D] twice replaces projecting [N, L, D].
    score_NL = (items_NLD @ (etf_ND @ projection_DD).unsqueeze(-1)).squeeze(-1)
    if mask_NL is None:
        weight_NL = score_NL.softmax(1)
    else:
        # The product with the mask matters for empty rows only, whose softmax is uniform over padding.
        weight_NL = score_NL.masked_fill(~mask_NL, torch.finfo(score_NL.dtype).min / 2).softmax(1) * mask_NL
    attended_ND = (weight_NL.unsqueeze(1) @ items_NLD).squeeze(1)
    return _misalignment(attended_ND @ projection_DD.T, etf_ND)


def pseudo_alignment(
    text_PD: Tensor,
    video_PD: Tensor,
    etf_PD: Tensor,
    text_projection_DD: Tensor,
    video_projection_DD: Tensor,
    swapped: bool = False,
) -> Tensor:
    """`attended_misalignment` of both modalities for pseudo-features, scalar in 0..4; P must be at least 1.

    L_pseudo = mean_p [ (1 - cos(P1 z_text, e)) + (1 - cos(P2 z_video, e)) ]                   StructAlign's L_ETF
    `swapped` exchanges P1 and P2, as the release does by mistake (CTVR_AND_STRUCTALIGN D4).
    """
    if swapped:
        text_projection_DD, video_projection_DD = video_projection_DD, text_projection_DD
    text_P = _misalignment(text_PD @ text_projection_DD.T, etf_PD)
    video_P = _misalignment(video_PD @ video_projection_DD.T, etf_PD)
    return text_P.mean() + video_P.mean()


def _without_same_video(logits_NN: Tensor, same_video_NN: Tensor | None) -> Tensor:
    if same_video_NN is None:
        return logits_NN
    off_diagonal_NN = ~torch.eye(len(logits_NN), dtype=torch.bool, device=logits_NN.device)
    return logits_NN.masked_fill(same_video_NN & off_diagonal_NN, torch.finfo(logits_NN.dtype).min / 2)


def _diagonal_cross_entropy(logits_RK: Tensor) -> Tensor:
    """Mean of -log softmax at column i of row i; K may exceed R."""
    return -logits_RK.log_softmax(1).diagonal().mean()


def _misalignment(vector_ND: Tensor, etf_ND: Tensor) -> Tensor:
    return 1 - (normalise(vector_ND, eps=1e-12) * etf_ND).sum(-1)
