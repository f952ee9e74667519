"""Where a category's captions and videos belong: near its frozen mean, a little towards its own vertex of a simplex.

Axes: N pairs, C categories, D features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from ctvr_bench.methods.shared.base import ReferenceBank
from ctvr_bench.methods.shared.etf import simplex_etf, simplex_in_directions_of
from ctvr_bench.methods.shared.memory import category_means
from ctvr_bench.methods.shared.similarity import normalise

Basis = Literal["reference", "random"]
Assignment = Literal["hungarian", "order"]


class Anchors(nn.Module):
    """The mean of each modality, the simplex, and of each category met its frozen mean m_c and its vertex pi(c).

    x~ = n(x - mu_modality), mu the mean of the reference bank's unit features. The simplex lies in the bank's first
    C-1 principal directions about these means, or has a random orientation. vertex_C is -1 for a category not met.
    """

    text_centre_D: Tensor
    video_centre_D: Tensor
    simplex_CD: Tensor
    mean_CD: Tensor
    vertex_C: Tensor

    def __init__(self, bank: ReferenceBank, categories: int, basis: Basis, generator: torch.Generator) -> None:
        super().__init__()
        centred, dim = [], bank.captions_RD.shape[1]
        for side, rows_RD in (("text", bank.captions_RD), ("video", bank.frames_SD)):
            unit_RD = normalise(rows_RD)
            self.register_buffer(f"{side}_centre_D", unit_RD.mean(0))
            centred.append(unit_RD - unit_RD.mean(0))
        if basis == "reference":
            simplex_CD = simplex_in_directions_of(torch.cat(centred), categories, generator)
        else:
            simplex_CD = simplex_etf(categories, dim, generator)
        self.register_buffer("simplex_CD", simplex_CD)
        self.register_buffer("mean_CD", torch.zeros(categories, dim))
        self.register_buffer("vertex_C", torch.full((categories,), -1))

    @property
    def met_C(self) -> Tensor:
        """Which categories have an anchor, bool."""
        return self.vertex_C >= 0

    def centred_text(self, unit_ND: Tensor) -> Tensor:
        """x~ of unit captions."""
        return normalise(unit_ND - self.text_centre_D)

    def centred_video(self, unit_ND: Tensor) -> Tensor:
        """x~ of unit videos."""
        return normalise(unit_ND - self.video_centre_D)

    def meet(self, text_ND: Tensor, video_ND: Tensor, category_N: Tensor, assignment: Assignment) -> None:
        """Set m_c and pi(c) of the categories not met before from frozen unit captions and videos of pairs.

        m_c is the mean of x~ over both modalities; pi gives each new category a free vertex: by Hungarian assignment,
        so that the sum of m_c . e_pi(c) is largest, or the vertex of its own number.
        """
        both_ND = (self.centred_text(text_ND) + self.centred_video(video_ND)) / 2
        mean_CD, present_C = category_means(both_ND, category_N, len(self.vertex_C))
        new = (present_C & ~self.met_C).nonzero().squeeze(1)
        self.mean_CD[new] = mean_CD[new]
        if assignment == "order":
            self.vertex_C[new] = new
            return
        free = torch.tensor(sorted(set(range(len(self.vertex_C))) - set(self.vertex_C.tolist())), device=new.device)
        from scipy.optimize import linear_sum_assignment  # a fifth of the start of every command, for one method

        row, column = linear_sum_assignment((mean_CD[new] @ self.simplex_CD[free].T).cpu().numpy(), maximize=True)
        self.vertex_C[new[torch.from_numpy(row)]] = free[torch.from_numpy(column)]

    def targets(self, share: float | Tensor) -> Tensor:
        """p_c = n((1 - r) m_c + r e_pi(c)) of every category, zero for one not met, [C, D]."""
        vertex_CD = self.simplex_CD[self.vertex_C.clamp(min=0)]
        return normalise((1 - share) * self.mean_CD + share * vertex_CD) * self.met_C[:, None]

    def anchored(self, text_ND: Tensor, video_ND: Tensor, category_N: Tensor, r: float | Tensor, s: float) -> Tensor:
        """(A) 1/2 sum over modalities of the category mean of -log softmax_c(s x~ . p_c) over the categories met.

        Unit adapted features; pairs of a category not met are left out, so that a batch of them gives 0.
        """
        target_CD, lowest = self.targets(r), torch.finfo(text_ND.dtype).min / 2
        losses = []
        for x_ND in (self.centred_text(text_ND), self.centred_video(video_ND)):
            logits_NC = (s * x_ND @ target_CD.T).masked_fill(~self.met_C, lowest)
            losses.append(-logits_NC.log_softmax(1).gather(1, category_N[:, None])[:, 0])
        mean_K: Tensor = self._category_mean(torch.stack(losses, 1), category_N).mean()
        return mean_K

    def residual(self, moved: tuple[Tensor, Tensor], category_N: Tensor, g: float | Tensor) -> Tensor:
        """(C) 1/2 sum over modalities of the mean over categories of | mean moved_i - g e_pi(c) |^2.

        moved: adapted minus frozen unit features of captions and of videos.
        """
        mean_C2D, present_C = category_means(torch.stack(moved, 1), category_N, len(self.vertex_C))
        goal_CD = g * self.simplex_CD[self.vertex_C.clamp(min=0)]
        squares_C = (mean_C2D - goal_CD[:, None]).square().sum(-1).mean(1)
        return _mean_where(squares_C, present_C & self.met_C)

    def _category_mean(self, value_NK: Tensor, category_N: Tensor) -> Tensor:
        """Mean over the categories met of the mean of their rows, [K]."""
        met_N = self.met_C[category_N]
        value_NK = torch.where(met_N[:, None], value_NK, 0.0)
        mean_CK, present_C = category_means(value_NK, category_N, len(self.vertex_C))
        return _mean_where(mean_CK, present_C & self.met_C)


def balanced(
    share: float | Tensor,
    term: Callable[[Tensor, Tensor], Tensor],
    base: Callable[[Tensor, Tensor], Tensor],
    text_ND: Tensor,
    video_ND: Tensor,
) -> Tensor:
    """The term of these features, weighted so that its gradient is `share` of the base's in length.

    k stopgrad(|grad base| / |grad term|) term: lengths over both modalities' features together, where both terms meet.
    """
    length = [_gradient_length(each, text_ND.detach(), video_ND.detach()) for each in (base, term)]
    return share * length[0] / length[1].clamp(min=1e-6) * term(text_ND, video_ND)


def _gradient_length(loss: Callable[[Tensor, Tensor], Tensor], text_ND: Tensor, video_ND: Tensor) -> Tensor:
    gradients: tuple[Tensor, Tensor] = torch.func.grad(loss, argnums=(0, 1))(text_ND, video_ND)
    return torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()


def _mean_where(value_CK: Tensor, where_C: Tensor) -> Tensor:
    """Mean of the rows where it is True; 0 where it is nowhere."""
    weight_C = where_C.to(value_CK)
    mean_K: Tensor = torch.tensordot(weight_C, value_CK, 1) / weight_C.sum().clamp(min=1)
    return mean_K
