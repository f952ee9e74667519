"""Light modules over frozen features; each is the identity when made, so that step 0 scores exactly as zero-shot.

Axes: N captions, M videos, L words, F frames, D feature dimensions, R rank, E experts, H attention heads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ctvr_bench.features.errors import InputError
from ctvr_bench.features.streams import TextBatch, VideoBatch

MASKED = -1e9
_FEW_TOKENS = 2  # for so many, all experts' maps at once cost less than to mix the maps of each caption first


class AdaptedVideo(NamedTuple):
    """Raw adapted frames, and what is added to their unit mean (None: nothing)."""

    frames_MFD: Tensor
    frame_mask_MF: Tensor
    shift_MD: Tensor | None = None


def mean_alone(mean_MD: Tensor, mask_MF: Tensor) -> AdaptedVideo:
    """Videos of which only the mean over frames is scored: it is their only frame."""
    return AdaptedVideo(mean_MD[:, None], mask_MF.any(1, keepdim=True))


class LowRank(nn.Module):
    """x + |x| / sqrt(D) * up(keep * gelu(hidden)): a residual in the scale of x's entries, whatever the encoder.

    `up` starts at zero. hidden = sum of linear maps of the inputs after layer norm; `keep` [..., R] scales hidden units
    (a dropout mask already divided by its keep rate).
    """

    def __init__(self, dim: int, rank: int, inputs: int, generator: torch.Generator) -> None:
        super().__init__()
        self.down = nn.ParameterList(fan_in_uniform((rank, dim), generator) for _ in range(inputs))
        self.up = nn.Parameter(torch.zeros(dim, rank))

    def hidden(self, *inputs: Tensor) -> Tensor:
        """Sum of the linear maps, one for each input."""
        maps = [functional.linear(layer_norm(x), down) for x, down in zip(inputs, self.down, strict=True)]
        return torch.stack(maps).sum(0) if len(maps) > 1 else maps[0]

    def shift(self, hidden: Tensor, keep: Tensor | None) -> Tensor:
        """What is added for each unit of the feature's length: up's columns over sqrt(D), alike in every dimension."""
        active = functional.gelu(hidden)
        return functional.linear(active if keep is None else active * keep, self.up) / math.sqrt(len(self.up))

    def forward(self, x: Tensor, *more: Tensor, keep: Tensor | None = None) -> Tensor:
        return x + norm(x) * self.shift(self.hidden(x, *more), keep)


class ResidualHead(nn.Module):
    """The default head of fine-tuning and its relatives: low-rank residuals on captions, words, frames and their mean.

    caption: from the pooled caption and the mean of its words. word: from the word. frame: from the frame and its
    difference to the one before. video mean: from the mean frame and a temporal convolution over frames (width 3).
    pooled_only: True where no word and no frame is scored: words stay as they are, `scored_video` averages.
    """

    def __init__(self, dim: int, rank: int, generator: torch.Generator, pooled_only: bool = False) -> None:
        super().__init__()
        self.pooled_only = pooled_only
        self.caption = LowRank(dim, rank, 2, generator)
        self.word = LowRank(dim, rank, 1, generator)
        self.frame = LowRank(dim, rank, 2, generator)
        self.video = LowRank(dim, rank, 1, generator)
        self.temporal_down = fan_in_uniform((rank, dim), generator)
        self.temporal = fan_in_uniform((rank, rank, 3), generator)

    def text(self, text: TextBatch, keep_NR: Tensor | None = None) -> TextBatch:
        words_NLD, mask_NL = text.words_NLD, text.word_mask_NL
        count_N1 = mask_NL.sum(1, keepdim=True).clamp(min=1)
        mean_ND = (words_NLD * mask_NL[..., None]).sum(1) / count_N1
        pooled_ND = self.caption(text.pooled_ND, mean_ND, keep=keep_NR)
        if self.pooled_only:
            return TextBatch(pooled_ND, words_NLD, mask_NL)
        word_keep = None if keep_NR is None else keep_NR[:, None]
        return TextBatch(pooled_ND, self.word(words_NLD, keep=word_keep), mask_NL)

    def video_frames(self, video: VideoBatch, keep_MR: Tensor | None = None) -> AdaptedVideo:
        frames_MFD, mask_MF = video
        before_MFD = previous_frame(frames_MFD)
        frame_keep = None if keep_MR is None else keep_MR[:, None]
        adapted_MFD = self.frame(frames_MFD, frames_MFD - before_MFD, keep=frame_keep)
        mean_MD = masked_mean(frames_MFD, mask_MF)
        return AdaptedVideo(adapted_MFD, mask_MF, self._shift(mean_MD, layer_norm(frames_MFD), mask_MF, keep_MR))

    def scored_video(self, video: VideoBatch, keep_MR: Tensor | None = None) -> AdaptedVideo:
        """`video_frames`, or with `pooled_only` the mean of its frames as the only frame.

        mean_f(x_f + |x_f| up h_f / sqrt(D)) = mean_f x_f + up mean_f(|x_f| h_f) / sqrt(D), which leaves up one row a
        video in place of one a frame.
        """
        if not self.pooled_only:
            return self.video_frames(video, keep_MR)
        frames_MFD, mask_MF = video
        inner_MFD, (still, moving) = layer_norm(frames_MFD), self.frame.down
        change_MFD = layer_norm(frames_MFD - previous_frame(frames_MFD))
        hidden_MFR = functional.linear(inner_MFD, still) + functional.linear(change_MFD, moving)
        active_MR = masked_mean(functional.gelu(hidden_MFR) * norm(frames_MFD), mask_MF)
        active_MR = active_MR if keep_MR is None else active_MR * keep_MR
        mean_MD = masked_mean(frames_MFD, mask_MF)
        adapted_MD = mean_MD + functional.linear(active_MR, self.frame.up) / math.sqrt(len(self.frame.up))
        shift_MD = self._shift(mean_MD, inner_MFD, mask_MF, keep_MR)
        return mean_alone(adapted_MD, mask_MF)._replace(shift_MD=shift_MD)

    def _shift(self, mean_MD: Tensor, inner_MFD: Tensor, mask_MF: Tensor, keep_MR: Tensor | None) -> Tensor:
        """What the mean frame and a temporal convolution over frames add to the video's mean."""
        path_MRF = functional.linear(inner_MFD, self.temporal_down).transpose(1, 2) * mask_MF[:, None]
        moves_MRF = functional.gelu(functional.conv1d(path_MRF, self.temporal, padding=1)) * mask_MF[:, None]
        moves_MR = moves_MRF.sum(-1) / mask_MF.sum(-1, keepdim=True).clamp(min=1)
        return self.video.shift(self.video.hidden(mean_MD) + moves_MR, keep_MR)


