"""The writer of tables: every cell is there, columns stand one below the other."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidiff import tables

CELLS = st.text(st.characters(codec="ascii", categories=["L", "N"]), max_size=9)
TABLES = st.integers(1, 5).flatmap(
    lambda n: st.lists(st.lists(CELLS, min_size=n, max_size=n), min_size=1, max_size=5)
)


def test_markdown_as_it_is_read():
    found = tables.markdown(("what", "", "s"), [("a", "1.50", "9"), ("bcdef", "12", "")], "<>")
    assert found.split("\n") == [
        "| what  |      |   s |",
        "| ----- | ---: | --: |",
        "| a     | 1.50 |   9 |",
        "| bcdef |   12 |     |",
    ]


def test_plain_as_it_is_read():
    found = tables.plain([("stage", "n", "note"), ("a", "10", "x"), ("b", "9", "")], "<><")
    assert found.split("\n") == ["stage   n  note", "a      10  x", "b       9"]


@given(TABLES, st.text("<>", max_size=3))
def test_no_cell_is_lost_and_all_lines_are_as_long(rows, align):
    lines = tables.markdown(rows[0], rows[1:], align).split("\n")
    assert len({len(line) for line in lines}) == 1
    cells = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]
    assert [cells[0], *cells[2:]] == rows
    assert all(set(mark) <= set("-:") and len(mark) >= 3 for mark in cells[1])


@pytest.mark.parametrize("rows", [[("a", "b"), ("c",)], [("a",), ("b", "c")]])
def test_ragged_rows_are_refused(rows):
    with pytest.raises(ValueError, match="zip"):
        tables.plain(rows)
    with pytest.raises(ValueError, match="zip"):
        tables.markdown(rows[0], rows[1:])


def test_a_table_of_nothing():
    assert tables.plain([]) == ""
    assert tables.markdown((), []) == "|  |\n|  |"
