"""A listing of assembly in GNU syntax, written line by line.

Only what GNU as and LLVM's integrated assembler both take: ``#`` and ``/* */`` comments,
``.set`` constants, no macros, nothing for the C preprocessor.
"""

from __future__ import annotations

from collections.abc import Iterable

_NOTE_COLUMN = 48
_TAB = 8


class Listing:
    """Collects lines of assembly."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def op(self, mnemonic: str, operands: str = "", note: str = "") -> None:
        """Add an instruction or directive.

        Args:
            mnemonic: ``pushq``, ``.quad`` ...
            operands: as GNU syntax writes them.
            note: a short remark behind it.
        """
        line = f"\t{mnemonic}\t{operands}".rstrip()
        if note:
            tabs = max(1, -(-(_NOTE_COLUMN - _width(line)) // _TAB))
            line += "\t" * tabs + f"# {note}"
        self._lines.append(line)

    def label(self, name: str) -> None:
        """Add a label."""
        self._lines.append(f"{name}:")

    def blank(self) -> None:
        """Add an empty line, unless the last one is empty."""
        if self._lines and self._lines[-1]:
            self._lines.append("")

    def why(self, text: str) -> None:
        """Add a comment of its own: what the next lines do, and why.

        Args:
            text: sentences; its line breaks are kept.
        """
        self.blank()
        lines = text.strip().splitlines()
        if len(lines) == 1:
            self._lines.append(f"\t/* {lines[0].strip()} */")
            return
        self._lines.append("\t/*")
        self._lines.extend(f"\t * {line.strip()}".rstrip() for line in lines)
        self._lines.append("\t */")

    def heading(self, text: str) -> None:
        """Add a comment at the margin."""
        self.blank()
        self._lines.append("/*")
        self._lines.extend(f" * {line}".rstrip() for line in text.strip().splitlines())
        self._lines.append(" */")

    def constants(self, values: Iterable[tuple[str, int | str, str]]) -> None:
        """Add ``.set`` constants.

        Args:
            values: name, value (an integer is written as it is), and a remark.
        """
        for name, value, note in values:
            self.op(".set", f"{name}, {value}", note)

    def function(self, name: str, *, align_log2: int = 4, exported: bool = True) -> None:
        """Begin a function: alignment, type, label."""
        self.blank()
        self.op(".p2align", f"{align_log2}, 0x90")
        if exported:
            self.op(".globl", name)
        self.op(".type", f"{name}, @function")
        self.label(name)

    def end_function(self, name: str) -> None:
        """End a function."""
        self.op(".size", f"{name}, . - {name}")

    def render(self) -> str:
        """Return the text."""
        return "\n".join(self._lines).rstrip("\n") + "\n"


def _width(line: str) -> int:
    return len(line.expandtabs(_TAB))
