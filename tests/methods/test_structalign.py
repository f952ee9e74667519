"""StructAlign's modules against the authors' adapter, its terms by hand, and every release switch."""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import pytest
import torch

from ctvr_bench.bench.run.training import generator_for
from ctvr_bench.features.streams import PairBatch, TextBatch, VideoBatch
from ctvr_bench.methods.shared.base import FeatureSpec, TaskInfo
from ctvr_bench.methods.shared.heads import FrameFusion, RoutedExperts
from ctvr_bench.methods.shared.losses import pseudo_alignment, relation_preserving, symmetric_contrastive
from ctvr_bench.methods.shared.registry import find_method
from ctvr_bench.methods.shared.similarity import normalise, pool_words, word_frame_similarity
from ctvr_bench.methods.shared.structalign.config import RELEASED
from ctvr_bench.methods.shared.structalign.head import Route
from ctvr_bench.methods.structalign import StructAlign
from tests import learning
from tests.golden import golden
from tests.methods.alignment import etf_alignment

SPEC = FeatureSpec(dim=16, num_frames=4, num_categories=6, num_tasks=3)


def test_experts_and_gates_are_those_of_the_authors_adapter() -> None:
    arrays = {key: torch.from_numpy(np.asarray(value)) for key, value in golden("tame_lora").items()}
    experts = RoutedExperts(8, 3, 4, int(arrays["topk"]), float(arrays["scaling"]), torch.Generator())
    experts.load_state_dict(
        {"down_RD": arrays["A"], "up_ERD": arrays["B"].mT, "route_ED": arrays["route"], "noise_ED": torch.zeros(4, 8)}
    )
    x, at_end = arrays["x"], arrays["x"][torch.arange(5), arrays["eof_index"]]
    with torch.no_grad():
        torch.testing.assert_close(experts(x, experts.first_expert(5)), arrays["y_task1"], rtol=1e-5, atol=1e-6)
        for case, router_input in (("task3", at_end + arrays["prototype"]), ("noproto", at_end)):
            gates = experts.gates(router_input)
            torch.testing.assert_close(gates, arrays[f"gates_{case}"], rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(experts(x, gates), arrays[f"y_{case}"], rtol=1e-5, atol=1e-6)


def make(**values: object) -> StructAlign:
    entry = find_method("structalign")
    method = StructAlign(entry.config(values), SPEC, generator_for(0, "init"))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # away from the identity, so that every part matters
        method.head.experts.up_ERD.normal_(0, 0.1, generator=generator)
        method.head.fusion.alpha.fill_(0.3)
        for vector in method.head.task_vectors:
            vector.normal_(generator=generator)
    return method


def batch_of(pairs: int, seed: int = 0) -> PairBatch:
    generator = torch.Generator().manual_seed(seed)
    mask_NL = torch.arange(5) < torch.randint(1, 6, (pairs, 1), generator=generator)
    words_NLD = torch.randn(pairs, 5, 16, generator=generator) * mask_NL[..., None]
    frames_NFD = torch.randn(pairs, 4, 16, generator=generator)
    video_N = torch.arange(pairs) // 2
    return PairBatch(
        TextBatch(torch.randn(pairs, 16, generator=generator), words_NLD, mask_NL),
        VideoBatch(frames_NFD[video_N], torch.ones(pairs, 4, dtype=torch.bool)),
        video_N % 2,
        video_N,
    )


def second_task(**values: object) -> tuple[StructAlign, PairBatch]:
    """A method at its second task with a filled bank, and a prepared batch."""
    method = make(**values)
    method.begin_task(TaskInfo(0, 8, (2, 3)))
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(2, 8, 16, generator=generator)
    method.bank.update(features[0], features[1], 2 + torch.arange(8) % 2)
    method.begin_task(TaskInfo(1, 8, (0, 1)))
    with torch.no_grad():
        method.head.experts.up_ERD.add_(0.1 * torch.randn(method.head.experts.up_ERD.shape, generator=generator))
    return method, method.prepare(batch_of(6), generator_for(0, "draws"))


def test_the_total_is_the_weighted_sum_of_the_papers_terms() -> None:
    method, batch = second_task(dropout=0.0, crp=10.0, etf=0.1, proto=0.5)
    terms = method.loss(batch)
    assert list(terms) == ["scl", "crp", "etf", "proto"]
    gates = method.head.route(batch.text, 1, batch.draws["noise_NE"])
    text, video = method.head.text(batch.text, (gates, None)), method.head.video(batch.video)
    sim = word_frame_similarity(text.words_NLD, text.word_mask_NL, video.frames_MFD, video.frame_mask_MF)
    same = batch.video_N[:, None] == batch.video_N[None]
    torch.testing.assert_close(terms["scl"], symmetric_contrastive(sim, 17.6, same))
    old_text = method.teacher.head.text(batch.text, (method.teacher.head.route(batch.text, 0), None))
    old_video = method.teacher.head.video(batch.video)
    old = word_frame_similarity(
        old_text.words_NLD, old_text.word_mask_NL, old_video.frames_MFD, old_video.frame_mask_MF
    )
    torch.testing.assert_close(terms["crp"], 10 * relation_preserving(17.6 * sim, 17.6 * old, 2.0))
    base = terms["scl"] + terms["crp"]
    torch.testing.assert_close(terms["etf"], 0.1 * base, msg="the ETF term is a tenth of the base in value (2.9)")


@torch.no_grad()
def test_the_teacher_is_asked_with_the_previous_tasks_vector() -> None:
    """In the third task: in the second all experts are still copies of the first."""
    method, _ = second_task(dropout=0.0)
    method.begin_task(TaskInfo(2, 8, (4, 5)))
    batch = method.prepare(batch_of(6), generator_for(0, "draws", 2))
    gates = method.head.route(batch.text, 2, batch.draws["noise_NE"])
    text, video = method.head.text(batch.text, (gates, None)), method.head.video(batch.video)
    old_text = method.teacher.head.text(batch.text, (method.teacher.head.route(batch.text, 1), None))
    sim, old = (
        word_frame_similarity(side.words_NLD, side.word_mask_NL, video.frames_MFD, video.frame_mask_MF)
        for side in (text, old_text)
    )
    torch.testing.assert_close(method.loss(batch)["crp"], 10 * relation_preserving(17.6 * sim, 17.6 * old, 2.0))


@torch.no_grad()
def test_a_caption_that_is_scored_by_its_pooled_feature_is_encoded_as_with_its_words() -> None:
    method, batch = second_task(scoring="cosine")
    method.double()
    text = TextBatch(batch.text.pooled_ND.double(), batch.text.words_NLD.double(), batch.text.word_mask_NL)
    whole = method.head.text(text, Route(method.head.route(text, 1)))
    found = method.encode_text(text, 1).pooled_ND
    torch.testing.assert_close(found, normalise(whole.pooled_ND), rtol=1e-13, atol=1e-14)


def test_the_etf_term_has_the_gradient_of_alignment_and_not_of_its_weight() -> None:
    method, batch = second_task(dropout=0.0, crp=0.0, proto=0.0)
    terms = method.loss(batch)
    etf_gradient = torch.autograd.grad(terms["etf"], method.simplex.projections[0], retain_graph=True)[0]
    gates = method.head.route(batch.text, 1, batch.draws["noise_NE"])
    text, video = method.head.text(batch.text, (gates, None)), method.head.video(batch.video)
    real = etf_alignment(*text[1:], *video[:2], method.simplex.etf_CD[batch.category_N], *method.simplex.projections)
    pseudo_category = batch.draws["etf_category_P"]
    pseudo = pseudo_alignment(
        batch.draws["etf_text_PD"],
        batch.draws["etf_video_PD"],
        method.simplex.etf_CD[pseudo_category],
        *method.simplex.projections,
    )
    raw_gradient = torch.autograd.grad(real + pseudo, method.simplex.projections[0])[0]
    weight = 0.1 * float(terms["scl"].detach()) / float((real + pseudo).detach())
    torch.testing.assert_close(etf_gradient, weight * raw_gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("off", "left"),
    [
        ({"crp": 0.0}, ["scl", "etf", "proto"]),
        ({"etf": 0.0}, ["scl", "crp", "proto"]),
        ({"proto": 0.0}, ["scl", "crp", "etf"]),
    ],
)
def test_a_weight_of_zero_leaves_its_term_out(off: dict[str, float], left: list[str]) -> None:
    method, batch = second_task(**off)
    assert list(method.loss(batch)) == left


def test_the_first_task_has_no_term_against_forgetting() -> None:
    method = make()
    method.begin_task(TaskInfo(0, 8, (0, 1)))
    assert list(method.loss(method.prepare(batch_of(6), generator_for(0, "draws")))) == ["scl", "etf"]


def test_the_released_preset_differs_from_the_idea_in_every_switch() -> None:
    released, idea = (asdict(find_method(name).config()) for name in ("structalign_released", "structalign"))
    differing = {key for key in idea if idea[key] != released[key]}
    assert differing == set(RELEASED)
    assert find_method("structalign_released").method is find_method("structalign").method


STEPPED_ELSEWHERE = {"schedule", "later_lr", "later_gate_lr", "stale_gradients", "weight_decay", "epochs", "heads"} | {
    "later_warmup",
    "epsilon",
}


@pytest.mark.parametrize("switch", sorted(set(RELEASED) - STEPPED_ELSEWHERE))
def test_each_release_switch_changes_gradients_or_the_bank_or_what_is_optimised(switch: str) -> None:
    traces = []
    for values in ({}, {switch: RELEASED[switch]}):
        method, batch = second_task(dropout=0.0, **values)
        torch.stack(list(method.loss(batch).values())).sum().backward()
        gradients = [p.grad.norm().item() for p in learning.stepped(method) if p.grad is not None]
        method.end_task(Pairs(), generator_for(0, "end"))
        traces.append([*gradients, method.bank.text_mean_CD.norm().item()])
    assert traces[0] != traces[1]


@torch.no_grad()
def test_the_bank_holds_captions_on_the_finished_tasks_route() -> None:
    method, _ = second_task()
    pairs = Pairs()
    method.end_task(pairs, generator_for(0, "end"))
    text = method.head.text(pairs.batch.text, Route(method.head.route(pairs.batch.text, 1)))
    own = pairs.category_P == 1
    expected = pool_words(text.words_NLD, text.word_mask_NL)[own].mean(0)
    torch.testing.assert_close(method.bank.text_mean_CD[1], expected, rtol=1e-5, atol=1e-6)


class Pairs:
    """Stands for a PairTable of forty pairs, each with a video of its own."""

    def __init__(self) -> None:
        self.batch = batch_of(40, seed=1)
        self.category_P = self.batch.category_N

    def __len__(self) -> int:
        return 40

    def chunks(self, size: int) -> tuple[torch.Tensor, ...]:
        return torch.arange(40).split(size)

    def text(self, index: torch.Tensor) -> TextBatch:
        return TextBatch(*(part[index] for part in self.batch.text))

    def video_chunks(self, size: int) -> list[VideoBatch]:
        return [self.batch.video]

    def positions(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return index, index


def test_local_labels_number_old_categories_within_their_task() -> None:
    method, _ = second_task(local_labels=True)
    assert method.simplex.local_label_C.tolist() == [0, 1, 0, 1, 0, 0]


def test_stale_gradients_enter_the_norm_but_never_the_weights() -> None:
    method, batch = second_task(projection="fixed_random", stale_gradients=True)
    gathered = []
    for _ in range(2):
        method.zero_grad()
        torch.stack(list(method.loss(batch).values())).sum().backward()
        method.after_backward(batch)
        method.after_step(batch)
        gathered.append(method.simplex.projections[0].grad.clone())
    torch.testing.assert_close(gathered[1], 2 * gathered[0])
    assert gathered[0].norm() > 0
    released = learning.make("structalign_released")
    weights = [weight.clone() for weight in released.simplex.projections]
    learning.learn(released, 0, 1)
    assert all(torch.equal(now, then) for now, then in zip(released.simplex.projections, weights, strict=True))
    assert all(gathered.norm() > 0 for gathered in released.stale.buffers())


def test_scale_by_batch_is_the_releases_divisor_and_near_the_fixed_scale_at_32() -> None:
    config = find_method("structalign").config()
    assert config.tau / math.sqrt(32) == pytest.approx(config.scale, rel=2e-3)


def test_the_first_expert_serves_the_first_task_and_then_all_start_from_it() -> None:
    method = make()
    method.begin_task(TaskInfo(0, 8, (0, 1)))
    assert method.head.route(batch_of(3).text, 0).tolist() == [[1.0] + [0.0] * 9] * 3
    first = method.head.experts.up_ERD[0].clone()
    method.begin_task(TaskInfo(1, 8, (2, 3)))
    assert all(torch.equal(expert, first) for expert in method.head.experts.up_ERD)


def test_task_vectors_of_other_shards_get_no_gradient() -> None:
    method, batch = second_task()
    torch.stack(list(method.loss(batch).values())).sum().backward()
    assert method.head.task_vectors[1].grad is not None
    assert method.head.task_vectors[0].grad is None
    assert method.head.task_vectors[2].grad is None


def test_fusion_mixes_a_frame_with_others_by_alpha_only() -> None:
    fusion = FrameFusion(16, 8)
    video = batch_of(4).video
    assert torch.equal(fusion(video).frames_MFD, video.frames_MFD)
    with torch.no_grad():
        fusion.alpha.fill_(1.0)
    same_frames = VideoBatch(video.frames_MFD[:, :1].expand(-1, 4, -1).contiguous(), video.frame_mask_MF)
    torch.testing.assert_close(fusion(same_frames).frames_MFD, same_frames.frames_MFD)
    assert not torch.allclose(fusion(video).frames_MFD, video.frames_MFD, atol=1e-2)


@pytest.mark.parametrize(("dim", "heads", "taken"), [(768, 12, 12), (512, 12, 8), (512, 8, 8), (30, 12, 10), (7, 4, 1)])
def test_fusion_takes_as_many_heads_as_divide_the_dimension(dim: int, heads: int, taken: int) -> None:
    assert FrameFusion(dim, heads).heads == taken


def test_fusion_ignores_padding_frames() -> None:
    fusion = FrameFusion(16, 8)
    with torch.no_grad():
        fusion.alpha.fill_(0.7)
    frames = batch_of(4).video.frames_MFD
    padded = torch.cat([frames, torch.zeros(4, 2, 16)], 1)
    mask = torch.arange(6) < torch.full((4, 1), 4)
    out = fusion(VideoBatch(padded, mask)).frames_MFD
    torch.testing.assert_close(out[:, :4], fusion(VideoBatch(frames, mask[:, :4])).frames_MFD)
    assert (out[:, 4:] == 0).all()


def test_gates_and_task_vectors_have_a_later_rate_of_their_own() -> None:
    method, _ = second_task(later_lr=0.15, later_gate_lr=0.5)
    name_of = {id(parameter): name for name, parameter in method.named_parameters()}
    rates = {name_of[id(p)]: group.rate for group in method.parameter_groups() for p in group.parameters}
    assert {name for name, rate in rates.items() if rate == 0.5} == {
        "head.fusion.alpha",
        *(f"head.task_vectors.{task}" for task in range(3)),
    }
    assert {rate for name, rate in rates.items() if "experts" in name or "mix" in name} == {0.15}
    first = make(later_lr=0.15, later_gate_lr=0.5)
    first.begin_task(TaskInfo(0, 8, (0, 1)))
    assert {group.rate for group in first.parameter_groups() if group.parameters} == {1.0}


def test_the_similarity_scales_gradient_gathers_and_its_value_stays() -> None:
    method, batch = second_task(dropout=0.0, stale_gradients=True, projection="fixed_random", etf=0.0)
    plain, _ = second_task(dropout=0.0, projection="fixed_random", etf=0.0)
    terms = method.loss(batch)
    for name, term in plain.loss(batch).items():
        torch.testing.assert_close(terms[name], term)
    for made in (1, 2):
        method.zero_grad()
        torch.stack(list(method.loss(batch).values())).sum().backward()
        assert method.stale.log_scale.grad is not None
        once = method.stale.log_scale.grad.clone()
        method.after_backward(batch)
        torch.testing.assert_close(method.stale.log_scale.grad, made * once)
        method.after_step(batch)
    assert method.stale.log_scale.item() == 0
    assert {group.rate for group in method.parameter_groups() if method.stale.log_scale in set(group.parameters)} == {
        0.0
    }
