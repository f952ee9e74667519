"""Config values of the originals, and terms that had no test of their own, each against a plain loop."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, layer_norm, normalize
from torch.testing import assert_close

from ctvr_bench.bench.run.training import generator_for, learn_task
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.streams import PairBatch
from ctvr_bench.methods.c_clip import CCLIP
from ctvr_bench.methods.clip4clip_seq import Clip4ClipSeq, SequentialHead
from ctvr_bench.methods.coda_prompt import CODAPrompt
from ctvr_bench.methods.er import ER
from ctvr_bench.methods.l2p import L2P
from ctvr_bench.methods.mas import MAS
from ctvr_bench.methods.mod_x import ModX
from ctvr_bench.methods.moe_adapters import MoEAdapters
from ctvr_bench.methods.s_prompts import SPrompts
from ctvr_bench.methods.shared.base import Method, TaskInfo
from ctvr_bench.methods.shared.heads import ResidualHead, TemporalTransformer, masked_mean
from ctvr_bench.methods.shared.scoring import pair_similarity
from ctvr_bench.methods.x_pool import XPool
from tests.learning import begin, learn, make, train_pairs


def prepared(method: Method, task: int = 1, pairs: int = 12) -> PairBatch:
    return method.prepare(train_pairs(task).pairs(torch.arange(pairs)), generator_for(0, "draws"))


def stirred(method: Method, size: float = 0.05) -> None:
    """Away from the identity, so that every part matters."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in method.parameters():
            if parameter.requires_grad:
                parameter += size * torch.randn(parameter.shape, generator=generator)


def divergence(teacher_K: Tensor, student_K: Tensor) -> float:
    p_K, q_K = teacher_K.double().softmax(0), student_K.double().softmax(0)
    return sum(float(p) * (math.log(p) - math.log(q)) for p, q in zip(p_K, q_K, strict=True))


# --- Mod-X


@pytest.mark.parametrize(("values", "scale"), [({}, 1.0), ({"relation_scale": None, "reduction": "mean"}, 17.6)])
def test_mod_x_compares_cosines_at_its_own_scale_and_sums_where_asked(values: dict[str, object], scale: float) -> None:
    method = make("mod_x", dropout=0.0, **values)
    assert isinstance(method, ModX)
    learn(method, 0)
    begin(method, 1)
    stirred(method)
    batch = prepared(method)
    with torch.no_grad():
        text, video = method.embed_batch(batch)
        new_NN = text.pooled_ND @ video.pooled_MD.T
        head, method.head = method.head, method.teacher
        old_text, old_video = method.embed_batch(batch)
        method.head = head
        old_NN = old_text.pooled_ND @ old_video.pooled_MD.T
        term = float(method.loss(batch)["off_diagonal"])
    total, right = 0.0, 0
    for new, old in ((new_NN, old_NN), (new_NN.T, old_NN.T)):
        for i in range(12):
            if batch.video_N[int(old[i].argmax())] == batch.video_N[i]:
                total, right = total + divergence(scale * old[i], scale * new[i]), right + 1
    assert 4 < right < 24
    assert term == pytest.approx(20 * total / (12 if values else 1), rel=1e-3)


# --- X-Pool


