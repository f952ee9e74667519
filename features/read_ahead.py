"""Clips decoded and prepared by threads ahead of whoever encodes them, in order, with bounded memory.

Decoding releases the interpreter's lock, so threads are enough. Threads that are far enough ahead wait: all clips
together hold a limited number of prepared frames, of which the clip whose turn it is may always add some.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice

import numpy as np
from torch import Tensor

from ctvr_bench.features.clips import Clip
from ctvr_bench.features.dual_encoder import Frames
from ctvr_bench.features.video import Sampling, UnreadableVideo, Video

CHUNK = 16  # frames prepared together
_WAIT = 0.1  # seconds after which a waiting thread looks whether it should stop

Prepare = Callable[[Frames], Tensor]


class _Buffer:
    """How many prepared frames wait for the encoder, of all clips."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self.changed = threading.Condition()
        self.stopped = threading.Event()


class Reading:
    """One clip that is being read: iterate over its prepared pixels [<= 16, 3, S, S]; then look at what went wrong.

    reason: why it gave no frame, else ''. damage: what was wrong with a file that gave frames, else ''.
    """

    def __init__(self, clip: Clip, buffer: _Buffer) -> None:
        self.reason = self.damage = ""
        self._clip, self._buffer = clip, buffer
        self._chunks: deque[Tensor] = deque()
        self._wanted = False
        self._future: Future[None] | None = None

    def start(self, pool: ThreadPoolExecutor, prepare: Prepare, sampling: Sampling) -> Reading:
        self._future = pool.submit(self._read, prepare, sampling)
        return self

    def __iter__(self) -> Iterator[Tensor]:
        assert self._future is not None
        buffer = self._buffer
        self._wanted = True
        while True:
            with buffer.changed:
                buffer.changed.notify_all()
                while not self._chunks and not self._future.done():
                    buffer.changed.wait(_WAIT)
                if not self._chunks:
                    break
                pixels = self._chunks.popleft()
                buffer.held -= len(pixels)
            yield pixels
        self._future.result()  # raises what the thread raised
        if buffer.stopped.is_set():
            raise CancelledError  # what was read may be a part

    def _read(self, prepare: Prepare, sampling: Sampling) -> None:
        video = Video(self._clip.path, self._clip.segment, self._buffer.stopped.is_set)
        try:
            frames = video.frames(sampling)
            while chunk := list(islice(frames, CHUNK)):
                self._add(prepare(np.stack(chunk)))
        except UnreadableVideo as error:
            self.reason = error.reason
        finally:
            self.damage = video.damage

    def _add(self, pixels: Tensor) -> None:
        buffer = self._buffer
        with buffer.changed:
            while buffer.held + len(pixels) > buffer.limit and not (self._wanted and not self._chunks):
                if buffer.stopped.is_set():
                    return
                buffer.changed.wait(_WAIT)
            self._chunks.append(pixels)
            buffer.held += len(pixels)
            buffer.changed.notify_all()


@contextmanager
def read_ahead(
    clips: Sequence[Clip], prepare: Prepare, sampling: Sampling, *, workers: int, ahead: int
) -> Iterator[Iterator[Reading]]:
    """Readings of all clips in order, each to be iterated to its end before the next or beside it; threads end with the
    block, and a reading that is not at its end then raises CancelledError.

    ahead: prepared frames that may wait, twice what is encoded together if decoding is to go on meanwhile.
    """
    buffer = _Buffer(ahead)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    try:
        # In this order they are started too: the clip whose turn it is never waits for a thread.
        yield iter([Reading(clip, buffer).start(pool, prepare, sampling) for clip in clips])
    finally:
        buffer.stopped.set()
        pool.shutdown(wait=True, cancel_futures=True)
