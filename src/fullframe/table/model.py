"""A system-call table as objects: entries, and the lines they came from.

The syntax is that of the kernel's ``arch/x86/entry/syscalls/*.tbl``: a line for each entry,
columns separated by blanks: number, ABI, name, entry point, compat entry point, later columns.
A table keeps its lines as bytes, so that writing it back gives the same file, comments and
alignment included; entries point into the lines by column.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from fullframe.errors import UsageError

#: The ABIs of x86 tables. ``common`` is an entry that 64-bit and x32 processes share.
ABIS = ("64", "common", "x32", "i386")
#: The name spaces of numbers and names: an ABI of :data:`ABIS` to the processes that reach it.
NAME_SPACES: dict[str, tuple[str, ...]] = {
    "64": ("64",),
    "common": ("64", "x32"),
    "x32": ("x32",),
    "i386": ("i386",),
}
#: Set in the numbers that x32 processes pass at run time; never in a table's numbers
#: (``__X32_SYSCALL_BIT`` in ``asm/unistd.h``).
X32_SYSCALL_BIT = 0x4000_0000
#: The largest number a table may hold. Dispatch tables have one slot for each number up to the
#: largest: 512 KiB with this one. Linux's own largest is below 600.
MAX_NUMBER = 0xFFFF


class Spelling(StrEnum):
    """How an annotation "needs the full register frame" is written after an entry point."""

    #: The proposal's of August 2015: ``sys_execve:regs``.
    REGS = ":regs"
    #: Linux 4.6 to 5.6's (commits cfcbadb49dab, 302f5b260c32): ``sys_execve/ptregs``.
    PTREGS = "/ptregs"


@dataclass(frozen=True, slots=True)
class Columns:
    """Where the columns of an entry begin, in characters from 1; None where there is none."""

    number: int
    abi: int
    name: int
    entry_point: int | None = None
    compat_entry_point: int | None = None
    later: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TableEntry:
    """One entry of a table.

    Attributes:
        number: the call's number, without the x32 bit.
        abi: one of :data:`ABIS`.
        name: the call's name, without prefix.
        entry_point: the C function, without annotation; None if the call is not implemented.
        compat_entry_point: the function for 32-bit processes on a 64-bit kernel, or None where
            that is ``entry_point`` too.
        spelling: the annotation on ``entry_point``, or None.
        compat_spelling: the annotation on ``compat_entry_point``, or None.
        later_columns: what follows, such as ``noreturn`` (newer kernels).
        line: number of its line in the file, from 1.
        columns: where its columns begin.
    """

    number: int
    abi: str
    name: str
    entry_point: str | None
    compat_entry_point: str | None
    spelling: Spelling | None
    compat_spelling: Spelling | None
    later_columns: tuple[str, ...]
    line: int
    columns: Columns

    @property
    def needs_full_frame(self) -> bool:
        """Whether it is annotated, on either entry point, as needing the full register frame."""
        return self.spelling is not None or self.compat_spelling is not None

    @property
    def name_spaces(self) -> tuple[str, ...]:
        """The ABIs whose processes reach this entry: ``common`` means 64 and x32."""
        return NAME_SPACES[self.abi]

    def entry_points(self) -> Iterator[tuple[str, Spelling | None, int]]:
        """Yield name, annotation and column (from 1) of each entry point it has."""
        if self.entry_point is not None and self.columns.entry_point is not None:
            yield self.entry_point, self.spelling, self.columns.entry_point
        if self.compat_entry_point is not None and self.columns.compat_entry_point is not None:
            yield self.compat_entry_point, self.compat_spelling, self.columns.compat_entry_point


@dataclass(frozen=True, slots=True)
class Table:
    """A system-call table.

    Attributes:
        path: where it came from, for messages.
        lines: the file's lines as bytes, each with its line end.
        entries: in the order of the file.
    """

    path: str
    lines: tuple[bytes, ...]
    entries: tuple[TableEntry, ...]

    def to_bytes(self) -> bytes:
        """Return the file's text: the very bytes it was read from, but for changes made."""
        return b"".join(self.lines)

    @property
    def abis(self) -> tuple[str, ...]:
        """The ABIs that occur, in the order of :data:`ABIS`."""
        present = {entry.abi for entry in self.entries}
        return tuple(abi for abi in ABIS if abi in present)

    @property
    def annotated(self) -> tuple[TableEntry, ...]:
        """The entries that are annotated as needing the full register frame."""
        return tuple(entry for entry in self.entries if entry.needs_full_frame)

    @property
    def annotated_names(self) -> tuple[str, ...]:
        """The annotated calls' names, each once, in the order of the file."""
        return tuple(dict.fromkeys(entry.name for entry in self.annotated))

    def entries_for(self, name_space: str) -> tuple[TableEntry, ...]:
        """Return the entries that processes of an ABI reach, by number.

        Args:
            name_space: ``64``, ``x32`` or ``i386``; the first two include ``common`` entries.
        """
        found = [entry for entry in self.entries if name_space in entry.name_spaces]
        return tuple(sorted(found, key=lambda entry: entry.number))

    def with_annotation(
        self,
        name: str,
        on: bool,
        *,
        abi: str | None = None,
        spelling: Spelling | None = None,
    ) -> Table:
        """Return a copy in which a call is annotated, or is not.

        Only the bytes of the annotation change. Both entry points of an entry are changed,
        except that one that is not implemented (``sys_ni_…``) is never annotated.

        Args:
            name: the call's name.
            on: True to annotate, False to remove the annotation.
            abi: one of :data:`ABIS` to change entries of that ABI only.
            spelling: what to write; by default the table's own first spelling, or ``:regs``.

        Raises:
            UsageError: if there is no such call, or it has no entry point to annotate.
        """
        chosen = [
            entry
            for entry in self.entries
            if entry.name == name and (abi is None or entry.abi == abi)
        ]
        if not chosen:
            raise UsageError(self._no_such_call(name, abi))
        written = (spelling or self._own_spelling()) if on else None
        lines = list(self.lines)
        entries = {entry.line: entry for entry in self.entries}
        for entry in chosen:
            changed, line = _annotate(
                entry, lines[entry.line - 1], written, respell=spelling is not None
            )
            if written is not None and not changed.needs_full_frame:
                raise UsageError(
                    f"{self.path}:{entry.line}: {name} has no implemented entry point to annotate"
                )
            entries[entry.line], lines[entry.line - 1] = changed, line
        return replace(self, lines=tuple(lines), entries=tuple(entries.values()))

    def _own_spelling(self) -> Spelling:
        for entry in self.entries:
            own = entry.spelling or entry.compat_spelling
            if own is not None:
                return own
        return Spelling.REGS

    def _no_such_call(self, name: str, abi: str | None) -> str:
        names = {entry.name for entry in self.entries if abi is None or entry.abi == abi}
        near = difflib.get_close_matches(name[:64], names, n=3)
        text = f"{self.path}: no call named {name[:64]!r}"
        text += "" if abi is None else f" in ABI {abi}"
        return text + (f"; did you mean {', '.join(near)}?" if near else "")


