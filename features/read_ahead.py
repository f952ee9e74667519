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
    """One clip: iterate over its prepared pixels [<= 16, 3, S, S], once; then look at what went wrong.

    reason: why it gave no frame, else ''. damage: what was wrong with a file that gave frames, else ''.
    """

    def __init__(
        self, clip: Clip, prepare: Prepare, sampling: Sampling, interrupted: Callable[[], bool] = lambda: False
    ) -> None:
        self.reason = self.damage = ""
        self._video, self._prepare, self._sampling = Video(clip.path, clip.segment, interrupted), prepare, sampling

    def __iter__(self) -> Iterator[Tensor]:
        frames = self._video.frames(self._sampling)
        try:
            while chunk := list(islice(frames, CHUNK)):
                yield self._prepare(np.stack(chunk))
        except UnreadableVideo as error:
            self.reason = error.reason
        finally:
            self.damage = self._video.damage


class _Ahead(Reading):
    """A reading that a thread makes while others are asked for."""

    def __init__(self, clip: Clip, prepare: Prepare, sampling: Sampling, buffer: _Buffer) -> None:
        super().__init__(clip, prepare, sampling, buffer.stopped.is_set)
        self._buffer = buffer
        self._chunks: deque[Tensor] = deque()
        self._wanted = False
        self._future: Future[None] | None = None

    def start(self, pool: ThreadPoolExecutor) -> _Ahead:
        self._future = pool.submit(self._read)
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

    def _read(self) -> None:
        for pixels in super().__iter__():
            self._add(pixels)

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
    """Readings of all clips in order, each to be iterated to its end before the next; threads end with the block, and a
    reading that is not at its end then raises CancelledError.

    ahead: prepared frames that may wait, twice what is encoded together if decoding is to go on meanwhile.
    """
    buffer = _Buffer(ahead)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    try:
        # In this order they are started too: the clip whose turn it is never waits for a thread.
        yield iter([_Ahead(clip, prepare, sampling, buffer).start(pool) for clip in clips])
    finally:
        buffer.stopped.set()
        pool.shutdown(wait=True, cancel_futures=True)
