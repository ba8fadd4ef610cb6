"""Edits of a source by line, the text they give, and the difference as a unified diff."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field


@dataclass(slots=True)
class Patch:
    """Edits of one source; line numbers count from 1 and are those of the original.

    Attributes:
        before: line to the lines that go before it.
        after: line to the lines that go after it.
        deleted: lines that go away.
        replaced: line to the lines that take its place.
    """

    before: dict[int, list[str]] = field(default_factory=dict)
    after: dict[int, list[str]] = field(default_factory=dict)
    deleted: set[int] = field(default_factory=set)
    replaced: dict[int, list[str]] = field(default_factory=dict)

    def insert_before(self, line: int, text: list[str]) -> None:
        """Put lines before a line, behind what is put there already."""
        self.before.setdefault(line, []).extend(text)

    def insert_after(self, line: int, text: list[str]) -> None:
        """Put lines after a line, behind what is put there already."""
        self.after.setdefault(line, []).extend(text)

    def apply(self, text: str) -> str:
        """Return the edited text; lines that no edit names are kept byte for byte."""
        lines = text.split("\n")
        ending = "\r" if lines and lines[0].endswith("\r") else ""
        result: list[str] = []

        def add(new: list[str]) -> None:
            result.extend(line + ending for line in new)

        for number, line in enumerate(lines, 1):
            add(self.before.get(number, []))
            if number in self.replaced:
                add(self.replaced[number])
            elif number not in self.deleted:
                result.append(line)
            add(self.after.get(number, []))
        return "\n".join(result)


def unified_diff(path: str, old: str, new: str) -> str:
    """Return the difference of two texts as ``patch -p1`` takes it; "" where there is none."""
    if old == new:
        return ""
    name = path.lstrip("/")
    out = []
    for line in difflib.unified_diff(
        old.splitlines(keepends=True), new.splitlines(keepends=True), f"a/{name}", f"b/{name}"
    ):
        out.append(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n")
    return "".join(out)


def indentation(line: str) -> str:
    """Return the white space that directives beside a line start with."""
    stripped = line.lstrip(" \t")
    space = line[: len(line) - len(stripped)]
    # A label stands at the margin; what belongs to it is indented.
    return space or "\t"
