"""Jobs that kill their process or tell when they began; alone here, since a worker imports the file of its function."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

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