class FrameFusion(nn.Module):
    """Attention over frames guided by a neighbouring frame; two gated blocks, previous then next frame (spec 5.1).

    G = X shifted by one frame (an end frame guides itself), A = softmax((W_q G)(W_k X)' / sqrt(d_H)) over frames,
    X <- (1 - a) X + a W_o(A W_v X). W = identity without bias, a = 0: the identity.
    heads: at most so many; the largest number that divides `dim` is taken.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = max(count for count in range(1, heads + 1) if dim % count == 0)
        self.alpha = nn.Parameter(torch.zeros(2))
        self.mix = nn.ParameterList(torch.eye(dim).repeat(3, 1) for _ in range(2))  # W_q, W_k, W_v of each block
        self.out = nn.ParameterList(torch.eye(dim) for _ in range(2))

    def forward(self, video: VideoBatch) -> AdaptedVideo:
        x_MFD, mask_MF = video
        last_M = mask_MF.sum(1) - 1
        for block, (mix, out) in enumerate(zip(self.mix, self.out, strict=True)):
            own_MFD, key_MFD, value_MFD = functional.linear(x_MFD, mix).chunk(3, -1)
            # W_q G: the guides are frames, so that they may be shifted after W_q
            query_MFD = previous_frame(own_MFD) if block == 0 else next_frame(own_MFD, last_M)
            fused_MFD = functional.linear(attention(query_MFD, key_MFD, value_MFD, mask_MF, self.heads), out)
            x_MFD = x_MFD + self.alpha[block] * (fused_MFD - x_MFD)
        return AdaptedVideo(x_MFD * mask_MF[..., None], mask_MF)


class RoutedExperts(nn.Module):
    """Low-rank experts behind one router per caption (spec 2.10, 5.2): delta(x) = (a/r) sum_e g_e B_e A x.

    g = softmax over the top-k router logits, 0 elsewhere. B starts at zero: the identity.
    """

    def __init__(
        self, dim: int, rank: int, experts: int, top_k: int, scaling: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.top_k, self.scaling = top_k, scaling
        self.down_RD = fan_in_uniform((rank, dim), generator)
        self.up_ERD = nn.Parameter(torch.zeros(experts, rank, dim))
        self.route_ED = fan_in_uniform((experts, dim), generator)
        self.noise_ED = nn.Parameter(torch.zeros(experts, dim))

    def gates(self, router_input_ND: Tensor, noise_NE: Tensor | None = None) -> Tensor:
        """g_NE; noise is standard normal, scaled by softplus(R_n x) + 0.01 as in training."""
        logits_NE = router_input_ND @ self.route_ED.T
        if noise_NE is not None:
            logits_NE = logits_NE + noise_NE * (functional.softplus(router_input_ND @ self.noise_ED.T) + 0.01)
        threshold_N1 = logits_NE.topk(self.top_k, dim=-1).values[..., -1:]
        return torch.where(logits_NE >= threshold_N1, logits_NE, MASKED).softmax(-1)

    def first_expert(self, count: int) -> Tensor:
        """Gates of the first task: expert 1 alone, no routing."""
        gates_NE = self.up_ERD.new_zeros(count, len(self.up_ERD))
        gates_NE[:, 0] = 1
        return gates_NE

    def forward(self, x: Tensor, gates_NE: Tensor, keep_ND: Tensor | None = None) -> Tensor:
        """delta of x [N, D] or [N, L, D]; keep_ND is the dropout mask before A."""
        x_NLD = x if x.dim() == 3 else x[:, None]
        hidden_NLR = self.scaling * (x_NLD if keep_ND is None else x_NLD * keep_ND[:, None]) @ self.down_RD.T
        if x_NLD.shape[1] <= _FEW_TOKENS:
            gated_NLER = hidden_NLR[:, :, None] * gates_NE[:, None, :, None]
            delta_NLD = gated_NLER.flatten(2) @ self.up_ERD.flatten(0, 1)
        else:
            delta_NLD = hidden_NLR @ (gates_NE @ self.up_ERD.flatten(1)).view(len(gates_NE), *self.up_ERD.shape[1:])
        return delta_NLD if x.dim() == 3 else delta_NLD[:, 0]

    def copy_first_to_all(self) -> None:
        """After the first task every expert starts from what the first one learned."""
        with torch.no_grad():
            self.up_ERD.copy_(self.up_ERD[:1].expand_as(self.up_ERD).clone())


class Prompts(NamedTuple):
    """K prompts of P tokens in the scale of layer-normed ones, and the C of them that each sample sees, in order.

    of_NC None: K = N, each sample its own.
    """

    tokens_KPD: Tensor
    of_NC: Tensor | None = None

    @staticmethod
    def shared(tokens_PD: Tensor, samples: int) -> Prompts:
        """One prompt that all samples see."""
        return Prompts(tokens_PD[None], torch.zeros(samples, 1, dtype=torch.int64, device=tokens_PD.device))

    def mapped(self, weight_WD: Tensor) -> Tensor:
        """W x of every sample's prompt tokens, [N, C P, W]; a prompt is mapped once, whoever sees it."""
        mapped_KPW = functional.linear(self.tokens_KPD, weight_WD)
        if self.of_NC is None:
            return mapped_KPW
        # An index in brackets would add up gradients in any order where several threads do, and on a GPU
        # `index_select` would: runs could not be made again to the bit.
        seen_NCX = functional.embedding(self.of_NC, mapped_KPW.flatten(1))
        return seen_NCX.view(len(seen_NCX), -1, len(weight_WD))


