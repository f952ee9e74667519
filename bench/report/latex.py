r"""The result table in the papers' own layout, as LaTeX (booktabs) and as markdown: a block of columns for each stream.

R@1, R@5, R@10, MedR, MeanR and BWF; best in bold, second underlined, zero-shot and upper bounds below a rule and never
marked. The numbers are those of every other table, see bench.analysis.columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ctvr_bench.bench.analysis.columns import (
    PAPER,
    Column,
    footnotes,
    is_reference,
    note_of,
    places,
    ranked,
    references,
)
from ctvr_bench.bench.analysis.findings import TEST
from ctvr_bench.bench.escaping import markdown_lines, markdown_text
from ctvr_bench.bench.records.aggregate import Row, SuiteResults
from ctvr_bench.bench.report.tables import MARKDOWN_STYLES, styled
from ctvr_bench.features.errors import one_line


@dataclass(frozen=True)
class Marks:
    """What tests say about a suite's rows. tied: not told from the best. against: a row; above, below: told from it."""

    tied: tuple[str, ...] = ()
    against: str = ""
    above: tuple[str, ...] = ()
    below: tuple[str, ...] = ()


def latex_table(*suites: SuiteResults, marks: Sequence[Marks] = (), columns: Sequence[Column] = PAPER) -> str:
    r"""A booktabs table; the suites stand side by side. marks: of each suite. Needs \usepackage{booktabs}."""
    marks = marks or [Marks()] * len(suites)
    rows, below = paper_rows(suites)
    notes = footnotes([*rows, *below])
    best = [{column.key: places(ranked(suite), column) for column in columns} for suite in suites]

    def line(row: Row) -> str:
        note = note_of(row, notes)
        cells = [latex_text(row.label) + (f"$^{{{note}}}$" if note else "")]
        for suite, place, mark in zip(suites, best, marks, strict=True):
            found = _row(suite, row.label)
            sign = "".join(_LATEX_MARKS[name] for name in _marks_of(row.label, mark))
            cells += [
                "--"
                if found is None
                else _cell(column, found, place[column.key].get(row.label), sign if column is columns[0] else "")
                for column in columns
            ]
        return " & ".join(cells) + r" \\"

    width = len(columns)
    names = block_names(suites)
    spans = [rf"\multicolumn{{{width}}}{{c}}{{{latex_text(name)}}}" for name in names]
    rules = [rf"\cmidrule(lr){{{2 + i * width}-{1 + (i + 1) * width}}}" for i in range(len(suites))]
    titles = [
        latex_text(column.title) + {1: r"$\uparrow$", -1: r"$\downarrow$", 0: ""}[column.better] for column in columns
    ]
    body = [*map(line, rows), *([r"\midrule"] if rows and below else []), *map(line, below)]
    remarks = [f"$^{{{number}}}$ adapted: {latex_text(text)}" for text, number in notes.items()]
    remarks += [f"{_LATEX_MARKS[name]} {latex_text(text)}" for name, text in _legend(marks).items()]
    remarks += [f"{latex_text(name)}: {_measured(suite)}" for name, suite in zip(names, suites, strict=True)]
    table = "table*" if len(suites) > 1 else "table"
    return "\n".join(
        [
            rf"\begin{{{table}}}",
            r"\centering",
            *([r"\scriptsize"] if len(suites) > 1 else []),
            rf"\setlength{{\tabcolsep}}{{{3 if len(suites) > 1 else 4}pt}}",
            rf"\begin{{tabular}}{{@{{}}l{'r' * width * len(suites)}@{{}}}}",
            r"\toprule",
            " & ".join(["", *spans]) + r" \\",
            " ".join(rules),
            " & ".join(["Method", *titles * len(suites)]) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            *(rf"\par\smallskip{{\footnotesize {remark}\par}}" for remark in remarks),
            rf"\end{{{table}}}",
            "",
        ]
    )


