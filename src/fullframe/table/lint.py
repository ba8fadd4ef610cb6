"""Lint a table: are the annotations there, and only there, where the frame is needed?"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

from fullframe.table import diagnostics as codes
from fullframe.table.model import Spelling, Table, TableEntry, is_unimplemented
from fullframe.table.needs import (
    call_of_entry_point,
    entry_point_need,
    full_frame_need,
    is_stub,
)

Severity = Literal["error", "warning"]
#: The words that Linux tables have after the entry points (since 2024).
KNOWN_LATER_COLUMNS = frozenset({"noreturn", "-"})


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that lint found.

    Attributes:
        code: see ``fullframe.table.diagnostics``.
        severity: ``error`` or ``warning``.
        path: the table.
        line: from 1.
        column: from 1, of the entry point or annotation meant.
        message: one sentence, without the place.
        name: the call's name.
        number: the call's number, without the x32 bit.
        abi: the entry's ABI.
    """

    code: str
    severity: Severity
    path: str
    line: int
    column: int
    message: str
    name: str
    number: int
    abi: str

    def __str__(self) -> str:
        return (
            f"{self.path}:{self.line}:{self.column}: {self.severity}: {self.message} [{self.code}]"
        )


def lint_table(table: Table, also_needs: Collection[str] = ()) -> list[Finding]:
    """Find entries that need the annotation and lack it, or have it and need it not.

    Args:
        table: the table.
        also_needs: names of calls of the user's own that need the full frame too; an entry
            matches by its name or by its entry point without prefixes.

    Returns:
        The findings, in the order of the file.
    """
    findings: list[Finding] = []
    for entry in table.entries:
        findings.extend(_lint_annotation(table, entry, also_needs))
        findings.extend(_lint_line(table, entry))
    return sorted(findings, key=lambda finding: (finding.line, finding.column))


def _finding(
    table: Table, entry: TableEntry, code: str, severity: Severity, column: int, message: str
) -> Finding:
    return Finding(
        code, severity, table.path, entry.line, column, message, entry.name, entry.number,
        entry.abi,
    )  # fmt: skip


def _reason(point: str, name: str, also_needs: Collection[str]) -> str | None:
    """Say why an entry point needs the full frame; None if it does not."""
    need = entry_point_need(point, name)
    if need is not None:
        return need.reason
    if not is_unimplemented(point) and {name, call_of_entry_point(point)} & set(also_needs):
        return "named by --needs as needing it"
    return None


def _lint_annotation(
    table: Table, entry: TableEntry, also_needs: Collection[str]
) -> Iterator[Finding]:
    needed: list[tuple[str, Spelling | None, int, str]] = []
    for point, spelling, column in entry.entry_points():
        reason = _reason(point, entry.name, also_needs)
        if reason is not None:
            needed.append((point, spelling, column, reason))
        elif spelling is not None:
            yield _finding(
                table, entry, codes.NEEDLESS_ANNOTATION, "warning", column + len(point),
                _needless_message(entry, point, spelling),
            )  # fmt: skip
    lacking = [item for item in needed if item[1] is None]
    if not lacking:
        return
    point, _, column, reason = lacking[0]
    if len(lacking) == len(needed):
        yield _finding(
            table, entry, codes.MISSING_ANNOTATION, "error", column,
            f"{entry.name} needs the full register frame but {point} is not annotated: {reason}"
            + _missing_hint(table, entry, point),
        )  # fmt: skip
        return
    other = next(item[0] for item in needed if item[1] is not None)
    yield _finding(
        table, entry, codes.HALF_ANNOTATED, "error", column,
        f"{entry.name} is annotated on {other} but not on {point}, which needs the full "
        f"register frame as well: {reason}",
    )  # fmt: skip


def _needless_message(entry: TableEntry, point: str, spelling: Spelling) -> str:
    if is_unimplemented(point):
        return f"{point} of {entry.name} is not implemented and needs no {spelling}"
    return (
        f"nothing in {point} of {entry.name} is known to need the full register frame: "
        f"{spelling} sends it through the slow path for nothing"
    )


def _missing_hint(table: Table, entry: TableEntry, point: str) -> str:
    """Point at the line of another ABI that has the annotation, or at the stub's own function."""
    if is_stub(point):
        call = call_of_entry_point(point)
        return f"; {point} is a stub of Linux up to 4.5, write sys_{call}{Spelling.REGS}"
    need = full_frame_need(entry)
    for other in table.annotated:
        if need is not None and full_frame_need(other) is need and other is not entry:
            return f"; ABI {other.abi} has it, line {other.line}"
    return ""


def _lint_line(table: Table, entry: TableEntry) -> Iterator[Finding]:
    """Report what is odd about the line as such."""
    columns = entry.columns
    for word, column in zip(entry.later_columns, columns.later, strict=True):
        if word not in KNOWN_LATER_COLUMNS:
            yield _finding(
                table, entry, codes.UNKNOWN_LATER_COLUMN, "warning", column,
                f"later column {word!r} of {entry.name} is none that a Linux table has "
                "(noreturn)",
            )  # fmt: skip
    if columns.number > 1:
        yield _finding(
            table, entry, codes.READ_DIFFERENTLY, "warning", 1,
            f"the line of {entry.name} is indented: the kernel's scripts drop it",
        )  # fmt: skip
    text = table.lines[entry.line - 1].decode("utf-8")
    if "#" in text:
        yield _finding(
            table, entry, codes.READ_DIFFERENTLY, "warning", text.index("#") + 1,
            f"comment behind the entry of {entry.name}: the kernel's scripts take it for columns",
        )  # fmt: skip
