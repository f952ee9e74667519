"""The feature store: create, open (memory-mapped) and describe. Its layout is in features/schema.py."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from typing import Any

import numpy as np

from ctvr_bench.features import hdf5, schema
from ctvr_bench.features.errors import InputError, unknown_name
from ctvr_bench.features.schema import Array

DESCRIBED = ("name", "simulated", "encoder", "sampling")
"""Attributes that belong to what is digested: they say what the numbers are."""
ATTRIBUTES_DIGEST = "attributes_digest"


@dataclass(frozen=True)
class StoredStream:
    """A task stream as the store keeps it; features/streams.py makes tasks of it.

    task_of_category_C: int32, task of each category, -1 where it is in no task.
    role_of_video_N: int8, see schema.ROLES. query_of_video_N: int64 caption row asked for a test video, else -1.
    further_queries_NK: int64, caption rows that are asked beside it, -1 likewise; None where one is all.
    """

    name: str
    task_of_category_C: Array
    role_of_video_N: Array
    query_of_video_N: Array
    further_queries_NK: Array | None = None

    @property
    def num_tasks(self) -> int:
        return int(self.task_of_category_C.max()) + 1

    def asked_of(self, video: int) -> Array:
        """Caption rows that are asked of a test or validation video, the first one first."""
        further = () if self.further_queries_NK is None else self.further_queries_NK[video]
        asked = np.array([self.query_of_video_N[video], *further], np.int64)
        return asked[asked >= 0]


class FeatureStore:
    """An open store: read-only arrays that stay on disk until they are used. Make one with `open_store`.

    file: what it is made of, as it is mapped.
    """

    def __init__(self, file: hdf5.MappedFile) -> None:
        self.file = file
        self.path = file.path

    @property
    def name(self) -> str:
        return str(self.file.attributes["name"])

    @property
    def simulated(self) -> bool:
        """Whether the features were drawn from a random model instead of computed from videos."""
        return bool(self.file.attributes["simulated"])

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """How the store was made: encoder, sampling, tool version, command line, licence note."""
        keys = ("encoder", "sampling", "tool_version", "command_line", "licence")
        values = {key: self.file.attributes.get(key, "") for key in keys}
        return {
            **values,
            "encoder": json.loads(str(values["encoder"])),
            "sampling": json.loads(str(values["sampling"])),
        }

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the digests of all datasets and of what attributes say of them: equal for equal content.

        Raises InputError where a dataset has no digest: two such stores could not be told apart.
        """
        for dataset in (*self.file.arrays, *self.file.text_lengths):
            if dataset not in self.file.digests:
                raise InputError(
                    f"{self.path}: {dataset} has no digest, so no run could say what it was made of; write the store "
                    "with this suite, as 'features import-arrays' and 'features merge' do"
                )
        return _digest_of_digests({**self.file.digests, "attributes": digest_of_attributes(self.file)})

    @property
    def category_N(self) -> Array:
        """int32 [N], category row of each video."""
        return self.file.arrays["videos/category"]

    @property
    def caption_video_M(self) -> Array:
        """int64 [M], video row of each caption."""
        return self.file.arrays["captions/video"]

    @cached_property
    def video_ids(self) -> list[str]:
        return self.file.text("videos/id")

    @cached_property
    def captions(self) -> list[str]:
        return self.file.text("captions/text")

    @cached_property
    def category_names(self) -> list[str]:
        return self.file.text("categories/name")

    @property
    def has_features(self) -> bool:
        """False for a structure-only store (ids, captions, streams), which features can be filled into."""
        return "videos/frames" in self.file.arrays

    @property
    def has_words(self) -> bool:
        """Whether any caption has word features; without them captions are compared whole."""
        return self.has_features and len(self.feature("captions/words")) > 0

    @property
    def has_reference(self) -> bool:
        """Whether it has a bank of unrelated features, captions and frames, for methods that learn with one."""
        return "reference/captions" in self.file.arrays and "reference/frames" in self.file.arrays

    def feature(self, dataset: str) -> Array:
        """A feature dataset by its schema path, e.g. 'videos/frames' [N, F, D]; raises InputError without one."""
        if dataset not in self.file.arrays:
            raise InputError(
                f"{self.path}: holds no {dataset} (structure only?); fill it with 'features synth' or extraction"
            )
        return self.file.arrays[dataset]

    @property
    def knows_fits(self) -> bool:
        """Whether it says which videos each query caption fits, beside its own."""
        return "captions/fit_offsets" in self.file.arrays

    @property
    def stream_names(self) -> list[str]:
        return schema.stream_names(self.file.arrays)

    def stream(self, name: str | None = None) -> StoredStream:
        """The stream of that name; without a name, the only one. Raises InputError for any other name."""
        if name is None:
            if len(self.stream_names) != 1:
                raise InputError(f"{self.path}: holds streams {', '.join(self.stream_names)}; choose one with --stream")
            name = self.stream_names[0]
        if name not in self.stream_names:
            raise unknown_name("stream", name, self.stream_names)
        return StoredStream(name, *(self.file.arrays.get(f"streams/{name}/{key}") for key in schema.STREAM_DATASETS))  # type: ignore[arg-type]


