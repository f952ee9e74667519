"""A broken method for every promise of the contract, and the words in which its fault is told."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ctvr_bench.bench.authoring import tryout
from ctvr_bench.bench.authoring.checks import CHECKS, fault_of
from ctvr_bench.bench.authoring.contract import check_method
from ctvr_bench.features.streams import PairBatch, PairTable, TextBatch, VideoBatch
from ctvr_bench.methods.finetune import Finetune, FinetuneConfig
from ctvr_bench.methods.lwf import LwF
from ctvr_bench.methods.shared.base import Method, ParameterGroup, TaskInfo, TextEmbedding, VideoEmbedding
from ctvr_bench.methods.shared.registry import Entry


class Sound(Finetune):
    """What the broken ones begin with: it keeps every promise."""

    name = "sound"
    paper = "none"
    idea = "A sound method."


class NoDeviations(Sound):
    fidelity = "adapted"


class StartsElsewhere(Sound):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        with torch.no_grad():
            for parameter in self.head.parameters():
                parameter.add_(0.01)


class NotNormalised(Sound):
    def encode_text(self, text: TextBatch, shard: int) -> TextEmbedding:
        grown = 1 if self.task.position < 0 else 2
        found = super().encode_text(text, shard)
        return found._replace(pooled_ND=grown * found.pooled_ND)


class DividesBySpread(Sound):
    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        spread = batch.category_N.float().var(correction=0)
        return {name: value * (1 + 1 / spread) for name, value in super().loss(batch).items()}


class Draws(Sound):
    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        return {"noisy": super().loss(batch)["contrastive"] * torch.rand(())}


class IgnoresTheSeed(Sound):
    def __init__(self, config: FinetuneConfig, spec: Any, generator: torch.Generator) -> None:
        super().__init__(config, spec, torch.Generator().manual_seed(0))

    def prepare(self, batch: PairBatch, generator: torch.Generator) -> PairBatch:
        return super().prepare(batch, torch.Generator().manual_seed(0))

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        return {"size": sum((p.square().sum() for p in self.parameters()), torch.zeros(()))}

    def end_task(self, data: PairTable, generator: torch.Generator) -> None:
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(parameter.mean().round())


class LearnsNothing(Sound):
    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        return {"zero": 0 * sum((p.sum() for p in self.parameters()), torch.zeros(()))}

    Config = FinetuneConfig

    def __init__(self, config: FinetuneConfig, *arguments: Any) -> None:
        super().__init__(config, *arguments)

    def parameter_groups(self) -> list[ParameterGroup]:
        return [group._replace(rate=0.0) for group in super().parameter_groups()]


class CountsOutsideItsState(Sound):
    def begin_task(self, task: TaskInfo) -> None:
        super().begin_task(task)
        self.tasks_seen = getattr(self, "tasks_seen", 0) + 1

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        return {"scaled": super().loss(batch)["contrastive"] / self.tasks_seen}


class WritesIntoItsData(Sound):
    def end_task(self, data: PairTable, generator: torch.Generator) -> None:
        data.pooled_PD.div_(2)


class AdaptsAtTestTime(Sound):
    mean_D: Tensor

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.register_buffer("mean_D", torch.zeros(self.spec.dim))

    def encode_gallery(self, video: VideoBatch, shard: int) -> VideoEmbedding:
        self.mean_D.add_(video.frames_MFD.mean((0, 1)))
        return super().encode_gallery(video, shard)


class ReadsThePast(Sound):
    past: PairTable | None = None

    def end_task(self, data: PairTable, generator: torch.Generator) -> None:
        if self.past is not None:
            with torch.no_grad():
                for parameter in self.head.parameters():
                    parameter.add_(1e-9 * self.past.pooled_PD.mean())
        self.past = data


class KeepsUndeclared(Sound):
    kept: Tensor

    def end_task(self, data: PairTable, generator: torch.Generator) -> None:
        self.register_buffer(f"kept_{self.task.position}", data.pooled_PD[:3].clone())


class CentresTheBatch(Sound):
    def encode_text(self, text: TextBatch, shard: int) -> TextEmbedding:
        found = super().encode_text(text, shard)
        if self.task.position < 0 or len(found.pooled_ND) < 2:
            return found
        return found._replace(pooled_ND=nn.functional.normalize(found.pooled_ND - found.pooled_ND.mean(0), dim=-1))


class AsksForTheShard(Sound):
    def encode_text(self, text: TextBatch, shard: int) -> TextEmbedding:
        found = super().encode_text(text, shard)
        return found if self.task.position < 0 else found._replace(pooled_ND=found.pooled_ND.roll(shard, 1))


class HidesWhatItKeeps(Sound):
    def end_task(self, data: PairTable, generator: torch.Generator) -> None:
        self.memory = [data.pooled_PD[:3].clone()]


class DropsWordsOfAMethodThatKnowsTheirMeanAlone(LwF):
    def prepare(self, batch: PairBatch, generator: torch.Generator) -> PairBatch:
        words_NLD = batch.text.words_NLD.clone()
        words_NLD[:, 0] = 0
        return super().prepare(replace(batch, text=batch.text._replace(words_NLD=words_NLD)), generator)


class KeepsANumberElsewhere(Sound):
    """Where a stack does not find it: the first run's counts for all."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.decays = [self.config.scale / 100]

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        size = torch.stack([parameter.square().sum() for parameter in self.head.parameters()]).sum()
        return {**super().loss(batch), "size": self.decays[0] * size}


