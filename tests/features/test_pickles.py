"""The pickle reader: plain data comes out, everything else is refused by name and never run."""

from __future__ import annotations

import collections
import io
import pickle
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctvr_bench.features.errors import InputError
from ctvr_bench.features.pickles import read_plain_pickle
from tests import release


def saved(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "stranger.pkl"
    path.write_bytes(content)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_plain_pickle(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    return message


class Calls:
    """Pickles as a call of `function` on `arguments`, made when the pickle is loaded."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def test_pickles_as_published_are_read(tmp_path: Path) -> None:
    for path in (*release.msrvtt(tmp_path, [3] * 20)[:2], *release.actnet(tmp_path, [3] * 20)[:2]):
        content = read_plain_pickle(path)
        assert content == pickle.loads(path.read_bytes())
        assert list(content) == ["train", "val"]
        assert len(content["train"]) == len(content["val"]) == int(path.name.split("_")[1])


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
keys = st.integers() | st.text()
plain = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(keys, inner, max_size=4)
        | st.tuples(inner, inner)
        | st.frozensets(keys, max_size=3)
        | st.sets(keys, max_size=3)
        | st.dictionaries(keys, inner, max_size=3).map(lambda values: collections.defaultdict(list, values))
        | st.dictionaries(keys, inner, max_size=3).map(lambda values: collections.defaultdict(dict, values))
    ),
    max_leaves=12,
)


@settings(deadline=None, max_examples=60)
@given(value=plain, protocol=st.integers(3, pickle.HIGHEST_PROTOCOL))
def test_plain_containers_come_back_equal(value: Any, protocol: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        assert read_plain_pickle(saved(Path(folder), pickle.dumps(value, protocol))) == value


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_is_read(tmp_path: Path, protocol: int) -> None:
    value = {
        "train": {1: collections.defaultdict(list, {"a": ["v1", "v2"]})},
        "set": {1, 2},
        "tuple": (1.5, None, True),
    }
    assert read_plain_pickle(saved(tmp_path, pickle.dumps(value, protocol))) == value


def test_a_shared_and_a_cyclic_container_are_read_in_one_look(tmp_path: Path) -> None:
    # 2000 lists, each twice in the next: 2^2000 paths, and deeper than the interpreter's stack.
    stream = io.BytesIO()
    stream.write(b"\x80\x04]\x94")
    for level in range(2000):
        stream.write(b"(j" + level.to_bytes(4, "little") + b"j" + level.to_bytes(4, "little") + b"l\x94")
    stream.write(b".")
    value = read_plain_pickle(saved(tmp_path, stream.getvalue()))
    assert value[0] is value[1]
    cycle: list[Any] = []
    cycle.append(cycle)
    read = read_plain_pickle(saved(tmp_path, pickle.dumps(cycle)))
    assert read[0] is read


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_command_is_refused_by_name_and_not_run(tmp_path: Path, protocol: int) -> None:
    import os

    trace = tmp_path / "was-run"
    hostile = {"train": {1: {0: ["video1", Calls(os.system, f"touch {trace}")]}}}
    message = refusal(saved(tmp_path, pickle.dumps(hostile, protocol)))
    assert f"asks for {os.system.__module__}.system" in message
    assert "Nothing was run" in message
    assert not trace.exists()


@pytest.mark.parametrize(
    ("hostile", "name"),
    [
        (Calls(eval, "1 + 1"), "builtins.eval"),
        (Calls(getattr, [], "append"), "builtins.getattr"),
        (Calls(collections.defaultdict, print), "builtins.print"),
        (collections.defaultdict(int), "builtins.int"),
        (collections.defaultdict(set), "collections.defaultdict with another factory"),
        (collections.defaultdict(), "collections.defaultdict with another factory"),
        (collections.OrderedDict(a=1), "collections.OrderedDict"),
        ({"deep": [{"deeper": (Calls(exec, "pass"),)}]}, "builtins.exec"),
        ([list], "builtins.list"),
        (Path("x"), "pathlib"),
        (1j, "builtins.complex"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_everything_that_is_not_plain_is_refused_by_name(tmp_path: Path, hostile: Any, name: str) -> None:
    assert name in refusal(saved(tmp_path, pickle.dumps(hostile)))


def test_a_factory_changed_after_the_fact_is_refused(tmp_path: Path) -> None:
    # BUILD with a slot state: setattr(defaultdict_instance, "default_factory", set)
    content = (
        b"\x80\x04\x8c\x0bcollections\x8c\x0bdefaultdict\x93\x8c\x08builtins\x8c\x04list\x93\x85R"
        b"N}\x8c\x0fdefault_factory\x8c\x08builtins\x8c\x03set\x93s\x86b."
    )
    assert "another factory" in refusal(saved(tmp_path, content))


def test_a_type_that_may_be_named_cannot_be_changed(tmp_path: Path) -> None:
    content = b"\x80\x04\x8c\x0bcollections\x8c\x0bdefaultdict\x93N}\x8c\x05extra\x8c\x04evils\x86b."
    assert "no whole pickle" in refusal(saved(tmp_path, content))
    assert not hasattr(collections.defaultdict, "extra")


def test_a_persistent_id_is_refused(tmp_path: Path) -> None:
    assert "a persistent id" in refusal(saved(tmp_path, b"\x80\x04\x8c\x04dataQ."))


def test_a_memo_index_made_to_exhaust_memory_is_refused(tmp_path: Path) -> None:
    assert "memo index 2147483647" in refusal(saved(tmp_path, b"\x80\x04]r\xff\xff\xff\x7f."))


def test_a_name_with_a_line_break_stays_on_one_line(tmp_path: Path) -> None:
    assert "os\\nevil.x\\x1b" in refusal(saved(tmp_path, b"\x80\x04\x8c\x07os\nevil\x8c\x02x\x1b\x93."))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(tmp_path / "none.pkl")


@pytest.mark.parametrize(
    "content", [b"", b"not a pickle at all", b"\x80\x04", b"\x80\x99.", b"(lp0\n", b"\x80\x04}]Ns."]
)
def test_junk_is_refused(tmp_path: Path, content: bytes) -> None:
    assert "no whole pickle" in refusal(saved(tmp_path, content))


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    content = pickle.dumps(
        {"train": {1: {0: ["video1", "video2"]}}, "val": {1: collections.defaultdict(list, a=["b"])}}
    )
    for length in range(len(content)):
        refusal(saved(tmp_path, content[:length]))
