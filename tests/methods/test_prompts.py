"""DualPrompt, CODA-Prompt and S-Prompts: how prompts are made, chosen, kept orthogonal and left alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, layer_norm
from torch.testing import assert_close

from ctvr_bench.bench.run.training import generator_for
from ctvr_bench.features.streams import TextBatch, VideoBatch
from ctvr_bench.methods.coda_prompt import CODAPrompt
from ctvr_bench.methods.dualprompt import DualPrompt
from ctvr_bench.methods.s_prompts import SPrompts
from ctvr_bench.methods.shared.base import Method
from ctvr_bench.methods.shared.heads import AttentionBlock, Prompts, masked_mean
from ctvr_bench.methods.shared.losses import orthogonality
from ctvr_bench.methods.shared.memory import k_means
from tests.learning import begin, learn, make, train_pairs


def state(method: Method, prefix: str) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in method.state_dict().items() if name.startswith(prefix)}


def seen(*prompts: Prompts) -> Tensor:
    """The prompt tokens of every sample, [N, P, D]."""
    return torch.cat([each.mapped(torch.eye(each.tokens_KPD.shape[2])) for each in prompts], 1)


# --- the block that carries them


@pytest.mark.parametrize("scoring", ["cosine", "fused"])
@torch.no_grad()
def test_the_block_is_attention_over_each_samples_own_prompts_and_tokens(scoring: str) -> None:
    """Against one sample at a time, its prompts gathered first and every token mapped through every matrix."""
    method = make("l2p", scoring=scoring).double()
    batch = train_pairs(0).pairs(torch.arange(6))
    text = TextBatch(batch.text.pooled_ND.double(), batch.text.words_NLD.double(), batch.text.word_mask_NL)
    video = VideoBatch(batch.video.frames_MFD.double(), batch.video.frame_mask_MF)
    video.frame_mask_MF[2, 3:] = False
    for block in (method.text_block, method.video_block):
        block.out.normal_(generator=torch.Generator().manual_seed(3))
    of_text, of_video = method.text_pool(text.pooled_ND), method.video_pool(masked_mean(*video))
    adapted, frames = method.attend_text(text, of_text), method.attend_video(video, of_video)
    for n in range(6):
        words_LD = torch.cat([text.pooled_ND[n : n + 1], text.words_NLD[n, text.word_mask_NL[n]]])
        expected_LD = attended(method.text_block, words_LD, of_text.tokens_KPD[of_text.of_NC[n]].flatten(0, 1))
        assert_close(adapted.pooled_ND[n], expected_LD[0])
        shown_FD = video.frames_MFD[n, video.frame_mask_MF[n]]
        expected_FD = attended(method.video_block, shown_FD, of_video.tokens_KPD[of_video.of_NC[n]].flatten(0, 1))
        assert_close(masked_mean(*frames[:2])[n], expected_FD.mean(0))
        if scoring == "fused":
            assert_close(adapted.words_NLD[n, text.word_mask_NL[n]], expected_LD[1:])
            assert_close(frames.frames_MFD[n, video.frame_mask_MF[n]], expected_FD)


def attended(block: AttentionBlock, x_LD: Tensor, prompts_PD: Tensor) -> Tensor:
    inner_LD = layer_norm(x_LD, x_LD.shape[1:])
    seen_KD = torch.cat([prompts_PD, inner_LD])
    width = len(block.query) // block.heads
    mixed = []
    for rows in torch.arange(len(block.query)).split(width):
        weight_LK = (inner_LD @ block.query[rows].T @ (seen_KD @ block.key[rows].T).T / width**0.5).softmax(1)
        mixed.append(weight_LK @ (seen_KD @ block.value[rows].T))
    return x_LD + x_LD.norm(dim=1, keepdim=True) * (torch.cat(mixed, 1) @ block.out.T) / x_LD.shape[1] ** 0.5


# --- CODA-Prompt


def test_orthogonality_is_zero_for_orthonormal_rows_only() -> None:
    rows_ND = torch.linalg.qr(torch.randn(6, 4, generator=torch.Generator().manual_seed(0))).Q.T
    assert orthogonality(rows_ND).item() == pytest.approx(0, abs=1e-12)
    assert orthogonality(2 * rows_ND).item() == pytest.approx(9 * 4 / 16)  # the diagonal is 4 instead of 1
    rows_ND[0] = rows_ND[1]
    assert orthogonality(rows_ND).item() == pytest.approx(2 / 16)


def test_orthogonality_is_the_mean_over_all_pairs_of_rows() -> None:
    rows_ND = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    expected = sum((float(a @ b) - (i == j)) ** 2 for i, a in enumerate(rows_ND) for j, b in enumerate(rows_ND)) / 25
    assert orthogonality(rows_ND).item() == pytest.approx(expected, rel=1e-5)


def coda(**values: object) -> CODAPrompt:
    method = make("coda_prompt", **values)
    assert isinstance(method, CODAPrompt)
    return method


def test_codas_components_start_orthonormal_over_all_tasks() -> None:
    components = coda(pool=12).text_prompts
    assert components.overlap(2).item() == pytest.approx(0, abs=1e-8)


def test_coda_composes_its_prompt_from_the_components_so_far() -> None:
    components = coda(pool=12, length=2).text_prompts
    query_ND = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    for task, parts in ((0, 1), (2, 3)):
        expected_NPD = torch.zeros(3, 2, 32)
        for prompt_MW, key_MD, attention_MD in list(
            zip(components.prompts, components.keys, components.attentions, strict=True)
        )[:parts]:
            for prompt_W, key_D, attention_D in zip(prompt_MW, key_MD, attention_MD, strict=True):
                for row, query_D in enumerate(query_ND):
                    weight = cosine_similarity(query_D * attention_D, key_D, dim=0)
                    expected_NPD[row] += weight * prompt_W.detach().view(2, 32) * 8  # sqrt(2 * 32)
        assert_close(components(query_ND, task), expected_NPD, rtol=1e-4, atol=1e-5)


def test_codas_earlier_components_stay_while_a_later_task_uses_them() -> None:
    method = coda(lr=1e-2)
    learn(method, 0)
    first = {name: state(method, f"text_prompts.{name}.0") for name in ("prompts", "keys", "attentions")}
    learn(method, 1)
    for name, before in first.items():
        assert before
        assert_close(state(method, f"text_prompts.{name}.0"), before, rtol=0, atol=0)
    begin(method, 1)
    loss = method.loss(method.prepare(train_pairs(1).pairs(torch.arange(8)), generator_for(0, "x")))
    torch.stack(list(loss.values())).sum().backward()
    assert method.text_prompts.prompts[0].grad is None
    assert method.text_prompts.prompts[1].grad is not None


# --- DualPrompt


def dualprompt(**values: object) -> DualPrompt:
    method = make("dualprompt", **values)
    assert isinstance(method, DualPrompt)
    return method


def test_dualprompts_pull_is_the_cosine_with_the_tasks_own_keys() -> None:
    method = dualprompt(pull=2.0)
    learn(method, 0)
    begin(method, 1)
    batch = train_pairs(1).pairs(torch.arange(8))
    video_ND = batch.video.frames_MFD.sum(1)
    cosines = cosine_similarity(batch.text.pooled_ND, method.text_prompts.keys[1])
    cosines = cosines + cosine_similarity(video_ND, method.video_prompts.keys[1])
    assert method.loss(batch)["pull"].item() == pytest.approx(-2.0 * cosines.mean().item(), rel=1e-4)


def test_dualprompt_routes_to_the_nearest_key_of_a_learned_task() -> None:
    method = dualprompt()
    begin(method, 1)
    text = train_pairs(0).text(torch.arange(5))
    with torch.no_grad():
        method.text_prompts.keys[0].copy_(-text.pooled_ND[:1])
        method.text_prompts.keys[1].copy_(10 * text.pooled_ND[:1] + 1)
        method.text_prompts.keys[2].copy_(text.pooled_ND[:1])  # nearer, but not learned yet
    assert method.route(text)[0] == 1
    prompts_NPD = seen(*method.text_prompts(torch.tensor([0, 1])))
    assert torch.equal(prompts_NPD[:, :5], method.text_prompts.general_GD.expand(2, -1, -1))
    assert torch.equal(prompts_NPD[1, 5:], method.text_prompts.experts[1])


def test_dualprompt_trains_with_the_current_tasks_expert() -> None:
    method = dualprompt()
    learn(method, 0)
    begin(method, 1)
    method.loss(method.prepare(train_pairs(1).pairs(torch.arange(8)), generator_for(0, "draws")))[
        "contrastive"
    ].backward()
    for prompts in (method.text_prompts, method.video_prompts):
        reached = [expert.grad is not None and bool(expert.grad.any()) for expert in prompts.experts]
        assert reached == [False, True, False]


def test_dualprompts_other_experts_stay() -> None:
    method = dualprompt(lr=1e-2)
    learn(method, 0)
    before = {**state(method, "text_prompts.keys"), **state(method, "video_prompts.experts")}
    learn(method, 1)
    moved = {name for name, value in method.state_dict().items() if name in before and not value.equal(before[name])}
    assert moved == {"text_prompts.keys.1", "video_prompts.experts.1"}


# --- S-Prompts


def test_k_means_finds_well_separated_groups() -> None:
    generator = torch.Generator().manual_seed(0)
    centres_KD = 100 * torch.eye(3, 5)
    x_ND = centres_KD.repeat_interleave(10, 0) + torch.randn(30, 5, generator=generator)
    best = min((k_means(x_ND, 3, generator_for(seed, "x")) for seed in range(10)), key=lambda c: _inertia(x_ND, c))
    nearest = torch.cdist(centres_KD, best).argmin(1)
    assert sorted(nearest.tolist()) == [0, 1, 2]
    assert_close(best[nearest], x_ND.view(3, 10, 5).mean(1), rtol=1e-4, atol=1e-4)


def _inertia(x_ND: Tensor, centroid_KD: Tensor) -> float:
    return torch.cdist(x_ND, centroid_KD).amin(1).square().sum().item()


def test_k_means_of_fewer_rows_than_centroids_repeats_rows() -> None:
    x_ND = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    centroid_KD = k_means(x_ND, 5, generator_for(0, "x"))
    assert (torch.cdist(centroid_KD, x_ND).amin(1) == 0).all()


def s_prompts(**values: object) -> SPrompts:
    method = make("s_prompts", **values)
    assert isinstance(method, SPrompts)
    return method


def test_s_prompts_finds_the_task_of_its_training_captions() -> None:
    method = s_prompts()
    learn(method, 0, 1, 2)
    for task in range(3):
        text = train_pairs(task).text(torch.arange(48))
        right = (method.route(text) == task).float().mean().item()
        assert right > 0.6  # chance is 0.33


def test_s_prompts_encodes_each_sample_through_the_task_it_is_routed_to() -> None:
    method = s_prompts(lr=1e-2)
    learn(method, 0, 1, 2)
    text = train_pairs(0, 1, 2).text(torch.arange(0, 120, 3))
    task_N = method.route(text)
    assert len(task_N.unique()) > 1
    with torch.no_grad():
        together_ND = method.encode_text(text, 0).pooled_ND
        for row, task in enumerate(task_N.tolist()):
            own = method.heads[task].attend_text(_row(text, row), Prompts(method.text_prompts[task][None]))
            assert_close(together_ND[row], torch.nn.functional.normalize(own.pooled_ND[0], dim=0))


def _row(text: TextBatch, row: int) -> TextBatch:
    span = slice(row, row + 1)
    return TextBatch(text.pooled_ND[span], text.words_NLD[span], text.word_mask_NL[span])


def test_s_prompts_tasks_are_independent() -> None:
    """Whatever was learned before, a task's own prompts and attention end the same."""
    after, alone = s_prompts(), s_prompts()
    learn(after, 0, 1)
    learn(alone, 1)
    for prefix in ("heads.1", "text_prompts.1", "video_prompts.1"):
        assert_close(state(after, prefix), state(alone, prefix), rtol=0, atol=0)