def is_unimplemented(entry_point: str) -> bool:
    """Tell whether an entry point is the kernel's "not implemented" (``sys_ni_syscall``…)."""
    return "sys_ni_" in entry_point


def _annotate(
    entry: TableEntry, line: bytes, wanted: Spelling | None, *, respell: bool
) -> tuple[TableEntry, bytes]:
    """Return the entry and its line with (or without) the annotation on each entry point.

    Args:
        entry: the entry.
        line: its line's bytes.
        wanted: the annotation to write; None removes it.
        respell: whether an annotation that is there already is written anew as ``wanted``.
    """
    shift = 0
    spellings: list[Spelling | None] = []
    columns: list[int | None] = []
    for point, old, column in (
        (entry.entry_point, entry.spelling, entry.columns.entry_point),
        (entry.compat_entry_point, entry.compat_spelling, entry.columns.compat_entry_point),
    ):
        columns.append(None if column is None else column + shift)
        new = wanted if respell or wanted is None else old or wanted
        if point is None or column is None or is_unimplemented(point):
            new = None
        spellings.append(new)
        if point is not None and column is not None:
            # Columns are ASCII (the parser sees to it): characters and bytes are the same here.
            end = column + shift - 1 + len(point)
            line = line[:end] + (new or "").encode() + line[end + len(old or "") :]
            shift += len(new or "") - len(old or "")
    later = tuple(column + shift for column in entry.columns.later)
    return replace(
        entry,
        spelling=spellings[0],
        compat_spelling=spellings[1],
        columns=replace(
            entry.columns, entry_point=columns[0], compat_entry_point=columns[1], later=later
        ),
    ), line
