"""The same work for many things on several threads, each with torch, NumPy or a codec of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch

Map = Callable[..., Iterator[Any]]


@contextmanager
def side_by_side(threads: int, name: str) -> Iterator[Map]:
    """A `map` on so many threads, results in order; until the block ends torch computes in one thread each.

    With one thread it is Python's own, which does a piece of work when its result is asked for.
    """
    if threads == 1:
        yield map
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        try:
            yield pool.map
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    finally:
        torch.set_num_threads(before)
