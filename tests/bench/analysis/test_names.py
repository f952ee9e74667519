"""Names in sentences, where there are few and where there are many."""

from __future__ import annotations

import pytest

from ctvr_bench.bench.analysis.names import NAMED, grouped

ROWS = [f"row {number}" for number in range(3 * NAMED)]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (ROWS[:1], "row 0"),
        (ROWS[:3], "row 0, row 1 and row 2"),
        (ROWS, "all 36 others"),
        (ROWS[1:], "all 36 others but row 0"),
        (ROWS[2:], "all 36 others but row 0 and row 1"),
        (ROWS[: NAMED + 1], "13 of 36 others"),
    ],
)
def test_many_rows_are_those_that_are_left_out_or_a_number(names: list[str], said: str) -> None:
    assert grouped(names, ROWS, "others") == said


def test_as_many_as_a_sentence_may_name_are_all_named() -> None:
    assert all(name in grouped(ROWS[:NAMED], ROWS, "others") for name in ROWS[:NAMED])
