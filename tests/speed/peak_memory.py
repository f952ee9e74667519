"""What a run holds beyond the mapped store: `python -m tests.speed.peak_memory 'finetune[epochs=1]' [TASKS|STORE]...`

The most anonymous memory during the run, less what the process held after a run of the same method on a small store,
over the features that the run uses as the store has them. The store is that of `make bench`: simulated, 512-d, unless
one is named, whose first stream is taken. Linux alone.
"""

from __future__ import annotations

import gc
import os
import re
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import torch

from ctvr_bench.bench.cli.start import LARGE_PAGES
from ctvr_bench.bench.cli.values import parse_methods
from ctvr_bench.bench.records.environment import give_back_memory
from ctvr_bench.bench.run.runner import run_together
from ctvr_bench.bench.suite.config import make_suite
from ctvr_bench.bench.suite.suite import plan
from ctvr_bench.features.store import FeatureStore, open_store
from ctvr_bench.features.streams import Stream, make_stream
from tests.speed.test_speed import msrvtt_sized
from tests.stores import small_store


def anonymous() -> int:
    """Bytes of this process that no file has."""
    found = re.search(r"^RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"), re.M)
    assert found is not None
    return 1024 * int(found[1])


def bytes_used(store: FeatureStore, stream: Stream) -> int:
    """Of the frames, captions and words that the stream's tasks have, as the store holds them."""
    rows = np.concatenate([part for task in stream.tasks for part in (task.train, *task.asked)])
    offsets = store.feature("captions/word_offsets")
    counts = {
        "videos/frames": len(np.unique(store.caption_video_M[rows])),
        "captions/pooled": len(rows),
        "captions/words": int((offsets[rows + 1] - offsets[rows]).sum()),
    }
    return sum(count * store.feature(name)[:1].nbytes for name, count in counts.items())


def run(store: FeatureStore, method: str, tasks: int | None, out: Path) -> Stream:
    """One run of a method with seed 0."""
    values = {"store": store.path, "stream": store.stream_names[0], "methods": parse_methods(method), "seeds": 1}
    values |= {"out": out, "recipe": "fixed"}
    config = make_suite({**values, "limit": {} if tasks is None else {"tasks": tasks}}, "peak_memory")
    (job,) = plan(config, store)
    stream = make_stream(store, job.config.stream, config.stream_options)
    (record,) = run_together(job, store, stream, config.directory / job.config.run_id)
    assert record.status == "done", record.reason
    return stream


def main(method: str, *more: str) -> None:
    """Print what one run held."""
    torch.set_num_threads(1)
    os.environ.setdefault(*LARGE_PAGES)  # as the command line does
    tasks = next((int(word) for word in more if word.isdigit()), None)
    named = next((Path(word) for word in more if not word.isdigit()), None)
    store, most, ended = msrvtt_sized() if named is None else open_store(named), 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not ended.wait(0.004):
            most = max(most, anonymous())

    with tempfile.TemporaryDirectory() as folder:
        run(small_store(), method, None, Path(folder) / "small")
        gc.collect()
        give_back_memory()
        before = anonymous()
        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        stream = run(store, method, tasks, Path(folder) / "large")
        ended.set()
        watcher.join()
    held, features = most - before, bytes_used(store, stream)
    print(
        f"{method}: {held / 2**20:.0f} MiB beside the map, {held / features:.2f} of {features / 2**20:.0f} of features"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
