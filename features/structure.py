"""The part of a store that needs no encoder: videos, categories, captions and task streams.

Axes: N videos, M captions, C categories.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ctvr_bench.features import schema
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.hdf5 import FileWriter
from ctvr_bench.features.schema import Array
from ctvr_bench.features.store import FeatureStore, StoredStream

_TOGETHER = 4096  # texts that are checked as one


@dataclass(frozen=True)
class Structure:
    """Videos, categories, captions and streams in memory, before features or beside them.

    category_N: int32 row of each video's category. caption_video_M: int64 row of each caption's video.

    with create_store(out, name="mine") as writer:
        structure.write(writer)
    """

    video_ids: Sequence[str]
    category_N: Array
    category_names: Sequence[str]
    captions: Sequence[str]
    caption_video_M: Array
    streams: Sequence[StoredStream]

    @classmethod
    def from_store(cls, store: FeatureStore) -> Structure:
        """The structure of an open store, whether or not it has features."""
        return cls(
            store.video_ids,
            store.category_N,
            store.category_names,
            store.captions,
            store.caption_video_M,
            [store.stream(name) for name in store.stream_names],
        )

    @property
    def texts(self) -> dict[str, Sequence[str]]:
        """The text datasets by schema path."""
        return {
            "videos/id": self.video_ids,
            "captions/text": self.captions,
            "categories/name": self.category_names,
        }

    @property
    def arrays(self) -> dict[str, Array]:
        """The numeric datasets by schema path."""
        streams = {
            f"streams/{stream.name}/{key}": values
            for stream in self.streams
            for key, dataset in schema.STREAM_DATASETS.items()
            if (values := getattr(stream, f"{key}_{dataset.axes}")) is not None
        }
        return {"videos/category": self.category_N, "captions/video": self.caption_video_M, **streams}

    def check(self, where: str) -> None:
        """Raise InputError, beginning with `where`, unless this can be written as a store; done before long work."""
        for dataset, values in self.texts.items():
            for start in range(0, len(values), _TOGETHER):
                block = values[start : start + _TOGETHER]
                if not _is_text("".join(block)):
                    value = next(value for value in block if not _is_text(value))
                    raise InputError(
                        f"{where}: {dataset} holds {value!a}, which is no UTF-8 text; mend it at its source"
                    )
        for dataset in ("videos/id", "categories/name"):
            value, times = Counter(self.texts[dataset]).most_common(1)[0] if self.texts[dataset] else ("", 0)
            if times > 1:
                raise InputError(f"{where}: {dataset} holds {value!r} {times} times; ids and names must be unique")
        schema.check_structure(where, self.arrays, {dataset: len(values) for dataset, values in self.texts.items()})

    def write(self, writer: FileWriter) -> None:
        """Fill every structure dataset of a store that is being created."""
        for dataset, texts in self.texts.items():
            writer[dataset] = texts
        for dataset, values in self.arrays.items():
            writer[dataset] = values


def empty_stream(name: str, num_categories: int, num_videos: int) -> StoredStream:
    """A stream to be filled in place: no category in a task, no video with a role, no query."""
    return StoredStream(
        name,
        np.full(num_categories, -1, np.int32),
        np.full(num_videos, schema.UNUSED, np.int8),
        np.full(num_videos, -1, np.int64),
    )


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return "\0" not in text
