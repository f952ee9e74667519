"""Methods under which stored galleries stay valid, each term against plain loops; and PROOF, whose maps stay."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.testing import assert_close

from ctvr_bench.bench.run.training import generator_for
from ctvr_bench.features.streams import PairBatch
from ctvr_bench.methods.bc_aligner import BCAligner
from ctvr_bench.methods.d_simplex_hoc import DSimplexHOC, higher_order_compatibility
from ctvr_bench.methods.finetune import Finetune
from ctvr_bench.methods.proof import Proof
from ctvr_bench.methods.ract import regression_alleviating
from ctvr_bench.methods.shared.base import Method
from ctvr_bench.methods.shared.heads import masked_mean
from tests.learning import begin, learn, make, train_pairs
from tests.stores import small_stream

SCALE = 17.6


def second_task(name: str, **values: object) -> tuple[Finetune, PairBatch]:
    """A method whose second task has begun, its head already away from where it stood, and a batch of that task."""
    method = make(name, dropout=0.0, **values)
    assert isinstance(method, Finetune)
    learn(method, 0)
    begin(method, 1)
    with torch.no_grad():
        for part in (method.head.caption, method.head.frame, method.head.video):
            part.up += 0.05 * torch.randn(part.up.shape, generator=torch.Generator().manual_seed(1))
    return method, method.prepare(train_pairs(1).pairs(torch.arange(0, 24, 2)), generator_for(0, "draws"))


def unit_features(method: Finetune, batch: PairBatch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Captions and videos of the head that is trained, then of the same method as its first task left it."""
    first = make(method.name, **{name: getattr(method.config, name) for name in vars(method.config)})
    assert isinstance(first, Finetune)
    learn(first, 0)
    with torch.no_grad():
        (text, video), (old_text, old_video) = method.embed_batch(batch), first.embed_batch(batch)
    return text.pooled_ND, video.pooled_MD, old_text.pooled_ND, old_video.pooled_MD


def term(method: Method, batch: PairBatch, name: str) -> float:
    with torch.no_grad():
        return method.loss(batch)[name].item()


@torch.no_grad()
def gallery(method: Method, task: int = 0) -> Tensor:
    return method.encode_gallery(train_pairs(task).all_videos(), task).pooled_MD


# --- the video side held


@pytest.mark.parametrize(
    ("name", "values", "held_from"),
    [
        ("video_frozen_always", {}, 0),
        ("video_frozen", {}, 1),
        ("video_frozen", {"video_tasks": 2}, 2),
        ("structalign_anchored", {"video_tasks": 1}, 1),
    ],
)
def test_a_held_video_side_leaves_every_gallery_bit_for_bit(
    name: str, values: dict[str, object], held_from: int
) -> None:
    method = make(name, lr=1e-2, **values)
    galleries, queries = [gallery(method)], []
    for task in range(3):
        learn(method, task)
        galleries.append(gallery(method))
        queries.append(method.encode_text(train_pairs(0).text(torch.arange(8)), 0).pooled_ND.detach())
    moved = [not torch.equal(*pair) for pair in itertools.pairwise(galleries)]
    assert moved == [task < held_from for task in range(3)]
    assert not torch.equal(queries[1], queries[2])


# --- terms that tie new features to old ones


def test_video_anchor_is_how_far_videos_have_turned() -> None:
    method, batch = second_task("video_anchor", weight=3.0)
    _, video_ND, _, old_ND = unit_features(method, batch)
    expected = 3 * sum(1 - float(new @ old) for new, old in zip(video_ND, old_ND, strict=True)) / len(batch)
    assert expected > 0.01
    assert term(method, batch, "anchor") == pytest.approx(expected, rel=1e-3)


