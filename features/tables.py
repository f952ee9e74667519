"""Small tables and JSON files that people wrote: UTF-8, checked, every complaint with its line."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from ctvr_bench.features.errors import InputError


class Row(NamedTuple):
    """One line of a table: where it stands ('FILE line 3'), and its cells by column, stripped."""

    where: str
    cells: dict[str, str]

    def fail(self, message: str) -> NoReturn:
        raise InputError(f"{self.where}: {message}")


def read_table(path: Path, *needed: str) -> list[Row]:
    """The rows of a CSV whose first line names at least the columns `needed`; raises InputError."""
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True, restval="")
    rows = []
    try:
        columns = columns_of(path)
        if missing := [name for name in needed if name not in columns]:
            raise InputError(
                f"{path}: needs the columns {', '.join(needed)}; its first line lacks {', '.join(missing)}"
            )
        reader.fieldnames = columns
        next(reader.reader)
        for cells in reader:
            extra = cells.pop(None, None)
            row = Row(f"{path} line {reader.line_num}", {name: text.strip() for name, text in cells.items()})
            if extra:
                row.fail(f"has more than {len(columns)} cells; put quotes round text that holds commas")
            rows.append(row)
    except csv.Error as error:
        raise InputError(f"{path}: is no CSV file ({error} in line {reader.line_num}); write it again") from error
    if not rows:
        raise InputError(f"{path}: has no lines after its first; write one for each entry")
    return rows


def columns_of(path: Path) -> list[str]:
    """The cells of a CSV's first line."""
    return [name.strip() for name in next(csv.reader(read_text(path).splitlines()), [])]


def read_json(path: Path) -> Any:
    """The content of a JSON file; raises InputError where it is not one."""
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is no JSON file ({str(error).splitlines()[0]}); write it again") from error


def read_text(path: Path) -> str:
    """The content of a UTF-8 file, with or without a byte order mark."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); name an existing file") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: is no UTF-8 text (byte {error.object[error.start]:#04x} at place {error.start}); save it as UTF-8"
        ) from error
