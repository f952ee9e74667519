"""What a run keeps of its method beside ranks, where it is asked to: a file a task and kind.

<run id>/kept/weights-1.safetensors     parameters and buffers of the method after the first task, and what builds it
             /embeddings-1.safetensors  text_ND, video_ND: pooled queries and videos of the tasks so far, as the model
                                        embeds them now; frozen_text_ND, stored_video_ND: as when their task ended
             /top-1.safetensors         item_NK int32, score_NK float32: the first K items of each query so far, in the
                                        stored galleries of all tasks so far

Axes: N queries or videos of the tasks so far, in the order of ranks.h5, whose positions `item_NK` holds; D dimensions.
No number is made of these files. They may be deleted; the record says what they were.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pydantic

from ctvr_bench.bench.records.files import write_bytes
from ctvr_bench.features.errors import InputError, unknown_name
from ctvr_bench.features.whole import digest_of_file

if TYPE_CHECKING:
    from torch import Tensor

FOLDER = "kept"
Kind = Literal["weights", "embeddings", "top"]


class Keep(pydantic.BaseModel, frozen=True):
    """What is kept after every task. top: items of each query, 0 for none. It does not name a run."""

    weights: bool = False
    embeddings: bool = False
    top: int = pydantic.Field(default=0, ge=0)

    @classmethod
    def read(cls, words: Iterable[str]) -> Keep:
        """Of what a user writes. Raises InputError for anything else.

        >>> Keep.read(["weights", "top=100"])
        Keep(weights=True, embeddings=False, top=100)
        """
        found: dict[str, Any] = {}
        for word in words:
            name, equals, value = (part.strip() for part in word.partition("="))
            if name not in cls.model_fields:
                raise unknown_name("thing to keep", name, cls.model_fields)
            if (name == "top") != bool(equals) or (equals and not (value.isdecimal() and int(value))):
                raise InputError(f"keep is 'weights', 'embeddings' or 'top=100', items of each query; got {word!r}")
            found[name] = int(value) if equals else True
        return cls(**found)

    def __str__(self) -> str:
        said = [name for name in ("weights", "embeddings") if getattr(self, name)]
        return ", ".join([*said, *([f"top={self.top}"] if self.top else [])]) or "nothing"

    def covers(self, other: Keep) -> bool:
        """Whether nothing is missing of what `other` keeps."""
        return self.joined(other) == self

    def joined(self, other: Keep) -> Keep:
        """What either keeps."""
        return Keep(
            weights=self.weights or other.weights,
            embeddings=self.embeddings or other.embeddings,
            top=max(self.top, other.top),
        )

    def files(self, tasks: int) -> Iterator[str]:
        """Names in the folder of a run that has finished so many tasks."""
        kinds: dict[Kind, object] = {"weights": self.weights, "embeddings": self.embeddings, "top": self.top}
        return (name_of(kind, task) for kind, asked in kinds.items() if asked for task in range(tasks))


NOTHING = Keep()


def name_of(kind: Kind, task: int) -> str:
    """The file of a kind after a task (from 0), in the folder of its run."""
    return f"{FOLDER}/{kind}-{task + 1}.safetensors"


def write_kept(
    directory: Path, kind: Kind, task: int, tensors: Mapping[str, Tensor], about: Mapping[str, Any] | None = None
) -> None:
    """Write what a run keeps after a task (from 0), whole or not at all. about: facts beside the tensors."""
    from safetensors.torch import save  # brings torch, for which no report should wait

    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    write_bytes(directory / name_of(kind, task), save(plain, {"about": json.dumps(about or {})}))


def read_kept(
    directory: Path, files: Mapping[str, str], kind: Kind, task: int
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts that a run kept after a task (from 0). files: digests of the run's files, from its record.

    Raises InputError where this was not kept, is gone, or is not what was written.
    """
    from safetensors import SafetensorError, safe_open

    name = name_of(kind, task)
    path = directory / name
    again = f"repeat its 'run' command with --keep {'top=100' if kind == 'top' else kind}, which makes it again"
    if name not in files:
        raise InputError(f"{directory}: kept no {kind} after task {task + 1}; {again}")
    try:
        if digest_of_file(path) != files[name]:
            raise InputError(f"{path}: is not what its run wrote (run.json has another digest); remove it, and {again}")
        with safe_open(path, "pt") as file:
            tensors = {each: file.get_tensor(each) for each in file.keys()}  # noqa: SIM118 - no mapping
            return tensors, json.loads(file.metadata()["about"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); {again}") from error
