"""EWC, MAS and SI: importance where the answer is known, and penalties that are what their equations say."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from ctvr_bench.bench.run.training import generator_for
from ctvr_bench.features.streams import PairBatch
from ctvr_bench.methods.ewc import EWC, squared_gradients
from ctvr_bench.methods.mas import MAS, sensitivity
from ctvr_bench.methods.shared.base import Method
from ctvr_bench.methods.shared.losses import row_cross_entropy
from ctvr_bench.methods.shared.scoring import pair_similarity, same_video
from ctvr_bench.methods.shared.weights import gradient_of, set_weights, weights_of
from ctvr_bench.methods.si import SI, PathIntegral
from tests.learning import begin, learn, make, train_pairs


def linear(rows: int, columns: int) -> nn.Linear:
    module = nn.Linear(columns, rows, bias=False)
    nn.init.normal_(module.weight, generator=torch.Generator().manual_seed(0))
    return module


def some_batch(task: int = 1) -> PairBatch:
    return train_pairs(task).pairs(torch.arange(10))


def importance_of(method: Method) -> Tensor:
    if isinstance(method, SI):
        return method.path.importance_P
    assert isinstance(method, EWC | MAS)
    return method.importance_P


# --- importance on a linear model


def test_ewcs_importance_of_linear_regression_is_squared_residual_times_squared_input() -> None:
    """l_i = (w.x_i - y_i)^2 / 2, so d l_i / d w = (w.x_i - y_i) x_i."""
    generator = torch.Generator().manual_seed(1)
    x_ND, y_N = torch.randn(6, 4, generator=generator), torch.randn(6, generator=generator)
    module = linear(1, 4)
    residual_N = (module(x_ND)[:, 0] - y_N).detach()
    measured_P = squared_gradients((module(x_ND)[:, 0] - y_N).square() / 2, module)
    assert_close(measured_P, (residual_N[:, None] * x_ND).square().sum(0))


def test_mass_importance_of_a_linear_map_is_twice_the_output_times_the_input() -> None:
    """|W x|^2 has the derivative 2 (W x) x'."""
    x_ND = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    module = linear(3, 4)
    output_NO = module(x_ND).detach()
    measured_P = sensitivity(module(x_ND).square().sum(1), module)
    expected_OD = (2 * output_NO[:, :, None] * x_ND[:, None]).abs().sum(0)
    assert_close(measured_P, expected_OD.reshape(-1))


# --- SI's path integral


def test_sis_path_integral_of_a_quadratic_is_how_much_each_weight_lowered_it() -> None:
    """L = 1/2 sum a_p (theta_p - b_p)^2 falls by 1/2 a_p b_p^2 along each axis on the way from 0 to b."""
    a_P, b_P = torch.tensor([1.0, 4.0, 0.5]), torch.tensor([1.0, -2.0, 3.0])
    theta_P = torch.zeros(3)
    path = PathIntegral(theta_P)
    path.begin(theta_P)
    for _ in range(20_000):
        gradient_P = a_P * (theta_P - b_P)
        theta_P = theta_P - 1e-3 * gradient_P
        path.step(gradient_P, theta_P)
    assert_close(path.path_P, a_P * b_P.square() / 2, rtol=3e-3, atol=0)
    path.end(theta_P, damping=0.1)
    assert_close(path.importance_P, a_P * b_P.square() / 2 / (b_P.square() + 0.1), rtol=3e-3, atol=0)
    assert torch.equal(path.anchor_P, theta_P)


def test_sis_importance_is_never_negative() -> None:
    path = PathIntegral(torch.zeros(2))
    path.begin(torch.zeros(2))
    path.step(torch.tensor([1.0, -1.0]), torch.tensor([0.5, 0.5]))  # the first weight moved against its descent
    path.end(torch.tensor([0.5, 0.5]), damping=0.1)
    assert path.importance_P[0] == 0
    assert path.importance_P[1] > 0


def test_si_sees_the_gradient_without_its_own_penalty_and_before_clipping() -> None:
    method = make("si", dropout=0.0, strength=10.0, clip_norm=1e-3)
    learn(method, 0)
    begin(method, 1)
    assert isinstance(method, SI)
    with torch.no_grad():
        method.head.caption.up += 0.01
    method.path.importance_P = torch.ones_like(method.path.importance_P)
    batch = method.prepare(some_batch(), generator_for(0, "x"))
    terms = method.loss(batch)
    assert terms["penalty"] > 0.01
    method.zero_grad()
    terms["contrastive"].backward(retain_graph=True)
    expected_P = gradient_of(method.head)
    method.zero_grad()
    torch.stack(list(terms.values())).sum().backward()
    method.after_backward(batch)
    assert_close(method.gradient_P, expected_P, rtol=1e-4, atol=1e-6)