class AttentionBlock(nn.Module):
    """Tokens attend to prompts P and to each other in a narrow space.

    x + |x| / sqrt(D) W_o attention(W_q x, W_k [P; x], W_v [P; x]), W_o zero at first: the identity. It carries every
    prompt method and, without prompts, is their control.
    """

    def __init__(self, dim: int, width: int, heads: int, generator: torch.Generator) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (fan_in_uniform((width, dim), generator) for _ in range(3))
        self.out = nn.Parameter(torch.zeros(dim, width))

    def forward(self, tokens_NLD: Tensor, mask_NL: Tensor, *prompts: Prompts, asked: int | None = None) -> Tensor:
        """The first `asked` tokens (None: all) after attention to all of them and to the prompts."""
        mixed_NQW, asked_NQD = self._mixed(tokens_NLD, mask_NL, prompts, asked), tokens_NLD[:, :asked]
        return asked_NQD + self._out(norm(asked_NQD) * mixed_NQW)

    def mean(self, tokens_NLD: Tensor, mask_NL: Tensor, *prompts: Prompts) -> Tensor:
        """The mean [N, D] of `forward` over real tokens: W_o is linear, so that it maps one row a sample."""
        mixed_NLW = self._mixed(tokens_NLD, mask_NL, prompts, None)
        return masked_mean(tokens_NLD, mask_NL) + self._out(masked_mean(norm(tokens_NLD) * mixed_NLW, mask_NL))

    def _out(self, mixed: Tensor) -> Tensor:
        return functional.linear(mixed, self.out) / math.sqrt(len(self.out))

    def _mixed(self, tokens_NLD: Tensor, mask_NL: Tensor, prompts: Sequence[Prompts], asked: int | None) -> Tensor:
        inner_NLD = layer_norm(tokens_NLD)
        query_NQW = functional.linear(inner_NLD[:, :asked], self.query)
        key_NKW, value_NKW = (
            torch.cat([*(each.mapped(weight) for each in prompts), functional.linear(inner_NLD, weight)], 1)
            for weight in (self.key, self.value)
        )
        shown_NP = mask_NL.new_ones(len(mask_NL), key_NKW.shape[1] - mask_NL.shape[1])
        return attention(query_NQW, key_NKW, value_NKW, torch.cat([shown_NP, mask_NL], 1), self.heads)


