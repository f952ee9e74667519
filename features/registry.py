"""Stores that others have published: a file that lists them, and their download, checked against size and digest.

The file is TOML, one table a store:

    [[store]]
    name = "msrvtt-vit-b-32"
    url = "https://example.org/msrvtt-vit-b-32.h5"
    sha256 = "64 hexadecimal digits of the whole file"
    size = 2147483648
    licence = "what may be done with it"
    card = "https://example.org/README.md"
"""

from __future__ import annotations

import fcntl
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from ctvr_bench.features.errors import InputError, unknown_name
from ctvr_bench.features.stages import OnStage, say_nothing
from ctvr_bench.features.store import open_store
from ctvr_bench.features.tables import read_toml
from ctvr_bench.features.whole import digest_of_file

_NAME = re.compile(r"[A-Za-z0-9][\w.+-]{0,99}")
_CHUNK = 1 << 20
_PATIENCE = 60.0  # seconds without a byte


@dataclass(frozen=True)
class Listed:
    """A store that can be pulled. sha256: of the whole file. size: bytes. card: where it is described."""

    name: str
    url: str
    sha256: str
    size: int
    licence: str
    card: str

    @property
    def file(self) -> str:
        """Name of the file at its address."""
        return urlsplit(self.url).path.rpartition("/")[2]


def read_registry(path: Path) -> dict[str, Listed]:
    """The stores that a registry file lists, by name. Raises InputError for anything that breaks its rules."""
    content = read_toml(path, "a registry of stores")
    listed = content.get("store")
    if set(content) != {"store"} or not isinstance(listed, list):
        raise InputError(f"{path}: must hold [[store]] tables and nothing else; got {', '.join(content) or 'nothing'}")
    found: dict[str, Listed] = {}
    for number, entry in enumerate(listed, start=1):
        store = _entry(f"{path}: store {number}", entry)
        if store.name in found:
            raise InputError(f"{path}: store {store.name!r} is listed twice; keep one, or give it another name")
        found[store.name] = store
    return found


def _entry(where: str, entry: Any) -> Listed:
    wanted = {field.name: int if field.name == "size" else str for field in fields(Listed)}
    if not isinstance(entry, dict) or set(entry) != set(wanted):
        given = ", ".join(entry) if isinstance(entry, dict) else type(entry).__name__
        raise InputError(f"{where} must have {', '.join(wanted)}, and nothing else; got {given}")
    for name, kind in wanted.items():
        if type(entry[name]) is not kind:
            raise InputError(f"{where}: {name} must be {'a whole number' if kind is int else 'text'}; write it so")
    store = Listed(**entry)
    if not _NAME.fullmatch(store.name):
        raise InputError(f"{where}: name {store.name!a:.120} must be letters, digits and . _ + -; choose another")
    if not re.fullmatch(r"[0-9a-f]{64}", store.sha256) or store.size < 1:
        raise InputError(f"{where}: sha256 must be 64 hexadecimal digits, and size bytes of the file; mend them")
    try:
        address = urlsplit(store.url).scheme in ("http", "https") and bool(store.file)
    except ValueError:  # brackets that hold no IPv6 address
        address = False
    if not address:
        raise InputError(f"{where}: url {store.url!a:.120} must be an http or https address of a file; write it whole")
    return store


def pull(
    name: str, registry: Path, out: Path, *, mirror: str = "", on_stage: OnStage = say_nothing
) -> tuple[Listed, bool]:
    """The listed store as the file `out`, and whether it had to be fetched: a right one that is there is kept.

    mirror: a folder, or an http address, that has the files under the same names; asked in place of their addresses.
    A download that was cut off goes on where it was, in a file beside `out`. Nothing lies at `out` before size and
    digest are right; what is wrong is removed. Raises InputError.
    """
    known = read_registry(registry)
    if name not in known:
        raise unknown_name(f"store of {registry}", name, known)
    store = known[name]
    if out.exists():
        if _digest(out) == store.sha256:
            return store, False
        raise InputError(f"{out}: is there already and is not {name!r}; remove it, or name another file with --out")
    part = out.with_name(f".{out.name}.pulled-{store.sha256[:12]}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with part.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not part.exists() or not os.path.samestat(os.fstat(file.fileno()), part.stat()):
                raise BlockingIOError  # it had its right name before it was ours to write to
            _fetch(store, mirror, file, on_stage)
            file.flush()
            os.fsync(file.fileno())  # before it has its name: a power cut would leave a part under it
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # HDF5 takes such a one too
            _check_pulled(part, store, registry)
            part.rename(out)
    except BlockingIOError as error:
        raise InputError(f"{part}: another process fetches {name!r} there; wait for it") from error
    except (urllib.error.URLError, HTTPException, ConnectionError, TimeoutError) as error:
        reason = getattr(error, "reason", None) or error
        raise InputError(
            f"{store.url}: cannot be fetched ({reason}); what has come is kept, the same command goes on"
        ) from error
    return store, True


def _check_pulled(part: Path, store: Listed, registry: Path) -> None:
    """Remove what came and raise InputError where it is not the listed file, or no store."""
    try:
        if part.stat().st_size != store.size or _digest(part) != store.sha256:
            raise InputError(
                f"{store.name}: what came is not the file that {registry} lists (size or SHA-256 differ); nothing was "
                "kept. Ask whoever wrote the registry"
            )
        open_store(part)
    except InputError:
        part.unlink()
        raise


def _fetch(store: Listed, mirror: str, file: IO[bytes], on_stage: OnStage) -> None:
    """Add what is missing to the file; a source that cannot go on in the middle begins anew."""
    done = file.seek(0, 2)
    if done > store.size:
        done = file.truncate(0)
    on_stage("bytes", done, store.size)
    if done == store.size:
        return
    with _source(store, mirror, done) as (source, start):
        file.truncate(start)
        done = start
        while chunk := source.read(min(_CHUNK, store.size + 1 - done)):  # one byte too many is enough to tell
            file.write(chunk)
            on_stage("bytes", done := done + len(chunk), store.size)
            if done > store.size:
                return
        if getattr(source, "length", None):  # bytes that were promised and did not come
            raise ConnectionError(f"cut off after {done:,} of {store.size:,} bytes")


@contextmanager
def _source(store: Listed, mirror: str, done: int) -> Iterator[tuple[IO[bytes], int]]:
    """The file from byte `done` on, or from 0 where its place cannot do that, and from which."""
    if mirror and not mirror.startswith(("http://", "https://")):
        path = Path(mirror) / store.file
        try:
            local = path.open("rb")
        except OSError as error:
            raise InputError(
                f"{path}: cannot be read ({error.strerror or error}); name the folder of a mirror"
            ) from error
        with local:
            yield local, local.seek(done)
        return
    address = f"{mirror.rstrip('/')}/{store.file}" if mirror else store.url
    request = urllib.request.Request(address, headers={"Range": f"bytes={done}-"} if done else {})
    with urllib.request.urlopen(request, timeout=_PATIENCE) as answer:
        yield answer, done if answer.status == 206 else 0


def _digest(path: Path) -> str:
    try:
        return digest_of_file(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); name another file") from error
