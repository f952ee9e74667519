"""The dual encoder of the moving-shapes world, CLIP in small: a picture tower and a text tower, about 1.1 M parameters.

Axes: B items, L words (first column: the sentence token), D = DIM features.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ctvr_bench.features.worlds.words import vocabulary

DIM = 128
CONTEXT = 40  # words and the sentence token
PADDING, SENTENCE, UNKNOWN = range(3)
MEAN, STD = 0.4, 0.3  # of pixel values in 0..1


class PictureTower(nn.Module):
    """Convolutions, then what is where, the strongest and the mean response: float [B, 3, 48, 48] -> [B, D]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(_convolve(12, 64, 5, 2), nn.ReLU(), _convolve(64, 128, 3, 2), nn.ReLU())
        self.residual = nn.Sequential(_convolve(128, 128, 3, 1), nn.ReLU(), _convolve(128, 128, 3, 1))
        self.where = nn.Conv2d(128, 32, 1)
        wide = 32 * 36 + 2 * 128
        self.head = nn.Sequential(
            nn.LayerNorm(wide), nn.Linear(wide, 256), nn.GELU(), nn.LayerNorm(256), nn.Linear(256, DIM, bias=False)
        )

    def forward(self, pictures: Tensor) -> Tensor:
        quarters = functional.pixel_unshuffle(pictures, 2)  # [B, 12, 24, 24]
        x = self.stem(quarters.contiguous(memory_format=torch.channels_last))  # twice as fast on a CPU
        x = functional.relu(x + self.residual(x))
        out: Tensor = self.head(torch.cat([self.where(x).flatten(1), x.amax((2, 3)), x.mean((2, 3))], dim=1))
        return out


class TextTower(nn.Module):
    """Two transformer layers: word numbers [B, L] -> outputs [B, L, D]; the first is the pooled caption."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, DIM)
        self.position = nn.Parameter(0.02 * torch.randn(CONTEXT, DIM))
        self.layers = nn.ModuleList([_Layer(), _Layer()])
        self.norm = nn.LayerNorm(DIM)
        self.project = nn.Linear(DIM, DIM, bias=False)
        nn.init.normal_(self.embedding.weight, std=0.05)

    def forward(self, words_BL: Tensor) -> Tensor:
        real_BL = words_BL != PADDING
        x = self.embedding(words_BL) + self.position[: words_BL.shape[1]]
        for layer in self.layers:
            x = layer(x, real_BL)
        out: Tensor = self.project(self.norm(x))
        return out


class DualEncoder(nn.Module):
    """Both towers and the temperature that they were trained with."""

    def __init__(self) -> None:
        super().__init__()
        self.pictures = PictureTower()
        self.text = TextTower(len(vocabulary()) + 3)
        self.log_scale = nn.Parameter(torch.tensor(2.659))


class _Layer(nn.Module):
    """Pre-norm self-attention with four heads and a feed-forward block."""

    def __init__(self, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_forward = nn.LayerNorm(DIM), nn.LayerNorm(DIM)
        self.query_key_value, self.mix = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)
        self.forward_block = nn.Sequential(nn.Linear(DIM, 2 * DIM), nn.GELU(), nn.Linear(2 * DIM, DIM))

    def forward(self, x: Tensor, real_BL: Tensor) -> Tensor:
        b, length, _ = x.shape
        split = self.query_key_value(self.norm_attention(x)).view(b, length, 3, self.heads, DIM // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=real_BL[:, None, None, :])
        x = x + self.mix(attended.transpose(1, 2).reshape(b, length, DIM))
        out: Tensor = x + self.forward_block(self.norm_forward(x))
        return out


def normalise_pictures(pictures: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] -> float [B, 3, H, W], about zero mean and unit variance."""
    return (pictures.permute(0, 3, 1, 2).float() / 255 - MEAN) / STD


def word_numbers(texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """[B, L] numbers of the words of each text, behind the sentence token and padded; bool [B] which were too long.

    Case and punctuation do not matter; words outside the vocabulary share one number.
    """
    rows = [[_NUMBER.get(word, UNKNOWN) for word in re.findall(r"[a-z]+", text.lower())] for text in texts]
    kept = [torch.tensor([SENTENCE, *numbers[: CONTEXT - 1]]) for numbers in rows]
    truncated = torch.tensor([len(numbers) > CONTEXT - 1 for numbers in rows])
    return nn.utils.rnn.pad_sequence(kept, batch_first=True, padding_value=PADDING), truncated


_NUMBER = {word: number for number, word in enumerate(vocabulary(), start=3)}


def _convolve(inside: int, outside: int, width: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(inside, outside, width, stride, width // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outside))