class TemporalTransformer(nn.Module):
    """CLIP4Clip's sequential head: a transformer over frames, added to them through a zero projection.

    x + |x| / sqrt(D) W_out LN(T(LN(x) + position)),  T = pre-norm layers of attention and a wide GELU MLP.
    W_out = 0 at first: the identity. Raises InputError where `heads` does not divide `dim`.
    """

    def __init__(self, dim: int, frames: int, layers: int, heads: int, generator: torch.Generator) -> None:
        super().__init__()
        if dim % heads:
            raise InputError(
                f"heads of the temporal transformer must divide the features' {dim} dimensions; got {heads}"
            )
        self.heads = heads
        self.position_FD = uniform((frames, dim), 0.02, generator)
        self.mix = nn.ParameterList(fan_in_uniform((4 * dim, dim), generator) for _ in range(layers))
        self.widen = nn.ParameterList(fan_in_uniform((4 * dim, dim), generator) for _ in range(layers))
        self.narrow = nn.ParameterList(fan_in_uniform((dim, 4 * dim), generator) for _ in range(layers))
        self.out = nn.Parameter(torch.zeros(dim, dim))

    def forward(self, frames_MFD: Tensor, mask_MF: Tensor) -> Tensor:
        x_MFD = layer_norm(frames_MFD) + self.position_FD[: frames_MFD.shape[1]]
        for mix, widen, narrow in zip(self.mix, self.widen, self.narrow, strict=True):
            query, key, value, out = mix.chunk(4)
            inner_MFD = layer_norm(x_MFD)
            mixed_MFD = attention(inner_MFD @ query.T, inner_MFD @ key.T, inner_MFD @ value.T, mask_MF, self.heads)
            x_MFD = x_MFD + mixed_MFD @ out.T
            x_MFD = x_MFD + functional.gelu(layer_norm(x_MFD) @ widen.T) @ narrow.T
        return frames_MFD + norm(frames_MFD) * (layer_norm(x_MFD) @ self.out.T) / math.sqrt(len(self.out))


