"""What holds for any table, and for any bytes."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fullframe.errors import UsageError
from fullframe.table import Spelling, TableErrors, lint_table, parse_table
from fullframe.table.diff import diff_tables
from fullframe.table.model import is_unimplemented
from tests.table.strategies import ALMOST_TABLES, tables


@given(tables())
def test_writing_back_gives_the_same_bytes(data):
    table = parse_table(data)
    assert table.to_bytes() == data
    assert parse_table(table.to_bytes()) == table


@given(tables())
def test_columns_point_at_what_they_name(data):
    table = parse_table(data)
    for entry in table.entries:
        line = table.lines[entry.line - 1].decode()
        assert line[entry.columns.number - 1 :].startswith(str(entry.number))
        assert line[entry.columns.abi - 1 :].startswith(entry.abi)
        assert line[entry.columns.name - 1 :].startswith(entry.name)
        for point, spelling, column in entry.entry_points():
            assert line[column - 1 :].startswith(point + (spelling or ""))
        for word, column in zip(entry.later_columns, entry.columns.later, strict=True):
            assert line[column - 1 :].startswith(word)


@given(ALMOST_TABLES)
def test_any_bytes_are_a_table_or_an_error_of_ours(data):
    try:
        table = parse_table(data)
    except TableErrors as error:
        text = str(error)
    else:
        text = "\n".join(map(str, lint_table(table)))
        assert table.to_bytes() == data
        assert diff_tables(table, table) == []
    assert all(line.isprintable() for line in text.split("\n"))


@given(tables(), st.data(), st.booleans(), st.sampled_from([None, *Spelling]))
def test_a_changed_copy_is_what_parsing_its_bytes_gives(data, draw, on, spelling):
    table = parse_table(data)
    assume(table.entries)
    entry = draw.draw(st.sampled_from(table.entries))
    points = [point for point, _, _ in entry.entry_points()]
    if on and all(map(is_unimplemented, points)):
        with pytest.raises(UsageError, match="no implemented entry point"):
            table.with_annotation(entry.name, on, abi=entry.abi, spelling=spelling)
        return
    changed = table.with_annotation(entry.name, on, abi=entry.abi, spelling=spelling)
    assert parse_table(changed.to_bytes()) == changed
    again = next(e for e in changed.entries if (e.name, e.abi) == (entry.name, entry.abi))
    assert again.needs_full_frame is on
    differences = {difference.what for difference in diff_tables(table, changed)}
    assert differences == ({"needs_full_frame"} if entry.needs_full_frame is not on else set())


@given(tables())
def test_lint_places_lie_in_the_file(data):
    table = parse_table(data)
    for finding in lint_table(table):
        assert 1 <= finding.line <= len(table.lines)
        assert 1 <= finding.column <= len(table.lines[finding.line - 1].decode())
