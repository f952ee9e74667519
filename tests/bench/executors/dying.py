"""A job that kills its process; alone here, since a worker imports the file whose function it is given."""

from __future__ import annotations

import os
import signal
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
