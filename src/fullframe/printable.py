"""Text from an input, for a terminal, a table or strict JSON: escaped where it is no plain text.

A file name on Linux is any bytes, and a symbol's name in a hostile file may be too: a newline
would break a table or forge a line of it, an ESC would reach the terminal. Python holds a path's
bytes that are no UTF-8 as lone surrogates (PEP 383), which are no text for anybody else.
"""

from __future__ import annotations

import re
from typing import Any

#: A surrogate in a ``str`` is always alone: a pair would be one character.
_SURROGATE = re.compile(r"[\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Escape what a terminal would obey or cannot show, as a path may hold: all on one line.

    Args:
        text: any text; bytes that were not decodable as lone surrogates.

    Returns:
        The text with ``\n``, ``\x1b``, ``\xe9`` in place of such characters.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def printable_lines(text: str) -> str:
    """Escape as :func:`printable` does, but leave line ends and tabs, as messages have them."""
    return "".join(char if char.isprintable() or char in "\n\t" else _escape(char) for char in text)


def valid(text: str) -> str:
    """Escape bytes that were not decodable, so that the text can be encoded as UTF-8."""
    return _SURROGATE.sub(lambda match: _escape(match[0]), text)


def valid_values(value: Any) -> Any:
    """Return a JSON value with every text in it, keys too, made :func:`valid`."""
    if isinstance(value, str):
        return valid(value)
    if isinstance(value, dict):
        return {valid_values(key): valid_values(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [valid_values(each) for each in value]
    return value


def _escape(char: str) -> str:
    number = ord(char)
    if 0xDC80 <= number <= 0xDCFF:
        return f"\\x{number - 0xDC00:02x}"
    return char.encode("unicode_escape", "surrogatepass").decode()


def escape_unencodable(error: UnicodeError) -> tuple[str, int]:
    """Escape what an output's encoding lacks: an error handler for ``codecs.register_error``."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_escape, error.object[error.start : error.end])), error.end
