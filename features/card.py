"""What a store is, for people and for machines: a dataset card, Croissant metadata, and its line of a registry."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctvr_bench.features.errors import InputError
from ctvr_bench.features.partial import partial_of
from ctvr_bench.features.store import FeatureStore, describe_store
from ctvr_bench.features.whole import digest_of_file

_TERMS = (
    "citeAs column equivalentProperty extract field fileObject fileProperty fileSet format includes isLiveDataset "
    "jsonPath key md5 parentField path recordSet references regex repeated replace samplingRate separator source "
    "subField transform"
)
_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
    **{term: f"cr:{term}" for term in _TERMS.split()},
}
"""The context that Croissant's specification gives, used or not."""
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


@dataclass(frozen=True)
class Publication:
    """What a store does not know of itself. url: address of its file. date: YYYY-MM-DD. citation: may be empty."""

    url: str
    creator: str
    date: str
    citation: str = ""


def write_card(store: FeatureStore, folder: Path, published: Publication) -> list[Path]:
    """README.md (Hugging Face's front matter), croissant.json and store.toml (for a registry) in `folder`.

    Raises InputError where they cannot be written, or the date is none; files of these names are replaced.
    """
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", published.date):
        raise InputError(f"the date is {published.date!a:.40}; write it as 2026-11-27")
    about = describe_store(store)
    sha256 = digest_of_file(store.path)
    texts = {
        "README.md": _card(about, published),
        "croissant.json": json.dumps(croissant(about, published, sha256), indent=1, ensure_ascii=False) + "\n",
        "store.toml": _registry_entry(about, published, sha256, store.path.stem),
    }
    for name, text in texts.items():
        path = folder / name
        partial = partial_of(path)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            partial.write_text(text, encoding="utf-8")
            partial.replace(path)
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror or error}); name another folder") from error
        finally:
            partial.unlink(missing_ok=True)
    return [folder / name for name in texts]


def croissant(about: dict[str, Any], published: Publication, sha256: str) -> dict[str, Any]:
    """Croissant 1.0 (JSON-LD) of a store: the dataset and its one file; what the file holds stands in words."""
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": about["name"],
        "description": _said(about),
        "license": about["licence"] or "not stated",
        "url": published.url,
        "creator": {"@type": "sc:Organization", "name": published.creator},
        "datePublished": published.date,
        "version": "1.0.0",
        **({"citeAs": published.citation} if published.citation else {}),
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": "store",
                "name": "store",
                "description": "HDF5 file of the schema that ctvr-bench reads; `features inspect` shows what it holds",
                "contentUrl": published.url,
                "contentSize": f"{about['bytes']} B",
                "encodingFormat": "application/x-hdf5",
                "sha256": sha256,
            }
        ],
    }


def _said(about: dict[str, Any]) -> str:
    streams = "; ".join(f"{name}: {counts['tasks']} tasks" for name, counts in about["streams"].items())
    features = (
        f"{about['frames_per_video']} frames a video, {about['dimension']} dimensions, {about['feature_dtype']}"
        if about["dimension"]
        else "no features, ids and captions only"
    )
    simulated = "SIMULATED features, which say nothing about real video. " if about["simulated"] else ""
    return (
        f"{simulated}Features of {about['videos']} videos and {about['captions']} captions for continual text-to-video "
        f"retrieval ({features}). Task streams: {streams}."
    )


def _card(about: dict[str, Any], published: Publication) -> str:
    """Front matter in YAML, of which JSON's texts and lists are a part, then the card."""
    licence = about["licence"]
    size = next((label for most, label in _SIZES if about["videos"] < most), "n>1M")
    matter = {
        "pretty_name": about["name"],
        "license": licence if re.fullmatch(r"[a-z0-9]+(?:[.-][a-z0-9]+)+", licence) else "other",
        "task_categories": ["feature-extraction"],
        "tags": ["continual-learning", "text-to-video-retrieval", "ctvr-bench", "hdf5"],
        "size_categories": [size],
    }
    front = "\n".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in matter.items())
    heads = ("tasks", "train_videos", "validation_videos", "test_videos")
    rows = "\n".join(
        f"| {_cell(name)} | " + " | ".join(str(counts.get(head, 0)) for head in heads) + " |"
        for name, counts in about["streams"].items()
    )
    facts = {
        "features": f"{about['frames_per_video']} frames x {about['dimension']}, {about['feature_dtype']}",
        "encoder": json.dumps(about["encoder"], ensure_ascii=False),
        "sampling": json.dumps(about["sampling"], ensure_ascii=False),
        "made by": f"ctvr-bench {about['tool_version']}: {about['command_line'] or 'no command line kept'}",
        "licence": licence or "not stated",
        "content digest": about["digest"],
        "file": published.url,
    }
    told = "\n".join(f"- {name}: {_cell(str(value))}" for name, value in facts.items())
    cited = f"\n## Citation\n\n{published.citation}\n" if published.citation else ""
    return (
        f"---\n{front}\n---\n\n# {_cell(about['name'])}\n\n{_said(about)}\n\n"
        "| stream | tasks | training videos | validation videos | test videos |\n|---|---|---|---|---|\n"
        f"{rows}\n\n{told}\n\n"
        "`ctvr-bench features verify FILE` reads every byte; `ctvr-bench run --store FILE` runs methods on it.\n"
        + cited
    )


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _registry_entry(about: dict[str, Any], published: Publication, sha256: str, stem: str) -> str:
    entry = {
        "name": re.sub(r"[^\w.+-]+", "-", stem).strip("-._") or "store",
        "url": published.url,
        "sha256": sha256,
        "size": about["bytes"],
        "licence": about["licence"] or "not stated",
        "card": f"{published.url.rpartition('/')[0]}/README.md",
    }
    return "[[store]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in entry.items())