def paper_markdown(*suites: SuiteResults, marks: Sequence[Marks] = (), columns: Sequence[Column] = PAPER) -> str:
    """The same table as markdown, with how each suite was measured below."""
    marks = marks or [Marks()] * len(suites)
    rows, below = paper_rows(suites)
    best = [{column.key: places(ranked(suite), column) for column in columns} for suite in suites]
    arrows = {1: " ↑", -1: " ↓", 0: ""}
    names = block_names(suites)
    head = [f"{column.title}{arrows[column.better]} ({markdown_text(name)})" for name in names for column in columns]
    body = []
    for row in (*rows, *below):
        cells = [f"*{markdown_text(row.label)}*" if is_reference(row) else markdown_text(row.label)]
        for suite, place, mark in zip(suites, best, marks, strict=True):
            found, sign = _row(suite, row.label), "".join(_marks_of(row.label, mark))
            cells += [
                "–"
                if found is None
                else styled(column.cell(found).text, place[column.key].get(row.label), MARKDOWN_STYLES)
                + (sign if column is columns[0] else "")
                for column in columns
            ]
        body.append(cells)
    parts = [markdown_lines([["method", *head], ["---", *("--:" for _ in head)], *body])]
    parts.append("In *italics*: zero-shot and upper bounds, not ranked. **Bold**: best; <u>underlined</u>: second.")
    parts += [f"{name} {markdown_text(text)}" for name, text in _legend(marks).items()]
    for name, suite in zip(names, suites, strict=True):
        facts = "; ".join(f"{key}: {markdown_text(value)}" for key, value in suite.measured.items())
        parts.append(f"{markdown_text(name)}: {facts}")
    return "\n\n".join(parts) + "\n"


def paper_rows(suites: Sequence[SuiteResults]) -> tuple[list[Row], list[Row]]:
    """The ranked rows and the references of all suites, each label once, as the first suite that has it does."""
    rows = {row.label: row for suite in reversed(suites) for row in reversed(ranked(suite))}
    below = {row.label: row for suite in reversed(suites) for row in reversed(references(suite))}
    order = [label for suite in suites for label in (row.label for row in (*ranked(suite), *references(suite)))]
    labels = dict.fromkeys(order)
    return [rows[label] for label in labels if label in rows], [below[label] for label in labels if label in below]


def block_names(suites: Sequence[SuiteResults]) -> list[str]:
    """What heads the columns of each suite: its stream; where streams are the same, its name, or its folder."""
    choices = [[suite.measured["stream"] for suite in suites], [suite.name for suite in suites]]
    choices.append([str(suite.directory) for suite in suites])
    return next((names for names in choices if len(set(names)) == len(suites)), choices[-1])


def latex_text(text: str) -> str:
    """Text in one line with everything escaped that LaTeX takes for a command."""
    replaced = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--"}
    replaced |= {"→": r"$\rightarrow$", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}
    return "".join(replaced.get(letter, "\\" + letter if letter in "&%$#_{}" else letter) for letter in one_line(text))


_LATEX_STYLES = {1: r"\textbf{{{}}}", 2: r"\underline{{{}}}"}
_LATEX_MARKS = {"†": r"$^\dagger$", "+": "$^{+}$", "−": "$^{-}$"}


def _marks_of(label: str, marks: Marks) -> list[str]:
    found = {"†": marks.tied, "+": marks.above, "−": marks.below}
    return [name for name, labels in found.items() if label in labels]


def _legend(marks: Sequence[Marks]) -> dict[str, str]:
    """The marks that are used, in words."""
    names = ", ".join(dict.fromkeys(mark.against for mark in marks if mark.against))
    words = {
        "†": f"not told from the best ({TEST})",
        "+": f"better than {names} beyond noise ({TEST})",
        "−": f"worse than {names} beyond noise ({TEST})",
    }
    used = {
        name for mark in marks for label in (*mark.tied, *mark.above, *mark.below) for name in _marks_of(label, mark)
    }
    return {name: text for name, text in words.items() if name in used}


def _row(suite: SuiteResults, label: str) -> Row | None:
    return next((row for row in suite.rows if row.label == label), None)


def _cell(column: Column, row: Row, place: int | None, sign: str) -> str:
    cell = column.cell(row)
    minus = cell.mean_text.startswith("-")
    text = styled(("$-$" if minus else "") + latex_text(cell.mean_text.removeprefix("-")), place, _LATEX_STYLES)
    return text + sign + (rf" {{\scriptsize$\pm${cell.std_text}}}" if cell.std_text else "")


def _measured(suite: SuiteResults) -> str:
    return "; ".join(f"{latex_text(key)}: {latex_text(value)}" for key, value in suite.measured.items())
