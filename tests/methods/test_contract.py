"""The contract's promises, checked on every registered method; a new method is covered without an edit."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from ctvr_bench.bench.authoring import tryout
from ctvr_bench.bench.authoring.checks import CHECKS, fault_of
from ctvr_bench.bench.authoring.contract import check_method
from ctvr_bench.methods.shared.base import is_trained
from ctvr_bench.methods.shared.registry import find_method, known_methods

SMALLER = {"ridge": {"features": 200}, "ranpac": {"features": 200, "first_session": 1}}
"""Sizes in which a method keeps the same promises sooner."""
CASES = [(name, check) for name, entry in known_methods().items() for check in CHECKS if CHECKS[check].of(entry)]


@pytest.mark.parametrize(("name", "check"), CASES)
def test_it_keeps_its_promise(name: str, check: str) -> None:
    entry = find_method(name)
    assert fault_of(CHECKS[check], replace(entry, preset={**entry.preset, **SMALLER.get(name, {})})) is None


def test_all_checks_that_concern_a_method_are_made() -> None:
    assert [finding.check.name for finding in check_method(find_method("zero_shot"))] == [
        check.name for check in CHECKS.values() if check.of(find_method("zero_shot"))
    ]


def test_the_store_cannot_be_written_through_its_features() -> None:
    with pytest.raises(ValueError, match="read-only"):
        tryout.small_store().feature("videos/frames")[0] = 0


def test_deep_copies_share_nothing() -> None:
    method = tryout.make(find_method("lwf"))
    twin = copy.deepcopy(method)
    tryout.learn(twin, 0)
    assert tryout.state_digest(method) != tryout.state_digest(twin)


@pytest.mark.parametrize("name", [name for name, entry in known_methods().items() if is_trained(entry.method)])
def test_the_same_seed_gives_the_same_bits_on_two_threads(name: str) -> None:
    """What several threads add up in any order (gradients of an index, for one) differs from run to run."""
    entry = find_method(name)
    entry = replace(entry, preset={**entry.preset, **SMALLER.get(name, {})})
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        digests = set()
        for _ in range(2):
            method = tryout.make(entry)
            tryout.learn(method, 0)
            tryout.learn(method, 1)
            digests.add(tryout.state_digest(method))
    finally:
        torch.set_num_threads(before)
    assert len(digests) == 1
