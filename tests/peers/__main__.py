"""The same frozen features, head, loss, batches and epochs in Avalanche, in a bare PyTorch loop and here.

`make bench-peers` prints a Markdown table, after a few minutes of CPU. Every run is a process of its own on one thread,
the passes in turn; a figure is the least of its passes, in CPU seconds, since the machine may have other work. What is
measured is in `learner`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ctvr_bench.features.simulation.config import SyntheticConfig
from ctvr_bench.features.simulation.write import generated_structure, synthesise
from ctvr_bench.features.store import open_store
from ctvr_bench.features.streams import PairTable, make_stream
from peers.learner import AVALANCHE, METHODS, Figures

ROOT = Path(__file__).resolve().parents[2]
TASKS = 4
_UNITS = {"import_s": "import (s)", "step_ms": "a step (ms)", "run_s": "a run (s)", "peak_mb": "memory (MB)"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dim", type=int, default=512, help="dimension of the features (default 512)")
    parser.add_argument("--passes", type=int, default=2, help="times that each run is made (default 2)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ctvr-peers-") as folder:
        data = Path(folder)
        write_data(data, given.dim)
        kinds = [(method, kind) for method in METHODS for kind in kinds_of(method)]
        passes = [{pair: _measured(data, *pair) for pair in kinds} for _ in range(given.passes)]
    best = {pair: least([each[pair] for each in passes]) for pair in kinds}
    print("\n".join(table(best)))


def kinds_of(method: str) -> list[str]:
    """Who trains this method; the bare loop trains nothing but the plain loss."""
    return ["ours", "bare", "avalanche"] if method == "naive" else ["ours", "avalanche"]


def write_data(folder: Path, dim: int) -> None:
    """A store for ours, and the same training pairs as arrays: pair x (caption, mean word, frames) x D, videos."""
    structure = generated_structure(2 * TASKS, TASKS, train_per_category=16, captions_per_train_video=20)
    synthesise(structure, SyntheticConfig(dim=dim, short_share=0.0), folder / "store.h5", name="peers")
    store = open_store(folder / "store.h5")
    for number, task in enumerate(make_stream(store).tasks):
        pairs = PairTable(store, task.train).with_mean_words()
        batch = pairs.pairs(next(pairs.chunks(len(pairs))))
        text = [batch.text.pooled_ND[:, None], batch.text.words_NLD, batch.video.frames_MFD]
        np.save(folder / f"pairs-{number}.npy", np.concatenate([part.numpy() for part in text], 1))
        np.save(folder / f"videos-{number}.npy", batch.video_N.numpy())


def least(passes: list[Figures]) -> Figures:
    """The least of each figure; what is no figure is that of the first pass."""
    return Figures(**{name: _least([getattr(each, name) for each in passes]) for name in Figures._fields})


def table(found: dict[tuple[str, str], Figures]) -> list[str]:
    """Markdown: a row for each run, its figures as multiples of ours beside them."""
    versions = sorted({figures.versions for figures in found.values()})
    lines = [", ".join(versions), "", "| | | " + " | ".join(_UNITS.values()) + " | last epoch's loss |"]
    lines.append("| --- | --- |" + " --: |" * (len(_UNITS) + 1))
    for (method, kind), figures in found.items():
        ours = found[method, "ours"]
        cells = [_cell(getattr(figures, name), getattr(ours, name), kind == "ours") for name in _UNITS]
        lines.append(f"| {method} | {kind} | {' | '.join(cells)} | {figures.loss:.3f} |")
    return lines


def _cell(value: float, ours: float, is_ours: bool) -> str:
    return f"{value:.3g}" if is_ours else f"{value:.3g} ({value / ours:.2f})"


def _least(values: list[Any]) -> Any:
    return values[0] if isinstance(values[0], str) else min(values)


def _measured(data: Path, method: str, kind: str) -> Figures:
    variables = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")]),
    }
    command = [sys.executable, "-m", "peers.learner", kind, method, str(data)]
    done = subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        hint = f"; {AVALANCHE} is in .venv-peers alone: make bench-peers" if kind == "avalanche" else ""
        sys.exit(f"{kind}, {method}: {done.stderr.strip().splitlines()[-1]}{hint}")
    return Figures(**json.loads(done.stdout.strip().splitlines()[-1]))


if __name__ == "__main__":
    main()
