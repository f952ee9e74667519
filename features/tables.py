"""Small tables and JSON files that people wrote: UTF-8, checked, every complaint with its line."""

from __future__ import annotations

import csv
import json
import tomllib
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from ctvr_bench.features.errors import InputError
from ctvr_bench.features.whole import MOST, check_ordinary, read_whole

_TOML, _PARTS, _COLUMNS = 1_000_000, 100, 1000


class Row(NamedTuple):
    """One line of a table: its file and number, and its cells by column, stripped."""

    path: Path
    line: int
    cells: dict[str, str]

    @property
    def where(self) -> str:
        """How a message names the place: 'FILE line 3'."""
        return f"{self.path} line {self.line}"

    def fail(self, message: str) -> NoReturn:
        raise InputError(f"{self.where}: {message}")


def read_table(path: Path, *needed: str) -> Iterator[Row]:
    """The rows of a CSV whose first line names at least the columns `needed`, one by one; raises InputError."""
    lines = _lines(path, needed)
    _, columns = next(lines)
    for number, cells in lines:
        yield Row(path, number, dict(zip(columns, map(str.strip, cells), strict=True)))


def read_pairs(
    path: Path, first: str, second: str, id_of: Callable[[str], str], check: Callable[[int, str, str], None]
) -> tuple[list[str], list[str]]:
    """Two columns of such a CSV, stripped, of all lines, in a fraction of `read_table`'s time: for long files.

    id_of: what stands for a cell of the first column, asked once for each that is not yet known by that name.
    check: is told line, cell and text of a line of which the id or the text is empty, before any later line is read.
    """
    lines = _lines(path, (first, second))
    _, columns = next(lines)
    one, other = columns.index(first), columns.index(second)
    ids: dict[str, str] = {}  # one text for all lines of a video
    videos: list[str] = []
    texts: list[str] = []
    for number, cells in lines:
        name, text = cells[one].strip(), cells[other].strip()
        video = ids.get(name) or ids.setdefault(name, id_of(name))
        if not video or not text:
            check(number, name, text)
        videos.append(video)
        texts.append(text)
    return videos, texts


def _lines(path: Path, needed: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """The columns, then each line's number and cells, one a column."""
    number = 0
    try:
        check_ordinary(path)
        with path.open(encoding="utf-8-sig", newline="") as stream:
            lines = csv.reader(stream, strict=True)
            columns = _columns(path, next(lines, []))
            if missing := [name for name in needed if name not in columns]:
                raise InputError(
                    f"{path}: needs the columns {', '.join(needed)}; its first line lacks {', '.join(missing)}"
                )
            yield 0, columns
            width = len(columns)
            for cells in lines:
                if not cells:
                    continue
                number = lines.line_num
                if len(cells) != width:
                    if len(cells) > width:
                        Row(path, number, {}).fail(
                            f"has more than {width} cells; put quotes round text that holds commas"
                        )
                    cells += [""] * (width - len(cells))
                yield number, cells
    except csv.Error as error:
        raise InputError(f"{path}: is no CSV file ({error} in line {lines.line_num}); write it again") from error
    except (OSError, UnicodeDecodeError):
        read_text(path)  # says what is wrong
        raise
    if not number:
        raise InputError(f"{path}: has no lines after its first; write one for each entry")


def columns_of(path: Path) -> list[str]:
    """The cells of a CSV's first line."""
    try:
        check_ordinary(path)
        with path.open(encoding="utf-8-sig", newline="") as stream:
            return _neutral([name.strip() for name in next(csv.reader(stream), [])])
    except csv.Error:
        return []
    except (OSError, UnicodeDecodeError):
        read_text(path)  # says what is wrong
        raise


def _columns(path: Path, cells: list[str]) -> list[str]:
    columns = [name.strip() for name in cells]
    if len(columns) > _COLUMNS:
        raise InputError(f"{path}: has {len(columns):,} columns, of which at most {_COLUMNS} are read; keep the needed")
    twice, times = Counter(filter(None, columns)).most_common(1)[0] if any(columns) else ("", 0)
    if times > 1:
        raise InputError(f"{path}: names the column {twice!r} {times} times in its first line; keep one")
    return _neutral(columns)


def _neutral(columns: list[str]) -> list[str]:
    """Column names where `item`, of files about images or sounds, says what `video` does."""
    return columns if "video" in columns else ["video" if name == "item" else name for name in columns]


def read_json(path: Path) -> Any:
    """The content of a JSON file, in which no object has a key twice; raises InputError."""

    def checked(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
            raise InputError(f"{path}: has the key {twice!r} twice, of which one would be lost; keep one")
        return found

    try:
        return json.loads(read_text(path), object_pairs_hook=checked)
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is no JSON file ({str(error).splitlines()[0]}); write it again") from error


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """The content of a TOML file, with or without a byte order mark. what: how a message calls it ('a suite')."""
    text = read_text(path, _TOML)
    try:
        if any(line.partition("=")[0].count(".") > _PARTS for line in text.splitlines()):
            raise ValueError(f"a key has over {_PARTS} parts")  # the parser needs the square of their number
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise InputError(f"{path}: cannot be read as {what} ({reason}); give a TOML file") from error


def read_text(path: Path, most: int = MOST) -> str:
    """The content of a UTF-8 file of at most `most` bytes, with or without a byte order mark."""
    try:
        return read_whole(path, most).decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); name an existing file") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: is no UTF-8 text (byte {error.object[error.start]:#04x} at place {error.start}); save it as UTF-8"
        ) from error


def plain_id(text: str) -> str:
    """An id as it is compared: without blanks at its ends, accents in one spelling (Unicode's NFC).

    >>> plain_id(" cafe\u0301 ") == "caf\u00e9"
    True
    """
    return unicodedata.normalize("NFC", text.strip())


def spellings(name: str) -> tuple[str, ...]:
    """The ways in which a file or key of that id may be written: accents as one letter or as two (as on a Mac)."""
    return tuple(dict.fromkeys((name, unicodedata.normalize("NFD", name))))


def stays_inside(name: str) -> bool:
    """Whether an id, taken as the name of a file, stays in the folder it is looked for in.

    >>> stays_inside("part1/video7"), stays_inside("../video7"), stays_inside("/video7")
    (True, False, False)
    """
    path = Path(name)
    return bool(name) and "\0" not in name and not path.is_absolute() and ".." not in path.parts


def is_file(path: Path) -> bool:
    """Whether there is a file of that name; a name that no file can have is none."""
    try:
        return path.is_file()
    except OSError:  # longer than a name may be
        return False
