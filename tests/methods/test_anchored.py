"""StructAlign anchored: where categories belong, both pulls, and their weights, against loops and brute force."""

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
from ctvr_bench.methods.shared.base import ReferenceBank
from ctvr_bench.methods.shared.etf import simplex_in_directions_of
from ctvr_bench.methods.shared.structalign.anchors import Anchors, balanced
from ctvr_bench.methods.structalign_anchored import StructAlignAnchored, frozen_video
from tests.learning import learn, make, train_pairs
from tests.stores import small_stream

SCALE = 17.6


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def anchors(categories: int = 5, dim: int = 7) -> Anchors:
    bank = ReferenceBank(*(1 + 3 * torch.randn(30, dim, generator=seeded(s)) for s in (1, 2)))
    return Anchors(bank, categories, "reference", seeded())


def features(count: int = 12, dim: int = 7) -> tuple[Tensor, Tensor]:
    return tuple(normalize(torch.randn(count, dim, generator=seeded(s)), dim=1) for s in (3, 4))  # type: ignore[return-value]


CATEGORY = torch.tensor([0, 0, 0, 1, 1, 3, 3, 3, 3, 0, 1, 3])


def stepped(**values: object) -> tuple[StructAlignAnchored, PairBatch]:
    """In its second task, away from the identity."""
    method = make("structalign_anchored", dropout=0.0, lr=1e-2, **values)
    assert isinstance(method, StructAlignAnchored)
    learn(method, 0, 1)
    return method, method.prepare(train_pairs(1).pairs(torch.arange(0, 40, 3)), generator_for(0, "draws"))


# --- the simplex in a bank's directions


def test_the_simplex_spans_the_first_directions_of_the_rows_and_is_exact() -> None:
    scale_D = torch.tensor([9.0, 7.0, 5.0, 3.0, 1.0, 0.5, 0.2])
    rows_RD = torch.randn(400, 7, generator=seeded()) * scale_D
    simplex_CD = simplex_in_directions_of(rows_RD, 4, seeded())
    assert_close(simplex_CD @ simplex_CD.T, torch.eye(4) * 4 / 3 - 1 / 3, rtol=0, atol=1e-5)
    principal_3D = torch.linalg.svd(rows_RD, full_matrices=False).Vh[:3]
    assert_close(simplex_CD @ principal_3D.T @ principal_3D, simplex_CD, rtol=0, atol=1e-4)
    assert torch.equal(simplex_CD, simplex_in_directions_of(rows_RD, 4, seeded(9)))


def test_directions_that_the_rows_lack_are_drawn() -> None:
    rows_RD = torch.randn(2, 7, generator=seeded())
    first, second = (simplex_in_directions_of(rows_RD, 5, seeded(s)) for s in (0, 1))
    assert not torch.equal(first, second)
    for simplex_CD in (first, second, simplex_in_directions_of(torch.zeros(2, 7), 5, seeded())):
        assert_close(simplex_CD @ simplex_CD.T, torch.eye(5) * 5 / 4 - 1 / 4, rtol=0, atol=1e-5)
    q_DK = torch.linalg.qr(rows_RD.T).Q
    assert_close(first @ q_DK @ q_DK.T @ first.T, second @ q_DK @ q_DK.T @ second.T, rtol=0, atol=1e-4)


# --- anchors


def test_features_are_centred_by_their_modalitys_reference() -> None:
    made = anchors()
    text_ND, video_ND = features()
    captions_RD = normalize(1 + 3 * torch.randn(30, 7, generator=seeded(1)), dim=1)
    assert_close(made.centred_text(text_ND)[4], normalize(text_ND[4] - captions_RD.mean(0), dim=0))
    assert (made.centred_text(text_ND) - made.centred_video(text_ND)).abs().max() > 0.01
    assert made.centred_video(video_ND).norm(dim=1).sub(1).abs().max() < 1e-5


