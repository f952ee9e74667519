"""Find faults on a GPU, then measure: `make gpu`, about six minutes; `python -m tests.gpu --pretend` is its dry run.

Writes results/gpu/<card>.json after every part, so that a run that is cut off leaves what it found. Without --pretend a
GPU that torch sees is needed. On the pretend device (tests/pretend_gpu.py) every method is asked whether its operations
stay on one device; nothing is timed there, and nothing is written to results/ unless --out names a place.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from ctvr_bench.bench.records.environment import environment, forget_peak_memory, peak_memory
from ctvr_bench.bench.records.record import write_json
from ctvr_bench.methods.shared.registry import known_methods
from tests.gpu import parts
from tests.pretend_gpu import Pretend

FOLDER = Path(__file__).resolve().parents[2] / "results/gpu"
Part = tuple[str, str, Callable[[], dict[str, Any]]]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; exit status 1: a method failed or ranked otherwise, the gate says worse, a card stayed idle."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pretend", action="store_true", help="a dry run without a GPU")
    parser.add_argument("--methods", help="a,b: only these (default: all)")
    parser.add_argument("--seconds", type=float, default=360, help="no part begins later than this (default 360)")
    parser.add_argument("--out", type=Path, help="file to write (default: results/gpu/<card>.json)")
    given = parser.parse_args(arguments)
    if not given.pretend and not torch.cuda.is_available():
        print("torch sees no GPU here; --pretend makes the dry run", file=sys.stderr)
        return 2
    names = given.methods.split(",") if given.methods else list(known_methods())
    found: dict[str, Any] = {"left_out": []}
    out = given.out or (None if given.pretend else FOLDER / f"{_file_name(torch.cuda.get_device_name())}.json")
    if given.pretend:
        with Pretend() as gpu:
            for name in names:
                _put(found, "methods", name, parts.agreement(name, "gpu:0"), out)
            _put(found, "search", "small", parts.search(300, 40, "gpu:0"), out)
        found["waits"] = sum(gpu.waits.values())
        if not given.methods:  # on the CPU: transformers does not load a model onto tensors that only pretend
            _put(found, "extraction", "tiny", parts.extraction(2, "cpu"), out)
            _put(found, "cards", "none", parts.cards("cpu"), out)
    else:
        found["environment"] = environment("cuda")
        begun = time.perf_counter()
        for group, name, part in _parts(names):
            if time.perf_counter() - begun > given.seconds:
                found["left_out"].append(f"{group}: {name}")
                continue
            forget_peak_memory("cuda")
            _put(found, group, name, {**part(), "peak_bytes": peak_memory("cuda")}, out)
    if out is not None:
        write_json(out, found)
    faults = {name: said for name, said in found["methods"].items() if said.get("same_ranks", 0) < 0.99}
    for name, said in faults.items():
        print(f"{name}: {said.get('fault', 'its ranks are not those of the CPU')}")
    if idle := found.get("cards", {}).get("all", {}).get("idle"):
        print(f"no run was made on card {', '.join(map(str, idle))}")
    worse = [label for label, verdict in found.get("gate", {}).get("all", {}).items() if verdict == "worse"]
    print(f"{len(found['methods']) - len(faults)} of {len(found['methods'])} methods rank as on the CPU")
    return 1 if faults or worse or idle else 0


def _parts(names: Sequence[str]) -> Iterator[Part]:
    """Faults first, then what was asked for most."""
    for name in names:
        yield "methods", name, lambda name=name: parts.agreement(name, "cuda")  # type: ignore[misc]
    yield "gate", "all", lambda: parts.gate("cuda")
    yield "cards", "all", lambda: parts.cards("cuda")
    for name in ("zero_shot", "structalign"):
        yield "evaluation", name, lambda name=name: parts.evaluation(name, "cuda")  # type: ignore[misc]
    yield "search", "1000000 x 10000", lambda: parts.search(1_000_000, 10_000, "cuda")
    yield "extraction", "ViT-B/32", lambda: parts.extraction(200, "cuda", vision=parts.VIT_B_32, dim=512)
    for runs in (10, 50):
        yield "stacks", str(runs), lambda runs=runs: parts.stack(runs, "cuda")  # type: ignore[misc]
    for name in parts.trained_methods(names):
        yield "steps", name, lambda name=name: parts.step(name, "cuda")  # type: ignore[misc]


def _put(found: dict[str, Any], group: str, name: str, said: dict[str, Any], out: Path | None) -> None:
    found.setdefault(group, {})[name] = said
    print(f"{group:12}{name:24}{json.dumps(said)}", flush=True)
    if out is not None:
        write_json(out, found)


def _file_name(card: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-")


if __name__ == "__main__":
    sys.exit(main())
