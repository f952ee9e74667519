"""MoE-Adapters, FrameFusionMoE and CLIP4Clip's sequential head: routing, freezing, negatives, and order of frames."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from ctvr_bench.bench.run.training import generator_for
from ctvr_bench.features.streams import VideoBatch
from ctvr_bench.methods.frame_fusion_moe import FrameFusionMoE
from ctvr_bench.methods.moe_adapters import MoEAdapters
from ctvr_bench.methods.shared.heads import TemporalTransformer
from ctvr_bench.methods.shared.losses import cross_task_contrastive
from ctvr_bench.methods.shared.scoring import same_video
from tests.learning import begin, embeddings, learn, make, train_pairs


def moe(**values: object) -> MoEAdapters:
    method = make("moe_adapters", **values)
    assert isinstance(method, MoEAdapters)
    return method


# --- MoE-Adapters


def test_gates_are_a_softmax_over_the_best_experts() -> None:
    method = moe(experts=5, top_k=2)
    query_ND = train_pairs(0).text(torch.arange(7)).pooled_ND
    gates_NE = method.text_experts.gates(query_ND, 1)
    assert ((gates_NE > 0).sum(1) == 2).all()
    assert_close(gates_NE.sum(1), torch.ones(7))
    logits_NE = torch.nn.functional.layer_norm(query_ND, (32,)) @ method.text_experts.routers[1].T
    assert torch.equal(gates_NE.topk(2).indices, logits_NE.topk(2).indices)


def test_a_samples_residual_is_the_gated_sum_of_its_experts() -> None:
    method = moe(experts=3)
    experts = method.text_experts
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for expert in experts.experts:
            expert.up.normal_(generator=generator)
    words_NLD = torch.randn(2, 4, 32, generator=generator)
    gates_NE = torch.tensor([[0.3, 0.0, 0.7], [0.0, 1.0, 0.0]])
    expected = words_NLD.clone()
    for n in range(2):
        for e, expert in enumerate(experts.experts):
            expected[n] += gates_NE[n, e] * (expert(words_NLD[n]) - words_NLD[n])
    assert_close(experts(words_NLD, gates_NE), expected, rtol=1e-4, atol=1e-4)
    mask_NL = torch.tensor([[True, True, False, False], [True, True, True, True]])
    expected_ND = torch.stack([expected[n, mask_NL[n]].mean(0) for n in range(2)])
    assert_close(experts.mean(words_NLD, mask_NL, gates_NE), expected_ND, rtol=1e-4, atol=1e-4)


def test_the_most_used_experts_freeze_when_the_next_task_begins() -> None:
    method = moe(experts=4, freeze=1, lr=1e-2)
    learn(method, 0)
    most_used = int(method.text_experts.uses_E.argmax())
    assert not method.text_experts.frozen_E.any()
    frozen = method.text_experts.experts[most_used]
    before = [parameter.clone() for parameter in frozen.parameters()]
    learn(method, 1)
    assert method.text_experts.frozen_E.nonzero().flatten().tolist() == [most_used]
    assert all(torch.equal(a, b) for a, b in zip(frozen.parameters(), before, strict=True))
    method.text_experts.uses_E = torch.tensor([0.2, 0.2, 0.2, 0.2])
    method.text_experts.uses_E[most_used] = 0.9  # used most again, but frozen already
    begin(method, 2)
    assert method.text_experts.frozen_E[most_used]
    assert method.text_experts.frozen_E.sum() == 2


def test_earlier_routers_stay_and_are_asked_by_their_galleries() -> None:
    method = moe(lr=1e-2)
    learn(method, 0)
    router = method.text_experts.routers[0].clone()
    learn(method, 1)
    assert torch.equal(method.text_experts.routers[0], router)
    asked_0, kept_0 = embeddings(method, 0, shard=0)
    asked_1, kept_1 = embeddings(method, 0, shard=1)
    assert not torch.allclose(asked_0, asked_1)
    assert not torch.allclose(kept_0, kept_1)


# --- FrameFusionMoE


def fusion(**values: object) -> FrameFusionMoE:
    method = make("frame_fusion_moe", **values)
    assert isinstance(method, FrameFusionMoE)
    return method


def test_negatives_are_one_embedding_of_every_training_video_of_finished_tasks() -> None:
    method = fusion()
    learn(method, 0)
    data = train_pairs(0)
    batch = data.pairs(torch.arange(len(data)))
    videos = batch.video_N.unique()
    assert len(method.negatives_MD) == len(videos) == 12
    with torch.no_grad():
        embedded_ND = method.encode_video(batch.video).pooled_MD
    assert torch.cdist(embedded_ND, method.negatives_MD).amin(1).max() < 1e-3
    first_MD = method.negatives_MD
    learn(method, 1)
    assert torch.equal(method.negatives_MD[:12], first_MD)
    assert len(method.negatives_MD) == 24


def test_a_gallery_is_asked_through_the_experts_that_its_own_tasks_vector_routes_to() -> None:
    method = fusion(experts=4)
    begin(method, 2)
    head, draws = method.head, torch.Generator().manual_seed(0)
    with torch.no_grad():
        head.experts.up_ERD += 0.1 * torch.randn(head.experts.up_ERD.shape, generator=draws)
    text = train_pairs(0).text(torch.arange(6))
    for shard in (0, 1, 2):
        expected = []
        for caption_D in text.pooled_ND:
            gate_E = torch.eye(4)[0]  # the first task's captions go through the first expert alone
            if shard:
                input_D = caption_D / caption_D.norm() * 32**0.5 + head.task_vectors[shard]
                logit_E = head.experts.route_ED @ input_D
                best = logit_E.topk(2).indices
                gate_E = torch.zeros(4).index_copy(0, best, logit_E[best].softmax(0))
            low_R = head.experts.down_RD @ caption_D
            moved = sum(gate_E[e] * (head.experts.up_ERD[e].T @ low_R) for e in range(4))
            expected.append(torch.nn.functional.normalize(caption_D + head.experts.scaling * moved, dim=0))
        with torch.no_grad():
            found_ND = method.encode_text(text, shard).pooled_ND
        assert_close(found_ND, torch.stack(expected).detach(), atol=1e-5, rtol=1e-4)


def test_its_loss_is_the_cross_task_loss_of_its_embeddings() -> None:
    method = fusion(gamma=0.3)
    learn(method, 0)
    begin(method, 1)
    batch = method.prepare(train_pairs(1).pairs(torch.arange(8)), generator_for(0, "x"))
    negatives_MD = batch.draws["negatives_MD"]
    assert torch.cdist(negatives_MD, method.negatives_MD).amin(1).max() < 1e-3
    gates_NE = method.head.route(batch.text, 1, batch.draws["noise_NE"])
    captions_ND = batch.text.pooled_ND + method.head.experts(batch.text.pooled_ND, gates_NE, batch.draws["keep_ND"])
    text_ND = torch.nn.functional.normalize(captions_ND)
    video_ND = method.encode_video(batch.video).pooled_MD
    expected = cross_task_contrastive(text_ND, video_ND, negatives_MD, 17.6, 0.3, same_video(batch.video_N))
    assert_close(method.loss(batch)["cross_task"], expected)


def test_the_first_task_has_no_negatives() -> None:
    method = fusion(gamma=0.3, dropout=0.0)
    begin(method, 0)
    batch = method.prepare(train_pairs(0).pairs(torch.arange(8)), generator_for(0, "x"))
    plain = make("finetune", dropout=0.0)
    assert_close(method.loss(batch)["cross_task"], plain.loss(batch)["contrastive"])  # both are the identity still


# --- CLIP4Clip, sequential


def test_the_temporal_transformer_is_the_identity_at_first_and_sees_order_later() -> None:
    generator = torch.Generator().manual_seed(0)
    transformer = TemporalTransformer(32, 5, layers=2, heads=4, generator=generator)
    frames_MFD = torch.randn(3, 5, 32, generator=generator)
    mask_MF = torch.ones(3, 5, dtype=torch.bool)
    assert torch.equal(transformer(frames_MFD, mask_MF), frames_MFD)
    with torch.no_grad():
        transformer.out.normal_(generator=generator)
        forwards, backwards = transformer(frames_MFD, mask_MF), transformer(frames_MFD.flip(1), mask_MF).flip(1)
        assert not torch.allclose(forwards, backwards, atol=1e-2)
        transformer.position_FD.zero_()
        forwards, backwards = transformer(frames_MFD, mask_MF), transformer(frames_MFD.flip(1), mask_MF).flip(1)
        assert_close(forwards, backwards, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", ["clip4clip_seq", "x_pool", "moe_adapters", "c_clip", "s_prompts"])
def test_absent_frames_change_nothing(name: str) -> None:
    method = make(name, lr=1e-2)
    learn(method, 0)
    video = train_pairs(0).video(torch.arange(6))
    with_holes = VideoBatch(video.frames_MFD.clone(), video.frame_mask_MF.clone())
    with_holes.frame_mask_MF[:, 3:] = False
    with_holes.frames_MFD[:, 3:] = 0
    short = VideoBatch(video.frames_MFD[:, :3], video.frame_mask_MF[:, :3])
    with torch.no_grad():
        first, second = (method.encode_video(each).pooled_MD for each in (with_holes, short))
    assert_close(first, second, rtol=1e-4, atol=1e-5)