# --- prompts and keys with a rate of their own


PROMPTED = ("l2p", "dualprompt", "coda_prompt", "s_prompts")


def is_prompt(name: str) -> bool:
    """Whether a parameter belongs to prompts and keys, by its name."""
    return "_block." not in name


@pytest.mark.parametrize("name", PROMPTED)
def test_prompts_and_keys_are_a_group_with_rate_and_decay_of_its_own(name: str) -> None:
    method = make(name, prompt_rate=7.0, prompt_decay=0.1)
    begin(method, 0)
    of = {id(parameter): key for key, parameter in method.named_parameters()}
    blocks, prompts = method.parameter_groups()
    assert (blocks.rate, blocks.decay, prompts.rate, prompts.decay) == (1.0, None, 7.0, 0.1)
    assert {is_prompt(of[id(parameter)]) for parameter in prompts.parameters} == {True}
    assert {is_prompt(of[id(parameter)]) for parameter in blocks.parameters} == {False}
    plain = make(name).parameter_groups()
    own = {"coda_prompt": 1.0}.get(name, 30.0)
    assert [(group.rate, group.decay) for group in plain] == [(1.0, None), (own, 0.0)]  # prompts do not decay


@pytest.mark.parametrize("name", PROMPTED)
def test_a_rate_of_their_own_moves_prompts_and_nothing_else_further(name: str) -> None:
    moved = {}
    for rate in (0.0, 1.0, 30.0):
        method = make(name, prompt_rate=rate, prompt_decay=0.0, lr=1e-3)
        before = {key: parameter.detach().clone() for key, parameter in method.named_parameters()}
        learn(method, 0)
        ways = {key: (parameter.detach() - before[key]).norm() for key, parameter in method.named_parameters()}
        moved[rate] = torch.stack([way for key, way in ways.items() if is_prompt(key)]).norm().item()
        assert max(way for key, way in ways.items() if not is_prompt(key)) > 0
    assert moved[0.0] == 0
    assert moved[30.0] > 8 * moved[1.0] > 0