@pytest.mark.parametrize("keys", ["unit", "layer_norm"])
@torch.no_grad()
def test_x_pool_attends_as_its_equation_reads(keys: str) -> None:
    method = make("x_pool", keys=keys, dropout=0.0)
    assert isinstance(method, XPool)
    begin(method, 0)
    stirred(method, 0.2)
    batch = prepared(method, 0, 6)
    batch.video.frame_mask_MF[1, 3:] = False
    found_NM = pair_similarity(*method.embed_batch(batch), method.config)
    texts = method.head.text(batch.text).pooled_ND
    frames, mask, shift = method.head.video_frames(batch.video)
    assert shift is not None
    for n in range(6):
        query_D = method.query_DD @ layer_norm(normalize(texts[n], dim=0), (32,))
        for m in range(6):
            frames_FD = frames[m, mask[m]]
            mean_D = frames_FD.mean(0)
            video_D = normalize(mean_D + mean_D.norm() * shift[m], dim=0)
            key_FD = normalize(frames_FD, dim=1) if keys == "unit" else layer_norm(frames_FD, (32,))
            weight_F = torch.stack([query_D @ (method.key_DD @ key_D) / 32**0.5 for key_D in key_FD]).softmax(0)
            seen_D = video_D + sum(
                (weight - 1 / len(key_FD)) * normalize(key_D, dim=0)
                for weight, key_D in zip(weight_F, key_FD, strict=True)
            )
            assert_close(found_NM[n, m], cosine_similarity(texts[n], seen_D, dim=0), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_layer_normed_keys_are_as_sharp_as_the_authors() -> None:
    """Unit keys divide logits by the length of a layer-normed vector, the root of the dimension."""
    unit, normed = (make("x_pool", keys=keys, dropout=0.0) for keys in ("unit", "layer_norm"))
    assert isinstance(unit, XPool)
    assert isinstance(normed, XPool)
    text = train_pairs(0).text(torch.arange(3))
    for method in (unit, normed):
        method.query_DD.copy_(torch.eye(32))
    first, second = (method.encode_text(text, 0).attend_ND for method in (unit, normed))
    assert first is not None
    assert second is not None
    assert_close(second, 32**0.5 * first)


# --- CLIP4Clip, sequential


def transformed(transformer: TemporalTransformer, frames_FD: Tensor) -> Tensor:
    """One video's frames through the transformer, head by head and frame by frame."""
    dim, heads = frames_FD.shape[1], transformer.heads
    x_FD = layer_norm(frames_FD, (dim,)) + transformer.position_FD[: len(frames_FD)]
    for mix, widen, narrow in zip(transformer.mix, transformer.widen, transformer.narrow, strict=True):
        query, key, value, out = mix.split(dim)
        inner_FD = layer_norm(x_FD, (dim,))
        mixed = []
        for rows in torch.arange(dim).chunk(heads):
            logits_FF = (inner_FD @ query[rows].T) @ (inner_FD @ key[rows].T).T / (dim // heads) ** 0.5
            mixed.append(logits_FF.softmax(1) @ (inner_FD @ value[rows].T))
        x_FD = x_FD + torch.cat(mixed, 1) @ out.T
        x_FD = x_FD + torch.nn.functional.gelu(layer_norm(x_FD, (dim,)) @ widen.T) @ narrow.T
    moved_FD = layer_norm(x_FD, (dim,)) @ transformer.out.T / dim**0.5
    return frames_FD + frames_FD.norm(dim=1, keepdim=True) * moved_FD


@torch.no_grad()
def test_clip4clip_seq_averages_adapted_frames_after_the_transformer() -> None:
    method = make("clip4clip_seq", layers=2, heads=4)
    assert isinstance(method, Clip4ClipSeq)
    assert isinstance(method.head, SequentialHead)
    assert [len(weights) for weights in (method.head.sequence.mix, method.head.sequence.narrow)] == [2, 2]
    stirred(method, 0.1)
    video = train_pairs(0).video(torch.arange(4))
    video.frame_mask_MF[2, 3:] = False
    video.frames_MFD[2, 3:] = 0
    found_MD = method.encode_video(video).pooled_MD
    plain = ResidualHead.video_frames(method.head, video)
    assert plain.shift_MD is not None
    for found_D, frames_FD, mask_F, shift_D in zip(found_MD, *plain[:2], plain.shift_MD, strict=True):
        mean_D = transformed(method.head.sequence, frames_FD[mask_F]).mean(0)
        assert_close(found_D, normalize(mean_D + mean_D.norm() * shift_D, dim=0), rtol=1e-4, atol=1e-5)


def test_clip4clip_seq_refuses_heads_that_do_not_divide_the_features() -> None:
    with pytest.raises(InputError, match="must divide the features' 32 dimensions; got 5"):
        make("clip4clip_seq", heads=5)


def test_clip4clip_seqs_loss_reaches_every_layer() -> None:
    method = make("clip4clip_seq", dropout=0.0, layers=2, heads=4)
    assert isinstance(method, Clip4ClipSeq)
    assert isinstance(method.head, SequentialHead)
    begin(method, 0)
    stirred(method)
    method.loss(prepared(method, 0))["contrastive"].backward()
    for name, parameter in method.head.sequence.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


# --- C-CLIP


def test_c_clips_consolidation_contrasts_projected_new_features_with_old_ones() -> None:
    method = make("c_clip", dropout=0.0, ckc=0.7)
    assert isinstance(method, CCLIP)
    learn(method, 0)
    begin(method, 1)
    stirred(method)
    batch = prepared(method)
    with torch.no_grad():
        old = [method._text(batch.text, old=True).pooled_ND, method._video(batch.video, old=True).pooled_MD]
        new = [method._text(batch.text).pooled_ND, method._video(batch.video).pooled_MD]
        projected = [new[0] @ method.text_projector.T, new[1] @ method.video_projector.T]
        term = float(method.loss(batch)["ckc"])
    assert not torch.allclose(new[0], old[0], atol=1e-3)
    old_KD, new_KD = torch.cat(old).double(), normalize(torch.cat(projected).double(), dim=1)
    video_K, side_K = batch.video_N.repeat(2).tolist(), [0] * 12 + [1] * 12
    total = 0.0
    for sim_KK in (new_KD @ old_KD.T, old_KD @ new_KD.T):
        for i in range(24):
            same = [video_K[i] == video_K[j] and side_K[i] == side_K[j] and i != j for j in range(24)]
            others = [math.exp(17.6 * float(sim_KK[i, j])) for j in range(24) if not same[j]]
            total += (math.log(sum(others)) - 17.6 * float(sim_KK[i, i])) / 24
    assert term == pytest.approx(0.7 * total, rel=1e-4)
    method.loss(batch)["ckc"].backward()
    for learns in (method.text_projector, method.video_projector, method.text_map.up_DR, method.video_map.up_DR):
        assert learns.grad is not None
        assert learns.grad.any()


def test_c_clip_consolidates_from_the_second_task_on() -> None:
    method = make("c_clip")
    begin(method, 0)
    assert list(method.loss(prepared(method, 0))) == ["contrastive"]


# --- ER


def er(**values: object) -> ER:
    method = make("er", **values)
    assert isinstance(method, ER)
    return method


@pytest.mark.parametrize(("replay", "drawn"), [(None, 12), (5, 5)])
def test_er_joins_stored_pairs_of_earlier_tasks_to_the_batch(replay: int | None, drawn: int) -> None:
    method = er(buffer=20, replay=replay)
    assert len(prepared(method, 0)) == 12  # nothing is stored yet
    learn(method, 0)
    begin(method, 1)
    stored = method.memory.state_dict()
    own, joined = train_pairs(1).pairs(torch.arange(12)), prepared(method)
    assert len(joined) == 12 + drawn
    assert torch.equal(joined.text.pooled_ND[:12], own.text.pooled_ND)
    assert torch.equal(joined.video_N[:12], own.video_N)
    assert len(stored["item_video_N"]) == 20
    rows = [
        (stored["item_pooled_ND"] == text_D).all(1) & (stored["item_frames_MFD"] == frames_FD).flatten(1).all(1)
        for text_D, frames_FD in zip(joined.text.pooled_ND[12:], joined.video.frames_MFD[12:], strict=True)
    ]
    chosen = torch.stack(rows).nonzero()[:, 1]
    assert len(chosen.unique()) == drawn  # each is a stored pair, none twice
    assert torch.equal(joined.video_N[12:], stored["item_video_N"][chosen])


def test_ers_stored_and_current_pairs_are_negatives_of_each_other() -> None:
    method = er(dropout=0.0)
    learn(method, 0)
    begin(method, 1)
    joined = prepared(method)
    with torch.no_grad():
        text, video = method.embed_batch(joined)
        found = float(method.loss(joined)["contrastive"])
    sim_NN, total = (text.pooled_ND @ video.pooled_MD.T).double(), 0.0
    for sim in (sim_NN, sim_NN.T):
        for i in range(24):
            negatives = [j for j in range(24) if j == i or joined.video_N[j] != joined.video_N[i]]
            assert len(negatives) > 12
            exponents = [math.exp(17.6 * float(sim[i, j])) for j in negatives]
            total += (math.log(sum(exponents)) - 17.6 * float(sim[i, i])) / 24
    assert found == pytest.approx(total, rel=1e-4)


class Watched(ER):
    """ER that notes how many pairs each step was made on and which ones were its own."""

    def after_step(self, batch: PairBatch) -> None:
        super().after_step(batch)
        self.steps_made = [*getattr(self, "steps_made", []), (len(batch), batch.text.pooled_ND.clone())]


def watched(**values: object) -> Watched:
    plain = er(epochs=2, batch_size=16, **values)
    method = Watched(plain.config, plain.spec, generator_for(0, "init"))
    data = train_pairs(0)
    learn_task(method, data, TaskInfo(0, len(data), (0, 1)), 0)
    return method


def test_ers_reservoir_fills_when_a_task_ends_or_as_the_stream_runs() -> None:
    later, running = watched(filled="task_end"), watched()
    assert [size for size, _ in later.steps_made] == [16] * 6  # 48 pairs twice, nothing to rehearse yet
    assert [size for size, _ in running.steps_made] == [16] + [32] * 5
    for method in (later, running):
        assert int(method.memory.seen) == 48  # every pair was offered once, whatever the epochs
        assert len(method.memory.state_dict()["item_pooled_ND"].unique(dim=0)) == 48
    first = running.steps_made[0][1]
    assert torch.equal(running.steps_made[1][1][16:].unique(dim=0), first.unique(dim=0))  # all that was seen so far


# --- L2P


def l2p(**values: object) -> L2P:
    method = make("l2p", **values)
    assert isinstance(method, L2P)
    return method


@torch.no_grad()
def test_l2p_chooses_the_prompts_of_the_nearest_keys() -> None:
    method = l2p(pool=7, chosen=3)
    query_ND = train_pairs(0).text(torch.arange(9)).pooled_ND
    prompts = method.text_pool(query_ND)
    assert prompts.of_NC is not None
    for query_D, chosen_C in zip(query_ND, prompts.of_NC.tolist(), strict=True):
        match = [float(cosine_similarity(query_D, key_D, dim=0)) for key_D in method.text_pool.keys_KD]
        assert chosen_C == sorted(range(7), key=lambda k: -match[k])[:3]


def test_l2p_pulls_chosen_keys_to_what_chose_them() -> None:
    method = l2p(pool=7, chosen=3, pull=0.5)
    begin(method, 0)
    batch = prepared(method, 0)
    term = method.loss(batch)["pull"]
    expected = 0.0
    for pool, query_ND in (
        (method.text_pool, batch.text.pooled_ND),
        (method.video_pool, masked_mean(*batch.video)),
    ):
        for query_D in query_ND:
            match = [float(cosine_similarity(query_D, key_D, dim=0)) for key_D in pool.keys_KD.detach()]
            expected += sum(sorted(match)[-3:]) / 12
    assert term.item() == pytest.approx(-0.5 * expected, rel=1e-4)
    term.backward()
    of_NC = method.text_pool(batch.text.pooled_ND).of_NC
    assert of_NC is not None
    grad_KD = method.text_pool.keys_KD.grad
    assert grad_KD is not None
    assert grad_KD.abs().amax(1).nonzero().flatten().tolist() == sorted(of_NC.unique().tolist())


def test_l2ps_keys_start_within_their_bound_and_small_ones_turn_further() -> None:
    turned = {}
    for bound in (None, 1e-4):
        method = l2p(key_bound=bound, pull=1.0, lr=1e-3, prompt_rate=1.0)
        before_KD = method.text_pool.keys_KD.detach().clone()
        assert 0.8 * (bound or 32**-0.5) < before_KD.abs().max() <= (bound or 32**-0.5)
        learn(method, 0)
        after_KD = method.text_pool.keys_KD.detach()
        turned[bound] = float(cosine_similarity(before_KD, after_KD, dim=1).min())
    assert turned[None] > 0.99  # a task's steps hardly move keys of unit length
    assert turned[1e-4] < 0.5


# --- CODA-Prompt


@pytest.mark.parametrize(("orthogonal_to", "holds"), [("trained", True), ("drawn", False)])
def test_codas_new_components_are_orthogonal_to_those_that_training_left(orthogonal_to: str, holds: bool) -> None:
    method = make("coda_prompt", pool=12, lr=3e-2, ortho=0.0, orthogonal_to=orthogonal_to)
    assert isinstance(method, CODAPrompt)
    learn(method, 0)
    begin(method, 1)
    prompts = method.text_prompts
    for part in (prompts.prompts, prompts.keys, prompts.attentions):
        old, new = (normalize(part[task].detach(), dim=1) for task in (0, 1))
        assert_close(new @ new.T, torch.eye(4), rtol=0, atol=1e-5)
        assert ((old @ new.T).abs().max() < 1e-5) == holds


def test_codas_components_beyond_the_dimensions_stay_unit_rows() -> None:
    method = make("coda_prompt", pool=90, length=1, orthogonal_to="trained")
    assert isinstance(method, CODAPrompt)
    begin(method, 1)
    assert_close(method.text_prompts.keys[1].norm(dim=1), torch.ones(30))


# --- S-Prompts


@pytest.mark.parametrize(("distance", "power"), [("euclidean", 2), ("manhattan", 1)])
def test_s_prompts_measures_the_way_to_centroids_as_it_says(distance: str, power: int) -> None:
    method = make("s_prompts", distance=distance)
    assert isinstance(method, SPrompts)
    learn(method, 0, 1, 2)
    text = train_pairs(1).text(torch.arange(48))
    nearest = []
    for feature_D in normalize(text.pooled_ND, dim=1):
        way_TK = (method.text_centroids_TKD - feature_D).abs().pow(power).sum(-1)
        nearest.append(int(way_TK.amin(1).argmin()))
    assert method.route(text).tolist() == nearest


# --- MAS


@pytest.mark.parametrize("over_tasks", ["mean", "sum"])
def test_mas_sums_or_averages_importance_over_tasks(over_tasks: str) -> None:
    method = make("mas", over_tasks=over_tasks, keep=0.25)
    assert isinstance(method, MAS)
    alone = []
    for task in (0, 1, 2):
        begin(method, task)
        single = make("mas")
        assert isinstance(single, MAS)
        begin(single, 0)
        single.end_task(train_pairs(task), generator_for(0, "end"))
        alone.append(single.importance_P)
        method.end_task(train_pairs(task), generator_for(0, "end"))
    first, second, third = alone
    expected = first + second + third
    if over_tasks == "mean":
        expected = 0.25 * (0.25 * first + 0.75 * second) + 0.75 * third
    assert_close(method.importance_P, expected, rtol=1e-4, atol=1e-8)


# --- MoE-Adapters


def test_moe_adapters_may_freeze_the_most_used_of_all_as_the_authors_do() -> None:
    frozen = {}
    for among in ("open", "all"):
        method = make("moe_adapters", experts=4, freeze=2, freeze_among=among)
        assert isinstance(method, MoEAdapters)
        begin(method, 0)
        for task, uses in ((1, [0.9, 0.8, 0.2, 0.1]), (2, [0.9, 0.1, 0.8, 0.2])):
            method.text_experts.uses_E = method.video_experts.uses_E = torch.tensor(uses)
            begin(method, task)
        frozen[among] = method.text_experts.frozen_E.tolist()
    assert frozen == {"open": [True] * 4, "all": [True, True, True, False]}


@torch.no_grad()
def test_moe_adapters_experts_may_rectify() -> None:
    method = make("moe_adapters", activation="relu", experts=2)
    assert isinstance(method, MoEAdapters)
    experts = method.text_experts
    for expert in experts.adapters:
        expert.up.normal_(generator=torch.Generator().manual_seed(0))
    x_NLD, gates_NE = train_pairs(0).text(torch.arange(3)).pooled_ND[:, None], torch.tensor([[0.4, 0.6]] * 3)
    for x_D, found_D in zip(x_NLD[:, 0], experts(x_NLD, gates_NE)[:, 0], strict=True):
        expected_D = x_D.clone()
        for gate, expert in zip((0.4, 0.6), experts.adapters, strict=True):
            hidden_R = (expert.down[0] @ layer_norm(x_D, (32,))).clamp(min=0)
            expected_D += gate * x_D.norm() * (expert.up @ hidden_R) / 32**0.5
        assert_close(found_D, expected_D, rtol=1e-4, atol=1e-4)
