"""What every method promises, each promise with a check that says in plain words what is wrong.

The tests run all checks on every registered method, `check-method` on one of yours. A method is made, led over a small
simulated store, and watched.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from safetensors.torch import load as loaded
from safetensors.torch import save as save_tensors
from torch import Tensor

import ctvr_bench.bench.authoring.contract_stacks  # noqa: F401 - its check enters CHECKS
from ctvr_bench.bench.authoring import tryout
from ctvr_bench.bench.authoring.checks import CHECKS, Check, ContractError, Finding, fault_of, promise, require_equal
from ctvr_bench.bench.run.jobs import load_tensors
from ctvr_bench.bench.run.training import generator_for, view_of
from ctvr_bench.features.streams import PairTable
from ctvr_bench.methods.shared.base import Method, TaskInfo, is_trained, learns
from ctvr_bench.methods.shared.heads import AdaptedVideo
from ctvr_bench.methods.shared.registry import Entry
from ctvr_bench.methods.shared.scoring import embed_text, embed_video

__all__ = ["CHECKS", "Check", "ContractError", "check_method", "fault_of"]


def check_method(entry: Entry) -> Iterator[Finding]:
    """Every check that concerns the method, as it is made."""
    for check in CHECKS.values():
        if check.of(entry):
            yield Finding(check, fault_of(check, entry))


def _trained(entry: Entry) -> bool:
    return is_trained(entry.method)


def _learns(entry: Entry) -> bool:
    return learns(entry.method)


def _one_at_a_time(entry: Entry) -> bool:
    return entry.method.sees == "current"


@promise("its card is filled in: paper, idea, and deviations where it is adapted")
def _card(entry: Entry) -> None:
    method = entry.method
    if not method.paper:
        raise ContractError("paper is empty; say where the method comes from, or 'unpublished'")
    if not method.idea.endswith((".", "?", "!")):
        raise ContractError(f"idea must be one sentence with its full stop; got {method.idea!r}")
    if bool(method.deviations) != (method.fidelity == "adapted"):
        raise ContractError(
            f"fidelity {method.fidelity!r} with deviations {method.deviations!r}: an adapted method says how it "
            "deviates from its paper, an exact one does not"
        )


@promise("before any training it scores exactly as zero-shot CLIP")
def _identity(entry: Entry) -> None:
    pairs = tryout.train_pairs(0).pairs(torch.arange(20))
    for scoring in tryout.scorings(entry):
        method = tryout.make(entry, scoring=scoring)
        expected_text = embed_text(pairs.text, method.config)
        expected_video = embed_video(AdaptedVideo(*pairs.video), method.config)
        with torch.no_grad():
            for shard in (0, 2):
                require_equal("encode_text", scoring, method.encode_text(pairs.text, shard), expected_text)
            require_equal("encode_video", scoring, method.encode_video(pairs.video), expected_video)
            require_equal("encode_gallery", scoring, method.encode_gallery(pairs.video, 2), expected_video)


@promise("embeddings have unit norm after training")
def _unit_norms(entry: Entry) -> None:
    for scoring in tryout.scorings(entry):
        values: dict[str, Any] = {"scoring": scoring} | ({"lr": 1e-2} if _trained(entry) else {})
        method = tryout.make(entry, **values)
        tryout.learn(method, 0)
        pairs = tryout.train_pairs(0).pairs(torch.arange(20))
        with torch.no_grad():
            text, video = method.encode_text(pairs.text, 0), method.encode_gallery(pairs.video, 0)
        vectors = {"pooled captions": text.pooled_ND, "pooled videos": video.pooled_MD}
        if scoring != "cosine":
            if text.words_NLD is None or text.word_mask_NL is None or video.frames_MFD is None:
                raise ContractError(f"scoring {scoring} compares words with frames, but the embeddings hold none")
            vectors |= {"words": text.words_NLD[text.word_mask_NL], "frames": video.frames_MFD}
        for name, rows in vectors.items():
            away = float((rows.norm(dim=-1) - 1).abs().max())
            if not away < 1e-5:
                raise ContractError(
                    f"{name} are up to {away:.2g} away from unit norm (scoring {scoring}); return embed_text(...) and "
                    "embed_video(...) of methods.shared.scoring, or methods.shared.similarity.normalise"
                )


@promise(
    "loss and gradients are finite on a batch of one, a task of one category, captions of one or no word", _trained
)
def _finite(entry: Entry) -> None:
    cases = {"one pair": (1, 4), "one category": (6, 4), "captions of one word": (6, 1), "a caption of no word": (6, 4)}
    trained = tryout.make(entry, scoring=tryout.scorings(entry)[-1])
    tryout.learn(trained, 0)
    for case, (pairs, words) in cases.items():
        method = copy.deepcopy(trained)
        method.begin_task(TaskInfo(1, 8, (0,)))
        batch = tryout.random_batch(pairs, words, category=0)
        if case == "a caption of no word":
            batch.text.word_mask_NL[2] = False
            batch.text.words_NLD[2] = 0
        terms = method.train().loss(method.prepare(batch, generator_for(0, "draws")))
        torch.stack(list(terms.values())).sum().backward()
        bad = [f"loss term {name} is {value.item()}" for name, value in terms.items() if not torch.isfinite(value)]
        gradients = {name: parameter.grad for name, parameter in method.named_parameters()}
        bad += [f"the gradient of {n} is not finite" for n, g in gradients.items() if not _finite_or_none(g)]
        if bad:
            raise ContractError(f"with {case} {bad[0]}; look for a division by a count, a norm or a spread that is 0")


@promise("the loss is a pure function of the prepared batch", _trained)
def _pure(entry: Entry) -> None:
    method = tryout.after(entry, 0)
    method.begin_task(TaskInfo(1, 8, tryout.small_stream().tasks[1].categories))
    batch = method.prepare(tryout.train_pairs(1).pairs(torch.arange(10)), generator_for(0, "draws"))
    before = tryout.state_digest(method)
    first, second = ({name: value.item() for name, value in method.loss(batch).items()} for _ in range(2))
    if first != second:
        raise ContractError(f"asked twice, loss gave {first} and {second}; draw what is random in `prepare`")
    if tryout.state_digest(method) != before:
        raise ContractError("loss changes parameters or buffers; do that in `after_step` or `end_task`")


@promise("what `view` makes once for a task changes no loss", lambda entry: entry.method.view is not Method.view)
def _view(entry: Entry) -> None:
    method = tryout.after(entry, 0)
    data = tryout.in_double(tryout.train_pairs(1))
    method.begin_task(TaskInfo(1, len(data), tryout.small_stream().tasks[1].categories))
    method.double()
    index_N = torch.arange(10)
    batches = (table.pairs(index_N) for table in (data, view_of(method, data)))
    plain, viewed = (method.loss(method.prepare(batch, generator_for(0, "draws"))) for batch in batches)
    for name, value in plain.items():
        if not torch.isclose(viewed[name], value, rtol=1e-6, atol=1e-9):
            raise ContractError(
                f"loss term {name} is {value.item():.6g} on the pairs as they are, {viewed[name].item():.6g} on those "
                "of `view`; a view only saves time. Where it came with the class that yours is derived from, return "
                "`data` from a `view` of your own"
            )


@promise("the same seed gives the same bits; where it is trained, another seed does not", _learns)
def _seeded(entry: Entry) -> None:
    digests = []
    for seed in (0, 0, 1):
        method = tryout.make(entry, seed)
        tryout.learn(method, 0, seed=seed)
        digests.append(tryout.state_digest(method))
    if digests[0] != digests[1]:
        raise ContractError(
            "two runs with one seed differ; draw from the generator that you are given, never without one"
        )
    if digests[0] == digests[2] and is_trained(entry.method):  # a closed form may draw nothing
        raise ContractError("two seeds give the same bits; initialise from the generator that __init__ is given")


@promise("training moves something that is stepped", _trained)
def _moves(entry: Entry) -> None:
    method = tryout.make(entry)
    before = {name: value.clone() for name, value in method.named_parameters()}
    tryout.learn(method, 0)
    stepped = {id(parameter) for group in method.parameter_groups() for parameter in group.parameters}
    same = {name for name, value in method.named_parameters() if torch.equal(value, before[name])}
    if all(id(value) not in stepped or name in same for name, value in method.named_parameters()):
        raise ContractError("training changes no parameter; does the loss depend on any?")


@promise("saved and loaded between two tasks it continues to the same bits")
def _resumes(entry: Entry) -> None:
    method = tryout.after(entry, 0)
    saved = loaded(save_tensors({name: value.contiguous() for name, value in method.state_dict().items()}))
    again = tryout.make(entry)
    load_tensors(again, saved)
    again.task = method.task
    captions = tryout.train_pairs(0).text(torch.arange(4))
    for moment in ("right after loading", "after the next task"):
        with torch.no_grad():
            first, second = (each.encode_text(captions, method.task.position).pooled_ND for each in (method, again))
        if not torch.equal(first, second) or tryout.state_digest(method) != tryout.state_digest(again):
            raise ContractError(
                f"{moment} it differs from one that was never saved; keep all state in registered buffers"
            )
        if method.task.position == 0:
            for each in (method, again):
                tryout.learn(each, 1)


@promise("it leaves the store and the features that it is handed as they are")
def _read_only(entry: Entry) -> None:
    store = tryout.small_store()
    before = store.path.read_bytes()
    method, data, untouched = tryout.make(entry), tryout.train_pairs(0), tryout.train_pairs(0)
    tryout.learn(method, 0, data)
    with torch.no_grad():
        method.encode_text(data.text(torch.arange(4)), 0)
    for name, value in vars(untouched).items():
        if isinstance(value, Tensor) and not torch.equal(value, getattr(data, name)):
            raise ContractError(f"it writes into the training table ({name}); work on a copy")
    if store.path.read_bytes() != before:
        raise ContractError("it writes to the feature store")


@promise("nothing that it sees in evaluation, test rows above all, changes what it learns or returns")
def _test_rows(entry: Entry) -> None:
    states, encoded = [], []
    for test in (tryout.query_pairs(), tryout.poison(tryout.query_pairs())):
        method, evaluator = tryout.make(entry), tryout.evaluator(test)
        for task in (0, 1):
            evaluator.own_ranks(method, task, shard=max(task - 1, 0))
            tryout.learn(method, task)
            evaluator.finish_task(method)
            evaluator.routing_accuracy(method)
        states.append(tryout.state_digest(method))
        pairs = tryout.train_pairs(1).pairs(torch.arange(6))
        with torch.no_grad():
            encoded.append((method.encode_text(pairs.text, 1)[0], method.encode_gallery(pairs.video, 1)[0]))
    if states[0] != states[1] or any(not torch.equal(*each) for each in zip(*encoded, strict=True)):
        raise ContractError(
            "with other test videos and queries it learns or returns something else: an encode_... or route changes "
            "state; change state in the training hooks only"
        )


@promise("of past tasks' rows it reads and keeps no more than it declares", _one_at_a_time)
def _past_rows(entry: Entry) -> None:
    method, first = tryout.make(entry), tryout.train_pairs(0)
    tryout.learn(method, 0, first)
    kept = sum(buffer.numel() for buffer in method.buffers())
    tryout.poison(first, float("nan"))
    tryout.learn(method, 1)
    state = method.state_dict()
    bad = [n for n, value in state.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    if bad:
        raise ContractError(
            f"it reads the first task's training rows again in the second task ({bad[0]} holds what was planted "
            "there); copy what you may keep in `end_task` and declare it in stores_samples, or declare sees = 'seen'"
        )
    grown = sum(buffer.numel() for buffer in method.buffers()) - kept
    if entry.method.stores_samples == "nothing" and grown:
        raise ContractError(f"its buffers grow by {grown} numbers in a task; say in stores_samples what it keeps")


@promise("a query's and a video's encoding does not depend on what stands beside it, so never on the query's task")
def _query_alone(entry: Entry) -> None:
    method = tryout.after(entry, 0, 1)
    test, beside = tryout.query_pairs(), tryout.poison(tryout.query_pairs())
    asked = torch.arange(0, len(test), 3)
    for row in asked.tolist():
        words = slice(int(test.first_word_P[row]), int(test.first_word_P[row] + test.lengths_P[row]))
        beside.words_TD[words] = test.words_TD[words]
        beside.pooled_PD[row] = test.pooled_PD[row]
        video = test.video_position_P[row]
        beside.frames_VFD[video] = test.frames_VFD[video]
    encodings: dict[str, Callable[[PairTable, Tensor], Tensor | None]] = {
        "encode_text of a query": lambda table, index: method.encode_text(table.text(index), 1).pooled_ND,
        "encode_gallery of a video": lambda table, index: method.encode_gallery(table.video(index), 1).pooled_MD,
        "route of a query": lambda table, index: method.route(table.text(index)),
    }
    for name, encode in encodings.items():
        with torch.no_grad():
            alone = [encode(test, row[None]) for row in asked]
            together = encode(beside, torch.arange(len(test)))
        if together is None:
            continue
        away = float((torch.cat([row for row in alone if row is not None]) - together[asked]).abs().max())
        if not away < 1e-4:
            raise ContractError(
                f"{name} changes by up to {away:.2g} with what stands beside it in the batch, which tells its task; "
                "encode every row by itself, with no statistics over the batch"
            )


@promise("only a method that declares `uses_shards` asks which gallery a query is compared with")
def _shards(entry: Entry) -> None:
    method = tryout.after(entry, 0, 1)
    captions = tryout.train_pairs(0).text(torch.arange(6))
    with torch.no_grad():
        first, second = (method.encode_text(captions, shard).pooled_ND for shard in (0, 1))
    if not method.uses_shards and not torch.equal(first, second):
        raise ContractError("encode_text depends on `shard`; override the property uses_shards to return True")


@promise("all that it keeps from call to call is saved, and so counted")
def _saved(entry: Entry) -> None:
    method = tryout.after(entry, 0)
    hidden = list(tryout.unsaved_tensors(method))
    if hidden:
        raise ContractError(
            f"it keeps tensors in `{hidden[0]}`, where they are neither saved nor counted; use register_buffer"
        )


def _finite_or_none(gradient: Tensor | None) -> bool:
    return gradient is None or bool(torch.isfinite(gradient).all())
