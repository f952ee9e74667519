"""Which GPU a process computes on, where a machine has several: runs are shared out to them, whole.

A suite's device is 'cuda', torch's current card. A run, or a stack of runs, stays on one card: none is large enough for
two, and ranks must not depend on how many there are.
"""

from __future__ import annotations

import torch

from ctvr_bench.bench.records.environment import cores


def places(device: str) -> int:
    """Runs that this machine makes at once if nobody says otherwise: one for each core, or for each card that torch
    sees (`CUDA_VISIBLE_DEVICES`)."""
    return cores() if device == "cpu" else max(1, torch.cuda.device_count())


def take_card(device: str, worker: int) -> None:
    """Make the card of a worker, counted from 0, the current one of this thread; workers go round the cards."""
    if device == "cuda" and torch.cuda.device_count() > 1:
        torch.cuda.set_device(worker % torch.cuda.device_count())