class Crashes(Sound):
    def encode_text(self, text: TextBatch, shard: int) -> TextEmbedding:
        return super().encode_text(text, [0][shard])


@dataclass(frozen=True)
class NoDropoutConfig(FinetuneConfig):
    dropout: float = 0.0


class CosineOnly(Sound):
    Config = NoDropoutConfig


def fault(method: type[Method], check: str) -> str:
    """What that check says of the method."""
    entry = Entry("broken", method, {})
    assert CHECKS[check].of(entry)
    return fault_of(CHECKS[check], entry) or ""


@pytest.mark.parametrize("method", [Sound, CosineOnly])
def test_a_sound_method_has_no_fault(method: type[Sound]) -> None:
    assert [finding.fault for finding in check_method(Entry("sound", method, {})) if finding.fault] == []


BROKEN = [
    (NoDeviations, "card", "an adapted method says how it deviates"),
    (StartsElsewhere, "identity", "before training encode_text differs from zero-shot CLIP"),
    (NotNormalised, "unit_norms", "pooled captions are up to 1 away from unit norm"),
    (DividesBySpread, "finite", "with one pair loss term contrastive is nan"),
    (Draws, "pure", "draw what is random in `prepare`"),
    (Draws, "seeded", "two runs with one seed differ"),
    (IgnoresTheSeed, "seeded", "two seeds give the same bits"),
    (LearnsNothing, "moves", "training changes no parameter"),
    (CountsOutsideItsState, "resumes", "keep all state in registered buffers"),
    (WritesIntoItsData, "read_only", "it writes into the training table (pooled_PD)"),
    (AdaptsAtTestTime, "test_rows", "with other test videos and queries it learns or returns something else"),
    (ReadsThePast, "past_rows", "it reads the first task's training rows again"),
    (KeepsUndeclared, "past_rows", "its buffers grow by 96 numbers"),
    (CentresTheBatch, "query_alone", "encode_text of a query changes by up to"),
    (AsksForTheShard, "shards", "override the property uses_shards"),
    (HidesWhatItKeeps, "saved", "it keeps tensors in `memory`"),
    (DropsWordsOfAMethodThatKnowsTheirMeanAlone, "view", "return `data` from a `view` of your own"),
    (KeepsANumberElsewhere, "together", "away from what the run learns alone"),
    (Crashes, "identity", "in encode_text, raised IndexError: list index out of range"),
]


@pytest.mark.parametrize(("method", "check", "words"), BROKEN)
def test_a_broken_promise_is_told_in_plain_words(method: type[Method], check: str, words: str) -> None:
    assert words in fault(method, check)


def test_every_check_has_a_method_that_breaks_it() -> None:
    assert {check for _, check, _ in BROKEN} == set(CHECKS)


def test_a_method_that_writes_to_the_store_is_found_out() -> None:
    path = tryout.small_store().path
    whole = path.read_bytes()

    class WritesToTheStore(Sound):
        def end_task(self, data: PairTable, generator: torch.Generator) -> None:
            path.write_bytes(path.read_bytes() + b"x")

    try:
        assert fault(WritesToTheStore, "read_only") == "it writes to the feature store"
    finally:
        path.write_bytes(whole)
