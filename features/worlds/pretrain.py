"""Train the moving-shapes encoder from nothing, in ten minutes of two cores: `python -m` and this module's name.

Single pictures and captions of what they show, contrasted within a batch as CLIP does; each picture with two of its
captions. A picture has a faint trail of the moment before, as moving things leave in photographs: enough for the text
tower to keep motion words apart, as CLIP's does, though it never sees a video. A second, lighter term contrasts the
mean of a caption's word outputs, so that words can be compared with frames (word-frame scoring). Same seed, same
machine, same weights.

Axes: N pictures, K captions of each, L words, B batch, D features.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ctvr_bench.features.worlds import model
from ctvr_bench.features.worlds.encoder import WEIGHTS, save_weights
from ctvr_bench.features.worlds.pictures import RARITY, draw_pictures

_SHARD = 2000  # pictures sampled and captioned together


@dataclass(frozen=True)
class Config:
    """How the encoder is trained.

    rarity: exponent of the attribute prior, see `scene.even_prior`. captions: written for each picture, of which
    `positives` take part in a step. word_weight: of the word term. warm_up: steps.
    """

    pictures: int = 80_000
    captions: int = 4
    positives: int = 2
    rarity: float = RARITY
    steps: int = 1_700
    batch: int = 256
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    word_weight: float = 0.3
    warm_up: int = 60


@dataclass(frozen=True)
class Pairs:
    """Pictures uint8 [N, H, W, 3] and their captions as word numbers int16 [N, K, L]."""

    pictures: Tensor
    words: Tensor


def make_pairs(seed: int, pictures: int, captions_each: int, rarity: float) -> Pairs:
    """Pictures of random moments of random scenes, with captions of what they show."""
    rng = np.random.default_rng([seed, 71])
    shown, words = [], []
    for start in range(0, pictures, _SHARD):
        n = min(_SHARD, pictures - start)
        drawn, texts = draw_pictures(rng, n, captions_each, rarity)
        shown.append(drawn)
        numbers, _ = model.word_numbers(texts)
        padded = functional.pad(numbers, (0, model.CONTEXT - numbers.shape[1]), value=model.PADDING)
        words.append(padded.view(n, captions_each, -1).to(torch.int16))
    return Pairs(torch.from_numpy(np.concatenate(shown)), torch.cat(words))


def train(pairs: Pairs, config: Config, seed: int, report_every: int = 0) -> model.DualEncoder:
    """The trained encoder, ready for inference."""
    torch.manual_seed(seed)
    draw = torch.Generator().manual_seed(seed)
    encoder = model.DualEncoder()
    optimiser = torch.optim.AdamW(
        encoder.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.98)
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, config))
    order, began = torch.empty(0, dtype=torch.long), time.monotonic()
    for step in range(config.steps):
        if len(order) < config.batch:
            order = torch.randperm(len(pairs.pictures), generator=draw)
        rows, order = order[: config.batch], order[config.batch :]
        chosen = torch.rand(config.batch, pairs.words.shape[1], generator=draw).argsort(1)[:, : config.positives]
        loss = _loss(encoder, pairs.pictures[rows], pairs.words[rows[:, None], chosen].long(), config.word_weight)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if report_every and (step + 1) % report_every == 0:
            rate = (step + 1) / (time.monotonic() - began)
            left = (config.steps - step - 1) / rate
            print(f"step {step + 1}/{config.steps}, loss {loss.item():.3f}, {left:.0f} s left", file=sys.stderr)
    return encoder.eval()


@torch.no_grad()
def retrieval(encoder: model.DualEncoder, pairs: Pairs) -> dict[str, float]:
    """Caption-to-picture recall in percent on pairs, one caption each, the pairs being the gallery."""
    pictures_ND = torch.cat([encoder.pictures(model.normalise_pictures(part)) for part in pairs.pictures.split(256)])
    text_ND, _ = encode_text(encoder, pairs.words[:, 0].long())
    sim_NN = functional.normalize(text_ND, dim=1) @ functional.normalize(pictures_ND, dim=1).T
    rank_N = (sim_NN >= sim_NN.diag()[:, None]).sum(1)
    return {f"R@{k}": round((rank_N <= k).float().mean().item() * 100, 2) for k in (1, 5, 10)}


def _loss(encoder: model.DualEncoder, pictures: Tensor, words_BPL: Tensor, word_weight: float) -> Tensor:
    batch, positives, _ = words_BPL.shape
    pictures_BD = functional.normalize(encoder.pictures(model.normalise_pictures(pictures)), dim=1)
    pooled, word_mean = encode_text(encoder, words_BPL.transpose(0, 1).flatten(0, 1))
    scale = encoder.log_scale.exp().clamp(max=100)
    target = torch.arange(batch)
    loss = torch.zeros(())
    for text, weight in ((functional.normalize(pooled, dim=1), 1.0), (word_mean, word_weight)):
        for text_BD in text.split(batch):
            sim_BB = scale * text_BD @ pictures_BD.T
            both_ways = functional.cross_entropy(sim_BB, target) + functional.cross_entropy(sim_BB.T, target)
            loss = loss + weight / (2 * positives) * both_ways
    return loss


def encode_text(encoder: model.DualEncoder, words_NL: Tensor) -> tuple[Tensor, Tensor]:
    """Pooled captions [N, D], and the mean of each caption's normalised words [N, D].

    Captions of like length go together: less padding, half the time.
    """
    length_N = (words_NL != model.PADDING).sum(1)
    order = length_N.argsort()
    pooled, means = [], []
    for rows in order.split(128):
        words = words_NL[rows, : int(length_N[rows].max())]
        out = encoder.text(words)
        real = (words != model.PADDING)[:, 1:, None]
        pooled.append(out[:, 0])
        means.append((functional.normalize(out[:, 1:], dim=2) * real).sum(1) / real.sum(1).clamp(min=1))
    back = order.argsort()
    return torch.cat(pooled)[back], torch.cat(means)[back]


def _rate(step: int, config: Config) -> float:
    return min(1.0, (step + 1) / config.warm_up) * (0.51 + 0.49 * math.cos(math.pi * step / config.steps))


def main() -> None:
    """The command line; prints retrieval on held-out pictures."""
    parser = argparse.ArgumentParser(
        prog="python -m ctvr_bench.features.worlds.pretrain",
        description="Train the moving-shapes encoder from nothing.",
    )
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=Config.steps)
    parser.add_argument("--pictures", type=int, default=Config.pictures)
    given = parser.parse_args()
    config = Config(steps=given.steps, pictures=given.pictures)
    print(f"drawing {config.pictures} pictures", file=sys.stderr)
    pairs = make_pairs(given.seed, config.pictures, config.captions, config.rarity)
    encoder = train(pairs, config, given.seed, report_every=100)
    held_out = retrieval(encoder, make_pairs(given.seed + 1, 1000, 1, config.rarity))
    save_weights(encoder, given.out, {"seed": given.seed, **vars(config), "held_out": held_out})
    print(json.dumps(held_out))


if __name__ == "__main__":
    main()
