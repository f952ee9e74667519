"""`features ...`: make, import, look into and check feature stores."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from ctvr_bench.features.errors import one_line

features = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)

OutFile = Annotated[Path, typer.Option(help="Store to write.")]
Captions = Annotated[list[Path], typer.Option(help="CSV or JSON with captions, repeatable.")]
Queries = Annotated[
    int, typer.Option(min=1, max=1000, help="Captions that each test video is asked for by, its first.")
]
StreamFile = Annotated[Path, typer.Option(help="Published pickle, or a CSV of video,category,task,role.")]
StoreName = Annotated[str | None, typer.Option(help="Name of the store (default: that of the file).")]
AllowMissing = Annotated[bool, typer.Option("--allow-missing", help="Leave unreadable videos out instead of failing.")]


@features.command()
def inspect(
    stores: Annotated[list[Path], typer.Argument(help="Stores to look into.")],
    json_: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    geometry: Annotated[
        bool, typer.Option("--geometry", help="How the features lie in their space, beside real CLIP's, and why.")
    ] = False,
    format_: Annotated[str, typer.Option("--format", help="Of the geometry: text, md or json.")] = "text",
) -> None:
    """What a store holds and where it came from, nothing large is read; or its geometry, up to 500 test videos."""
    import json

    from ctvr_bench.features.store import describe_store, open_store

    if geometry:
        _show_geometry(stores, "json" if json_ else format_)
        return
    descriptions = [describe_store(open_store(store)) for store in stores]
    if json_:
        print(json.dumps(descriptions[0] if len(stores) == 1 else descriptions, indent=1))
        return
    for description in descriptions:
        for key, value in description.items():
            if key == "streams":
                for name, counts in value.items():
                    shown = ", ".join(f"{count} {what}" for what, count in counts.items())
                    print(f"{'stream ' + one_line(name):20} {shown}")
            else:
                print(f"{key:20} {'' if value is None else one_line(str(value))}")


def _show_geometry(stores: list[Path], form: str) -> None:
    """One table of all stores, then a sentence for each statistic that is off."""
    import json

    from ctvr_bench.features.errors import InputError
    from ctvr_bench.features.store import open_store
    from ctvr_bench.features.store_geometry import measure, table

    if form not in ("text", "md", "json"):
        raise InputError(f"--format is {form!r}; it must be text, md or json. Choose one")
    found = [measure(open_store(store)) for store in stores]
    if form == "json":
        print(
            json.dumps(
                [
                    {"name": store.name, "pairs": store.pairs, "measured": store.measured, "off": store.sentences()}
                    for store in found
                ],
                indent=1,
            )
        )
        return
    print(table(found, markdown=form == "md"))
    if form == "text":
        for store in found:
            for sentence in store.sentences():
                print(f"{store.name}: {sentence}.")
            if not store.sentences():
                print(f"{store.name}: lies as real CLIP features do in every statistic.")


@features.command()
def verify(store: Path) -> None:
    """Read every byte: digests, NaN, ranges, duplicates, empty captions, leakage. Exit 1 where an error is found."""
    from ctvr_bench.features.verification import verify_store

    findings = verify_store(store)
    for finding in findings:
        print(one_line(f"{finding.severity}: {finding.message}"))
    errors = sum(finding.severity == "error" for finding in findings)
    print(f"{store}: {'sound' if not errors else f'{errors} errors'}, {len(findings) - errors} warnings")
    if errors:
        raise typer.Exit(1)


@features.command(name="import-ctvr")
def import_ctvr(
    pickles: Annotated[list[Path], typer.Argument(help="Published stream pickles, e.g. MSRVTT_10_dataset.pkl.")],
    captions: Annotated[list[Path], typer.Option(help="CSV or JSON with captions, repeatable.")],
    out: OutFile,
    name: Annotated[str | None, typer.Option(help="Name of the store (default: that of the file).")] = None,
) -> None:
    """Published CTVR streams and captions -> a structure-only store that features can be filled into."""
    from ctvr_bench.features.ctvr import import_ctvr as import_streams

    _print_summary(import_streams(pickles, captions, out, name=name or out.stem, command_line=_command_line()))


@features.command()
def synth(
    out: OutFile,
    structure: Annotated[Path | None, typer.Option(help="Structure-only store to fill (default: generate).")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the store (default: that of the file).")] = None,
    categories: Annotated[int, typer.Option(help="Of a generated structure.")] = 20,
    tasks: Annotated[int, typer.Option(help="Of a generated structure.")] = 10,
    train: Annotated[int, typer.Option(help="Train videos per category.")] = 16,
    test: Annotated[int, typer.Option(help="Test videos per category.")] = 15,
    validation: Annotated[int, typer.Option(help="Validation videos per category.")] = 0,
    captions_per_train_video: Annotated[int, typer.Option(help="Where a train video has none.")] = 20,
    reference: Annotated[
        int, typer.Option(help="Captions and frames of a bank that belongs to no task, for methods that need one.")
    ] = 1024,
    knob: Annotated[list[str] | None, typer.Option(help="knob=value of the simulation, repeatable.")] = None,
) -> None:
    """Simulated features for a structure, or for a generated one of any size. Not real video: for tests and sizes."""
    from ctvr_bench.bench.cli.values import parse_knobs
    from ctvr_bench.features.simulation.config import SyntheticConfig
    from ctvr_bench.features.simulation.write import generated_structure, synthesise
    from ctvr_bench.features.store import open_store
    from ctvr_bench.features.structure import Structure

    config = parse_knobs(SyntheticConfig, knob or [])
    if structure is not None:
        filled = Structure.from_store(open_store(structure))
    else:
        filled = generated_structure(categories, tasks, train, test, validation, captions_per_train_video)
    synthesise(
        filled,
        config,
        out,
        name=name or out.stem,
        captions_per_train_video=captions_per_train_video,
        reference=reference,
        command_line=_command_line(),
    )
    print(f"wrote {out} (simulated features)", file=sys.stderr)


@features.command(name="build-world")
def build_world(
    seed: Annotated[int, typer.Argument(help="Of the world; 0 is the default store's.")],
    out: Annotated[Path | None, typer.Option(help="Store to write (default: in the cache folder).")] = None,
) -> None:
    """A moving-shapes world as a store: rendered, encoded as H.264, decoded and extracted; under a minute."""
    from ctvr_bench.bench.cli.console import StageBars
    from ctvr_bench.features.worlds import build

    with StageBars() as progress:
        if out is None:
            out = build.default_store_path(seed, progress.show)
        else:
            build.build_world(out, seed, on_stage=progress.show, command_line=_command_line())
    print(out)


@features.command()
def extract(
    videos: Annotated[Path, typer.Option(help="Folder with the video files, named by video id.")],
    captions: Captions,
    stream: Annotated[
        list[Path], typer.Option(help="Published pickle, or a CSV of video,category,task,role; repeatable.")
    ],
    model: Annotated[str, typer.Option(help="CLIP by name or local folder, or open_clip's MODEL:WEIGHTS.")],
    out: OutFile,
    frames: Annotated[str, typer.Option(help="12: uniform; fps=2: fixed rate; all: every frame.")] = "12",
    name: StoreName = None,
    allow_missing: AllowMissing = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    dtype: Annotated[str, typer.Option(help="Of the stored features: float16 or float32.")] = "float16",
    licence: Annotated[str, typer.Option(help="Licence note kept in the store.")] = "",
    limit: Annotated[int, typer.Option(help="For a try: at most so many videos of each category and role.")] = 0,
    queries: Queries = 1,
) -> None:
    """Videos and captions -> features of a frozen encoder. Stopped anywhere, the same command goes on from there."""
    from ctvr_bench.bench.cli.console import StageBars
    from ctvr_bench.features.extract import extract as extract_features
    from ctvr_bench.features.video import Sampling

    with StageBars() as progress, _listing_missing():
        summary = extract_features(
            videos,
            captions,
            stream,
            model,
            Sampling.parse(frames),
            out,
            name=name or out.stem,
            allow_missing=allow_missing,
            device=device,
            dtype=dtype,
            on_stage=progress.show,
            command_line=_command_line(),
            licence=licence,
            limit=limit,
            queries=queries,
        )
    _print_summary(summary)
    if limit:
        print("for a try: the same command without --limit goes on from these videos", file=sys.stderr)
    _offer_geometry(out)


@features.command(name="import-arrays")
def import_arrays(
    table: Annotated[
        Path, typer.Argument(help="CSV that says what is what: what,file[,key][,video]; words are optional.")
    ],
    captions: Captions,
    stream: StreamFile,
    out: OutFile,
    name: StoreName = None,
    allow_missing: AllowMissing = False,
    dtype: Annotated[str, typer.Option(help="Of the stored features: float16 or float32.")] = "float32",
    encoder: Annotated[str, typer.Option(help="What made the features, such as ViT-B/32; kept in the store.")] = "",
    licence: Annotated[str, typer.Option(help="Licence note kept in the store.")] = "",
    queries: Queries = 1,
) -> None:
    """Features that you have already (npy, npz, pt, HDF5) -> a store. Images and sounds are items of one frame."""
    from ctvr_bench.bench.cli.console import StageBars
    from ctvr_bench.features.arrays import import_arrays as import_features

    with StageBars() as progress, _listing_missing():
        summary = import_features(
            table,
            captions,
            stream,
            out,
            name=name or out.stem,
            encoder={"name": encoder} if encoder else None,
            dtype=dtype,
            allow_missing=allow_missing,
            on_stage=progress.show,
            command_line=_command_line(),
            licence=licence,
            queries=queries,
        )
    _print_summary(summary)
    _offer_geometry(out)


@features.command()
def merge(
    structure: Annotated[Path, typer.Argument(help="Store without features, from import-ctvr.")],
    filled: Annotated[Path, typer.Argument(help="Store with the features of its videos and captions.")],
    out: OutFile,
    allow_missing: AllowMissing = False,
) -> None:
    """Fill a structure-only store with the features of another store, by video id and caption text."""
    from ctvr_bench.bench.cli.console import StageBars
    from ctvr_bench.features.merge import merge as merge_stores

    with StageBars() as progress, _listing_missing():
        summary = merge_stores(
            structure, filled, out, allow_missing=allow_missing, on_stage=progress.show, command_line=_command_line()
        )
    _print_summary(summary)


@features.command()
def pull(
    name: Annotated[str, typer.Argument(help="Of a store that the registry lists.")],
    registry: Annotated[Path, typer.Option(help="TOML file that lists stores.")] = Path("stores.toml"),
    out: Annotated[Path | None, typer.Option(help="File to write (default: NAME.h5 here).")] = None,
    mirror: Annotated[str, typer.Option(help="Folder or http address that has the files too; asked instead.")] = "",
) -> None:
    """A published store, checked by the registry's size and SHA-256. Stopped anywhere, the same command goes on."""
    from ctvr_bench.bench.cli.console import StageBars
    from ctvr_bench.features.registry import pull as pull_store

    place = out or Path(f"{name}.h5")
    with StageBars() as progress:
        store, fetched = pull_store(name, registry, place, mirror=mirror, on_stage=progress.show)
    print(f"{place}: {'pulled' if fetched else 'was there'}, digest right; licence: {one_line(store.licence)}")