@pytest.mark.parametrize("name", ["attention_head", *PROMPTED])
def test_the_block_may_be_held_after_the_first_task(name: str) -> None:
    method = make(name, block="first_task", prompt_rate=30.0, lr=1e-3)
    learn(method, 0)
    first = {key: parameter.detach().clone() for key, parameter in method.named_parameters()}
    assert max(value.abs().max() for key, value in first.items() if key.endswith("text_block.out")) > 0
    learn(method, 1)
    changed = {is_prompt(key) for key, parameter in method.named_parameters() if not torch.equal(parameter, first[key])}
    assert changed == (set() if name == "attention_head" else {True})


@pytest.mark.parametrize("name", PROMPTED)
def test_prompts_replaced_by_noise_or_by_what_they_were_at_first_change_what_is_retrieved(name: str) -> None:
    """At thirty times the block's rate, in a few larger steps; at the block's rate, CODA-Prompt's default, prompts
    hardly move, but noise in their place is seen all the same.
    """
    found = {}
    for rate in (1.0, 30.0):
        method = make(name, lr=1e-3, steps=20, prompt_rate=rate)
        first = [prompt.detach().clone() for prompt in prompts_of(method)]
        learn(method, 0)
        learned_NK, generator = nearest(method), torch.Generator().manual_seed(0)
        noise = [torch.randn(prompt.shape, generator=generator) for prompt in first]
        others = (first, [x * old.norm() / x.norm() for x, old in zip(noise, first, strict=True)])
        found[rate] = [share_changed(method, learned_NK, prompts) for prompts in others]
    at_first, by_noise = found[30.0]
    assert by_noise > 0.1
    assert at_first > 0.1
    assert at_first > found[1.0][0] + 0.1
    assert found[1.0][1] > 0.1


def prompts_of(method: Method) -> list[torch.nn.Parameter]:
    """Prompts without the keys and attention vectors that find them."""
    named = [(key, value) for key, value in method.named_parameters() if is_prompt(key)]
    return [value for key, value in named if "keys" not in key and "attentions" not in key]


@torch.no_grad()
def nearest(method: Method) -> Tensor:
    """The five nearest of a task's videos for each of its captions."""
    batch = train_pairs(0).pairs(torch.arange(48))
    text, video = method.encode_text(batch.text, 0), method.encode_video(batch.video)
    return (text.pooled_ND @ video.pooled_MD[::4].T).topk(5).indices  # each video once


@torch.no_grad()
def share_changed(method: Method, learned_NK: Tensor, prompts: list[Tensor]) -> float:
    """Captions whose nearest videos are others with these prompts in place of the learned ones."""
    for parameter, value in zip(prompts_of(method), prompts, strict=True):
        parameter.copy_(value)
    return (nearest(method) != learned_NK).any(1).float().mean().item()
