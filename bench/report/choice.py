"""Which rows and columns a table or figure shows, and under which names: for a paper, a slide."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ctvr_bench.bench.analysis.columns import COLUMNS, INDEXED, PAPER, Column
from ctvr_bench.bench.records.aggregate import Row, SuiteResults
from ctvr_bench.features.errors import InputError, unknown_name

_PART = re.compile(r"[^,\[]+(?:\[[^\]]*\])?[^,\[]*")


@dataclass(frozen=True)
class Choice:
    """Rows by label or method, in that order; columns by title or key; new names by label. Nothing given: all as is."""

    methods: tuple[str, ...] = ()
    columns: tuple[Column, ...] = PAPER
    names: Mapping[str, str] = field(default_factory=dict)

    def among(self, suites: Sequence[SuiteResults]) -> Choice:
        """The same choice with whole labels: a row may be typed by its method, or by the name that it gets.

        Raises InputError for a name to be given to no row of the suites, or to several.
        """
        rows = tuple({row.label: row for suite in suites for row in suite.rows}.values())
        names = {_named(rows, typed, name): name for typed, name in self.names.items()}
        labels = {name: label for label, name in names.items()}
        methods = tuple(name if _called(rows, name) else labels.get(name, name) for name in self.methods)
        return replace(self, methods=methods, names=names)

    def of(self, suite: SuiteResults) -> SuiteResults:
        """The suite with these rows. Raises InputError for a row that it does not have."""
        found = [row for name in self.methods for row in _rows(suite, name)] if self.methods else suite.rows
        rows = {row.label: row for row in found}.values()
        return replace(suite, rows=tuple(replace(row, label=self.name(row.label)) for row in rows))

    def name(self, label: str) -> str:
        """How a row is called."""
        return self.names.get(label, label)


def make_choice(methods: str | None, columns: str | None, labels: Sequence[str]) -> Choice:
    """From what is typed: 'lwf,my_method[weight=2]', 'R@1,BWF', ['my_method=Ours']. Raises InputError.

    >>> make_choice("lwf, my_method [weight=2, lr=1]", None, ["lwf=LwF"]).methods
    ('lwf', 'my_method [weight=2, lr=1]')
    """
    names = {}
    for text in labels:
        label, equals, name = (part.strip() for part in text.rpartition("="))
        if not equals or not label or not name:
            raise InputError(f"--label needs ROW=NAME, as in my_method=Ours; got {text!r}")
        names[label] = name
    parts = (part.strip() for part in _PART.findall(methods or ""))
    titles = [title.strip() for title in columns.split(",")] if columns else []
    return Choice(tuple(filter(None, parts)), tuple(map(column_of, titles)) or PAPER, names)


def column_of(title: str) -> Column:
    """The column of a title or key, whatever its case. Raises InputError with the nearest."""
    for column in (*COLUMNS, *INDEXED):
        if title.lower() in (column.title.lower(), column.key.lower()):
            return column
    raise unknown_name("column", title, [column.title for column in COLUMNS])


def _rows(suite: SuiteResults, name: str) -> Sequence[Row]:
    found = _called(suite.rows, name)
    if not found:
        raise unknown_name("row", name, (row.label for row in suite.rows))
    return found


def _called(rows: Sequence[Row], name: str) -> list[Row]:
    """The row of a label, else the rows of a method."""
    return [row for row in rows if row.label == name] or [row for row in rows if row.label.partition(" [")[0] == name]


def _named(rows: Sequence[Row], label: str, name: str) -> str:
    """The label of the row that gets a name. Raises InputError where it is no row, or several."""
    found = _called(rows, label)
    if not found and _called(rows, name):
        raise InputError(f"--label needs ROW=NAME, and {name!r} is the row; write --label {name}={label}")
    if not found:
        raise unknown_name("row to call otherwise", label, (row.label for row in rows))
    if len(found) > 1:
        which = ", ".join(row.label for row in found)
        raise InputError(f"--label {label}={name}: {len(found)} rows are of {label} ({which}); give the whole label")
    return found[0].label