def test_sis_path_is_the_fall_of_the_loss_for_small_steps() -> None:
    method = make("si", dropout=0.0, strength=0.0, weight_decay=0.0, lr=1e-5, schedule="constant", warmup=0.0)
    assert isinstance(method, SI)
    data = train_pairs(0)
    begin(method, 0, len(data))
    batch = data.pairs(torch.arange(20))
    optimiser = torch.optim.SGD(method.parameters(), lr=1e-4)
    before = method.loss(batch)["contrastive"].item()
    for _ in range(150):
        optimiser.zero_grad()
        torch.stack(list(method.loss(batch).values())).sum().backward()
        method.after_backward(batch)
        optimiser.step()
        method.after_step(batch)
    fall = before - method.loss(batch)["contrastive"].item()
    assert fall > 0.05
    assert method.path.path_P.sum().item() == pytest.approx(fall, rel=0.02)


# --- the methods


def test_ewcs_fisher_is_that_of_one_backward_for_each_pair() -> None:
    method = make("ewc")
    assert isinstance(method, EWC)
    learn(method, 0)
    generator = generator_for(0, "again")
    data = train_pairs(1)
    before_P = method.importance_P
    begin(method, 1, len(data))
    method.end_task(data, generator)
    added_P = method.importance_P - before_P
    expected_P = torch.zeros_like(added_P)
    for index_N in data.shuffled(method.config.batch_size, generator_for(0, "again")):
        batch = data.pairs(index_N)
        for row in range(len(batch)):
            text, video = method.embed_batch(batch)
            logits_NN = method.config.scale * pair_similarity(text, video, method.config)
            method.zero_grad()
            row_cross_entropy(logits_NN, same_video(batch.video_N))[row].backward()
            expected_P += gradient_of(method.head).square()
    assert_close(added_P, expected_P / len(data), rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize(("name", "factor"), [("ewc", 0.5), ("mas", 1.0), ("si", 1.0)])
def test_the_penalty_is_the_weighted_squared_way_from_the_anchor(name: str, factor: float) -> None:
    method = make(name, strength=3.0)
    learn(method, 0)
    begin(method, 1)
    batch = method.prepare(some_batch(), generator_for(0, "x"))
    assert method.loss(batch)["penalty"].item() == 0
    importance_P = importance_of(method)
    moved_P = 0.1 * torch.randn(importance_P.shape, generator=generator_for(0, "moved"))
    set_weights(method.head, weights_of(method.head).detach() + moved_P)
    expected = 3.0 * factor * sum(float(w) * float(m) ** 2 for w, m in zip(importance_P, moved_P, strict=True))
    assert expected > 0
    assert method.loss(batch)["penalty"].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ["ewc", "mas", "si"])
def test_a_stronger_penalty_keeps_the_weights_nearer(name: str) -> None:
    def way(strength: float) -> float:
        method: Method = make(name, strength=strength, lr=3e-3, epochs=3)
        learn(method, 0)
        before_P, importance_P = weights_of(method.head).detach(), importance_of(method)
        learn(method, 1)
        return (importance_P * (weights_of(method.head) - before_P).square()).sum().item()

    assert way(1e4) < 0.5 * way(0.0)


def test_mas_averages_old_and_new_sensitivity_of_the_outputs_lengths() -> None:
    method = make("mas", keep=0.25)
    assert isinstance(method, MAS)
    learn(method, 0)
    old_P, data = method.importance_P, train_pairs(1)
    begin(method, 1)
    method.end_task(data, generator_for(0, "end"))
    new_P = torch.zeros_like(old_P)
    for pair in range(len(data)):
        batch = data.pairs(torch.tensor([pair]))
        text = method.head.text(batch.text)
        frames_NFD, mask_NF, shift_ND = method.head.video_frames(batch.video)
        mean_D, raw_D = frames_NFD[0, mask_NF[0]].mean(0), batch.video.frames_MFD[0, mask_NF[0]].mean(0)
        assert shift_ND is not None
        video_D = mean_D + mean_D.detach().norm() * shift_ND[0]
        method.zero_grad()
        length = text.pooled_ND.square().sum() / batch.text.pooled_ND.square().sum()
        (length + video_D.square().sum() / raw_D.square().sum()).backward()
        new_P += gradient_of(method.head).abs() / len(data)
    assert_close(method.importance_P, 0.25 * old_P + 0.75 * new_P, rtol=1e-4, atol=1e-7)


def test_mas_keeps_nothing_of_before_the_first_task() -> None:
    method = make("mas", keep=0.25)
    assert isinstance(method, MAS)
    begin(method, 0)
    method.importance_P = torch.full_like(method.importance_P, 1e6)
    method.end_task(train_pairs(0), generator_for(0, "end"))
    assert method.importance_P.max() < 1e3