def attention(query_NQD: Tensor, key_NKD: Tensor, value_NKD: Tensor, mask_NK: Tensor, heads: int) -> Tensor:
    """Multi-head attention over the keys where mask_NK is True -> [N, Q, D]."""
    query_NHQd, key_NHKd, value_NHKd = (
        x.view(*x.shape[:2], heads, x.shape[2] // heads).transpose(1, 2) for x in (query_NQD, key_NKD, value_NKD)
    )
    logits_NHQK = query_NHQd @ key_NHKd.transpose(2, 3) / math.sqrt(query_NHQd.shape[-1])
    weights_NHQK = logits_NHQK.masked_fill(~mask_NK[:, None, None], MASKED).softmax(-1)
    return (weights_NHQK @ value_NHKd).transpose(1, 2).flatten(2)


def previous_frame(x_MFD: Tensor) -> Tensor:
    """Each frame's predecessor; the first frame's is itself."""
    return torch.cat([x_MFD[:, :1], x_MFD[:, :-1]], 1)


def next_frame(x_MFD: Tensor, last_M: Tensor) -> Tensor:
    """Each frame's successor; the last real frame's (index last_M) is itself."""
    index_F = torch.arange(x_MFD.shape[1], device=x_MFD.device)
    shifted = torch.cat([x_MFD[:, 1:], x_MFD[:, -1:]], 1)
    return torch.where((index_F >= last_M[:, None])[..., None], x_MFD, shifted)


def masked_mean(x_NLD: Tensor, mask_NL: Tensor) -> Tensor:
    """Mean over the entries where the mask is True; zero where there is none."""
    weights = mask_NL[..., None].to(x_NLD.dtype)
    return (x_NLD * weights).sum(1) / weights.sum(1).clamp(min=1)


def norm(x: Tensor) -> Tensor:
    """Length of the last axis, kept as an axis; no gradient, so that zero vectors do no harm."""
    length: Tensor = x.detach().norm(dim=-1, keepdim=True)
    return length


def layer_norm(x: Tensor) -> Tensor:
    """Layer norm over the last axis without weights."""
    return functional.layer_norm(x, x.shape[-1:])


def fan_in_uniform(shape: tuple[int, ...], generator: torch.Generator) -> nn.Parameter:
    """U(-1/sqrt(fan in), 1/sqrt(fan in)), PyTorch's default for linear and convolution layers."""
    return uniform(shape, 1 / math.sqrt(math.prod(shape[1:])), generator)


def uniform(shape: tuple[int, ...], bound: float, generator: torch.Generator) -> nn.Parameter:
    """U(-bound, bound)."""
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound, generator=generator))


def keep_mask(rows: int, width: int, dropout: float, generator: torch.Generator) -> Tensor:
    """A dropout mask [rows, width]: 1 / (1 - dropout) with probability 1 - dropout, else 0."""
    return (torch.rand(rows, width, generator=generator) >= dropout).float() / (1 - dropout)
