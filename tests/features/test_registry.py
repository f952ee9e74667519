"""Stores pulled from a server of the test's own, cut off, resumed, altered; cards of stores."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from ctvr_bench.features import registry
from ctvr_bench.features.card import Publication, write_card
from ctvr_bench.features.errors import InputError
from ctvr_bench.features.registry import pull, read_registry
from tests.commands import called
from tests.stores import small_store

CONTENT = small_store().path.read_bytes()


class Server:
    """Serves `content`; `most` bytes of an answer, then the connection is cut; `ranges` False: always all of it."""

    def __init__(self) -> None:
        self.content, self.most, self.ranges = CONTENT, len(CONTENT) + 10, True
        self.asked: list[str | None] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = self.headers["Range"]
                server.asked.append(asked)
                start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and server.ranges else 0
                rest = server.content[start:]
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(rest)))
                self.end_headers()
                self.wfile.write(rest[: server.most])
                self.close_connection = True

            def log_message(self, *_: Any) -> None:
                """Nothing is said."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_port}"


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    thread = threading.Thread(target=found.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    found.http.shutdown()
    thread.join()
    found.http.server_close()


def listed(folder: Path, url: str, **values: Any) -> Path:
    entry = {
        "name": "small",
        "url": url,
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
        "size": len(CONTENT),
        "licence": "free",
        "card": "none",
        **values,
    }
    path = folder / "stores.toml"
    path.write_text("[[store]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in entry.items()))
    return path


def left_over(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "stores.toml")


def test_a_listed_store_is_pulled_once(server: Server, tmp_path: Path) -> None:
    written, out = listed(tmp_path, f"{server.address}/a/small.h5"), tmp_path / "small.h5"
    assert [pull("small", written, out)[1] for _ in range(2)] == [True, False]
    assert out.read_bytes() == CONTENT
    assert server.asked == [None]
    assert left_over(tmp_path) == ["small.h5"]
    out.write_bytes(b"mine")
    with pytest.raises(InputError, match="is there already and is not 'small'"):
        pull("small", written, out)
    assert out.read_bytes() == b"mine"


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_was_cut_off_goes_on(server: Server, tmp_path: Path, ranges: bool) -> None:
    written, out = listed(tmp_path, f"{server.address}/small.h5"), tmp_path / "small.h5"
    server.most = 1000
    with pytest.raises(InputError, match="the same command goes on"):
        pull("small", written, out)
    assert not out.exists()
    server.most, server.ranges = len(CONTENT), ranges
    told: list[int] = []
    pull("small", written, out, on_stage=lambda stage, done, total: told.append(done))
    assert server.asked == [None, "bytes=1000-"]
    assert (told[0], told[-1]) == (1000, len(CONTENT))
    assert out.read_bytes() == CONTENT
    assert left_over(tmp_path) == ["small.h5"]


def test_of_two_who_pull_at_once_the_second_is_told_to_wait(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it comes while the first fetches, or opens the first's file and may write only once that has its name."""
    written, out = listed(tmp_path, f"{server.address}/small.h5"), tmp_path / "small.h5"
    lock, fetch = registry.fcntl.flock, registry._fetch
    met: list[int] = []

    def first_comes_between(file: Any, kind: int) -> None:
        monkeypatch.setattr(registry.fcntl, "flock", lock)
        assert pull("small", written, out)[1]
        lock(file, kind)
        met.append(kind)

    monkeypatch.setattr(registry.fcntl, "flock", first_comes_between)
    with pytest.raises(InputError, match="another process fetches 'small' there; wait for it"):
        pull("small", written, out)
    assert met
    assert left_over(tmp_path) == ["small.h5"]
    assert not pull("small", written, out)[1]
    out.unlink()

    def second_comes_meanwhile(*arguments: Any) -> None:
        with pytest.raises(InputError, match="another process fetches 'small' there; wait for it"):
            pull("small", written, out)
        fetch(*arguments)

    monkeypatch.setattr(registry, "_fetch", second_comes_meanwhile)
    assert pull("small", written, out)[1]
    assert out.read_bytes() == CONTENT


@pytest.mark.parametrize(
    "content", [CONTENT[:-1] + b"x", CONTENT + b"more", CONTENT[:-1]], ids=["other", "more", "less"]
)
def test_what_is_not_the_listed_file_is_refused_and_removed(server: Server, tmp_path: Path, content: bytes) -> None:
    written, out = listed(tmp_path, f"{server.address}/small.h5"), tmp_path / "small.h5"
    server.content = content
    with pytest.raises(InputError, match="nothing was kept"):
        pull("small", written, out)
    assert left_over(tmp_path) == []


def test_a_listed_file_that_is_no_store_is_refused_and_removed(server: Server, tmp_path: Path) -> None:
    server.content = b"words"
    digest = hashlib.sha256(server.content).hexdigest()
    registry = listed(tmp_path, f"{server.address}/small.h5", sha256=digest, size=5)
    with pytest.raises(InputError, match="HDF5"):
        pull("small", registry, tmp_path / "small.h5")
    assert left_over(tmp_path) == []


def test_a_server_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    registry = listed(tmp_path, "http://127.0.0.1:9/small.h5")
    with pytest.raises(InputError, match="cannot be fetched") as caught:
        pull("small", registry, tmp_path / "small.h5")
    assert "\n" not in str(caught.value)


def test_a_mirror_is_asked_in_place_of_the_address(server: Server, tmp_path: Path) -> None:
    registry = listed(tmp_path, "https://nowhere.invalid/files/small.h5")
    (tmp_path / "mirror").mkdir()
    shutil.copy(small_store().path, tmp_path / "mirror" / "small.h5")
    pull("small", registry, tmp_path / "a.h5", mirror=str(tmp_path / "mirror"))
    pull("small", registry, tmp_path / "b.h5", mirror=f"{server.address}/")
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes() == CONTENT
    with pytest.raises(InputError, match="name the folder of a mirror"):
        pull("small", registry, tmp_path / "c.h5", mirror=str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sha256": "abc"}, "64 hexadecimal digits"),
        ({"size": 0}, "size bytes"),
        ({"size": "9"}, "size must be a whole number"),
        ({"url": "file:///etc/passwd"}, "must be an http or https address"),
        ({"url": "https://[small.h5"}, "must be an http or https address"),
        ({"name": "../small"}, "must be letters, digits"),
        ({"kind": "x"}, "nothing else"),
    ],
)
def test_a_registry_that_breaks_a_rule_is_refused(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_registry(listed(tmp_path, **{"url": "https://a.invalid/small.h5", **values}))


def test_a_store_that_is_not_listed_or_listed_twice_is_refused(tmp_path: Path) -> None:
    registry = listed(tmp_path, "https://a.invalid/small.h5")
    with pytest.raises(InputError, match=r"unknown store of .*'smal'; did you mean 'small'"):
        pull("smal", registry, tmp_path / "a.h5")
    registry.write_text(registry.read_text() * 2)
    with pytest.raises(InputError, match="listed twice"):
        read_registry(registry)


def test_the_card_of_a_store_is_read_by_its_readers_and_leads_back_to_it(server: Server, tmp_path: Path) -> None:
    """Croissant's required fields are those of its specification 1.0, sections on dataset and FileObject."""
    store, url = small_store(), f"{server.address}/small.h5"
    done = called("features", "card", store.path, "--url", url, "--creator", "We: us", "--out", "card", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    _, matter, body = (tmp_path / "card/README.md").read_text(encoding="utf-8").split("---\n", 2)
    front = yaml.safe_load(matter)
    assert (front["pretty_name"], front["license"], front["size_categories"]) == (store.name, "other", ["n<1K"])
    assert "| simulated-3 | 3 | 36 | 12 | 30 |" in body
    assert "SIMULATED" in body
    told = json.loads((tmp_path / "card/croissant.json").read_text(encoding="utf-8"))
    required = {"@context", "@type", "conformsTo", "name", "description", "license", "url", "creator", "datePublished"}
    assert required <= {key for key, value in told.items() if value}
    (file,) = told["distribution"]
    assert {"@type", "@id", "name", "contentUrl", "encodingFormat", "sha256"} <= {*file}
    assert (file["sha256"], file["contentSize"]) == (hashlib.sha256(CONTENT).hexdigest(), f"{len(CONTENT)} B")
    pulled = called("features", "pull", "small", "--registry", "card/store.toml", "--out", "again.h5", cwd=tmp_path)
    assert "pulled, digest right" in pulled.stdout
    assert (tmp_path / "again.h5").read_bytes() == CONTENT
    with pytest.raises(InputError, match="the date is 'today'"):
        write_card(store, tmp_path / "card", Publication(url, "us", "today"))
