"""Jobs that kill their process, tell when they began or on which card; alone here, since a worker imports the file of
its function."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from ctvr_bench.bench.run.jobs import Job, Watch
    from ctvr_bench.features.store import FeatureStore
    from ctvr_bench.features.streams import Stream


def dies_if_asked(
    job: Job, store: FeatureStore, stream: Stream, directory: Path, device: str, watch: Watch
) -> tuple[str, str]:
    """The label of the job, unless it is finetune's."""
    if job.label == "finetune [epochs=1]":
        os.kill(os.getpid(), signal.SIGKILL)
    return job.label, "done"


def says_when_it_began(
    job: Job, store: FeatureStore, stream: Stream, directory: Path, device: str, watch: Watch
) -> tuple[float, str]:
    """When the job began, and its method."""
    began = time.monotonic()
    time.sleep(0.2)
    return began, job.config.method


def says_its_card(job: Job, store: FeatureStore, stream: Stream, directory: Path, device: str, watch: Watch) -> int:
    """The card that was the current one when the job was made; it takes long enough for another process to have one."""
    time.sleep(0.8)
    return _current[-1]


class TwoCards(str):
    """'cuda' on a machine where torch sees two cards: in the process that it is sent to, from then on."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Callable[[], str], tuple[()]]:
        return _two_cards, ()


_current = [0]


def _two_cards() -> str:
    torch.cuda.device_count = lambda: 2
    torch.cuda.set_device = _current.append
    return "cuda"
