"""Cards: everything there is to know about a method before running it."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ctvr_bench.bench.run.budget import stored_bytes, trainable_parameters
from ctvr_bench.features.errors import one_line
from ctvr_bench.methods.shared.base import FeatureSpec, MethodConfig, ReferenceBank
from ctvr_bench.methods.shared.ranges import Among, Search, searched_fields
from ctvr_bench.methods.shared.registry import Entry

SPEC = FeatureSpec(dim=512, num_frames=12, num_categories=20, num_tasks=10)
"""The sizes at which a card states cost: those of the published ten-task streams."""


def print_methods(entries: Mapping[str, Entry]) -> None:
    """Every method with its idea."""
    table = Table("method", "idea", "keeps", "fidelity", box=None, header_style="bold")
    for name, entry in entries.items():
        cells = (name, entry.method.idea, entry.method.stores_samples, entry.method.fidelity)
        table.add_row(*(escape(one_line(cell)) for cell in cells))
    Console().print(table)


def print_card(entry: Entry) -> None:
    """Paper, idea, fidelity, what it sees, keeps and costs; its equations; its constants with defaults and meaning."""
    method = entry.method
    lines = {
        "paper": method.paper,
        "idea": method.idea,
        "fidelity": method.fidelity + (f": {method.deviations}" if method.deviations else ""),
        **({"compared with": method.source} if method.source else {}),
        **({"as published": f"--methods '{entry.name}[{method.published}]'"} if method.published else {}),
        "trained on": {"current": "the current task", "seen": "all tasks so far", "all": "all tasks"}[method.sees],
        "keeps": method.stores_samples,
        "needs": "a reference bank in the store" if method.needs_reference else "training pairs only",
        "costs": _cost(entry),
        **({"control": method.control} if method.control else {}),
    }
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(entry.name, style="bold")
    for key, value in lines.items():
        console.print(f"  {key}: {value}")
    module = inspect.getmodule(method)
    console.print("\n" + inspect.cleandoc((module and module.__doc__) or ""))
    config = entry.config()
    console.print(f"\nconstants (--set {entry.name}.FIELD=VALUE):")
    for field in dataclasses.fields(config):
        console.print(f"  {field.name} = {getattr(config, field.name)!r}")
    searched = {name: said for name, said in searched_fields(type(config)).items() if name not in entry.preset}
    if searched:
        console.print(f"\nsearched (tune {entry.name}):")
    for name, said in searched.items():
        console.print(f"  {name}: {_searched(said.where)}")
    for parent in type(config).__mro__:
        if "__doc__" in vars(parent) and issubclass(parent, MethodConfig) and parent.__doc__:
            console.print(f"\n{parent.__name__}: {inspect.cleandoc(parent.__doc__)}")


def _searched(where: Search | Among) -> str:
    if isinstance(where, Among):
        return ", ".join(map(str, where.values))
    return f"{where.low:g} to {where.high:g}, {'logarithmic' if where.scale == 'log' else 'linear'}"


def _cost(entry: Entry) -> str:
    """Parameters that training may change, and bytes beside them, before the first task."""
    bank = ReferenceBank(torch.zeros(1, SPEC.dim), torch.zeros(1, SPEC.dim))
    spec = SPEC._replace(reference=bank) if entry.method.needs_reference else SPEC
    method = entry.method(entry.config(), spec, torch.Generator().manual_seed(0))
    return (
        f"{trainable_parameters(method):,} trainable parameters, {stored_bytes(method):,} bytes beside them before "
        f"the first task ({SPEC.dim}-d features, {SPEC.num_categories} categories in {SPEC.num_tasks} tasks); every "
        "result table has what a run kept at its end"
    )
