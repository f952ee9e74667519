"""A store of simulated features for any structure, written in blocks, and structures of any size to simulate for.

Axes: N videos, M captions, C categories; B videos or captions of a block.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, replace

import numpy as np

from ctvr_bench.features.errors import InputError
from ctvr_bench.features.schema import TEST, TRAIN, VALIDATION, Array
from ctvr_bench.features.simulation.captions import captions as captions_of
from ctvr_bench.features.simulation.captions import simulated_captions, word_counts
from ctvr_bench.features.simulation.config import SyntheticConfig
from ctvr_bench.features.simulation.videos import frames as frames_of
from ctvr_bench.features.simulation.world import World
from ctvr_bench.features.store import StoredStream, create_store
from ctvr_bench.features.structure import Structure

_BLOCK = 128  # videos, or captions, computed together
_MOST = 10_000_000  # captions, and so videos
_REFERENCE_CATEGORIES = 64  # that the reference bank is about


def synthesise(
    structure: Structure,
    config: SyntheticConfig,
    out: str | os.PathLike[str],
    *,
    name: str,
    captions_per_train_video: int = 20,
    command_line: str = "",
    licence: str = "",
    reference: int = 0,
    block: int = _BLOCK,
) -> None:
    """Write a store with the given structure and simulated features; equal arguments give an equal store digest.

    Train videos without a caption get `captions_per_train_video` simulated ones. A real caption has as many words as
    its text (at most 32), a simulated one 5 to 15. The name of the store says 'simulated', whatever `name` is.
    reference: captions, and as many single frames, of a bank that belongs to no task: of 64 further categories, each of
    a video of its own. block: videos or captions in memory at a time; it does not change the content.
    Raises InputError where the structure breaks a rule of the schema or `out` cannot be written.
    """
    structure.check(str(out))
    structure = _with_train_captions(structure, captions_per_train_video)
    if not 0 <= reference <= _MOST:
        raise InputError(f"reference is {reference:,}; it must lie in 0..{_MOST:,}. Change it")
    num_categories = len(structure.category_names)
    world = World(config, num_categories, num_categories + (_REFERENCE_CATEGORIES if reference else 0))
    num_videos, num_captions = len(structure.video_ids), len(structure.captions)
    length_M = word_counts(config, structure.captions)
    offset_O = np.concatenate([[0], np.cumsum(length_M)]).astype(np.int64)
    with create_store(
        out,
        name=name if "simulated" in name.lower() else f"simulated {name}",
        encoder={"family": "simulated", **asdict(config)},
        sampling={"rule": "simulated", "frames": config.frames},
        simulated=True,
        command_line=command_line,
        licence=licence,
    ) as writer:
        structure.write(writer)
        count_N = np.empty(num_videos, np.int32)
        frames = writer.allocate("videos/frames", (num_videos, config.frames, config.dim), config.dtype)
        for rows in _blocks(num_videos, block):
            frames[rows[0] : rows[-1] + 1], count_N[rows] = frames_of(world, rows, structure.category_N[rows])
        writer["videos/frame_count"] = count_N
        pooled = writer.allocate("captions/pooled", (num_captions, config.dim), config.dtype)
        words = writer.allocate("captions/words", (int(offset_O[-1]), config.dim), config.dtype)
        writer["captions/word_offsets"] = offset_O
        for rows in _blocks(num_captions, block):
            video_B = structure.caption_video_M[rows]
            features = captions_of(world, rows, video_B, structure.category_N[video_B], length_M[rows])
            pooled[rows[0] : rows[-1] + 1], words[offset_O[rows[0]] : offset_O[rows[-1] + 1]] = features
        if reference:
            category_R = num_categories + np.arange(reference) % _REFERENCE_CATEGORIES
            bank = writer.allocate("reference/frames", (reference, config.dim), config.dtype)
            told = writer.allocate("reference/captions", (reference, config.dim), config.dtype)
            for rows in _blocks(reference, block):
                bank[rows[0] : rows[-1] + 1] = frames_of(world, num_videos + rows, category_R[rows])[0][:, 0]
                video_B, one_word_B = num_videos + reference + rows, np.ones(len(rows), np.int64)
                told[rows[0] : rows[-1] + 1] = captions_of(
                    world, num_captions + rows, video_B, category_R[rows], one_word_B
                )[0]


def generated_structure(
    categories: int = 20,
    tasks: int = 10,
    train_per_category: int = 16,
    test_per_category: int = 15,
    validation_per_category: int = 0,
    captions_per_train_video: int = 20,
    seed: int = 0,
) -> Structure:
    """A structure of any size with one stream, 'simulated-<tasks>'; the defaults have the shape of MSRVTT-10.

    Test and validation videos have one caption, which asks for them. seed: decides which categories meet in a task;
    tasks differ by one category at most.
    """
    sizes = {
        "tasks": (tasks, 1),
        "categories": (categories, tasks),
        "train_per_category": (train_per_category, 1),
        "test_per_category": (test_per_category, 1),
        "validation_per_category": (validation_per_category, 0),
        "captions_per_train_video": (captions_per_train_video, 1),
    }
    for size, (value, least) in sizes.items():
        if value < least:
            raise InputError(f"{size} is {value}; it must be at least {least}. Raise it")
    asked = validation_per_category + test_per_category
    captions = categories * (asked + train_per_category * captions_per_train_video)
    _check_captions(captions)
    task_C = np.empty(categories, np.int32)
    task_C[np.random.default_rng(seed).permutation(categories)] = np.sort(np.arange(categories) % tasks)
    roles, counts = (TRAIN, VALIDATION, TEST), (train_per_category, validation_per_category, test_per_category)
    role_N = np.tile(np.repeat(np.array(roles, np.int8), counts), categories)
    category_N = np.repeat(np.arange(categories, dtype=np.int32), sum(counts))
    captions_N = np.where(role_N == TRAIN, captions_per_train_video, 1)
    first_N = np.cumsum(captions_N) - captions_N
    ids = [f"video{row}" for row in range(len(role_N))]
    return Structure(
        ids,
        category_N,
        [f"category {row}" for row in range(categories)],
        [text for video, count in zip(ids, captions_N, strict=True) for text in simulated_captions(video, count)],
        np.repeat(np.arange(len(ids)), captions_N),
        [StoredStream(f"simulated-{tasks}", task_C, role_N, np.where(role_N == TRAIN, -1, first_N))],
    )


def _with_train_captions(structure: Structure, count: int) -> Structure:
    """The structure with `count` simulated captions for every train video that has no caption, after the others."""
    if count < 0:
        raise InputError(f"captions_per_train_video is {count}; it must be at least 0. Raise it")
    captioned = np.zeros(len(structure.video_ids), bool)
    captioned[structure.caption_video_M] = True
    trained = np.any([stream.role_of_video_N == TRAIN for stream in structure.streams], axis=0)
    rows = np.flatnonzero(trained & ~captioned)
    _check_captions(len(structure.captions) + len(rows) * count)
    texts = [text for row in rows.tolist() for text in simulated_captions(structure.video_ids[row], count)]
    return replace(
        structure,
        captions=[*structure.captions, *texts],
        caption_video_M=np.concatenate([structure.caption_video_M, np.repeat(rows, count)]),
    )


def _check_captions(number: int) -> None:
    if number > _MOST:
        raise InputError(f"that makes {number:,} captions; a simulated store has at most {_MOST:,}. Ask for fewer")


def _blocks(total: int, size: int) -> Iterator[Array]:
    """Rows 0..total-1, at most `size` at a time."""
    return (np.arange(start, min(start + size, total)) for start in range(0, total, size))