def open_store(path: str | os.PathLike[str]) -> FeatureStore:
    """Open a store without reading its features, and check its structure (not every byte: see `verify_store`).

    Raises InputError where the file is missing, truncated, no store, of another schema version, or inconsistent.
    """
    file = hdf5.map_file(path)
    _check_header(file)
    schema.check_structure(str(path), file.arrays, file.text_lengths)
    return FeatureStore(file)


@contextmanager
def create_store(
    path: str | os.PathLike[str],
    *,
    name: str,
    encoder: Mapping[str, Any] | None = None,
    sampling: Mapping[str, Any] | None = None,
    simulated: bool = False,
    command_line: str = "",
    licence: str = "",
) -> Iterator[hdf5.FileWriter]:
    """Write a store: fill datasets by schema path inside the block; it is checked, digested and renamed at its end.

    with create_store("a.h5", name="a") as store:
        store["videos/id"] = ["v0", "v1"]                                       # texts and small arrays at once
        frames = store.allocate("videos/frames", (2, 12, 512), "float16")       # large ones in slices
        frames[0:2] = ...

    After an error in the block, or content that breaks the schema (InputError), nothing is left on disk.
    """
    with hdf5.create_file(path) as writer:
        yield writer
        writer.set_attributes(
            {
                "schema": schema.SCHEMA,
                "schema_version": schema.SCHEMA_VERSION,
                "name": name,
                "simulated": int(simulated),
                "encoder": json.dumps(dict(encoder or {}), sort_keys=True),
                "sampling": json.dumps(dict(sampling or {}), sort_keys=True),
                "tool_version": tool_version(),
                "command_line": command_line,
                "licence": licence,
            }
        )
        content = writer.map_content()
        schema.check_structure(str(path), content.arrays, content.text_lengths)
        for dataset in content.text_lengths:
            refuse_duplicates(str(path), dataset, content.text(dataset))
        for dataset in (*content.arrays, *content.text_lengths):
            writer.set_digest(dataset, hdf5.digest_of(content_of(content, dataset)))
        writer.set_attributes({ATTRIBUTES_DIGEST: digest_of_attributes(content)})


def describe_store(store: FeatureStore) -> dict[str, Any]:
    """What `features inspect` shows: sizes, streams, provenance, digest; nothing large is read."""
    frames = store.feature("videos/frames").shape if store.has_features else None
    words = np.diff(store.feature("captions/word_offsets")) if store.has_features else None
    return {
        "name": store.name,
        "simulated": store.simulated,
        "videos": len(store.category_N),
        "captions": len(store.caption_video_M),
        "categories": len(store.category_names),
        "frames_per_video": frames[1] if frames else None,
        "dimension": frames[2] if frames else None,
        "feature_dtype": str(store.feature("videos/frames").dtype) if frames else None,
        "words_per_caption": round(float(words.mean()), 2) if words is not None and words.size else None,
        "streams": {name: _describe_stream(store.stream(name)) for name in store.stream_names},
        "digest": store.digest,
        "bytes": store.path.stat().st_size,
        **store.provenance,
    }


def tool_version() -> str:
    """Version of this suite, as installed."""
    try:
        return metadata.version("ctvr-bench")
    except metadata.PackageNotFoundError:
        return "source tree, not installed"


def _describe_stream(stream: StoredStream) -> dict[str, int]:
    counts = {
        f"{role}_videos": int((stream.role_of_video_N == code).sum()) for code, role in schema.ROLES.items() if code
    }
    return {"tasks": stream.num_tasks, **counts}


def _check_header(file: hdf5.MappedFile) -> None:
    found, version = file.attributes.get("schema"), file.attributes.get("schema_version")
    if found != schema.SCHEMA:
        raise InputError(f"{file.path}: is HDF5 but no feature store (attribute schema is {found!r}); name a store")
    if version != schema.SCHEMA_VERSION:
        raise InputError(
            f"{file.path}: has schema version {version}, this suite reads {schema.SCHEMA_VERSION}; build it again"
        )
    if not isinstance(file.attributes.get("name"), str) or file.attributes.get("simulated") not in (0, 1):
        raise InputError(f"{file.path}: attribute name must be a text and simulated 0 or 1; build it again")
    for key in ("encoder", "sampling"):
        try:
            held = json.loads(str(file.attributes.get(key, "")))
        except (ValueError, RecursionError):
            held = None
        if not isinstance(held, dict):
            raise InputError(f"{file.path}: attribute {key} must be a JSON object; build it again")


def content_of(file: hdf5.MappedFile, dataset: str) -> Array | list[str]:
    """The numbers or the texts of a dataset."""
    return file.arrays[dataset] if dataset in file.arrays else file.text(dataset)


def refuse_duplicates(where: str, dataset: str, values: Sequence[str]) -> None:
    """Raise InputError for an id or a name that a dataset holds twice; captions may."""
    if dataset == "captions/text" or len(set(values)) == len(values):
        return
    twice = Counter(values).most_common(1)[0][0]
    raise InputError(f"{where}: {dataset} holds {twice!r} twice; ids and names must be unique")


def digest_of_attributes(file: hdf5.MappedFile) -> str:
    """SHA-256 of those attributes that say what the numbers are."""
    said = {name: file.attributes.get(name) for name in DESCRIBED}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _digest_of_digests(digests: Mapping[str, str]) -> str:
    lines = "\n".join(f"{dataset} {digest}" for dataset, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()
