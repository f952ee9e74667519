"""Dark Experience Replay ++: stored pairs are replayed twice, for what the old model said and for what is true.

L = L_contrastive(batch) + dark mean (s C - s R)^2 over one draw of stored pairs + replay L_contrastive(another draw)
C the pooled similarities of the drawn pairs under the head now, R under the head when their task ended and they were
stored. The two draws are independent.                                                    Buzzega et al. 2020, NeurIPS
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from ctvr_bench.features.streams import PairBatch, PairTable
from ctvr_bench.methods.finetune import Finetune, FinetuneConfig
from ctvr_bench.methods.shared.base import FeatureSpec
from ctvr_bench.methods.shared.memory import Reservoir, batch_of, pair_items
from ctvr_bench.methods.shared.ranges import Count, NotNegative, Search
from ctvr_bench.methods.shared.registry import register
from ctvr_bench.methods.shared.views import MeanWords

_STORED = ("stored_text_ND", "stored_video_ND")


@dataclass(frozen=True)
class DERppConfig(FinetuneConfig):
    """buffer: pairs kept. dark: alpha, weight of the stored similarities. replay: beta, weight of the stored pairs."""

    buffer: Count = 320
    dark: Annotated[NotNegative, Search(0.02, 2.0)] = 0.2
    replay: Annotated[NotNegative, Search(0.1, 3.0)] = 1.0


@register()
class DERpp(MeanWords, Finetune):
    """Fine-tuning plus two replays from a reservoir: of stored similarities and of stored pairs."""

    name = "der_pp"
    paper = "Buzzega et al. 2020, Dark Experience for General Continual Learning"
    source = "aimagelab/mammoth@e75a491 models/derpp.py"
    fidelity = "adapted"
    deviations = "similarities of embeddings in place of logits, stored at a task's end: a row compares several heads"
    published = "replay=0.5"
    idea = "Rehearse old pairs together with what the model then thought of them."
    stores_samples = "features and both embeddings of `buffer` training pairs"
    ensembles = False  # its loss cannot be stacked
    Config = DERppConfig
    config: DERppConfig

    def __init__(self, config: DERppConfig, spec: FeatureSpec, generator: torch.Generator) -> None:
        super().__init__(config, spec, generator)
        self.memory = Reservoir(config.buffer)

    def prepare(self, batch: PairBatch, generator: torch.Generator) -> PairBatch:
        prepared = super().prepare(batch, generator)
        for use in ("dark", "replay") if len(self.memory) else ():
            items = self.memory.draw(len(batch), generator)
            drawn = batch_of(items, batch.category_N.device).with_rows(**{name: items[name] for name in _STORED})
            prepared = prepared.with_replayed(**{use: super().prepare(drawn, generator)})
        return prepared

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        terms = super().loss(batch)
        if len(self.memory):
            drawn = batch.replayed["dark"]
            text, video = self.embed_batch(drawn)
            stored_NN = drawn.rows[_STORED[0]] @ drawn.rows[_STORED[1]].T
            change_NN = self.config.scale * (text.pooled_ND @ video.pooled_MD.T - stored_NN)
            terms["dark"] = self.config.dark * change_NN.square().mean()
            terms["replay"] = self.config.replay * super().loss(batch.replayed["replay"])["contrastive"]
        return terms

    @torch.no_grad()
    def end_task(self, data: PairTable, generator: torch.Generator) -> None:
        for index_N in data.shuffled(256, generator):
            batch = data.pairs(index_N)
            text, video = self.embed_batch(batch)
            self.memory.add(pair_items(batch) | dict(zip(_STORED, (text[0], video[0]), strict=True)), generator)
