"""A contract's text: where things stand in it, and what is wrong with it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fullframe.errors import InputError, Place


class Reader:
    """One contract's text, and what is wrong with it."""

    def __init__(self, path: str, text: str) -> None:
        self.path = path
        self.lines = text.splitlines()
        self.errors: list[InputError] = []

    def place(self, section: str, number: int, needle: str) -> Place:
        """Find where ``needle`` stands in the ``number``-th table of that name."""
        header = re.compile(rf"\s*\[\[?{re.escape(section)}(\.[^\]]*)?\]\]?")
        seen, inside, start = -1, False, None
        bare: Place | None = None
        for index, line in enumerate(self.lines, 1):
            if re.match(r"\s*\[[^\]]", line) or line.lstrip().startswith("[["):
                inside = header.match(line) is not None
                seen += inside
                if inside and seen == number and start is None:
                    start = index
            if inside and seen == number:
                quoted, column = line.find(f'"{needle}"'), line.find(needle)
                if needle and quoted >= 0:
                    return Place(self.path, index, quoted + 2)
                if needle and column >= 0 and bare is None:
                    bare = Place(self.path, index, column + 1)
        return bare or Place(self.path, start or 1, 1)

    def wrong(
        self, where: tuple[str, int], needle: str, found: str, expected: str, known: Iterable[str]
    ) -> None:
        """Record an error with the nearest valid names."""
        names = sorted(set(known))
        near = difflib.get_close_matches(needle.strip('"')[:64], names, 3, 0.4)
        step = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(names[:30])}"
        self.errors.append(InputError(self.place(*where, needle), found, expected, step))

    def one_of(self, where: tuple[str, int], what: str, value: Any, known: Iterable[str]) -> str:
        """Check that a value is one of the known names."""
        names = list(known)
        if value not in names:
            self.wrong(where, str(value), f"{what} {str(value)[:80]!r}", "a known one", names)
        return str(value)

    def keys(self, where: tuple[str, int], table: Mapping[str, Any], known: Iterable[str]) -> None:
        """Check that a table has no unknown key."""
        names = list(known)
        for key in table:
            if key not in names:
                self.wrong(where, key, f"key {key[:80]!r} in [{where[0]}]", "a known key", names)

    def typed(
        self, where: tuple[str, int], table: Mapping[str, Any], key: str, default: Any
    ) -> Any:
        """Return a value of the default's type; a list's items are strings."""
        value = table.get(key, default)
        kinds: dict[type, Callable[[Any], bool]] = {
            bool: lambda v: isinstance(v, bool),
            int: lambda v: isinstance(v, int) and not isinstance(v, bool),
            str: lambda v: isinstance(v, str),
            list: lambda v: isinstance(v, list) and all(isinstance(item, str) for item in v),
            dict: lambda v: isinstance(v, dict),
        }
        if not kinds[type(default)](value):
            name = {list: "a list of strings", str: "a string", int: "a number",
                    bool: "true or false", dict: "a table"}[type(default)]  # fmt: skip
            self.errors.append(
                InputError(
                    self.place(*where, key), f"{key} = {str(value)[:80]}", name, "see the contracts"
                )
            )
            return default
        return value


def tables(reader: Reader, data: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """Return all the ``[[name]]`` of a contract."""
    value = data.get(name, [])
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        reader.errors.append(
            InputError(
                reader.place(name, 0, name), f"[{name}]", f"any number of [[{name}]]", "double it"
            )
        )
        return []
    return value


def single(reader: Reader, data: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the one ``[name]`` of a contract."""
    value = data.get(name, {})
    if not isinstance(value, dict):
        reader.errors.append(
            InputError(reader.place(name, 0, name), f"[[{name}]]", f"one [{name}]", "single it")
        )
        return {}
    return value
