"""Captions as the golden values store them, all words in one array, turned into the padded form our functions take."""

from __future__ import annotations

import torch
from torch import Tensor


def pad(words_KD: Tensor, lengths_N: Tensor) -> tuple[Tensor, Tensor]:
    """Zero-padded words [N, L, D], through which gradients flow back to `words_KD`, and their mask [N, L]."""
    mask_NL = torch.arange(int(lengths_N.max())) < lengths_N.unsqueeze(1)
    blank_NLD = words_KD.new_zeros(*mask_NL.shape, words_KD.shape[1])
    return blank_NLD.masked_scatter(mask_NL.unsqueeze(-1), words_KD), mask_NL
