"""Every way a table can be wrong: a tiny bad table and the message it gets.

``FULLFRAME_REGENERATE=1`` writes the messages anew; read the difference before committing it.
"""

import os
from pathlib import Path

import pytest

from fullframe.errors import EXIT_INPUT, InputError
from fullframe.table import TableErrors, parse_table
from fullframe.table.parse import MAX_ERRORS_KEPT, MAX_FILE_BYTES

BAD = Path(__file__).parent / "bad"
CASES = sorted(path.stem for path in BAD.glob("*.tbl"))


def test_there_are_cases():
    assert len(CASES) > 30


@pytest.mark.parametrize("case", CASES)
def test_bad_table_is_refused_with_its_message(case):
    with pytest.raises(TableErrors) as caught:
        parse_table((BAD / f"{case}.tbl").read_bytes(), f"{case}.tbl")
    text = str(caught.value) + "\n"
    expected = BAD / f"{case}.err"
    if os.environ.get("FULLFRAME_REGENERATE") == "1":
        expected.write_text(text, encoding="utf-8")
    assert text == expected.read_text(encoding="utf-8")
    assert caught.value.exit_code == EXIT_INPUT


@pytest.mark.parametrize("case", CASES)
def test_every_error_is_complete(case):
    with pytest.raises(TableErrors) as caught:
        parse_table((BAD / f"{case}.tbl").read_bytes(), f"{case}.tbl")
    for error in caught.value.errors:
        assert isinstance(error, InputError)
        assert error.place.line
        assert error.place.column
        assert error.found
        assert error.expected
        assert error.next_step
        assert str(error).isprintable() or "\n  next: " in str(error)
        assert all(len(line) < 300 for line in str(error).splitlines())


def test_every_message_belongs_to_a_case():
    assert {path.stem for path in BAD.glob("*.err")} == set(CASES)


def test_errors_beyond_the_limit_are_counted():
    with pytest.raises(TableErrors) as caught:
        parse_table(b"junk\n" * 1000)
    assert caught.value.total == 1000
    assert len(caught.value.errors) == MAX_ERRORS_KEPT
    assert str(caught.value).endswith(f"and {1000 - MAX_ERRORS_KEPT} more errors in <table>")


def test_too_large_text_is_refused_at_the_limit():
    with pytest.raises(TableErrors) as caught:
        parse_table(b"# a comment\n" * (MAX_FILE_BYTES // 12 + 1))
    place = caught.value.errors[0].place
    assert (place.line, place.column) == (MAX_FILE_BYTES // 12 + 1, MAX_FILE_BYTES % 12 + 1)


def test_largest_text_is_read():
    line = b"#" * 1023 + b"\n"
    text = line * (MAX_FILE_BYTES // len(line))
    assert len(text) == MAX_FILE_BYTES
    assert parse_table(text).to_bytes() == text