def test_video_anchor_holds_real_frames_where_they_are_compared() -> None:
    method, batch = second_task("video_anchor", weight=1.0, scoring="word_frame")
    batch.video.frame_mask_MF[0, 2:] = False
    whole = term(method, batch, "anchor")
    with torch.no_grad():
        video = method.encode_video(batch.video)
        head, method.head = method.head, method.teacher
        old = method.encode_video(batch.video)
        method.head = head
    assert video.frames_MFD is not None
    assert old.frames_MFD is not None
    pooled = sum(1 - float(a @ b) for a, b in zip(video.pooled_MD, old.pooled_MD, strict=True)) / len(batch)
    frames = [
        1 - float(video.frames_MFD[m, f] @ old.frames_MFD[m, f])
        for m, f in batch.video.frame_mask_MF.nonzero().tolist()
    ]
    assert whole == pytest.approx(pooled + sum(frames) / len(frames), rel=1e-3)


def test_bct_asks_new_captions_for_old_videos() -> None:
    method, batch = second_task("bct", weight=0.7)
    text_ND, _, _, old_ND = unit_features(method, batch)
    videos, total = batch.video_N.tolist(), 0.0
    assert len(set(videos)) < len(videos)
    for i in range(len(batch)):
        rivals = [k for k in range(len(batch)) if k == i or videos[k] != videos[i]]
        below = sum(math.exp(SCALE * float(text_ND[i] @ old_ND[k])) for k in rivals)
        total += math.log(below) - SCALE * float(text_ND[i] @ old_ND[i])
    assert term(method, batch, "influence") == pytest.approx(0.7 * total / len(batch), rel=1e-3)


@pytest.mark.parametrize("negatives", [3, 10, 50])
def test_ract_prefers_the_old_video_to_the_nearest_others_old_and_new(negatives: int) -> None:
    method, batch = second_task("ract", weight=0.7, negatives=negatives)
    text_ND, video_ND, _, old_ND = unit_features(method, batch)
    videos, total = batch.video_N.tolist(), 0.0
    for i in range(len(batch)):
        others = [k for k in range(len(batch)) if videos[k] != videos[i]]
        stored, new = (sorted((float(text_ND[i] @ x[k]) for k in others), reverse=True) for x in (old_ND, video_ND))
        own = float(text_ND[i] @ old_ND[i])
        below = sum(math.exp(SCALE * x) for x in [own, *stored[:negatives], *new[:negatives]])
        total += math.log(below) - SCALE * own
    assert term(method, batch, "compatible") == pytest.approx(0.7 * total / len(batch), rel=1e-3)


def test_a_caption_without_rivals_costs_ract_nothing() -> None:
    same_NN = torch.ones(3, 3, dtype=torch.bool)
    assert regression_alleviating(torch.eye(3), torch.eye(3), same_NN, 10).item() == 0


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("video_anchor", "anchor"),
        ("bct", "influence"),
        ("ract", "compatible"),
        ("bc_aligner", "alignment"),
        ("d_simplex_hoc", "compatibility"),
    ],
)
def test_nothing_is_tied_before_there_is_a_gallery(name: str, found: str) -> None:
    method = make(name)
    for task, expected in ((0, False), (1, True)):
        begin(method, task)
        batch = method.prepare(train_pairs(task).pairs(torch.arange(8)), generator_for(0, "draws"))
        assert (found in method.loss(batch)) == expected


# --- BC-Aligner


def aligner(**values: object) -> tuple[BCAligner, PairBatch]:
    """In its third task, with maps that are far from the identity."""
    method = make("bc_aligner", dropout=0.0, **values)
    assert isinstance(method, BCAligner)
    learn(method, 0, 1)
    begin(method, 2)
    with torch.no_grad():
        for place, weight in enumerate(method.maps):
            weight += 0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(place))
        method.head.caption.up += 0.05
    return method, method.prepare(train_pairs(2).pairs(torch.arange(10)), generator_for(0, "draws"))


