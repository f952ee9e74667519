"""Gallery replay: old captions are rehearsed against videos as galleries hold them, not as the head sees them now.

T = [t | t_r],   V = [v | g_r],   L = CE(s T V') + CE(s V T')
t, v: the batch's captions and videos under the head now. t_r: stored captions of earlier tasks under the head now. g_r:
their videos' unit embeddings as the head made them when their task ended, which is what a gallery of that task
holds; they are constants. Other captions of a video are no negatives of it. So what is learned is what is asked later:
that captions of all tasks, encoded by the head as it is then, find videos encoded by the heads of their times.
A reservoir (Vitter 1985) keeps `buffer` pairs, uniform over all pairs seen: a caption's pooled feature and the mean of
its words, which is what the head reads of it, and g_r.
The video side goes on learning; nothing holds it. Replay proper (`er`) encodes old videos anew and so trains captions
for galleries that no store has; DER++ keeps similarities of both sides as they were.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from ctvr_bench.features.streams import PairBatch, PairTable
from ctvr_bench.methods.finetune import Finetune, FinetuneConfig
from ctvr_bench.methods.shared.base import FeatureSpec
from ctvr_bench.methods.shared.heads import keep_mask, masked_mean
from ctvr_bench.methods.shared.losses import symmetric_contrastive
from ctvr_bench.methods.shared.memory import Reservoir, captions_alone
from ctvr_bench.methods.shared.ranges import Count, NotNegative, Search
from ctvr_bench.methods.shared.registry import register
from ctvr_bench.methods.shared.scoring import embed_text, same_video
from ctvr_bench.methods.shared.views import MeanWords


@dataclass(frozen=True)
class GalleryReplayConfig(FinetuneConfig):
    """buffer: pairs kept. replay: pairs drawn into every batch. scoring: pooled features alone, those that are kept.

    Rate and replays are those that `tune` chose, 6.36e-4 and 91, in round numbers (results/tuning).
    """

    scoring: Literal["cosine"] = "cosine"
    lr: NotNegative = 6.4e-4
    buffer: Count = 320
    replay: Annotated[Count, Search(8, 256)] = 96


@register()
class GalleryReplay(MeanWords, Finetune):
    """Fine-tuning on the current batch together with stored captions and the gallery vectors of their videos."""

    name = "gallery_replay"
    paper = "this suite's, after experience replay (Chaudhry et al. 2019) and compatible training (Shen et al. 2020)"
    source = "this suite's equation"
    fidelity = "adapted"
    deviations = "no paper has this loss; residual adapters and pooled features alone"
    idea = "Queries change and stored galleries do not, so rehearse queries against what is stored."
    stores_samples = "captions of `buffer` training pairs and the gallery vectors of their videos"
    ensembles = False  # draws from a reservoir, as er does
    Config = GalleryReplayConfig
    config: GalleryReplayConfig

    def __init__(self, config: GalleryReplayConfig, spec: FeatureSpec, generator: torch.Generator) -> None:
        super().__init__(config, spec, generator)
        self.memory = Reservoir(config.buffer)

    def prepare(self, batch: PairBatch, generator: torch.Generator) -> PairBatch:
        config, prepared = self.config, super().prepare(batch, generator)
        if not len(self.memory):
            return prepared
        old = self.memory.draw(config.replay, generator)
        if config.dropout:
            old["keep_NR"] = keep_mask(config.replay, config.rank, config.dropout, generator)
        return prepared.with_draws(**{f"old_{name}": value for name, value in old.items()})

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        text, video = self.embed_batch(batch)
        text_ND, video_ND, video_N = text.pooled_ND, video.pooled_MD, batch.video_N
        if len(self.memory):
            draws = batch.draws
            old = captions_alone(draws["old_caption_ND"], draws["old_words_ND"])
            old_text = embed_text(self.head.text(old, draws.get("old_keep_NR")), self.config)
            text_ND = torch.cat([text_ND, old_text.pooled_ND])
            video_ND = torch.cat([video_ND, draws["old_gallery_ND"]])
            video_N = torch.cat([video_N, draws["old_video_N"]])
        return {"contrastive": symmetric_contrastive(text_ND @ video_ND.T, self.config.scale, same_video(video_N))}

    @torch.no_grad()
    def end_task(self, data: PairTable, generator: torch.Generator) -> None:
        for index_N in data.shuffled(256, generator):
            batch = data.pairs(index_N)
            pooled_ND, words_NLD, mask_NL = batch.text
            items = {
                "caption_ND": pooled_ND,
                "words_ND": masked_mean(words_NLD, mask_NL),
                "gallery_ND": self.encode_video(batch.video).pooled_MD,
                "video_N": batch.video_N,
            }
            self.memory.add(items, generator)