@features.command()
def card(
    store: Annotated[Path, typer.Argument(help="Store to describe.")],
    url: Annotated[str, typer.Option(help="Address at which the file will lie.")],
    creator: Annotated[str, typer.Option(help="Who publishes it.")],
    out: Annotated[Path, typer.Option(help="Folder for README.md, croissant.json and store.toml.")] = Path("card"),
    date: Annotated[str | None, typer.Option(help="Of publication, YYYY-MM-DD (default: today).")] = None,
    citation: Annotated[str, typer.Option(help="What to cite.")] = "",
) -> None:
    """A store's dataset card (Hugging Face), Croissant metadata, and entry for a registry of stores."""
    import datetime

    from ctvr_bench.features.card import Publication, write_card
    from ctvr_bench.features.store import open_store

    published = Publication(url, creator, date or datetime.datetime.now(datetime.UTC).date().isoformat(), citation)
    for path in write_card(open_store(store), out, published):
        print(path)


@contextmanager
def _listing_missing() -> Iterator[None]:
    """Every video that gave no features, with its reason, before the error's one line."""
    from ctvr_bench.features.clips import VideosMissing

    try:
        yield
    except VideosMissing as error:
        for video, reason in error.videos.items():
            print(one_line(f"{video}: {reason}"), file=sys.stderr)
        raise


def _print_summary(summary: Any) -> None:
    for field in dataclasses.fields(summary):
        print(f"{field.name.replace('_', ' '):30} {one_line(str(getattr(summary, field.name)))}")


def _offer_geometry(out: Path) -> None:
    """The next step, once features were written."""
    command = shlex.join(["features", "inspect", "--geometry", str(out)])
    print(f"do they look like CLIP's? python run_benchmark.py {command}", file=sys.stderr)


def _command_line() -> str:
    return shlex.join(["run_benchmark.py", *sys.argv[1:]])