def test_a_query_goes_through_the_product_of_the_maps_to_its_gallerys_task() -> None:
    method, batch = aligner()
    first, second = method.maps  # from task 1 to task 0, and from task 2 to task 1
    method.requires_grad_(False)
    query_ND = method.embed_batch(batch)[0].pooled_ND
    for shard, matrix in ((2, torch.eye(32)), (1, second), (0, first @ second)):
        expected_ND = normalize(query_ND @ matrix.T, dim=1)
        assert_close(method.encode_text(batch.text, shard).pooled_ND, expected_ND, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("alignment", ["single", "multi"])
def test_alignment_is_the_squared_error_of_every_gallery_that_is_led_to(alignment: str) -> None:
    method, batch = aligner(alignment=alignment, weight=2.0)
    with torch.no_grad():
        new = [x[0] for x in method.embed_batch(batch)]
        head, method.head = method.head, method.teacher
        old = [x[0] for x in method.embed_batch(batch)]
        method.head = head
        (first, second), total = method.maps, 0.0
        for new_ND, old_ND in zip(new, old, strict=True):
            for z, before in zip(new_ND, old_ND, strict=True):
                error = before - second @ z
                errors = [error] if alignment == "single" else [error, first @ error]
                total += sum(float(e @ e) for e in errors) / len(errors)
    assert term(method, batch, "alignment") == pytest.approx(2 * total / 2 / len(batch), rel=1e-4)


def test_only_the_newest_map_is_trained() -> None:
    method = make("bc_aligner", lr=1e-2)
    assert isinstance(method, BCAligner)
    learn(method, 0)
    assert all(torch.equal(weight, torch.eye(32)) for weight in method.maps)
    learn(method, 1)
    first = method.maps[0].detach().clone()
    assert not torch.equal(first, torch.eye(32))
    learn(method, 2)
    assert torch.equal(method.maps[0], first)
    assert not torch.equal(method.maps[1], torch.eye(32))


# --- d-Simplex-HOC


def test_hoc_is_the_papers_sum_without_entries_of_the_same_category() -> None:
    generator = torch.Generator().manual_seed(0)
    new_ND, old_ND = (normalize(torch.randn(5, 6, generator=generator), dim=1) for _ in range(2))
    category = [0, 0, 1, 2, 1]
    total = 0.0
    for i in range(5):
        others = [k for k in range(5) if category[k] != category[i]]
        below = sum(math.exp(10 * float(new_ND[k] @ old_ND[i])) for k in others)
        total += math.log(below) - 10 * float(new_ND[i] @ old_ND[i])
    found = higher_order_compatibility(new_ND, old_ND, torch.tensor(category), 10.0)
    assert found.item() == pytest.approx(total / 5, rel=1e-5)
    new_ND[1] = -new_ND[1]  # of category 0: it may change its own term and those of other categories, not row 0's
    alone = higher_order_compatibility(new_ND[:2], old_ND[:2], torch.zeros(2, dtype=torch.int64), 10.0)
    assert alone.item() == pytest.approx(-10 * float((new_ND[:2] * old_ND[:2]).sum()) / 2, rel=1e-5)


def test_the_simplex_is_fixed_and_classifies_captions_and_videos() -> None:
    method, batch = second_task("d_simplex_hoc", learning=0.3, classifier=2.0)
    assert isinstance(method, DSimplexHOC)
    before_CD = make("d_simplex_hoc").get_buffer("simplex_CD")
    assert torch.equal(method.simplex_CD, before_CD)
    assert "simplex_CD" not in dict(method.named_parameters())
    cosine_CC = method.simplex_CD @ method.simplex_CD.T
    assert_close(cosine_CC, torch.eye(6) * 1.2 - 0.2, rtol=0, atol=1e-5)
    text_ND, video_ND, old_text_ND, old_video_ND = unit_features(method, batch)
    total = 0.0
    for x_ND in (text_ND, video_ND):
        for x_D, category in zip(x_ND, batch.category_N.tolist(), strict=True):
            logits_C = [SCALE * float(x_D @ e_D) for e_D in method.simplex_CD]
            total += math.log(sum(map(math.exp, logits_C))) - logits_C[category]
    assert term(method, batch, "classifier") == pytest.approx(0.3 * 2 * total / 2 / len(batch), rel=1e-3)
    held = [
        float(higher_order_compatibility(new, old, batch.category_N, 10.0))
        for new, old in ((text_ND, old_text_ND), (video_ND, old_video_ND))
    ]
    assert term(method, batch, "compatibility") == pytest.approx(0.7 * sum(held) / 2, rel=1e-3)


# --- PROOF


def test_proof_adds_a_projection_a_task_and_keeps_the_old_ones() -> None:
    method = make("proof", lr=1e-2)
    assert isinstance(method, Proof)
    kept: list[Tensor] = []
    for task in range(3):
        learn(method, task)
        weights = [x.detach().clone() for each in (method.text_maps, method.video_maps) for x in each[:task]]
        assert all(torch.equal(*pair) for pair in zip(weights, kept, strict=True))
        assert all(not x.any() for each in (method.text_maps, method.video_maps) for x in each[task + 1 :])
        kept = [x.detach().clone() for each in (method.text_maps, method.video_maps) for x in each[: task + 1]]
        assert all(bool(x.any()) for x in kept)
        met = {category for each in small_stream().tasks[: task + 1] for category in each.categories}
        assert method.met_C.tolist() == [category in met for category in range(6)]


def test_proof_scores_the_sum_of_projections_after_attention_to_prototypes_and_context() -> None:
    method = make("proof", lr=1e-2)
    assert isinstance(method, Proof)
    learn(method, 0, 1)
    method.requires_grad_(False)
    data = train_pairs(0)
    category = int(data.category_P[0])
    of_it = data.video_position_P[data.category_P == category]
    assert_close(method.prototype_CD[category], normalize(masked_mean(*data.all_videos())[of_it], dim=1).mean(0))
    text = data.text(torch.arange(3))
    tokens = [
        x + x.norm() * sum(m @ normalize(x, dim=0) for m in method.video_maps[:2])
        for x in method.prototype_CD[method.met_C]
    ]
    tokens = [torch.nn.functional.layer_norm(x, (32,)) for x in tokens] + [x for c in method.context[:2] for x in c]
    block, heads = method.fusion, method.config.heads
    for found_D, raw_D in zip(method.encode_text(text, 1).pooled_ND, text.pooled_ND, strict=True):
        x_D = raw_D + raw_D.norm() * sum(m @ normalize(raw_D, dim=0) for m in method.text_maps[:2])
        rows = torch.stack([*tokens, torch.nn.functional.layer_norm(x_D, (32,))])
        mixed = []
        for part in torch.arange(method.config.width).chunk(heads):
            weight_K = ((rows @ block.key[part].T) @ (block.query[part] @ rows[-1]) / len(part) ** 0.5).softmax(0)
            mixed.append(weight_K @ (rows @ block.value[part].T))
        fused_D = x_D + x_D.norm() * block.out @ torch.cat(mixed) / 32**0.5
        assert_close(found_D, normalize(fused_D, dim=0), rtol=1e-4, atol=1e-5)


def test_proofs_prototype_term_knows_the_categories_met_alone() -> None:
    method = make("proof", lr=1e-2)
    assert isinstance(method, Proof)
    learn(method, 0, 1)
    method.requires_grad_(False)
    method.prototype_CD[~method.met_C] = method.prototype_CD[method.met_C][:2]  # strong rivals, were they asked
    batch = train_pairs(1).pairs(torch.arange(0, 24, 2))
    video_ND = method.encode_video(batch.video).pooled_MD
    tokens = [x + x.norm() * sum(m @ normalize(x, dim=0) for m in method.video_maps[:2]) for x in method.prototype_CD]
    total = 0.0
    for x_D, category in zip(video_ND, batch.category_N.tolist(), strict=True):
        logits = {c: SCALE * float(x_D @ normalize(tokens[c], dim=0)) for c in range(6) if method.met_C[c]}
        total += math.log(sum(map(math.exp, logits.values()))) - logits[category]
    assert term(method, batch, "prototype") == pytest.approx(total / len(batch), rel=1e-3)