@pytest.mark.parametrize("taken", [[], [2, 0]])
def test_vertices_are_assigned_as_brute_force_would(taken: list[int]) -> None:
    made = anchors()
    text_ND, video_ND = features()
    for category, vertex in zip((2, 4), taken, strict=False):
        made.vertex_C[category] = vertex
    made.meet(text_ND, video_ND, CATEGORY, "hungarian")
    mean_3D = [
        (made.centred_text(text_ND) + made.centred_video(video_ND))[CATEGORY == c].mean(0) / 2 for c in (0, 1, 3)
    ]
    assert_close(made.mean_CD[[0, 1, 3]], torch.stack(mean_3D))
    free = [vertex for vertex in range(5) if vertex not in taken]
    worth = {
        choice: sum(float(m @ made.simplex_CD[v]) for m, v in zip(mean_3D, choice, strict=True))
        for choice in itertools.permutations(free, 3)
    }
    assert tuple(made.vertex_C[[0, 1, 3]].tolist()) == max(worth, key=lambda choice: worth[choice])
    assert made.met_C.tolist() == [True, True, bool(taken), True, bool(taken)]


def test_without_assignment_a_category_has_the_vertex_of_its_number() -> None:
    made = anchors()
    made.meet(*features(), CATEGORY, "order")
    assert made.vertex_C.tolist() == [0, 1, -1, 3, -1]


def test_what_was_fixed_when_a_category_was_met_stays() -> None:
    made = anchors()
    made.meet(*features(), CATEGORY, "hungarian")
    mean_CD, vertex_C = made.mean_CD.clone(), made.vertex_C.clone()
    text_ND, video_ND = features()
    made.meet(-text_ND, video_ND, torch.where(CATEGORY == 0, 2, CATEGORY), "hungarian")
    old = [0, 1, 3]
    assert torch.equal(made.mean_CD[old], mean_CD[old])
    assert torch.equal(made.vertex_C[old], vertex_C[old])
    assert int(made.vertex_C[2]) in set(range(5)) - set(vertex_C[old].tolist())


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_a_target_lies_between_the_frozen_mean_and_the_vertex(share: float) -> None:
    made = anchors()
    made.meet(*features(), CATEGORY, "hungarian")
    target_CD = made.targets(share)
    for c in (0, 1, 3):
        mixed_D = (1 - share) * made.mean_CD[c] + share * made.simplex_CD[int(made.vertex_C[c])]
        assert_close(target_CD[c], mixed_D / mixed_D.norm())
    assert not target_CD[[2, 4]].any()


# --- the pulls


def test_the_anchored_term_is_the_category_mean_of_a_softmax_over_categories_met() -> None:
    made = anchors()
    text_ND, video_ND = features()
    made.meet(text_ND, video_ND, CATEGORY, "hungarian")
    category_N = torch.where(torch.arange(12) == 11, 4, CATEGORY)  # the last pair's category was never met
    target_CD, total = made.targets(0.2), 0.0
    for x_ND in (made.centred_text(text_ND), made.centred_video(video_ND)):
        of_category: dict[int, list[float]] = {}
        for x_D, c in list(zip(x_ND, category_N.tolist(), strict=True))[:11]:
            logits = {k: 5 * float(x_D @ target_CD[k]) for k in (0, 1, 3)}
            of_category.setdefault(c, []).append(math.log(sum(map(math.exp, logits.values()))) - logits[c])
        total += sum(sum(each) / len(each) for each in of_category.values()) / 3 / 2
    assert made.anchored(text_ND, video_ND, category_N, 0.2, 5.0).item() == pytest.approx(total, rel=1e-4)


def test_the_residual_term_by_hand() -> None:
    """Two categories in the plane; the simplex is a line, so that its vertices are a unit vector and its opposite."""
    made = anchors(categories=2, dim=2)
    made.vertex_C.copy_(torch.tensor([1, 0]))
    made.simplex_CD.copy_(torch.tensor([[0.0, -1.0], [0.0, 1.0]]))
    text_ND = torch.tensor([[0.2, 0.0], [0.0, 0.0], [0.0, 0.3]])  # category 0: mean (.1, 0); category 1: (0, .3)
    video_ND = torch.tensor([[0.0, 0.1], [0.0, 0.1], [0.0, -0.1]])  # category 0 at its goal (0, .1), 1 at (0, -.1)
    found = made.residual((text_ND, video_ND), torch.tensor([0, 0, 1]), 0.1)
    text, video = (0.1**2 + 0.1**2 + 0.4**2) / 2, 0.0
    assert found.item() == pytest.approx((text + video) / 2, rel=1e-5)


