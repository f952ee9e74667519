"""`make scale`: exact ranks over a float16 gallery read through the memory map, beside the bare product.

SCALE=1000000x10000 (videos x queries) in the environment sets the size; without it the test is left out. SHARDS=2 makes
the same ranks in two processes.
"""

from __future__ import annotations

import os
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch

from ctvr_bench.bench.evaluation.search import ItemIndex
from ctvr_bench.bench.executors.galleries import _unit_block, counted_ranks, sharded_ranks
from ctvr_bench.methods.shared.similarity import normalise

DIM, BLOCK = 512, 8192


@pytest.mark.skipif("SCALE" not in os.environ, reason="takes minutes; `make scale` runs it")
def test_exact_ranks_over_a_memory_map(tmp_path: Path) -> None:
    videos, queries = map(int, os.environ["SCALE"].split("x"))
    path = tmp_path / "gallery.npy"
    try:
        write_gallery(path, videos)
        exact_ranks(path, queries)
    finally:
        path.unlink(missing_ok=True)  # up to gigabytes, which pytest would keep


def exact_ranks(path: Path, queries: int) -> None:
    """Prints what they take: wall and CPU seconds, of which making blocks and the bare product, and bytes read."""
    gallery = np.load(path, mmap_mode="r")
    videos = len(gallery)
    target = np.random.default_rng(1).integers(0, videos, queries)
    noise = torch.randn(queries, DIM, generator=torch.Generator().manual_seed(2))
    query = normalise(torch.from_numpy(gallery[target].astype(np.float32)) + 4 * noise)
    block = _unit_block(gallery, 0).T
    some = min(videos, 50 * BLOCK)
    start = time.process_time()
    for _ in range(0, some, BLOCK):
        for rows in query.split(2048):
            rows @ block
    bare = (time.process_time() - start) * videos / some
    start = time.process_time()
    for first in range(0, some, BLOCK):
        _unit_block(gallery, first)
    blocks = 2 * (time.process_time() - start) * videos / some
    before, read, start, cpu = resident(), read_bytes(), time.perf_counter(), time.process_time()
    rank = counted_ranks(query, gallery, target)
    took, cpu = time.perf_counter() - start, time.process_time() - cpu
    over = resident() - before
    print(f"\n{videos:,} videos x {queries:,} queries: ranks {took:.1f} s, {cpu:.1f} s of CPU, of which bare product "
          f"{bare:.1f} s and blocks, twice, {blocks:.1f} s; {2 * videos * queries * DIM / cpu / 1e9:.0f} GFLOP/s, "
          f"{(read_bytes() - read) / 1e9:.2f} GB from the disk for a file of {path.stat().st_size / 1e9:.2f}, "
          f"resident {over / 1e6:.0f} MB more, peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB, "
          f"median rank {np.median(rank):.0f}", flush=True)  # fmt: skip
    assert (rank >= 1).all()
    assert over < 3e9
    shards = int(os.environ.get("SHARDS", "1"))
    with ProcessPoolExecutor(shards, get_context("spawn")) as pool:
        list(pool.map(torch.set_num_threads, [1] * shards))
        start = time.perf_counter()
        shared = sharded_ranks(query, path, target, shards, pool)
        print(f"{shards} shards in as many processes: {time.perf_counter() - start:.1f} s")
    assert np.array_equal(shared, rank)


@pytest.mark.skipif("SCALE" not in os.environ, reason="takes minutes; `make scale` runs it")
def test_a_quantised_first_stage(tmp_path: Path) -> None:
    """Bytes and CPU time of product codes, and how often the exact first item is among the first that they find."""
    videos, queries = map(int, os.environ["SCALE"].split("x"))
    write_gallery(tmp_path / "gallery.npy", videos)
    item_MD = normalise(torch.from_numpy(np.load(tmp_path / "gallery.npy").astype(np.float32)))
    noise = torch.randn(queries, DIM, generator=torch.Generator().manual_seed(2))
    query_ND = normalise(item_MD[torch.arange(queries)] * DIM**0.5 + 2 * noise)
    exact_N = torch.cat([(rows @ item_MD.T).argmax(1) for rows in query_ND.split(64)]).numpy()
    start = time.process_time()
    index = ItemIndex(item_MD, "pq")
    built = time.process_time() - start
    start = time.process_time()
    found_NK = index.nearest(query_ND, 1000)[1]
    asked = time.process_time() - start
    among = {depth: float((found_NK[:, :depth] == exact_N[:, None]).any(1).mean()) for depth in (1, 10, 100, 1000)}
    print(f"\n{videos:,} videos, codes of {DIM // 8} bytes: built in {built:.1f} s CPU, "
          f"{1e9 * asked / queries / videos:.2f} ns a query and video; exact first among first {among}")  # fmt: skip
    assert among[1000] > 1000 / videos


def write_gallery(path: Path, videos: int) -> None:
    rows_MD = np.lib.format.open_memmap(path, "w+", np.float16, (videos, DIM))
    generator = torch.Generator().manual_seed(0)
    for first in range(0, videos, 50_000):
        rows_MD[first : first + 50_000] = (
            torch.randn(min(50_000, videos - first), DIM, generator=generator).half().numpy()
        )


def resident() -> int:
    """Bytes of this process in memory that belong to no file."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(status.split("RssAnon:")[1].split()[0])


def read_bytes() -> int:
    """Bytes that this process had read from a disk so far, and not from the system's cache."""
    return int(Path("/proc/self/io").read_text(encoding="utf-8").split("\nread_bytes: ")[1].split()[0])
