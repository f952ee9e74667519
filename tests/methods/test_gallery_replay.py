"""Old captions, as the head encodes them now, against their videos as galleries hold them."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from ctvr_bench.bench.run.jobs import load_tensors
from ctvr_bench.bench.run.training import generator_for
from ctvr_bench.features.streams import PairBatch
from ctvr_bench.methods.gallery_replay import GalleryReplay
from tests.learning import begin, learn, make, train_pairs


def second_task(**values: object) -> tuple[GalleryReplay, PairBatch]:
    """The method in its second task, after a step away from where the first one ended, and a batch of it."""
    method = make("gallery_replay", **{"lr": 1e-2, "buffer": 20, "replay": 7, **values})
    assert isinstance(method, GalleryReplay)
    learn(method, 0)
    begin(method, 1)
    with torch.no_grad():
        method.head.caption.up += 0.05
        method.head.video.up += 0.05
    return method, method.prepare(train_pairs(1).pairs(torch.arange(12)), generator_for(0, "draws"))


def test_the_loss_is_that_of_batch_and_memory_together_by_loops() -> None:
    method, batch = second_task(dropout=0.0)
    with torch.no_grad():
        text, video = method.embed_batch(batch)
        found = method.loss(batch)["contrastive"].item()
    captions, gallery = batch.draws["old_caption_ND"], batch.draws["old_gallery_ND"]
    old = method.encode_text(train_pairs(0).text(torch.arange(48)), 0).pooled_ND.detach()
    features = train_pairs(0).text(torch.arange(48)).pooled_ND
    rows = [int((features - caption).norm(dim=1).argmin()) for caption in captions]
    assert_close(features[rows], captions)
    texts = [*text.pooled_ND, *(old[row] for row in rows)]
    videos = [*video.pooled_MD, *gallery]
    shown = [*batch.video_N.tolist(), *batch.draws["old_video_N"].tolist()]
    expected = 0.0
    for one, other in ((texts, videos), (videos, texts)):
        for i, anchor in enumerate(one):
            rivals = [j for j in range(19) if j == i or shown[j] != shown[i]]
            logits = {j: 17.6 * float(anchor @ other[j]) for j in rivals}
            expected += (math.log(sum(map(math.exp, logits.values()))) - logits[i]) / 19
    assert found == pytest.approx(expected, rel=1e-4)


def test_what_is_kept_of_a_video_is_what_its_gallery_holds_and_stays_so() -> None:
    method, _ = second_task()
    kept = {name: value.clone() for name, value in method.memory.state_dict().items()}
    assert set(kept) == {"seen", "item_caption_ND", "item_words_ND", "item_gallery_ND", "item_video_N"}
    then = make("gallery_replay", lr=1e-2, buffer=20, replay=7)
    learn(then, 0)
    pairs = train_pairs(0).pairs(torch.arange(48))
    with torch.no_grad():
        vectors_ND = then.encode_gallery(pairs.video, 0).pooled_MD
    gallery = dict(zip(pairs.video_N.tolist(), vectors_ND, strict=True))
    learn(method, 1)
    held = method.memory.state_dict()
    for items in (kept, held):
        stored = zip(items["item_video_N"].tolist(), items["item_gallery_ND"], strict=True)
        of_first_task = [(video, vector) for video, vector in stored if video in gallery]
        assert len(of_first_task) >= 5
        for video, vector in of_first_task:
            assert_close(vector, gallery[video])


def test_gallery_vectors_are_constants_and_old_captions_are_not() -> None:
    method, batch = second_task(dropout=0.0)
    assert not any(value.requires_grad for value in batch.draws.values())
    before = method.loss(batch)["contrastive"].item()
    for name in ("old_caption_ND", "old_words_ND", "old_gallery_ND"):
        moved = method.loss(batch.with_draws(**{name: batch.draws[name].flip(0)}))["contrastive"].item()
        assert moved != pytest.approx(before), name
    with torch.no_grad():
        method.head.video.up += 0.05  # the batch's videos move, the gallery's do not
    again = method.prepare(train_pairs(1).pairs(torch.arange(12)), generator_for(0, "draws"))
    assert torch.equal(again.draws["old_gallery_ND"], batch.draws["old_gallery_ND"])


def test_the_first_task_is_fine_tuning() -> None:
    method, plain = make("gallery_replay", lr=1e-3, dropout=0.0), make("finetune", lr=1e-3, dropout=0.0)
    load_tensors(plain, {name: value for name, value in method.state_dict().items() if name.startswith("head.")})
    for each in (method, plain):
        learn(each, 0)
    for name, value in plain.state_dict().items():
        assert torch.equal(method.state_dict()[name], value), name


def test_replayed_captions_have_dropout_masks_of_their_own() -> None:
    method, batch = second_task(dropout=0.5)
    assert batch.draws["old_keep_NR"].shape == (7, method.config.rank)
    assert not torch.equal(batch.draws["old_keep_NR"], batch.draws["keep_text_NR"][:7])