def test_a_term_weighs_what_its_share_of_the_base_gradients_length_is() -> None:
    text_ND, video_ND = (x.requires_grad_() for x in features())

    def base(text: Tensor, video: Tensor) -> Tensor:
        return (text @ video.T).exp().sum()

    def term(text: Tensor, video: Tensor) -> Tensor:
        return 7 * (text - 2 * video).square().sum()

    whole = [torch.autograd.grad(each(text_ND, video_ND), (text_ND, video_ND)) for each in (base, term)]
    length = [math.sqrt(sum(float(g.square().sum()) for g in gradients)) for gradients in whole]
    weighed = balanced(0.3, term, base, text_ND, video_ND)
    assert weighed.item() == pytest.approx(0.3 * length[0] / length[1] * term(text_ND, video_ND).item(), rel=1e-4)
    found = torch.autograd.grad(weighed, (text_ND, video_ND))
    for got, plain in zip(found, whole[1], strict=True):
        assert_close(got, 0.3 * length[0] / length[1] * plain, rtol=1e-4, atol=1e-6)


# --- in the method


def test_the_method_anchors_the_frozen_means_of_its_tasks() -> None:
    method, _ = stepped()
    met = {category for task in small_stream().tasks[:2] for category in task.categories}
    assert method.anchors.met_C.tolist() == [category in met for category in range(6)]
    data, category = train_pairs(1), small_stream().tasks[1].categories[0]
    of_c = data.category_P == category
    video_ND = frozen_video(data.all_videos())[data.video_position_P]
    text_ND = normalize(data.text(torch.arange(len(data))).pooled_ND, dim=1)
    mean_D = (method.anchors.centred_text(text_ND) + method.anchors.centred_video(video_ND))[of_c].mean(0) / 2
    assert_close(method.anchors.mean_CD[category], mean_D)


def test_its_terms_are_those_of_adapted_features_and_what_adaptation_added() -> None:
    method, batch = stepped(anchor=0.3, residual=0.2, shift=0.15, vertex_share=0.4)
    terms = method.loss(batch)
    with torch.no_grad():
        text, video = method.embed_batch(batch)
        text_ND, video_ND, made = text.pooled_ND, video.pooled_MD, method.anchors
        anchored = made.anchored(text_ND, video_ND, batch.category_N, 0.4, SCALE)
        frozen_ND = normalize(batch.text.pooled_ND, dim=1), normalize(batch.video.frames_MFD.mean(1), dim=1)
        residual = made.residual((text_ND - frozen_ND[0], video_ND - frozen_ND[1]), batch.category_N, 0.15)
    leaves = [x.clone().requires_grad_() for x in (text_ND, video_ND)]
    lengths = []
    for value in (
        _contrast(leaves[0], leaves[1], batch.video_N),
        made.anchored(leaves[0], leaves[1], batch.category_N, 0.4, SCALE),
        made.residual((leaves[0] - frozen_ND[0], leaves[1] - frozen_ND[1]), batch.category_N, 0.15),
    ):
        lengths.append(torch.stack([g.square().sum() for g in torch.autograd.grad(value, leaves)]).sum().sqrt().item())
    assert terms["anchor"].item() == pytest.approx(0.3 * lengths[0] / lengths[1] * anchored.item(), rel=1e-3)
    assert terms["residual"].item() == pytest.approx(0.2 * lengths[0] / lengths[2] * residual.item(), rel=1e-3)


def _contrast(text_ND: Tensor, video_ND: Tensor, video_N: Tensor) -> Tensor:
    total = torch.zeros(())
    for logits_NN in (SCALE * text_ND @ video_ND.T, SCALE * video_ND @ text_ND.T):
        for i in range(len(video_N)):
            rivals = [k for k in range(len(video_N)) if k == i or video_N[k] != video_N[i]]
            total = total + (logits_NN[i, rivals].logsumexp(0) - logits_NN[i, i]) / len(video_N)
    return total


def test_options_leave_terms_out_and_turn_the_simplex() -> None:
    method, batch = stepped(anchor=0.0, residual=0.0)
    assert set(method.loss(batch)) == {"contrastive"}
    other, _ = stepped(basis="random", assignment="order")
    assert other.anchors.vertex_C.tolist() == [c if method.anchors.met_C[c] else -1 for c in range(6)]
    assert not torch.equal(other.anchors.simplex_CD, method.anchors.simplex_CD)
