"""Text from inputs is escaped where a terminal or a strict reader would stumble over it."""

import json
import os

import pytest

from fullframe.errors import Place
from fullframe.printable import printable, printable_lines, valid, valid_values


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 日本", "plain é 日本"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\x1b[31m\x07\x9b", r"\x1b[31m\x07\x9b"),
        (os.fsdecode(b"caf\xe9\xff"), r"caf\xe9\xff"),
        ("\u202e\u2028", r"\u202e\u2028"),
        ("\ud800", r"\ud800"),
        ("", ""),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown


def test_messages_keep_their_lines() -> None:
    assert printable_lines("a\n\tb\x1b\r") == "a\n\tb\\x1b\\r"


def test_values_for_json() -> None:
    name = os.fsdecode(b"\n\xe9")
    assert valid(name) == "\n\\xe9"
    value = {name: [name, (name, 1, None, True, 0.5)], "é": {}}
    cleaned = valid_values(value)
    assert cleaned == {"\n\\xe9": ["\n\\xe9", ["\n\\xe9", 1, None, True, 0.5]], "é": {}}
    json.dumps(cleaned, ensure_ascii=False).encode()


def test_a_place_is_one_line() -> None:
    assert str(Place("a\nb", section="\x1b", offset_bytes=1)) == r"a\nb: \x1b+0x1"
